"""Stopping and going on: from any chunk's edge the same bits, without another program."""

from itertools import pairwise

import jax
import numpy as np
import pytest

from toysae.recovery.probe import recovery_probe
from toysae.sae import make_spec
from toysae.training import advance, start, train_ensemble
from toysae.training import chunks as module
from toysae.training.chunks import Pace, placed_like
from toysae.training.members import make_ensemble
from toysae.training.starting import start_from
from toysae.worlds import make_world

N_STEPS = 60


def group_of(recipe="untied", **given):
    world = [make_world("sphere", seed, d_in=8, n_features=12, l0=1.5) for seed in range(2)]
    hypers = {"l1_coeff": [0.05, 0.2]} if recipe != "batchtopk" else {"k": [2.0, 3.0]}
    hypers |= {"lr": 3e-3, "lr_decay": 0.3, **given}
    return make_ensemble(world, [0, 1], make_spec(recipe, 8, 16), hypers, [0], 32)


def training(ensemble, **given):
    return train_ensemble(ensemble, N_STEPS, recovery_probe, 4, 64, **given)


def test_from_every_edge_the_same_bits():
    ensemble, edges = group_of(), []
    whole = training(ensemble, on_chunk=lambda edge: edges.append(jax.device_get(edge)))
    assert edges[0].step == 0 and edges[-1].step == N_STEPS
    assert len(edges) > len(whole.curve_steps)  # also between the points of the curves
    for edge in edges:
        again = training(ensemble, resume=edge)
        for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes(), edge.step


@pytest.mark.parametrize("recipe", ["batchtopk", "untied-resampled"])
def test_running_statistics_and_resampling_go_on_too(recipe):
    ensemble, edges = group_of(recipe), []
    whole = training(ensemble, on_chunk=lambda edge: edges.append(jax.device_get(edge)))
    again = training(ensemble, resume=edges[len(edges) // 2])
    for a, b in zip(jax.tree.leaves(whole), jax.tree.leaves(again), strict=True):
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def test_what_raises_at_an_edge_stops_there():
    seen = []

    def stops(edge):
        seen.append(edge.step)
        if edge.step > 20:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        training(group_of(), on_chunk=stops)
    assert 20 < seen[-1] < N_STEPS


def test_going_on_compiles_nothing():
    ensemble, edges = group_of(), []
    training(ensemble, on_chunk=lambda edge: edges.append(jax.device_get(edge)))
    compiled = advance._cache_size(), start_from._cache_size()
    training(ensemble, resume=edges[1])
    training(group_of(l1_coeff=[0.3, 0.4], lr=1e-2), resume=edges[2])
    assert (advance._cache_size(), start_from._cache_size()) == compiled


def test_a_state_is_placed_as_one_that_was_computed():
    like = start(group_of())
    there = placed_like(jax.device_get(like), like)
    for a, b in zip(jax.tree.leaves(there), jax.tree.leaves(like), strict=True):
        assert a.aval == b.aval and a.sharding == b.sharding and a.committed == b.committed
    device = jax.devices()[-1]
    held = placed_like(jax.device_get(like), jax.device_put(like, device))
    assert all(leaf.committed and leaf.devices() == {device} for leaf in jax.tree.leaves(held))


def test_a_chunk_is_as_long_as_there_is_time_for(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(module, "monotonic", lambda: clock[0])
    pace, step, lengths = Pace(10.0), 0, []
    for _ in range(8):  # one step takes 0.01 s
        stop = pace.next_stop(step, 1_000_000)
        lengths.append(stop - step)
        clock[0] += 0.01 * (stop - step)
        pace.took(stop - step)
        step = stop
    assert lengths[0] <= 16 and all(b <= 8 * a for a, b in pairwise(lengths))
    assert lengths[-1] == pytest.approx(1000, abs=1)
    assert pace.next_stop(step, step + 5) == step + 5
    clock[0] += 1e6  # a step that takes for ever
    pace.took(1)
    assert pace.next_stop(step, step + 5) == step + 1
    pace.next_stop(0, 0)
    clock[0] += 100.0  # compiling says nothing
    pace.took(0)
    assert pace.next_stop(0, 5) == 1
