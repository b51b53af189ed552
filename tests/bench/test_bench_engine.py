"""What the engine costs, at a tiny size: rows that agree with their rounds, one figure."""

import os
import subprocess
import sys

import numpy as np
import pytest

from toysae import ToysaeError
from toysae.bench import run as bench_run
from toysae.bench import scaling, timers
from toysae.bench.against import thread_counts
from toysae.bench.engine import Opening, Overhead
from toysae.bench.presets import Preset
from toysae.bench.run import BenchOptions, bench
from toysae.bench.scaling import Blocks, Scaling, on_cores, run_seconds, workers_figure
from toysae.bench.timers import ENGINE_PRESETS, PRESET_KINDS, TIMERS, WORKERS_PRESET
from toysae.runs.results import Results

TINY = Preset("untied", 8, 12, 16, 2, 32)
TINY_BLOCKS = Blocks(d_in=8, n_features=12, d_sae=16, n_members=2)


def test_the_presets_are_those_of_the_command_line():
    assert list(PRESET_KINDS["engine"][0]) == list(ENGINE_PRESETS)
    assert all(TIMERS[name] is timers.time_engine for name in ENGINE_PRESETS)
    opened = [p for p in ENGINE_PRESETS.values() if isinstance(p, Opening)]
    assert [(p.n_saes, p.n_blocks) for p in opened] == [(5000, 5), (5000, 250)]


def test_overhead_is_of_the_same_training_through_the_engine(monkeypatch):
    small = Overhead(TINY, n_eval=1024, curve_points=2, least_seconds=0.0)
    monkeypatch.setitem(ENGINE_PRESETS, "engine-overhead", small)
    row = timers.time_engine("engine-overhead", 0.01, 3)
    direct, engine = (np.array(row["rounds"][f"{way} s"]) for way in ("direct", "engine"))
    assert len(direct) == len(engine) == 3 and (direct > 0).all() and (engine > 0).all()
    overhead = 100 * (engine / direct - 1)
    assert row["overhead %"] == pytest.approx(np.median(overhead), abs=0.006)
    assert row["preset"] == "engine-overhead" and row["SAEs"] == 2 and row["steps"] >= 10


def test_a_directory_of_many_saes_is_one_that_a_run_writes(tmp_path):
    opening = Opening(TINY, 12, 3)
    opening.write(tmp_path / "run")
    results = Results.load(tmp_path / "run")
    table = results.table
    assert len(table) == 12 and len(results.cells) == table["cell"].nunique() == 3
    assert len({key for cell in results.plan for key in cell["keys"]}) == 12
    assert results.sae(11).W_dec.shape == (16, 8) and results.arrays_of(11)["mcs"].shape == (12,)
    assert not results.directory.strangers()
    assert (tmp_path / "run" / "table.csv").read_text().count("\n") == 13


def test_opening_is_timed_once_a_round(monkeypatch):
    monkeypatch.setitem(ENGINE_PRESETS, "engine-open-5", Opening(TINY, 10, 5))
    row = timers.time_engine("engine-open-5", 0.01, 3)
    rounds = row["rounds"]["open and read s"]
    assert len(rounds) == 3 and row["open and read s"] == pytest.approx(np.median(rounds), abs=1e-3)
    assert row["SAEs"] == 10 and row["blocks"] == 5 and row["MB"] > 0


def test_blocks_are_of_one_size_and_of_one_program():
    blocks = Blocks(n_blocks=8, n_steps=3, d_in=8, n_features=12, d_sae=16, n_members=2)
    cells = scaling.study.cells(blocks)
    assert len(cells) == 8 and len({key for cell in cells for key in cell.keys.flat}) == 16
    (shape,) = {(cell.spec, cell.n_steps, cell.batch_size, cell.keys.shape) for cell in cells}
    assert shape[1:] == (3, 256, (1, 2))


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system does not say cores")
def test_workers_are_kept_to_as_many_cores():
    before = os.sched_getaffinity(0)
    with on_cores(1):
        code = "import os; print(len(os.sched_getaffinity(0)))"
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert child.stdout.strip() == "1" and os.sched_getaffinity(0) == before


def test_speed_ups_are_of_rounds_and_every_worker_has_as_many_blocks(monkeypatch):
    calls = []

    def seconds(blocks, n):
        calls.append((blocks.n_blocks, n))
        return {1: 12.0, 2: 7.0, 3: 5.0}[n] + len(calls)

    monkeypatch.setattr(scaling, "run_seconds", seconds)
    monkeypatch.setattr(scaling, "thread_counts", lambda device: [1, 2, 3])
    row = Scaling(TINY_BLOCKS, least_seconds=0.0).time(0.01, 2)
    assert calls == [(24, 1), (24, 2), (24, 3)] * 2 and row["blocks"] == 24 and row["SAEs"] == 48
    assert row["rounds"] == {"1": [13.0, 16.0], "2": [9.0, 12.0], "3": [8.0, 11.0]}
    assert row["speed-up 1"] == 1 and row["speed-up 2"] == pytest.approx(1.389, abs=1e-3)
    fig, frame = workers_figure(row["rounds"])
    assert list(frame["workers"]) == [1, 2, 3] and list(frame["seconds"]) == [14.5, 10.5, 9.5]
    assert frame["low"][1] == pytest.approx(16 / 12) and frame["high"][1] == pytest.approx(13 / 9)
    (ax,) = fig.axes
    perfect = next(line for line in ax.lines if line.get_label() == "perfect speed-up")
    assert list(perfect.get_xdata()) == list(perfect.get_ydata()) == [1, 2, 3]


@pytest.mark.slow
def test_workers_train_a_whole_experiment(monkeypatch):
    pytest.importorskip("submitit")
    monkeypatch.setitem(ENGINE_PRESETS, WORKERS_PRESET, Scaling(TINY_BLOCKS, least_seconds=0.0))
    row = timers.time_engine(WORKERS_PRESET, 0.01, 1)
    numbers = thread_counts("cpu")
    assert list(row["rounds"]) == [str(n) for n in numbers] and row["blocks"] % numbers[-1] == 0
    assert all(seconds > 0 for (seconds,) in row["rounds"].values()) and row["speed-up 1"] == 1


def test_a_run_that_fails_says_why():
    with pytest.raises(ToysaeError, match="toysae run failed: .*d_in"):
        run_seconds(Blocks(d_in=0), 1)


def test_the_figure_is_written_where_it_is_wanted(tmp_path, monkeypatch):
    def rows(name, options):
        yield {"preset": name, "rounds": {"1": [4.0], "2": [2.5]}}

    monkeypatch.setattr(bench_run, "_rows", rows)
    monkeypatch.setattr(bench_run, "import_seconds", lambda code: 0.0)
    bench(BenchOptions((WORKERS_PRESET,), figures=tmp_path / "engine"))
    assert {p.name for p in (tmp_path / "engine").iterdir()} == {"workers.png", "workers.csv"}
    with pytest.raises(ToysaeError, match="give --preset engine-workers"):
        bench(BenchOptions(("small",), figures=tmp_path))
