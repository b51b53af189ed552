"""One's own worlds and recipes in a sweep: a saved world by its file, a recipe by its number."""

import gc
import importlib
import runpy
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

import numpy as np
import pytest

from toysae import Experiment, ToysaeError, make_world, points, run, save_world
from toysae.disk import by_name, subclasses
from toysae.interop import score
from toysae.own_code import own_code
from toysae.sae import RECIPES, Recipe, make_spec
from toysae.sae.component import Component, Hyper
from toysae.sae.penalties import LatentPenalty
from toysae.sweeps import load_experiment
from toysae.sweeps.cells import cells
from toysae.worlds import WORLDS, assemble

TINY = dict(d_in=4, l0=1.5, n_steps=20, batch_size=16, n_eval=64, curve_points=2, world_seeds=1,
            ceiling=False, recipes="untied", figures=())  # fmt: skip


@dataclass(frozen=True)
class Cubic(LatentPenalty):
    """cubic_coeff sum z^3, which no paper has."""

    hypers: ClassVar = (Hyper("cubic_coeff", low=0.0),)

    def per_latent(self, f, run, h):
        return h["cubic_coeff"] * f.z**3


@pytest.fixture
def saved(tmp_path):
    rows = np.random.default_rng(0).normal(size=(6, 4))
    file = tmp_path / "mine.safetensors"
    return str(save_world(assemble(rows, np.full(6, 0.2), name="mine"), file))


def test_an_assembled_world_is_swept_by_its_file(saved, tmp_path):
    results = run(Experiment("Why?", worlds=saved, **TINY), tmp_path / "out", quiet=True)
    assert results.table["n_features"].tolist() == [6] and results.cells[0].startswith("mine-n6")
    assert results.table["world"].tolist() == [saved]


def test_its_keys_are_of_what_the_file_holds(saved, tmp_path):
    def keys(world):
        e = Experiment("Why?", worlds=world, **TINY)
        (cell,) = cells(e)
        return cell.keys.ravel().tolist()

    moved = tmp_path / "elsewhere.safetensors"
    moved.write_bytes(Path(saved).read_bytes())
    other = save_world(make_world("sphere", d_in=4, n_features=6), tmp_path / "b.safetensors")
    assert keys(saved) == keys(str(moved)) != keys(str(other))


def test_one_file_is_one_world(saved):
    with pytest.raises(ToysaeError, match="one world whatever the seed: give world_seeds 1"):
        cells(Experiment("Why?", worlds=saved, **{**TINY, "world_seeds": 2}))
    with pytest.raises(ToysaeError, match="give seed 0"):
        make_world(saved, seed=1)
    with pytest.raises(ToysaeError, match="a saved world, which has no fields: leave d_in out"):
        make_world(saved, d_in=4)
    with pytest.raises(ToysaeError, match=r"there is no world file nowhere\.safetensors"):
        make_world("nowhere.safetensors")


def test_a_recipe_with_a_number_of_its_own_is_swept_by_it(tmp_path, monkeypatch):
    mine = Recipe("cubic", lambda d, s: {"penalty": Cubic()}, {"lr": 1e-3})
    monkeypatch.setitem(RECIPES, "cubic", mine)
    asked = {**TINY, "recipes": "cubic", "ratios": 1.5}
    results = run(
        Experiment("Why?", points=points.grid(cubic_coeff=[0.1, 1.0]), **asked), tmp_path / "out",
        quiet=True,
    )  # fmt: skip
    assert results.table["knob"].tolist() == ["cubic_coeff"] * 2
    assert results.table["sparsity"].tolist() == [0.1, 1.0]
    with pytest.raises(
        ToysaeError, match=r"needs cubic_coeff: give it in the points, as in points=g"
    ):
        cells(Experiment("Why?", **asked))


@pytest.mark.rotation(2)
@pytest.mark.parametrize("recipe", ["untied", "jumprelu", "batchtopk", "gated"])
def test_every_sae_of_a_run_can_be_used_again(recipe, tmp_path):
    e = Experiment("Why?", ratios=1.5, **{**TINY, "recipes": recipe, "world_seeds": 2},
                   l1_coeff=[0.1, 0.3], k=[1.0, 2.0], l0_coeff=[0.01, 0.1],
                   sae_seeds=2)  # fmt: skip
    results = run(e, tmp_path / "out", quiet=True)
    table = results.table
    for row in (0, len(table) - 1, 3):
        sae, asked = results.sae(row), table.iloc[row]
        assert float(sae.hypers[asked["knob"]]) == pytest.approx(asked["sparsity"])
        world = make_world("sphere", int(asked["world_seed"]), d_in=4, n_features=6, l0=1.5)
        scored = score(sae, world, 4096).table.iloc[0]
        assert scored["mmcs"] == pytest.approx(asked["mmcs"], abs=1e-6)
        assert scored["l0"] == pytest.approx(asked["l0"], rel=0.3, abs=0.2)  # of 64 samples
    with pytest.raises(ToysaeError, match=f"row {len(table)} is out of range"):
        results.sae(len(table))


