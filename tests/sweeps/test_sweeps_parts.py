"""Which SAEs train together: each missing one once, in rectangles that fit."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from toysae import Experiment, ToysaeError
from toysae.sweeps.parts import Part, jobs_of, parts_of, split
from toysae.training import memory
from toysae.training.memory import bytes_needed

E = Experiment(
    question="?", d_in=8, ratios=(1, 2), l0=1.5, recipes=("tied",), ceiling=False,
    l1=(0.05, 0.1, 0.2), world_seeds=3, sae_seeds=2, n_steps=40, batch_size=32, n_eval=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def jobs():
    return jobs_of(E)


def all_keys(parts):
    return sorted(key for part in parts for key in part.keys.reshape(-1).tolist())


def test_with_nothing_done_a_cell_is_one_part(jobs):
    parts = parts_of(jobs, set())
    assert [part.job for part in parts] == jobs
    for part, job in zip(parts, jobs, strict=True):
        assert part.group() is job.group and part.cost == 3 * 6 * 40 * 32
        assert part.name.startswith(f"{job.cell.slug}-")
    assert parts_of(jobs, set(all_keys(parts))) == []


@pytest.mark.parametrize("seed", range(5))
def test_any_missing_saes_are_trained_once(jobs, seed):
    rng = np.random.default_rng(seed)
    done = {k for job in jobs for k in job.keys.reshape(-1).tolist() if rng.random() < 0.5}
    parts = parts_of(jobs, done)
    assert all_keys(parts) == sorted({k for job in jobs for k in job.keys.flat} - done)
    for job in jobs:  # as few blocks as there are different rows
        patterns = {tuple(k in done for k in row) for row in job.keys} - {(True,) * 6}
        assert sum(part.job is job for part in parts) == len(patterns)


def test_a_part_is_a_slice_of_its_group(jobs):
    part, whole = Part(jobs[1], (0, 2), (1, 4, 5)), jobs[1].group
    group = part.group()
    assert group.n_rows == 6 and group.spec == whole.spec
    np.testing.assert_array_equal(group.world_seeds, [0, 2])
    directions = np.asarray(whole.worlds.directions)[[0, 2]]
    np.testing.assert_array_equal(group.worlds.directions, directions)
    np.testing.assert_array_equal(group.sae_seeds, [1, 0, 1])
    np.testing.assert_array_equal(group.hypers["l1_coeff"], np.float32([0.05, 0.2, 0.2]))
    np.testing.assert_array_equal(part.keys, jobs[1].keys[[0, 2]][:, [1, 4, 5]])


def test_halves_are_of_members_then_of_worlds(jobs):
    def places(part):
        return [(half.worlds, half.members) for half in part.halves() or ()]

    assert places(Part(jobs[0], (0, 1), (0, 2, 3))) == [((0, 1), (0,)), ((0, 1), (2, 3))]
    assert places(Part(jobs[0], (0, 1, 2), (4,))) == [((0,), (4,)), ((1, 2), (4,))]
    assert places(Part(jobs[0], (1,), (4,))) == []


def test_a_block_is_split_until_it_fits(jobs):
    whole = Part(jobs[0], (0, 1, 2), tuple(range(6)))
    pieces = split(whole, lambda part: part.keys.size <= 4)
    assert all_keys(pieces) == all_keys([whole])
    assert max(part.keys.size for part in pieces) <= 4
    assert all(part.keys.size == 1 for part in split(whole, lambda part: False))


def test_memory_decides_how_many_train_together(jobs, monkeypatch):
    one = Part(jobs[1], (0,), (0,)).group()
    room = (bytes_needed(jobs[1].group) + bytes_needed(one)) // 2
    monkeypatch.setattr(memory, "device_bytes", lambda: room)
    parts = parts_of(jobs_of(E), set())
    assert len(parts) > 2 and all(bytes_needed(part.group()) <= room for part in parts)
    assert all_keys(parts) == all_keys(parts_of(jobs, set()))
    monkeypatch.setattr(memory, "device_bytes", lambda: bytes_needed(one) - 1)
    with pytest.raises(ToysaeError, match="d_sae 16 x 1 SAEs needs about"):
        jobs_of(E)


def test_what_is_half_trained_goes_on_as_the_block_it_was(jobs):
    begun = Part(jobs[0], (0, 2), (1, 3))
    parts = parts_of(jobs, set(), [begun.keys])
    assert parts[0].name == begun.name
    assert all_keys(parts) == all_keys(parts_of(jobs, set()))
    # Not if some of it is finished, or not asked for any more.
    for done, asked in (({begun.keys[0, 0]}, E), (set(), replace(E, l1=(0.05, 0.2)))):
        parts = parts_of(jobs_of(asked), done, [begun.keys])
        assert begun.name not in {part.name for part in parts}


def test_the_same_sae_of_two_cells_is_trained_once():
    twice = replace(E, inits=("recipe", "transpose"), ratios=(1,))  # the recipe's own
    both = jobs_of(twice)
    np.testing.assert_array_equal(both[0].keys, both[1].keys)
    assert [part.job for part in parts_of(both, set())] == both[:1]
    again = replace(E, ratios=(1,), l1=(0.1, 0.1))
    (part,) = parts_of(jobs_of(again), set())
    assert part.keys.shape == (3, 2)


def test_places_are_those_of_any_device(jobs):
    part = Part(jobs[0], (1,), (0, 1))
    devices = {device for leaf in jax.tree.leaves(part.group()) for device in leaf.devices()}
    assert devices == jobs[0].group.sae_seeds.devices()
