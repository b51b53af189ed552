"""Experiment files: what they and their neighbours define, and which of it is in a key."""

import gc
import shutil
import sys

import pytest

from toysae import Experiment, ToysaeError, load_world, make_world, points, save_world, train
from toysae.evaluation.ceilings import _digest
from toysae.sae import RECIPES, Recipe, load_sae, save_sae
from toysae.sweeps import load_experiment
from toysae.sweeps.cells import cells
from toysae.worlds import WORLDS
from toysae.worlds.catalogue import FIRINGS, WorldRow
from toysae.worlds.magnitudes import MAGNITUDES


def test_a_file_may_import_its_neighbours(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "neighbour_of_it.py").write_text('asked = "Whose?"')
    (tmp_path / "json.py").write_text("raise SystemExit('not the library')")
    file = tmp_path / "asks.py"
    text = "import json\nfrom neighbour_of_it import asked\nfrom toysae import Experiment\n"
    file.write_text(f"{text}experiment = Experiment(question=asked)")
    assert load_experiment(file).question == "Whose?"


def test_a_neighbour_is_never_another_experiments(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])
    files = []
    for name in ("one", "two"):
        files.append(tmp_path / name / "asks.py")
        files[-1].parent.mkdir()
        (tmp_path / name / "shared_name.py").write_text(f'asked = "{name}?"')
        files[-1].write_text("from shared_name import asked\nfrom toysae import Experiment\n"
                             "experiment = Experiment(question=asked)")  # fmt: skip
    for file in (files[0], files[1], files[1], files[0]):
        assert load_experiment(file).question == f"{file.parent.name}?"


def keys_of(folder, text, **others):
    """The keys of an experiment file of this text, beside modules of others."""
    for name, other in {**others, "asks": text}.items():
        (folder / f"{name}.py").parent.mkdir(exist_ok=True, parents=True)
        (folder / f"{name}.py").write_text(other)
    shutil.rmtree(folder / "__pycache__", ignore_errors=True)
    for table in (RECIPES, WORLDS, MAGNITUDES):
        table.pop("own", None)
    gc.collect()  # of two classes of one name neither could be kept
    e = load_experiment(folder / "asks.py")
    (cell,) = cells(e)
    return cell.keys.tolist()


@pytest.fixture
def tables(monkeypatch):
    """What stands in them afterwards is what stood before."""
    for table in (RECIPES, WORLDS, MAGNITUDES):
        monkeypatch.setitem(table, "own", None)


SMALL = "d_in=4, ratios=1.5, l0=1.5, n_steps=20, batch_size=16, n_eval=64, ceiling=False"
PART = f"""
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import ClassVar
import jax
from toysae import Experiment
from toysae.sae import RECIPES, Recipe
from toysae.sae.penalties import L1
FACTOR = 1
@dataclass(frozen=True)
class Own(L1):
    BODY
RECIPES["own"] = Recipe("own", lambda d, s: {{"penalty": Own()}}, {{"l1_coeff": 0.1}})
experiment = Experiment("Why?", recipes="own", world_seeds=1, {SMALL})
"""


OWN_LAW = """
from toysae import pytree
from toysae.worlds.magnitudes import MAGNITUDES, Magnitude
import jax.numpy as jnp
@pytree.dataclass
class OwnLaw(Magnitude):
    def sample(self, key, active): return jnp.full(active.indices.shape, 1.0 * VALUE)
    def mean(self): return 1.0
    def second(self): return 1.0
MAGNITUDES["own"] = lambda n, s: OwnLaw()
"""


METHOD = "def per_latent(s, f, run, h): return FACTOR * f.z"


@pytest.mark.parametrize(
    "body",
    [
        f"@partial(jax.jit, static_argnums=0)\n    {METHOD}",
        f"@jax.named_scope('mine')\n    {METHOD}",
        f"working_floats = L1.working_floats\n    {METHOD}",
        "@staticmethod\n    def scaled(z): return FACTOR * z",
        "strength: ClassVar = FACTOR",
        "def per_latent(s, f, run, h): return import_module('far').FACTOR * f.z",
    ],
)
def test_an_edit_counts_whatever_a_class_has_for_methods(tables, tmp_path, body):
    text = PART.replace("BODY", body)
    one, again = (keys_of(tmp_path, text, far="FACTOR = 1") for _ in range(2))
    two = keys_of(tmp_path, text.replace("FACTOR = 1", "FACTOR = 2"), far="FACTOR = 1")
    far = keys_of(tmp_path, text, far="FACTOR = 2")
    assert one == again != two and (far != one) == ("far" in body)


