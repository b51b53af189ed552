"""Comparisons, with a peer whose clock is known; and SAELens itself where it is installed."""

import itertools
import math
import sys
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.bench import time_to_mcc
from toysae.bench.against import (
    COMPARED,
    best_ways,
    steady_rounds,
    their_world,
    thread_counts,
    time_against,
)
from toysae.bench.presets import BENCH_PRESETS, Preset, preset_world
from toysae.bench.protocol import Child
from toysae.bench.time_to_mcc import Race, race, train_to_mcc
from toysae.worlds.world import sample

PEER = [sys.executable, str(Path(__file__).with_name("fake_peer.py"))]
TINY = Preset("untied", 8, 12, 16, 3, 32)


def test_threads_up_to_the_cores_are_tried(monkeypatch):
    for n, expected in ((1, [1]), (2, [1, 2]), (6, [1, 2, 4, 6]), (16, [1, 2, 4, 8, 16])):
        monkeypatch.setattr("toysae.bench.against.cores", lambda n=n: n)
        assert thread_counts("cpu") == expected
        assert thread_counts("cuda") == [n]


def test_the_fastest_way_of_the_peer_is_found():
    with Child(PEER) as peer:
        ways = best_ways(peer, "cpu")
    assert ways["float32"]["sparse"] and not ways["float32"]["autocast"]
    assert ways["bf16"]["autocast"] and not ways["bf16"]["autocast_data"]


def test_ratios_are_of_rounds_and_count_every_sae(monkeypatch):
    monkeypatch.setitem(COMPARED, "small", TINY)
    monkeypatch.setattr("toysae.bench.against._APART", math.inf)  # other tests run beside this one
    row = time_against("small", 0.02, 3, PEER)
    # 32 samples in 5 ms: sparse, and no faster for being cast
    assert row["sae-lens float32"] == row["sae-lens bf16"] == pytest.approx(32 / 0.005 / 1e3)
    ours = np.array(row["rounds"]["our float32"])
    assert len(ours) == 3 and (ours > 0).all()
    assert row["ratio float32"] == pytest.approx(np.median(ours) / 6400, abs=0.006)
    low, high = map(float, row["low-high bf16"].split("-"))
    assert low <= row["ratio bf16"] <= high
    assert row["k SAE-samples/s float32"] == pytest.approx(np.median(ours) / 1e3, abs=0.06)
    rates = [rates for name, rates in row["rounds"].items() if name.startswith("our ")]
    best = np.max(rates, 0) / 6400
    assert row["ratio of the best"] == pytest.approx(np.median(best), abs=0.006)
    assert row["sae-lens peak MB"] == 123.0 and row["sae-lens float32 runs"].endswith("sparse")


def test_a_round_whose_halves_differ_is_run_again_and_on_a_busy_machine_nothing_is_reported():
    ours = iter([100.0, 115.0, 100.0, 130.0, 90.0, 80.0])  # the second round is disturbed
    raw = steady_rounds({"ours": lambda: next(ours), "theirs": lambda: 50.0}, 2)
    harmonic = [2 / (1 / 100 + 1 / 115), 2 / (1 / 90 + 1 / 80)]
    assert raw == {"ours": pytest.approx(harmonic), "theirs": [50.0, 50.0]}
    turns = []
    steady_rounds({n: lambda n=n: turns.append(n) or 1.0 for n in ("ours", "theirs")}, 1)
    assert turns == ["ours", "theirs"] * 2
    halves = itertools.cycle([1000.0, 2000.0])
    with pytest.raises(ToysaeError, match="busy: in 4 rounds of 4 .* theirs trained at 1 and at 2"):
        steady_rounds({"ours": lambda: 3.0, "theirs": lambda: next(halves)}, 3)


def test_the_presets_compared_are_saelens_standard_sae():
    assert {p.recipe for p in COMPARED.values()} == {"untied"}
    assert {"small", "small-sweep", "medium-1024", "large", "small-512", "synth-16k"} <= set(
        COMPARED
    )


@pytest.mark.slow
def test_a_race_counts_whole_processes_and_marks_what_never_arrives(monkeypatch):
    tiny = Race(Preset("anthropic-april-2024", 8, 8, 8, 1, 64, l0=1.0), 0.1, 0.01, 0.3, 5, 10)
    monkeypatch.setitem(time_to_mcc.RACES, "time-to-mcc", tiny)
    empty, warm, peer = race("time-to-mcc", 1, True, PEER)
    for row in (empty, warm):
        (run,) = row["rounds"]
        assert run["mcc"] >= 0.3 and run["steps"] in (5, 10)
        assert row["s to MCC 0.3"] == pytest.approx(run["seconds"], abs=0.006)
        assert run["seconds"] > run["import_s"] > 0
    assert empty["MCC"] == warm["MCC"]
    assert math.isnan(peer["s to MCC 0.3"]) and peer["steps"] == 10


def test_training_stops_where_the_features_are_found():
    preset = asdict(Preset("anthropic-april-2024", 8, 8, 16, 1, 128, l0=1.0))
    numbers = {"l1_coeff": 0.1, "lr": 0.01}
    found = train_to_mcc(preset, numbers, 0, 0.9, 25, 2000)
    assert found["mcc"] >= 0.9 and 25 <= found["steps"] < 2000 and found["steps"] % 25 == 0
    earlier = train_to_mcc(preset, numbers, 0, 0.9, 25, found["steps"] - 25)
    assert earlier["mcc"] < 0.9 and earlier["steps"] == found["steps"] - 25


@pytest.mark.peers
def test_saelens_trains_on_the_same_world(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sae_lens")
    from toysae.bench.saelens import SAELens

    p = Preset("untied", 8, 300, 16, 1, 4096, l0=2.0)  # sparse firing, as its generator draws it
    world, path = preset_world(p), tmp_path / "world.npz"
    np.savez(path, directions=world.rows, bias=np.zeros(8, np.float32))
    peer = SAELens()
    opened = peer.open(**their_world(p, path, 0.1, 1e-3))
    assert opened["import_s"] > 0 and set(opened["versions"]) == {"torch", "sae-lens"}
    theirs = peer._trainer(False, False).data_provider.next_batch().numpy()
    batch = sample(world, jax.random.key(0), 4096)
    for moment in (lambda x: (x**2).sum(1), lambda x: x @ np.asarray(world.rows).sum(0)):
        values = [np.asarray(moment(x)) for x in (theirs, np.asarray(batch.x))]
        error = math.hypot(*(v.std() / 64 for v in values))
        assert abs(values[0].mean() - values[1].mean()) < 4 * error


@pytest.mark.peers
def test_saelens_itself_in_a_child(tmp_path):
    pytest.importorskip("torch")
    pytest.importorskip("sae_lens")
    p, path = BENCH_PRESETS["small"], tmp_path / "world.npz"
    world = preset_world(p)
    np.savez(path, directions=world.rows, bias=np.zeros(p.d_in, np.float32))
    told = their_world(p, path, 0.3, 0.01)
    with Child("toysae.bench.saelens") as child:
        info = child.ask("open", **told)
        assert info["device"] in ("cpu", "cuda")
        for autocast in (False, True):
            for sparse in (False, True):
                way = {"threads": 1, "sparse": sparse, "autocast": autocast}
                assert child.ask("train", n_steps=3, autocast_data=autocast, **way) > 0
        goal = {"seed": 0, "most": 400, "every": 50, "target": 0.9, "threads": 1}
        ended = child.ask("to_mcc", **goal, **told)
        assert 0.9 <= ended["mcc"] <= 1 and ended["steps"] <= 400
        assert child.ask("peak") > 1e7
