"""Where the time of a run goes: every second once, every program by name."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import pandas as pd
import pytest

from toysae import profiling
from toysae.cli import main
from toysae.cli.running import again
from toysae.machine import seconds_since_start
from toysae.profiling import IMPORTING, KINDS, Profile
from toysae.watch import doing

ROOT = Path(__file__).parents[1]
N_PROGRAMS = 41


def test_every_second_is_counted_once_and_every_program_by_its_name():
    @jax.jit
    def of_profiling(x):
        time.sleep(0.1)  # tracing
        return x * 3

    x = jnp.ones(7)
    with Profile() as profile:
        begun = time.perf_counter()
        doing("first", phase="first")
        time.sleep(0.1)
        doing("second", phase="second")
        of_profiling(x)
        doing("first", phase="first")
        time.sleep(0.1)
        took = time.perf_counter() - begun
    before = profile.table()
    of_profiling(jnp.ones(8))  # it is closed
    table = profile.table().set_index("phase")
    assert table.equals(before.set_index("phase"))
    assert list(table.index) == [IMPORTING, "preparing", "first", "second", "all"]
    assert table.loc["first", "running"] == pytest.approx(0.2, abs=0.05)
    assert table.loc["first", ["tracing", "compiling"]].sum() == 0
    assert table.loc["second", "tracing"] > 0.1 and table.loc["second", "compiling"] > 0
    assert (table >= 0).all(axis=None)
    assert table[list(KINDS)].sum(axis=1).to_numpy() == pytest.approx(table["seconds"].to_numpy())
    assert table.loc[["first", "second"], "seconds"].sum() == pytest.approx(took, abs=0.02)
    assert table.loc["all", "seconds"] == pytest.approx(table["seconds"][:-1].sum())
    programs = profile.programs().set_index("program")
    assert programs.loc["of_profiling", "compiled"] == 1 == profile.n_compiled
    assert programs.loc["of_profiling", "tracing"] > 0.1
    own = programs["tracing"].sum() + programs["compiling"].sum()
    assert own == pytest.approx(table.loc["all", ["tracing", "compiling"]].sum())
    assert "1 programs, " in profile.summary()


def test_what_is_traced_inside_another_program_is_counted_as_itself_alone():
    event = "/jax/core/compile/jaxpr_trace_duration"
    with Profile() as profile:
        time.sleep(0.1)
        profile._add(event, 0.01, "first")
        time.sleep(0.02)
        profile._add(event, 0.01, "second")
        profile._add(event, 0.06, "outside")  # began before both
    tracing = profile.programs().set_index("program")["tracing"]
    assert tracing["first"] == tracing["second"] == 0.01
    assert tracing["outside"] == pytest.approx(0.04, abs=1e-6)
    table = profile.table().set_index("phase")
    assert table.loc["preparing", "tracing"] == pytest.approx(0.06, abs=1e-6)
    assert table.loc["preparing", "seconds"] == pytest.approx(0.12, abs=0.03)


def test_a_process_knows_its_age():
    if not Path("/proc/self/stat").exists():
        pytest.skip("the system does not say")
    age = seconds_since_start()
    assert 0.5 < age < 24 * 3600
    time.sleep(0.05)
    assert 0.03 < seconds_since_start() - age < 5
    code = "from toysae.machine import seconds_since_start as s; print(s())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < float(done.stdout) < 20


@pytest.fixture(scope="module")
def profiled(tmp_path_factory):
    """A finished run with its profile, and what it printed."""
    folder = tmp_path_factory.mktemp("profiled")
    file = folder / "asks.py"
    file.write_text(
        "from toysae import Experiment\n"
        "experiment = Experiment('How long?', d_in=8, recipes=('untied',), inits=('random',),\n"
        "    ratios=(1,), l1_coeff=(0.1,), world_seeds=1, n_steps=20, n_eval=512, ceiling=False,\n"
        "    curve_points=2, figures=('mmcs_by_ratio',))\n"
    )
    main(["run", str(file), "--out", str(folder / "out"), "--quiet", "--profile"])
    return file, folder / "out"


def test_a_run_says_where_its_time_went(profiled, capsys):
    file, out = profiled
    table = pd.read_csv(out / "figures" / "profile.csv").set_index("phase")
    for phase in ("starting SAEs", "training", "learning curves", "scoring", "writing", "drawing"):
        assert table.loc[phase, "seconds"] > 0
    programs = pd.read_csv(out / "figures" / "programs.csv").set_index("program")
    assert programs.loc["advance", "compiled"] >= 1
    assert (out / "figures" / "profile.png").stat().st_size > 5000
    main(["run", str(file), "--out", str(out), "--quiet", "--profile"])  # nothing is left to train
    printed = capsys.readouterr().out
    assert "where the time went" in printed and "programs, " in printed
    assert "training" not in pd.read_csv(out / "figures" / "profile.csv")["phase"].tolist()
    assert profiling._open is None
    main(["status", str(out)])  # its files are the run's own
    assert "not written" not in capsys.readouterr().out


def test_neither_a_dry_run_nor_launched_processes_are_profiled(profiled, capsys, tmp_path):
    file, out = profiled
    for other in (["--dry-run"], ["--launcher", "local:2"]):
        with pytest.raises(SystemExit) as stop:
            main(["run", str(file), "--out", str(tmp_path / "new"), "--profile", *other])
        assert stop.value.code == 2
        assert f"--profile and {other[0]}: give one" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()
    assert again(["run", "f.py", "--profile"], out) == ["run", "f.py", "--out", str(out)]


def test_a_strangers_file_in_its_place_is_refused_before_anything_is_trained(
    profiled, tmp_path, capsys
):
    file, out = profiled[0], shutil.copytree(profiled[1], tmp_path / "out")
    main(["run", str(file), "--out", str(out), "--quiet", "--fresh"])  # without a profile
    for name in ("profile.png", "programs.csv"):
        (out / "figures" / name).write_text("mine")
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["run", str(file), "--out", str(out), "--quiet", "--profile", "--lr", "0.1"])
        said = capsys.readouterr()
        assert stop.value.code == 2 and name in said.err and "mmcs" not in said.out
        assert (out / "figures" / name).read_text() == "mine"
        (out / "figures" / name).unlink()


def test_the_programs_of_the_first_experiment_are_counted(tmp_path):
    """`make recover` at its smoke size: whoever adds a program sees it here."""
    command = [sys.executable, "-m", "toysae", "run", str(ROOT / "experiments" / "recovery.py"),
               "--smoke", "--quiet", "--profile", "--figures", "mmcs_by_ratio",
               "--out", str(tmp_path / "out")]  # fmt: skip
    environment = {**os.environ, "JAX_NUM_CPU_DEVICES": "2"}
    subprocess.run(command, env=environment, check=True, capture_output=True)
    programs = pd.read_csv(tmp_path / "out" / "figures" / "programs.csv").set_index("program")
    counts = programs["compiled"]
    # For two ratios, two recipes, and three inits with the ceiling.
    of_recipes = counts[["advance", "start_from", "probe_all", "trained", "evaluate_all"]]
    assert (of_recipes == 4).all() and counts["_rows"] == 6
    of_worlds = counts[["sample", "_samples", "_world_cosines", "fista_oracle"]]
    assert (of_worlds == 2).all()
    assert counts.sum() == N_PROGRAMS