WORLD = f"""
from functools import partial
from toysae import Experiment
from toysae.worlds import WORLDS
from toysae.worlds.catalogue import WorldRow
from toysae.worlds.magnitudes import MAGNITUDES, Constant, Uniform
import near
SIZES = dict(d_in=4, n_features=6, l0=1.5)
plain = WORLDS["sphere"].build
own = lambda: ENTRY
experiment = Experiment("Why?", WORLD, recipes="untied", l1_coeff=0.1, world_seeds=2, {SMALL})
"""
NEAR = """
from dataclasses import replace
from toysae import make_world
from toysae.worlds.magnitudes import Uniform
def build(key, scale, **fields):
    return make_world("sphere", d_in=4, n_features=6, l0=1.5, noise=scale)
def builder(scale):
    return lambda key, **fields: build(key, scale)
"""


@pytest.mark.parametrize(
    ("table", "entry"),
    [
        ("MAGNITUDES", "lambda n, s: Uniform(0.0, VALUE)"),
        ("MAGNITUDES", "lambda n, s: Constant(VALUE)"),
        ("MAGNITUDES", "partial(lambda high, n, s: Uniform(0.0, high), VALUE)"),
        ("WORLDS", "WorldRow('', partial(near.build, scale=VALUE), {})"),
        ("WORLDS", "WorldRow('', near.builder(VALUE), {})"),
        ("WORLDS", "WorldRow('', lambda key: plain(key, magnitude='uniform', noise=VALUE, **SIZES),"
                   " {})"),
    ],
)  # fmt: skip
def test_numbers_of_ones_own_worlds_count(tables, tmp_path, table, entry):
    asked = "magnitude='own'" if table == "MAGNITUDES" else "worlds='own'"
    text = WORLD.replace("own = lambda: ENTRY", f"{table}['own'] = {entry}")
    text = text.replace("WORLD,", f"{asked},")
    one, again, two = (
        keys_of(tmp_path, text.replace("VALUE", value), near=NEAR)
        for value in ("0.25", "0.25", "0.5")
    )
    assert one == again and not {*one[0], *one[1]} & {*two[0], *two[1]}
    assert one[0] != one[1]


def test_only_an_experiments_own_settings_are_no_code(tables, tmp_path):
    body = "def per_latent(s, f, run, h): return near.study * f.z"
    text = "import near\n" + PART.replace("BODY", body)
    one, two = (keys_of(tmp_path, text, near=f"study = {n}") for n in (1, 2))
    assert one != two
    made = text.replace('experiment = Experiment("Why?"', 'experiment = made(3, "Why?"')
    made = made.replace("FACTOR = 1", "def made(n, *q, **k):\n  return Experiment(*q, **k)")
    one, two = (keys_of(tmp_path, t, near="study = 1") for t in (made, made.replace("3,", "4,")))
    assert one != two


