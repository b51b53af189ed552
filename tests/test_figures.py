"""Committed figures: a STALE.txt stands beside those, and only those, that the code left behind."""

import runpy
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from toysae.plotting.curves import learning_curves
from toysae.plotting.ratio import mmcs_by_ratio
from toysae.sweeps import load_experiment, run

ROOT = Path(__file__).parents[1]
FIGURES = ROOT / "figures"
LINES = sorted(FIGURES.glob("*/STALE.txt"))

if not FIGURES.is_dir():
    pytest.skip("no figures in this distribution", allow_module_level=True)

SCRIPT = runpy.run_path(str(FIGURES / "stale.py"))

TOLERANCE = 0.01
"""In mmcs, EV and L0 / true L0 over a learning curve. Other roundings of the same random numbers
(little optimisation, AVX2, two devices) moved none by more than .0008, other random numbers moved
L0 / true L0 by .34, EV by .037 and mmcs by .016."""


def test_recovery_comes_out_of_the_code_unless_it_says_that_it_is_stale(tmp_path):
    cell = {"recipes": ("untied",), "inits": ("random",), "ratios": (1,), "ceiling": False}
    experiment = load_experiment(ROOT / "experiments" / "recovery.py")
    # All of the cell's SAEs: each world seed's L1 is chosen on the other ones.
    results = run(replace(experiment, **cell, save_params=False), tmp_path, quiet=True)
    apart = {
        "mmcs_by_ratio.csv": _apart(mmcs_by_ratio(results)[1], "mmcs_by_ratio.csv"),
        "learning_curves.csv": _apart(learning_curves(results)[1], "learning_curves.csv"),
    }
    comes_out = max(apart.values()) < TOLERANCE
    stale = (FIGURES / "recovery" / "STALE.txt").exists()
    assert comes_out != stale, (
        f"figures/recovery is {'' if stale else 'not '}said to be stale, and the code comes within "
        f"{apart} of it: draw it again, or say in figures/stale.py what has changed, or that a "
        "change there does not concern recovery, and run that script"
    )


def _apart(frame: pd.DataFrame, name: str) -> float:
    """The largest difference between some of a committed figure's rows and the same made now."""
    keys = [k for k in ("recipe", "init", "ratio", "step") if k in frame]
    values = [v for v in ("mmcs", "ev", "l0_ratio") if v in frame]
    made = frame.set_index(keys)[values].astype(float)
    drawn = pd.read_csv(FIGURES / "recovery" / name).set_index(keys)[values]
    differences = (made - drawn.reindex(made.index)).abs()
    return float(differences.fillna(float("inf")).to_numpy().max())


@pytest.mark.parametrize("file", LINES, ids=[file.parent.name for file in LINES])
def test_a_stale_line_is_one_line_beside_numbers(file):
    text = file.read_text(encoding="utf-8")
    assert text.startswith("Drawn at commit ") and text.endswith(" now.\n")
    assert text.count("\n") == 1
    assert [*file.parent.glob("*.csv"), *file.parent.glob("*.json")]


def test_changes_name_folders_that_exist():
    named = {name for _, names in SCRIPT["CHANGES"].values() for name in names.split()}
    assert named <= {folder.name for folder in SCRIPT["folders"]()}


def test_stale_lines_are_those_that_the_script_writes():
    if not SCRIPT["whole_clone"]():
        pytest.skip("needs the whole git history")
    # Not the text: it cannot name the commit that it is part of.
    assert {file.parent.name for file in LINES} == set(SCRIPT["stale"]())


@pytest.mark.skipif(shutil.which("git") is None, reason="there is no git")
def test_a_figure_is_stale_from_a_change_until_it_is_drawn_again(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=x", "-c", "user.email=x@y.z", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    def write(name, text):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)

    def commit():
        git("add", ".")
        git("commit", "-m", "x")

    def stale():
        return SCRIPT["stale"](tmp_path, {"FORMAT = 2": ("all is new", "a b")})

    content = SCRIPT["CONTENT"]
    git("init")
    write(content, "FORMAT = 1\n")
    for name in "abc":
        write(f"figures/{name}/numbers.csv", "1\n")
    commit()
    told = stale()
    assert set(told) == {"a", "b"} and "all is new (not committed yet)" in told["a"]
    write(content, "FORMAT = 2\n")
    commit()
    write(content, "FORMAT = 3\n")
    commit()
    assert set(stale()) == {"a", "b"} and "not committed yet" not in stale()["a"]
    write("figures/a/numbers.csv", "2\n")
    assert set(stale()) == {"b"}
    commit()
    write("figures/b/README.md", "Not the numbers.")
    commit()
    assert set(stale()) == {"b"}
