"""Every experiment, planned and run at its own seconds-long size, as `toysae run FILE --smoke`.

All but recovery, which is what `make recover` runs in continuous integration.
"""

from importlib import import_module
from pathlib import Path

import pytest

from toysae.cli import main
from toysae.sweeps import load_experiment
from toysae.sweeps.loading import experiments_in

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "lm" / "golden"
SAMPLE = "lm_smollm"  # only of the downloaded sample; its parts have tests of their own
FILES = [path for path in experiments_in(ROOT / "experiments") if path.stem != SAMPLE]


@pytest.fixture
def on_a_tiny_model(tmp_path):
    """What language model experiments need instead of a download: a model and a text at hand."""
    text = tmp_path / "text.txt"
    text.write_text((ROOT / "toysae" / "lm" / "saes" / "train.py").read_text(encoding="utf-8") * 2)
    model = str(GOLDEN / "gpt-neox")
    sizes = ["--text", str(text), "--n-tokens", "2000", "--n-ctx", "32", "--n-steps", "10",
             "--batch-size", "64", "--n-sequences", "4"]  # fmt: skip
    return {
        "lm_inits": ["--model", model, "--layer", "1", *sizes],
        "lm_pythia": ["--models", model, "--layers", "1", "--sizes", "1", *sizes],
    }


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_experiment_runs_at_its_smoke_size(
    file, on_a_tiny_model, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(import_module("toysae.runs.plan"), "_TRIAL_S", 0.01)
    out, more = tmp_path / "out", on_a_tiny_model.get(file.stem, [])
    command = ["run", str(file), "--smoke", "--out", str(out), *more]
    main([*command, "--dry-run"])
    printed = capsys.readouterr().out
    assert "SAEs" in printed and not out.exists(), "a dry run writes nothing"
    if file.stem == "recovery":
        return
    main([*command, "--quiet"])
    if getattr(load_experiment(file), "prepare", None):
        capsys.readouterr()
        main([*command, "--dry-run"])
        assert "SAEs are finished in" in capsys.readouterr().out
    figures = list((out / "figures").rglob("*.png"))
    assert figures and all(figure.stat().st_size > 5000 for figure in figures)
    assert list(out.rglob("*.csv"))


def test_what_needs_the_sample_says_so_where_it_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "empty"))
    with pytest.raises(SystemExit) as stop:
        main(["run", str(ROOT / "experiments" / SAMPLE), "--smoke", "--out",
              str(tmp_path / "out")])  # fmt: skip
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "toysae lm sample" in line
