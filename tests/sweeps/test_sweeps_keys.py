"""The keys of every committed experiment's SAEs: whatever moves, results on disk are found again.

A key changes with what decides the numbers alone. Where one changes with reason, `FORMAT` is
counted up and what this test says that it found takes the place of the lines below.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toysae.lm.capture.shards import Manifest
from toysae.lm.saes.train import SiteData
from toysae.plotting import FIGURES
from toysae.runs import Cell
from toysae.runs.worlds import Worlds
from toysae.sweeps import Experiment, load_experiment
from toysae.sweeps.loading import experiments_in
from toysae.sweeps.run import asked_of
from toysae.sweeps.study import Study
from toysae.worlds import World
from toysae.worlds.magnitudes import MAGNITUDES, Uniform

FOLDER = Path(__file__).parents[2] / "experiments"

SAES = {
    "arithmetic": ("4 b6d8ed110e65c58c", "150 2612d8a4a63a30a0"),
    "failure_modes": ("4 424cfe9933d7da51", "125 a71f35d7f81f3720"),
    "fista_vs_sae": ("8 86e8f5ba52ed41a7", "216 1414e3ada35f24a4"),
    "init_schemes": ("4 553ac41e140ea93d", "960 52b501c326db1c77"),
    "interim_report": ("4 cc3c674cf7eced0d", "459 bbebe14f92785bd6"),
    "label_free_signals": ("24 8240638018622a77", "1280 6a638a950ee96d05"),
    "middling_mcs": ("28 cdbab26af48b87af", "320 fe97d31f8559d7d3"),
    "recovery": ("48 442c13756733b809", "360 4666afe681b3610a"),
    "recovery_phase_diagram": ("4 253ec15a3e75d142", "1386 ad1ceb8430744be5"),
    "sae_zoo": ("4 e808c2ec4dcc68ed", "450 2614efbb6256a83b"),
    "superposition_phases": ("70 0e75f2815720a2ce", "5157 14cae542b1c9561d"),
    "tied_vs_untied": ("24 d202c5eff06af39c", "4000 f194b5e6e39f4626"),
    "undertraining": ("10 54672932c0271e52", "1260 2914607851404250"),
    "what_is_found": ("6 421b84860af8beb6", "240 4e1897c666c89e5e"),
    "worlds_gallery": ("0 e3b0c44298fc1c14", "0 e3b0c44298fc1c14"),
}
"""Of each experiment at its smoke and its default size: how many, and a digest of their keys."""

FULL = {
    "recovery_phase_diagram": "5850 18c96e93ef91992a",
    "undertraining": "5280 5df0b3037c88fa26",
}

OF_SITES = {
    "lm_inits": ("4 e53d8c936cce878a", "15 ed829ecb913358f7"),
    "lm_pythia": ("24 fb4346959f0fe01c", "108 faa5ad908566d227"),
    "lm_smollm": ("18 b097e48d85eb0892", "30 c56053071d542839"),
}
"""The same of the studies of sites, on captures whose contents are fixed here."""


@cache
def found(name: str):
    return load_experiment(FOLDER / name)


def pinned(keys: list[str]) -> str:
    assert len(set(keys)) == len(keys)
    return f"{len(keys)} {sha256(chr(10).join(keys).encode()).hexdigest()[:16]}"


def keys_of(cells: Sequence[Cell]) -> str:
    return pinned([key for cell in cells for key in cell.keys.reshape(-1).tolist()])


def smoked(asked: Experiment | Study) -> Experiment | Study:
    small = asked.smoked()
    return small if isinstance(small, Experiment) else replace(asked, options=small)


def test_every_experiment_is_pinned_and_says_what_it_asks():
    names = [path.stem for path in experiments_in(FOLDER)]
    for name in names:
        assert found(name).question and found(name).expected and found(name).run_time, name
        if isinstance(found(name), Experiment):
            assert set(found(name).figures) <= set(FIGURES), name
        else:
            assert found(name).smoked() != found(name).options, name
    swept = {name for name in names if isinstance(found(name), Experiment) or found(name).cells}
    assert swept == SAES.keys() | OF_SITES.keys()
    assert {name for name in swept if getattr(found(name), "full", None)} == FULL.keys()
    assert {name for name in names if name.startswith("lm_")} == OF_SITES.keys()


@pytest.mark.parametrize("name", SAES)
def test_keys(name):
    asked = found(name)
    small, default = (asked_of(size, "nowhere").cells for size in (smoked(asked), asked))
    assert (keys_of(small), keys_of(default)) == SAES[name]
    if isinstance(asked, Experiment):
        assert n_steps(small) < 0.05 * n_steps(default)


def test_no_world_is_made_for_keys_while_all_tables_are_ours(monkeypatch):
    """There may be thousands; one behind which a user's code may be is looked into."""
    worlds = Worlds("sphere", (("d_in", 4), ("n_features", 6), ("l0", 1.5)), (0,))
    assert worlds.own_components() == ()
    with monkeypatch.context() as patch:
        patch.setattr("toysae.runs.worlds.make_world", None)
        cells = asked_of(smoked(found("recovery")), "nowhere").cells
        assert keys_of(cells) == SAES["recovery"][0]
    monkeypatch.setitem(MAGNITUDES, "half-normal", lambda n, s: Uniform(0.0, 1.0))
    assert isinstance(worlds.own_components()[0], World)


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_keys_at_full_size(name):
    full, default = (asked_of(e, "nowhere").cells
                     for e in (found(name).at_full_size(), found(name)))  # fmt: skip
    assert keys_of(full) == FULL[name]
    assert n_steps(full) > n_steps(default)


def n_steps(cells: Sequence[Cell]) -> int:
    return sum(cell.n_steps for cell in cells)


def captured(site: str) -> SiteData:
    """A capture that nothing can be read of."""
    d = 256 if "mlp.hook_post" in site else 64
    m = Manifest("model", "weights", site, d, "float16", False, "corpus", 1, 64, 9, 576)
    return SiteData(Path("nowhere") / site, m, *[None] * 5)


def prepared(name: str, o) -> Any:
    """What a study of sites would have prepared."""
    if name == "lm_inits":
        return captured(f"blocks.{o.layer}.hook_resid_post")
    if name == "lm_pythia":
        return tuple(captured(f"blocks.{layer}.{s}") for layer in o.layers for s in o.sites)
    resid, mlp = (captured(f"blocks.{o.layer}.{s}") for s in ("hook_resid_post", "mlp.hook_post"))
    own = SimpleNamespace(**found(name).prepare.__globals__)
    return own.Prepared(resid, mlp, own.twin_of(o, resid.folder, resid.manifest))


def keys_of_sites(name: str, o) -> str:
    cells = found(name).cells(o, prepared(name, o))
    assert len({cell.name for cell in cells}) == len(cells)
    return pinned([key for cell in cells for key in cell.keys.ravel().tolist()])


@pytest.mark.parametrize("name", OF_SITES)
def test_keys_of_sites(name):
    study = found(name)
    assert (keys_of_sites(name, study.smoked()), keys_of_sites(name, study.options)) == (
        OF_SITES[name]
    )