def test_figures_of_the_same_run_are_the_same_bytes(tmp_path):
    """A directory's name is no part of them."""
    from toysae.plotting import draw

    e = Experiment("Why?", ratios=1.5, **{**TINY, "world_seeds": 2})
    drawn = []
    for name in ("one", "another"):
        results = run(e, tmp_path / name, quiet=True)
        files = draw(results, ["mmcs_by_ratio", "learning_curves"], tmp_path / name / "figures")
        assert [file.suffix for file in draw(results, "mmcs_by_ratio", tmp_path)] == [
            ".png",
            ".csv",
        ]
        drawn.append([file.read_bytes() for file in files])
    assert drawn[0] == drawn[1]


OWN = '''
"""An experiment with a part of its own."""
from dataclasses import dataclass
from typing import ClassVar

import jax
from helping_code import shifted

from toysae import Experiment, points
from toysae.sae import RECIPES, Recipe
from toysae.sae.component import Hyper
from toysae.sae.penalties import LatentPenalty

POWER = 3


def powered(z):
    "Of z."
    return z**POWER


@jax.jit
def jitted(z):
    return 2 * z


@dataclass(frozen=True)
class Base(LatentPenalty):
    hypers: ClassVar = (Hyper("own_coeff", low=0.0),)

    def scaled(self, z):
        return 1.0 * z


@dataclass(frozen=True)
class Own(Base):
    def per_latent(self, f, run, h):
        return h["own_coeff"] * self.scaled(shifted(jitted(powered(f.z))))


RECIPES["own"] = Recipe("own", lambda d, s: {"penalty": Own()}, {})
experiment = Experiment("Why?", recipes="own", points=points.grid(own_coeff=[0.1]), d_in=4,
                        ratios=1.5, l0=1.5, n_steps=20, batch_size=16, n_eval=64, world_seeds=1,
                        ceiling=False)
'''


