"""The keys of every committed experiment's SAEs: whatever moves, results on disk are found again.

A key changes with what decides the numbers alone. Where one changes with reason, `FORMAT` is
counted up and what this test says that it found takes the place of the lines below.
"""

from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace

import pytest

from toysae.lm.shards import Manifest
from toysae.lm.train import SiteData, site_cells
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
    "lm_pythia": ("12 5162f95fef14c47e", "27 1fa0e6ca926c7dc4"),
    "lm_smollm": ("8 5a5bf72345a647ac", "12 555b8fdc48760b89"),
}
"""The same of the SAEs that each experiment on sites trains on its first site, of a capture whose
contents are fixed here."""


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
    assert swept == SAES.keys()
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


def saes_of_a_site(name: str, options, folder: Path, monkeypatch) -> str:
    """The keys of what a study of sites would train."""
    run, keys = found(name).run, []
    config = SimpleNamespace(d_model=64, d_mlp=256)

    def captured(source, text, sites, n_tokens, n_ctx, out):
        return SimpleNamespace(config=config), [out / site for site in sites]

    class Enough(Exception):
        pass

    def trained(site, t, out, n_sequences=64, model=None):
        d = config.d_mlp if "mlp.hook_post" in site.name else config.d_model
        m = Manifest("model", "weights", site.name, d, "float16", False, "corpus", 1, 64, 9, 576)
        data = SiteData(site, m, *[None] * 5)
        keys.extend(key for cell in site_cells(data, t) for key in cell.keys.ravel().tolist())
        raise Enough

    for module, replaced in (("capture_text", captured), ("study_site", trained)):
        monkeypatch.setitem(run.__globals__, module, replaced)
    if "sample" in run.__globals__:
        monkeypatch.setattr(run.__globals__["sample"], "is_there", lambda: True)
    if "resolve" in run.__globals__:
        monkeypatch.setitem(run.__globals__, "resolve", lambda model, text: (model, text))
    with pytest.raises(Enough):
        run(options, folder, folder)
    return pinned(keys)


@pytest.mark.parametrize("name", OF_SITES)
def test_keys_of_sites(name, tmp_path, monkeypatch):
    study = found(name)
    keys = [saes_of_a_site(name, o, tmp_path, monkeypatch) for o in (study.smoked(), study.options)]
    assert tuple(keys) == OF_SITES[name]
