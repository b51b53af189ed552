"""World files: the same bits come back, and what is not a whole world file is refused."""

import json
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import struct
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from toysae.errors import ToysaeError
from toysae.worlds import WORLDS, World, make_world, sample, stack, world_fields
from toysae.worlds.assemble import assemble
from toysae.worlds.files import WORLD_VERSION, components, load_world, save_world
from toysae.worlds.firing import Active, Firing
from toysae.worlds.forest import ScaledByParent
from toysae.worlds.independent import independent
from toysae.worlds.magnitudes import Magnitude, Uniform
from toysae.worlds.plant import forest

SMALL = {"d_in": 12, "n_features": 24, "l0": 3.0}

HEADER = "its header (has no field|is not JSON|is damaged)"


def same_bits(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for left, right in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert type(left) is type(right)
        left, right = np.asarray(left), np.asarray(right)
        assert (left.dtype, left.shape) == (right.dtype, right.shape)
        assert left.tobytes() == right.tobytes()


def smaller(name):
    """A named world, an eighth of its size where that is large."""
    fields = world_fields(name)
    if "checkpoint" in fields:  # a toy model: its training is not what is tested
        return make_world(name, 3, n_steps=1)
    sizes = {k: fields[k] // 8 for k in ("d_in", "n_features") if k in fields}
    return make_world(name, 3, **(sizes if fields.get("n_features", 0) > 256 else {}))


@pytest.mark.parametrize("name", WORLDS)
def test_every_named_world_comes_back_bit_for_bit(name, tmp_path):
    world = smaller(name)
    loaded = load_world(save_world(world, tmp_path / "a.world"))
    same_bits(world, loaded)


@pytest.mark.parametrize("name", ["sphere", "hidden-layer", "interim-report", "absorption"])
def test_the_same_key_draws_the_same_bits(name, tmp_path):
    world = smaller(name)
    loaded = load_world(save_world(world, tmp_path / "a.world"))
    key = jax.random.key(7)
    same_bits(sample(world, key, 64), sample(loaded, key, 64))


def test_files_are_reproducible_and_share_equal_arrays(tmp_path):
    world = make_world("sphere", 0, **SMALL)
    world = replace(world, rows=world.directions)
    one, two = save_world(world, tmp_path / "one"), save_world(world, tmp_path / "sub" / "two")
    assert one.read_bytes() == two.read_bytes()
    assert "rows" not in load_file(one)
    loaded = load_world(one)
    assert loaded.rows is loaded.directions
    assert [file.name for file in tmp_path.iterdir() if file.is_file()] == ["one"]


@struct.dataclass
class EveryKind(Firing):
    """A firing from outside the package, with a field of every kind that a file can hold."""

    inner: Firing
    parts: tuple[Magnitude, ...]
    host: np.ndarray
    mask: jax.Array
    bits: jax.Array
    half: jax.Array
    scalar: jax.Array
    nothing: jax.Array | None
    tiny: float
    flag: bool = struct.field(pytree_node=False)
    count: int = struct.field(pytree_node=False)
    label: str = struct.field(pytree_node=False)
    limit: float = struct.field(pytree_node=False)
    sizes: tuple[int, ...] = struct.field(pytree_node=False)

    @property
    def n_features(self) -> int:
        return self.inner.n_features

    def sample(self, key: jax.Array, n: int) -> Active:
        return self.inner.sample(key, n)


def test_components_from_elsewhere_and_every_kind_of_field(tmp_path):
    world = make_world("sphere", 0, **SMALL)
    firing = EveryKind(
        inner=world.firing, parts=(Uniform(0.1, 0.3), Uniform(jnp.arange(3.0), 1.0)),
        host=np.arange(6.0).reshape(2, 3).T, mask=jnp.array([True, False]),
        bits=jnp.array([2**32 - 1], jnp.uint32), half=jnp.ones((2, 1), jnp.bfloat16) / 3,
        scalar=jnp.float32(0.1), nothing=None, tiny=0.1 + 0.2, flag=True, count=3, label="é",
        limit=float("inf"), sizes=(1, 2),
    )  # fmt: skip
    world = replace(world, firing=firing, bias=jnp.ones(12), noise_sd=jnp.float32(0.5))
    loaded = load_world(save_world(world, tmp_path / "a"))
    same_bits(world, loaded)
    found = loaded.firing
    assert isinstance(found, EveryKind) and isinstance(found.host, np.ndarray)
    assert (found.flag, found.count, found.label, found.limit, found.sizes, found.tiny) == (
        True, 3, "é", float("inf"), (1, 2), 0.1 + 0.2,
    )  # fmt: skip
    assert type(found.flag) is bool and type(found.count) is int


def test_components_are_found_by_walking_subclasses():
    known = components()
    assert list(known["World"].values()) == [World]
    assert list(known["EveryKind"].values()) == [EveryKind]
    assert list(known["Bernoulli"].values()) == [type(independent(np.full(2, 0.5)))]
    assert "Firing" not in known and "Active" not in known


def test_what_a_file_cannot_hold_is_refused(tmp_path):
    world = make_world("sphere", 0, **SMALL)
    for field, value in (("magnitude", {"a": 1}), ("bias", jax.random.key(0))):
        with pytest.raises(ToysaeError, match=f"field '{field}' is a"):
            save_world(replace(world, **{field: value}), tmp_path / "a")
    with pytest.raises(ToysaeError, match="stack of worlds"):
        save_world(stack([world, world]), tmp_path / "a")
    assert list(tmp_path.iterdir()) == []


def test_a_failed_write_keeps_the_old_file(tmp_path, monkeypatch):
    world = make_world("sphere", 0, **SMALL)
    path = save_world(world, tmp_path / "a")
    before = path.read_bytes()

    def broken(arrays, file, metadata):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("toysae.disk.save_file", broken)
    with pytest.raises(OSError, match="disk full"):
        save_world(make_world("sphere", 1, **SMALL), path)
    assert path.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ["a"]


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    return save_world(make_world("sphere", 0, **SMALL), tmp_path_factory.mktemp("saved") / "a")


def edited(path, tmp_path, edit):
    """The file with its arrays and header as `edit(arrays, header)` leaves them."""
    with safe_open(path, framework="numpy") as file:
        header = json.loads(file.metadata()["toysae_world"].split("\n")[0])  # less the checksum
    arrays = load_file(path)
    edit(arrays, header)
    save_file(arrays, tmp_path / "b", {"toysae_world": json.dumps(header)})
    return tmp_path / "b"


def _set(arrays, name, change):
    arrays[name] = np.ascontiguousarray(change(arrays[name]))


def _fields(header):
    return header["world"]["fields"]


DAMAGE = {
    "newer": (lambda a, h: h.update(version=WORLD_VERSION + 1),
              f"version {WORLD_VERSION + 1}, this toysae reads up to {WORLD_VERSION}: upgrade"),
    "no version": (lambda a, h: h.pop("version"), HEADER),
    "odd version": (lambda a, h: h.update(version="one"), "version 'one' is not a whole number"),
    "no world": (lambda a, h: h.pop("world"), HEADER),
    "not a tree": (lambda a, h: h.update(world=[1]), HEADER),
    "no node": (lambda a, h: h.update(world=3), HEADER),
    "component": (lambda a, h: _fields(h)["magnitude"].update(component="Unifrom"),
                  "has a component 'Unifrom' that is not loaded: define that class first"),
    "builtin": (lambda a, h: _fields(h)["magnitude"].update(component="os.system"),
                "has a component 'os.system'"),
    "odd component": (lambda a, h: _fields(h)["magnitude"].update(component=[1]), "damaged"),
    "field": (lambda a, h: _fields(h).update(colour={"value": 1}),
              "unknown field of World 'colour'"),
    "no field": (lambda a, h: _fields(h).pop("firing"), "field 'firing' of World is missing"),
    "other root": (lambda a, h: h.update(world=_fields(h)["magnitude"]),
                   "holds a Uniform, not a world"),
    "missing": (lambda a, h: a.pop("directions"), "array of field 'directions' is missing"),
    "extra": (lambda a, h: a.update(more=np.zeros(2)), "an array that no component has: more"),
    "misshapen": (lambda a, h: _set(a, "directions", lambda x: x[1:]),
                  r"'directions' is float32 \[23, 12\], its header says float32 \[24, 12\]"),
    "other type": (lambda a, h: _set(a, "directions", lambda x: x.astype(np.float64)),
                   "'directions' is float64"),
    "unfit": (lambda a, h: (_set(a, "generating_matrix", lambda x: x[1:]),
                            _fields(h)["generating_matrix"].update(shape=[11, 24])),
              r"do not fit together \(generating_matrix \[11\]"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGE)
def test_every_corruption_is_refused_in_one_line(damage, saved, tmp_path):
    edit, message = DAMAGE[damage]
    with pytest.raises(ToysaeError, match=message) as error:
        load_world(edited(saved, tmp_path, edit))
    assert "\n" not in str(error.value) and str(tmp_path) in str(error.value)


@pytest.mark.parametrize(
    "every", [29, pytest.param(1, marks=pytest.mark.slow)], ids=["some", "all"]
)
def test_a_flipped_bit_of_any_byte_is_refused(tmp_path, every, refused_flips):
    file = save_world(make_world("sphere", 0, d_in=4, n_features=6, l0=1.5), tmp_path / "good")
    assert refused_flips(load_world, file, every) == -(-file.stat().st_size // every)


def test_others_may_read_it_as_any_file(tmp_path):
    plain = tmp_path / "plain"
    plain.write_text("")
    world = save_world(make_world("sphere", 0, **SMALL), tmp_path / "world.safetensors")
    assert world.stat().st_mode == plain.stat().st_mode


def test_a_file_of_another_name_and_a_folder_are_told_from_an_unknown_world(tmp_path):
    path = save_world(make_world("sphere", 0, **SMALL), tmp_path / "noend")
    with pytest.raises(ToysaeError, match=r"noend is not a saved world: .* ends in \.safetensors"):
        make_world(str(path))
    (tmp_path / "dir.safetensors").mkdir()
    with pytest.raises(ToysaeError, match=r"dir\.safetensors is a folder: give a world file"):
        make_world(tmp_path / "dir.safetensors")


def test_an_untouched_copy_is_accepted(saved, tmp_path):
    same_bits(load_world(edited(saved, tmp_path, lambda a, h: None)), load_world(saved))


def test_a_field_that_has_a_default_may_be_absent(saved, tmp_path):
    """So that files written before a field was added still load."""
    path = edited(saved, tmp_path, lambda a, h: _fields(h).pop("bias"))
    same_bits(load_world(path), load_world(saved))


def test_a_retired_field_of_an_older_file_is_passed_over(tmp_path):
    firing = forest(np.array([-1, 0]), np.array([0.5, 0.25]))
    law = ScaledByParent(Uniform(), jnp.ones(2))
    world = assemble(np.eye(2), firing, law)
    path = save_world(world, tmp_path / "a")
    older = edited(
        path, tmp_path,
        lambda a, h: _fields(h)["magnitude"]["fields"].update(depth={"value": 3}),
    )  # fmt: skip
    same_bits(load_world(older), load_world(path))


def test_parts_that_do_not_fit_are_refused(tmp_path):
    world = make_world("sphere", 0, **SMALL)
    for part, name in (
        (replace(world, firing=independent(np.full(7, 0.1))), "firing"),
        (replace(world, rows=world.rows[:, :5]), "rows"),
        (replace(world, bias=jnp.ones(3)), "bias"),
        (replace(world, magnitude=Uniform(0.0, jnp.ones((2, 2, 2)))), ""),
    ):
        with pytest.raises(ToysaeError, match=rf"do not fit together \({name}"):
            load_world(save_world(part, tmp_path / "a"))


@pytest.mark.parametrize("keep", [0, 4, 100, -1])
def test_a_truncated_file_is_refused(keep, saved, tmp_path):
    (tmp_path / "b").write_bytes(saved.read_bytes()[:keep])
    with pytest.raises(ToysaeError, match="truncated or not a world file") as error:
        load_world(tmp_path / "b")
    assert "\n" not in str(error.value)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(ToysaeError, match="there is no world file"):
        load_world(tmp_path / "nowhere")
    with pytest.raises(ToysaeError, match="is a folder: give a world file"):
        load_world(tmp_path)
    (tmp_path / "text").write_text("this is a note, not a world " * 10)
    with pytest.raises(ToysaeError, match="not a world file"):
        load_world(tmp_path / "text")
    save_file({"a": np.zeros(2)}, tmp_path / "weights")
    with pytest.raises(ToysaeError, match="is not a world file: write one with save_world"):
        load_world(tmp_path / "weights")
    save_file({"a": np.zeros(2)}, tmp_path / "note", {"toysae_world": "{"})
    with pytest.raises(ToysaeError, match=HEADER):
        load_world(tmp_path / "note")


def test_a_class_that_was_defined_again_counts_once(tmp_path):
    """As in a notebook, whose cells run again; and what no world uses is in nobody's way."""

    def defined(times):
        @struct.dataclass
        class Repeated(Magnitude):
            times: float

            def sample(self, key, active):
                return jnp.full(active.indices.shape, self.times)

        return Repeated(times)

    first, again = (assemble(np.eye(4), np.full(4, 0.5), defined(times)) for times in (1.0, 2.0))
    assert load_world(save_world(again, tmp_path / "again")).magnitude.times == 2.0
    with pytest.raises(ToysaeError, match="is a Repeated, which a world file cannot hold"):
        save_world(first, tmp_path / "first")

    @struct.dataclass
    class Repeated(Magnitude):
        other: float

        def sample(self, key, active):
            return jnp.full(active.indices.shape, self.other)

    save_world(make_world("sphere", 0, **SMALL), tmp_path / "plain")
    with pytest.raises(ToysaeError, match="two components have the same name"):
        load_world(tmp_path / "again")
    with pytest.raises(ToysaeError, match="two components have the same name"):
        save_world(assemble(np.eye(4), np.full(4, 0.5), Repeated(1.0)), tmp_path / "other")


def test_a_law_that_is_no_pytree_is_told_how_to_become_one():
    class Bare(Uniform):
        pass

    with pytest.raises(ToysaeError, match="decorate its class, Bare, with toysae.pytree.dataclass"):
        assemble(np.eye(4), np.full(4, 0.5), Bare())
