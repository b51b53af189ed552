"""A study without SAEs goes through the same commands; the gallery draws what it is asked for."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.worlds_gallery.experiment import study
from toysae import run
from toysae.cli import main
from toysae.errors import ToysaeError

FOLDER = str(Path(__file__).parents[2] / "experiments" / "worlds_gallery")


@pytest.fixture
def options():
    return replace(study.options, worlds=("antipodal", "exclusive-pair"), n_samples=512)


def test_every_world_has_a_row_and_a_figure(options, tmp_path):
    results = run(replace(study, options=options), tmp_path, quiet=True)
    assert results.table.empty and results.cells == []
    tables = study.answer(options, results)
    for table in tables.values():
        assert list(table["world"]) == ["antipodal", "exclusive-pair"]
    shown = [set(table.columns) - {"world"} for table in tables.values()]
    assert not set.intersection(*shown)
    drawn = {name: frame for name, _, frame in study.draw(options, results)}
    assert list(drawn) == ["world_antipodal", "world_exclusive-pair"]
    assert all(len(frame) for frame in drawn.values())


def test_an_unknown_world_is_refused_before_anything(options, tmp_path):
    asked = replace(study, options=replace(options, worlds=("antipdal",)))
    with pytest.raises(ToysaeError, match="did you mean 'antipodal'"):
        run(asked, tmp_path)
    assert not list(tmp_path.iterdir())


def test_no_command_stumbles_over_a_study_without_saes(tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", FOLDER, "--smoke", "--n-samples", "512", "--out", str(out)]
    main([*command, "--dry-run"])
    assert "no SAEs to train" in capsys.readouterr().out and not out.exists()
    for _ in range(2):  # the second time into the same directory
        main([*command, "--quiet"])
        assert f"tables in {out}" in capsys.readouterr().out.splitlines()
        assert list(pd.read_csv(out / "worlds.csv")["world"]) == ["antipodal", "exclusive-pair"]
    main(["status", str(out)])
    (line,) = capsys.readouterr().out.splitlines()
    assert line == f"{out}: not running, no SAEs to train"