@pytest.fixture
def own_keys(tmp_path, monkeypatch):
    """The keys of an experiment file after a change of it or of what it imports."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(RECIPES, "own", None)

    def keys(change=None, helping="def shifted(z):\n    return z + 1\n"):
        RECIPES["own"] = RECIPES["untied"]
        gc.collect()  # of two classes of one name neither could be kept
        (tmp_path / "helping_code.py").write_text(helping)
        sys.modules.pop("helping_code", None)
        importlib.invalidate_caches()  # a folder may change twice within a tick of its clock
        shutil.rmtree(tmp_path / "__pycache__", ignore_errors=True)
        file = tmp_path / "own.py"
        assert change is None or change[0] in OWN
        file.write_text(OWN.replace(*change) if change else OWN)
        e = load_experiment(file)
        (cell,) = cells(e)
        return cell.keys.ravel().tolist()

    return keys


def test_code_of_ones_own_decides_what_is_kept(own_keys):
    first = own_keys()
    assert own_keys() == first
    changes = [
        ('h["own_coeff"] *', 'h["own_coeff"] +'), ("POWER = 3", "POWER = 2"),
        ("z**POWER", "z*POWER"), ("return 2 * z", "return 3 * z"),
        ("return 1.0 * z", "return 1.5 * z"),
    ]  # fmt: skip
    found = [own_keys(change) for change in changes]
    found.append(own_keys(helping="def shifted(z):\n    return z + 2\n"))
    assert len({*map(tuple, found), tuple(first)}) == 7


def test_prose_and_the_experiments_settings_decide_nothing(own_keys):
    first = own_keys()
    for change in (
        ("An experiment with", "Prose about"), ("Why?", "What for?"),
        ("return 2 * z", "return 2 * z  # twice"),
        ("Of z.", "Of all activations."), ("n_eval=64", "n_eval=64, figures=()"),
    ):  # fmt: skip
        assert own_keys(change) == first
    assert own_keys(helping='"""Prose."""\n\n\ndef shifted(z):\n    return z + 1\n') == first


def test_an_sae_of_ones_own_recipe_says_what_to_import(tmp_path, monkeypatch):
    mine = Recipe("cubic", lambda d, s: {"penalty": Cubic()}, {"cubic_coeff": 0.1})
    monkeypatch.setitem(RECIPES, "cubic", mine)
    e = Experiment("Why?", **{**TINY, "recipes": "cubic"}, ratios=1.5, save_params=True)
    results = run(e, tmp_path / "out", quiet=True)
    sae = results.sae(0)
    assert sae.W_dec.shape == (6, 4)
    monkeypatch.delitem(RECIPES, "cubic")  # of a recipe only the parts are needed
    assert results.sae(0).spec == sae.spec
    loaded = [part for part in subclasses(Component) if part is not Cubic]
    monkeypatch.setattr("toysae.sae.files.subclasses", lambda of: loaded)
    with pytest.raises(ToysaeError, match="'Cubic' that is not loaded: define that class first"):
        results.sae(0)


def code_of(folder, text, others=MappingProxyType({}), wanted="made"):
    """The digest of what a file defines, beside others of these texts."""
    for name, other in {"text": text, **others}.items():
        file = folder / f"{name.replace('.', '/')}.py"
        file.parent.mkdir(exist_ok=True)
        file.write_text(other)
        sys.modules.pop(name.removesuffix(".__init__"), None)
        shutil.rmtree(file.parent / "__pycache__", ignore_errors=True)
    importlib.invalidate_caches()
    return own_code(runpy.run_path(str(folder / "text.py"))[wanted])


@pytest.mark.parametrize(
    ("text", "one", "two"),
    [
        ("import jax.numpy as jnp\ndef made(z): return jnp.%(z)", "sin", "cos"),
        ("import jax.numpy as jnp\nACT = jnp.%\ndef made(z): return ACT(z)", "sin", "cos"),
        ("from jax.numpy import % as act\ndef made(z): return act(z)", "sin", "cos"),
        ("def made(z): return z.%", "x", "y"),
        ("C = %\ndef made(z): return C", "[1, [2, 3]]", "[[1, 2], 3]"),
        *((text, "1", "2") for text in (
            "import jax.numpy as jnp\nS = jnp.array([1.0, %])\ndef made(z): return S * z",
            "import numpy as np\nS = np.float32(%)\ndef made(z): return S * z",
            "import jax\nKEY = jax.random.key(%)\ndef made(z): return jax.random.normal(KEY, z)",
            "class T:\n  def __init__(s, n): s.n = n\nT1 = T(%)\ndef made(z): return T1.n * z",
            "class T:\n  def __init__(s, n): s.n = n\n  def __call__(s, z): return z\nmade = T(%)",
            "def outer():\n  n = %\n  def inner(z): return n * z\n  return inner\nmade = outer()",
            "class A:\n  @property\n  def n(s): return %\ndef made(z): return A().n * z",
            "class A:\n  @staticmethod\n  def n(): return %\ndef made(z): return A.n() * z",
            "from toysae.worlds.catalogue import WorldRow\nmade = WorldRow('', lambda k: %, {})",
            "import jax\n@jax.custom_vjp\ndef made(z): return z\n"
            "made.defvjp(lambda z: (z, None), lambda _, g: (% * g,))",
            "import jax\nmade = jax.custom_vjp(lambda z: z)\n"
            "made.defvjp(lambda z: (z, 0), lambda r, g: (% * g,))",
            "from functools import partial\nmade = partial(lambda n, z: n * z, %)",
            "class S:\n  def __getattr__(s, n): raise KeyError(n)\nmade = [S(), %]",
            "def made(z):\n  def f(): return g + %\n  return f",
            "def outer():\n  def inner(): return n + %\n  return inner\n  n = 1\nmade = outer()",
        )),
    ],
)  # fmt: skip
def test_an_edit_of_anything_in_the_file_counts(tmp_path, text, one, two):
    first, again, other = (code_of(tmp_path, text.replace("%", value)) for value in (one, one, two))
    assert "" != first == again != other


def test_an_edit_of_what_the_file_imports_counts(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    texts = [
        "import hh\ndef made(z): return hh.f(z)",
        "from hh import f\ndef made(z): return f(z)",
        "def made(z):\n  from hh import f\n  return f(z)",
        "import pk.sub\ndef made(z): return pk.sub.g(z)",
        "from pk import sub\ndef made(z): return sub.g(z)",
    ]
    for text in texts:
        found = [
            code_of(tmp_path, text, {
                "h2": f"c = {n}", "hh": "from h2 import c\ndef f(z): return c * z",
                "pk.__init__": "",
                "pk.sub": "from . import far\ndef g(z): return far.c", "pk.far": f"c = {n}",
            })
            for n in (1, 1, 2)
        ]  # fmt: skip
        assert "" != found[0] == found[1] != found[2], text


def test_code_without_a_file_counts_until_it_is_defined_again():
    def defined():
        space = {}
        exec("class Own:\n    def f(self): return 1", {"__name__": "nowhere"}, space)
        return space["Own"]

    one, two = defined(), defined()
    assert own_code(one) == own_code(one) != own_code(two) != ""


def test_our_own_code_is_no_part_of_a_key():
    e = Experiment("Why?", **TINY, ratios=1.5)
    (cell,) = cells(e)
    assert own_code(cell.spec, cell.data.worlds, WORLDS["sphere"]) == ""
    for recipe in RECIPES:
        assert own_code(make_spec(recipe, 8, 8)) == "", recipe


def test_parts_of_two_files_that_were_run_are_two_parts(tmp_path):
    """However alike their names are: a saved SAE must not come back with the other's code."""
    text = ("from dataclasses import dataclass\nfrom toysae.sae.activations import ReLU\n"
            "@dataclass(frozen=True)\nclass OfAFile(ReLU):\n  {}\n")  # fmt: skip
    classes = []
    for name, body in (("one", "def f(self): return 1"), ("two", "def f(self): return 2"),
                       ("none", "pass"), ("one", "def f(self): return 1")):  # fmt: skip
        (tmp_path / f"{name}.py").write_text(text.format(body))
        classes.append(runpy.run_path(str(tmp_path / f"{name}.py"))["OfAFile"])
    assert list(by_name(classes[:3])["OfAFile"].values()) == classes[:3]
    assert list(by_name([classes[0], classes[3]])["OfAFile"].values()) == [classes[3]]