def test_neighbours_are_run_anew_and_are_never_those_of_others(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", [*sys.path])

    def written(folder, **texts):
        for name, text in texts.items():
            file = tmp_path / folder / f"{name}.py"
            file.parent.mkdir(exist_ok=True, parents=True)
            file.write_text(text)
        return tmp_path / folder / "asks.py"

    asks = "from {0} import asked\nfrom toysae import Experiment\nexperiment = Experiment(asked)"
    near = asks.format("near_by")
    first = written("a", asks=near, near_by="asked = 'a?'")
    plain = written("b", asks="from toysae import Experiment\nexperiment = Experiment('b?')")
    third = written("c", asks=near, near_by="asked = 'c?'")
    assert [load_experiment(f).question for f in (first, plain, third)] == ["a?", "b?", "c?"]
    shutil.rmtree(third.parent / "__pycache__", ignore_errors=True)
    written("c", near_by="asked = 'new?'")
    assert load_experiment(third).question == "new?"
    for name in ("p", "q"):
        written(f"{name}/a_package", __init__=f"asked = '{name}?'")
        file = written(name, asks=asks.format("a_package"))
        assert load_experiment(file).question == f"{name}?"
    monkeypatch.syspath_prepend(str(first.parent))
    with pytest.raises(ToysaeError, match="near_by.py cannot be imported, .*/a/near_by.py has"):
        load_experiment(third)


def test_one_name_has_one_meaning_in_a_process(tables, tmp_path):
    texts = [PART.replace("BODY", f"factor: ClassVar = {n}") for n in (1, 2)]
    files = [tmp_path / name / "asks.py" for name in ("one", "two")]
    for file, text in zip(files, texts, strict=True):
        file.parent.mkdir()
        file.write_text(text)
    load_experiment(files[0])
    first = RECIPES["own"]
    with pytest.raises(ToysaeError, match=r"two/asks.py gives 'own' another meaning, and .*one/as"):
        load_experiment(files[1])
    assert RECIPES["own"] is first
    files[0].write_text(texts[1])
    load_experiment(files[0])
    assert RECIPES["own"] is not first


def test_two_experiments_may_share_a_neighbour_that_has_recipes(tables, tmp_path):
    part = PART.replace("BODY", "factor: ClassVar = 1").replace("Own(", "Shared(")
    registers = part.rsplit("experiment = ", 1)[0]
    (tmp_path / "shares_it.py").write_text(registers)
    for name in ("one", "two"):
        asks = (
            f"import shares_it\nfrom toysae import Experiment\nexperiment = Experiment('{name}?')"
        )
        (tmp_path / f"{name}.py").write_text(asks)
    assert [load_experiment(tmp_path / f"{n}.py").question for n in ("one", "two", "one")] == [
        "one?", "two?", "one?",
    ]  # fmt: skip


def test_a_setting_by_an_experiments_name_is_code(tables, tmp_path):
    text = PART.replace("BODY", "def per_latent(s, f, run, h): return study * f.z")
    one, two = (keys_of(tmp_path, f"{text}study = {n}\n") for n in (1, 2))
    assert one != two


@pytest.mark.parametrize(
    ("said", "table", "entry", "asked"),
    [
        (r"WORLDS\['own'\] is .*, not a WorldRow: write", WORLDS, lambda key: 3, "worlds"),
        (r"the build of WORLDS\['own'\] gives 3, not a World", WORLDS,
         WorldRow("", lambda key: 3, {}), "worlds"),
        (r"RECIPES\['own'\] is .*, not a Recipe: write", RECIPES, lambda d, s: {}, "recipes"),
        (r"MAGNITUDES\['own'\] gives 3, not a Magnitude", MAGNITUDES, lambda n, s: 3, "magnitude"),
        (r"FIRINGS\['own'\] gives 3, not a Firing", FIRINGS, lambda key, p: 3, "firing"),
    ],
)  # fmt: skip
def test_entries_of_ones_own_that_are_none_are_refused(monkeypatch, said, table, entry, asked):
    monkeypatch.setitem(table, "own", entry)
    sizes = {"d_in": 4, "ratios": 1.5, "l0": 1.5, "recipes": "untied", "n_steps": 5}
    with pytest.raises(ToysaeError, match=said):
        _ = cells(Experiment("Why?", **{**sizes, asked: "own"}))[0].data.worlds


def test_rows_of_tables_say_what_they_are_made_of():
    with pytest.raises(ToysaeError, match="build 3 of a WorldRow is not a function: give one"):
        WorldRow("", 3, {})
    with pytest.raises(ToysaeError, match="fields None of a WorldRow is not a mapping: give"):
        WorldRow("", lambda key: 3, None)
    with pytest.raises(ToysaeError, match="components {} of a Recipe is not a function: give one"):
        Recipe("", {}, {})
    with pytest.raises(ToysaeError, match="toy 3 of a Recipe is not a mapping: give numbers"):
        Recipe("", lambda d, s: {}, 3)
    with pytest.raises(
        ToysaeError, match="unknown field in smoke 'l1_coef': did you mean 'l1_coeff'"
    ):
        Experiment("Why?", smoke={"l1_coef": 3}).smoked()
    for made in (points.uniform, points.log_uniform):
        with pytest.raises(ToysaeError, match=r"uniform\(2, 1\): the first end must be the small"):
            made(2, 1)


def test_a_file_says_where_the_code_is_another(tables, tmp_path, recwarn):
    # A name of its own: programs that were compiled hold the class.
    text = PART.replace("BODY", METHOD).replace("Own(", "Kept(")
    text += OWN_LAW.replace("VALUE", "FACTOR")
    sae, world = tmp_path / "sae", tmp_path / "world"

    def loaded(factor):
        (tmp_path / "asks.py").write_text(text.replace("FACTOR = 1", f"FACTOR = {factor}"))
        RECIPES["own"] = MAGNITUDES["own"] = None
        gc.collect()
        load_experiment(tmp_path / "asks.py")

    loaded(1)
    made = make_world("sphere", d_in=4, n_features=6, l0=1.5, magnitude="own")
    save_world(made, world)
    save_sae(train(made, "own", l1_coeff=0.1, n_steps=2, n_eval=64, quiet=True).sae(0), sae)
    load_sae(sae), load_world(world)
    assert not recwarn.list
    del made
    loaded(2)
    with pytest.warns(UserWarning, match=r"sae was saved with other code of Kept than .*asks"):
        load_sae(sae)
    with pytest.warns(UserWarning, match="world was saved with other code of OwnLaw than"):
        load_world(world)


def test_ceilings_are_of_the_code_that_the_world_has(tables, tmp_path):
    text = OWN_LAW + '\nfrom toysae import Experiment\nexperiment = Experiment("Why?")\n'
    found = []
    for value in ("1.0", "1.0", "9.0"):
        (tmp_path / "asks.py").write_text(text.replace("VALUE", value))
        gc.collect()
        load_experiment(tmp_path / "asks.py")
        law = MAGNITUDES["own"](4, 0.25)
        world = make_world("sphere", d_in=4, n_features=4, l0=1.0).replace(magnitude=law)
        found.append(_digest(world, ()))
    assert found[0] == found[1] != found[2]


PACKAGE = """
from toysae import Experiment
from toysae.points import grid
from toysae.evaluation.measure import RecoveryScores
from toysae.runs.cell import Cell
from toysae.runs.worlds import Worlds
from toysae.sae import make_spec
from toysae.sweeps.study import Study
from dataclasses import dataclass
from .far import Own
@dataclass(frozen=True)
class Options:
    n: int = 1
def cells(o):
    data = Worlds("sphere", (("d_in", 4), ("n_features", 6), ("l0", 1.5)), (0,))
    return [Cell("one", data, make_spec("untied", 4, 6), grid(l1_coeff=0.1, lr=1e-3), (0,), 5, 16,
                 Own(64, 1))]
study = Study("NAME?", Options(), cells)
"""
FAR = """
from dataclasses import dataclass
from toysae.evaluation.measure import RecoveryScores
from .farther import FACTOR
@dataclass(frozen=True)
class Own(RecoveryScores):
    pass
"""


def test_an_experiment_with_a_folder_is_a_package_whose_measure_is_code(tmp_path):
    """However many experiments were loaded in between, and whatever else their files are called."""

    def loaded(name, factor):
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        (folder / "experiment.py").write_text(PACKAGE.replace("NAME", name))
        (folder / "far.py").write_text(FAR)
        (folder / "farther.py").write_text(f"FACTOR = {factor}")
        shutil.rmtree(folder / "__pycache__", ignore_errors=True)
        return load_experiment(folder)

    def key(study):
        (cell,) = study.cells(study.options)
        return str(cell.keys[0, 0])

    one, two = loaded("one", 1), loaded("two", 2)
    assert (one.question, two.question) == ("one?", "two?")
    first, second = key(one), key(two)  # of the first after the second was loaded
    assert first != second
    again = load_experiment(tmp_path / "one" / "experiment.py")
    assert key(again) == first == key(one)
    measures = [study.cells(study.options)[0].measure for study in (one, again)]
    assert measures[0] == measures[1]  # of one class: files name it by its name
    assert key(loaded("one", 2)) == second
