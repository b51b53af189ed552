"""The keys of every committed experiment's SAEs: whatever moves, results on disk are found again.

A key changes with what decides the numbers alone. Where one changes with reason, `FORMAT` is
counted up and what this test says that it found takes the place of the lines below.
"""

from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from toysae.lm.capture.shards import Manifest
from toysae.lm.saes.train import SiteData
from toysae.sweeps import Experiment, load_experiment
from toysae.sweeps.loading import experiments_in
from toysae.sweeps.run import asked_of
from toysae.sweeps.study import Study

FOLDER = Path(__file__).parents[2] / "experiments"

SAES = {
    "arithmetic": ("4 5aa7865cb6928d76", "150 7a582fd5b53832d0"),
    "failure_modes": ("4 dd6ca2afea3a643d", "125 0d8c41e0c2ca9b29"),
    "fista_vs_sae": ("8 2816da979ccd726a", "216 e802122782620ddd"),
    "init_schemes": ("4 95669a620361cd6a", "960 ebcd4b9ae8d8ba80"),
    "interim_report": ("4 0b95b69acee06327", "459 0e5874da281526cf"),
    "label_free_signals": ("24 5eb256b1217973e2", "1280 cf0f4aaf487b2174"),
    "middling_mcs": ("28 be3874eebbed14c4", "320 b99f61c05d305d78"),
    "recovery": ("48 6f89ff00d61d5c2d", "360 4dd1acf70cc8e065"),
    "recovery_phase_diagram": ("4 686c7cc409109a53", "1386 62e263d32363e6df"),
    "sae_zoo": ("4 8366cb1251130410", "450 ab8b52c0094323d2"),
    "superposition_phases": ("70 e7c3e02e5da9a5ab", "5157 806d39c50490abfa"),
    "tied_vs_untied": ("24 72b547719f209000", "4000 8647cfb9edf9207f"),
    "undertraining": ("10 ffc1327616cc3fec", "1260 198924bc4e47e6bf"),
    "what_is_found": ("6 e5dcfd6dd75348cf", "240 d3882a89074117cd"),
    "worlds_gallery": ("0 e3b0c44298fc1c14", "0 e3b0c44298fc1c14"),
}
"""Of each experiment at its smoke and its default size: how many, and a digest of their keys."""

FULL = {
    "recovery_phase_diagram": "5850 f7b93011c5411420",
    "undertraining": "5280 8e04d568b5be8f78",
}

OF_SITES = {
    "lm_inits": ("4 511aa796f6a921b5", "15 91c7709161dcec07"),
    "lm_pythia": ("24 40629adb42a00dd9", "108 dcbde970664c1ed7"),
    "lm_smollm": ("18 d3caa8a4ca3c0ec3", "30 2c53cf737dcebd23"),
}
"""The same of the studies of sites, on captures whose contents are fixed here."""


@cache
def found(name: str):
    return load_experiment(FOLDER / name)


def pinned(keys: list[str]) -> str:
    assert len(set(keys)) == len(keys)
    return f"{len(keys)} {sha256(chr(10).join(keys).encode()).hexdigest()[:16]}"


def keys_of(asked: Experiment | Study) -> str:
    cells = asked_of(asked, "nowhere").cells
    return pinned([key for cell in cells for key in cell.keys.reshape(-1).tolist()])


def test_every_experiment_is_pinned():
    names = [path.stem for path in experiments_in(FOLDER)]
    swept = {name for name in names if isinstance(found(name), Experiment) or found(name).cells}
    assert swept == SAES.keys() | OF_SITES.keys()
    assert {name for name in swept if getattr(found(name), "full", None)} == FULL.keys()
    assert {name for name in names if name.startswith("lm_")} == OF_SITES.keys()


@pytest.mark.parametrize("name", SAES)
def test_keys(name):
    asked = found(name)
    small = asked.smoked()
    small = small if isinstance(small, Experiment) else replace(asked, options=small)
    assert (keys_of(small), keys_of(asked)) == SAES[name]


@pytest.mark.slow
@pytest.mark.parametrize("name", FULL)
def test_keys_at_full_size(name):
    assert keys_of(found(name).at_full_size()) == FULL[name]


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
