"""A study that prepares something first, keeps it in the run's own folder, and draws a page."""

from importlib import import_module
from pathlib import Path

import pandas as pd
import pytest

from toysae import ToysaeError, run
from toysae.cli import main
from toysae.runs.run import Unfinished
from toysae.sweeps import load_experiment, plan

STUDY = """
from dataclasses import dataclass
import pandas as pd
from toysae.points import grid
from toysae.evaluation.measure import RecoveryScores
from toysae.runs.cell import Cell
from toysae.runs.worlds import Worlds
from toysae.sae import make_spec
from toysae.sweeps.study import Study

@dataclass(frozen=True)
class Options:
    n_features: int = 6

def prepare(o, out):
    folder = out / "made"
    folder.mkdir(exist_ok=True)
    if not (folder / "number").exists():
        (folder / "number").write_text(str(o.n_features))
    return int((folder / "number").read_text())

def unprepared(o, out):
    return "" if (out / "made" / "number").exists() else "a number is made first"

def cells(o, number):
    data = Worlds("sphere", (("d_in", 4), ("n_features", number), ("l0", 1.5)), (0, 1))
    return [Cell("one", data, make_spec("untied", 4, 6), grid(l1_coeff=0.1, lr=1e-3), (0,), 5, 16,
                 RecoveryScores(64, 1))]

def answer(o, results, number):
    return {"number": pd.DataFrame({"number": [number], "SAEs": [len(results.table)]})}

def draw(o, results, number):
    yield "page", f"<p>{number} – features</p>", pd.DataFrame({"number": [number]})

study = Study("What was made?", Options(), cells, answer, draw, prepare, unprepared, whole=True)
"""


@pytest.fixture
def study(tmp_path):
    (tmp_path / "makes.py").write_text(STUDY)
    return tmp_path / "makes.py"


def files(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(file.relative_to(folder)): (file.stat().st_mtime_ns, file.read_bytes())
        for file in folder.rglob("*")
        if file.is_file()
    }


def test_what_is_prepared_lies_in_the_run_and_stays_there(study, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", str(study), "--out", str(out), "--quiet"]
    main([*command, "--dry-run"])
    (_, line) = capsys.readouterr().out.splitlines()
    assert (
        line.startswith("a number is made first; only then is it known which SAEs")
        and not out.exists()
    )
    with pytest.raises(ToysaeError, match="a number is made first: run the study"):
        plan(load_experiment(study), out)
    main(command)
    assert (out / "figures" / "page.html").read_text(encoding="utf-8") == "<p>6 – features</p>"
    assert pd.read_csv(out / "figures" / "page.csv")["number"].tolist() == [6]
    assert pd.read_csv(out / "number.csv").to_dict("list") == {"number": [6], "SAEs": [2]}
    main(["status", str(out)])
    assert "2 of 2 SAEs finished" in " ".join(capsys.readouterr().out.split())
    before = files(out)
    main([*command, "--dry-run"])
    assert "all 2 SAEs are finished" in capsys.readouterr().out and files(out) == before
    assert plan(load_experiment(study), out).table.empty and files(out) == before
    main([*command, "--fresh"])
    said = capsys.readouterr().err
    assert "which are left: made" in said and (out / "made" / "number").exists()
    assert len(run(load_experiment(study), out, quiet=True).table) == 2


def test_a_folder_of_something_else_is_refused_before_anything_is_prepared(study, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    with pytest.raises(SystemExit):
        main(["run", str(study), "--out", str(out)])
    assert "it holds notes.txt" in capsys.readouterr().err
    assert [file.name for file in out.iterdir()] == ["notes.txt"]


def test_what_needs_every_sae_is_not_made_of_some(study, tmp_path, capsys, monkeypatch):
    out = tmp_path / "out"
    run(load_experiment(study), out, quiet=True)

    def some(*args, **kwargs):
        raise Unfinished("1 SAEs did not fit")

    monkeypatch.setattr(import_module("toysae.runs.run"), "run", some)
    with pytest.raises(SystemExit):
        main(["run", str(study), "--out", str(out)])
    assert "1 SAEs did not fit" in capsys.readouterr().err
    assert not (out / "number.csv").exists() and not (out / "figures").exists()
