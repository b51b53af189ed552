"""Which SAEs train together: each missing one once, in rectangles that fit."""

from dataclasses import replace

import jax
import numpy as np
import pytest

from toysae import Experiment, ToysaeError
from toysae.runs.blocks import Block, blocks_of, check_cells, halved
from toysae.sweeps.cells import cells as cells_of
from toysae.training import memory
from toysae.training.memory import bytes_needed

E = Experiment(
    question="?", d_in=8, ratios=(1, 2), l0=1.5, recipes=("tied",), ceiling=False,
    l1_coeff=(0.05, 0.1, 0.2), world_seeds=3, sae_seeds=2, n_steps=40, batch_size=32, n_eval=256,
)  # fmt: skip


@pytest.fixture(scope="module")
def cells():
    return cells_of(E)


def all_keys(blocks):
    return sorted(key for block in blocks for key in block.keys.reshape(-1).tolist())


def test_with_nothing_done_a_cell_is_one_block(cells):
    blocks = blocks_of(cells, set())
    assert [block.cell for block in blocks] == cells
    for block, cell in zip(blocks, cells, strict=True):
        assert block.ensemble() == cell.ensemble and block.cost == 3 * 6 * 40 * 32
        assert block.name.startswith(f"{cell.name}-")
    assert blocks_of(cells, set(all_keys(blocks))) == []


@pytest.mark.parametrize("seed", range(5))
def test_any_missing_saes_are_trained_once(cells, seed):
    rng = np.random.default_rng(seed)
    done = {k for cell in cells for k in cell.keys.reshape(-1).tolist() if rng.random() < 0.5}
    blocks = blocks_of(cells, done)
    assert all_keys(blocks) == sorted({k for cell in cells for k in cell.keys.flat} - done)
    for cell in cells:  # as few blocks as there are different rows
        patterns = {tuple(k in done for k in row) for row in cell.keys} - {(True,) * 6}
        assert sum(block.cell is cell for block in blocks) == len(patterns)


def test_a_block_is_a_slice_of_its_group(cells):
    block, whole = Block(cells[1], (0, 2), (1, 4, 5)), cells[1].ensemble
    cell = block.ensemble()
    assert cell.n_rows == 6 and cell.spec == whole.spec
    np.testing.assert_array_equal(cell.world_seeds, [0, 2])
    directions = np.asarray(whole.worlds.directions)[[0, 2]]
    np.testing.assert_array_equal(cell.worlds.directions, directions)
    np.testing.assert_array_equal(cell.sae_seeds, [1, 0, 1])
    np.testing.assert_array_equal(cell.hypers["l1_coeff"], np.float32([0.05, 0.2, 0.2]))
    np.testing.assert_array_equal(block.keys, cells[1].keys[[0, 2]][:, [1, 4, 5]])


def test_halves_are_of_members_then_of_worlds(cells):
    def places(block):
        return [(half.worlds, half.members) for half in block.halves() or ()]

    assert places(Block(cells[0], (0, 1), (0, 2, 3))) == [((0, 1), (0,)), ((0, 1), (2, 3))]
    assert places(Block(cells[0], (0, 1, 2), (4,))) == [((0,), (4,)), ((1, 2), (4,))]
    assert places(Block(cells[0], (1,), (4,))) == []


def test_a_block_is_split_until_it_fits(cells):
    whole = Block(cells[0], (0, 1, 2), tuple(range(6)))
    pieces = halved(whole, lambda block: block.keys.size <= 4)
    assert all_keys(pieces) == all_keys([whole])
    assert max(block.keys.size for block in pieces) <= 4
    assert all(block.keys.size == 1 for block in halved(whole, lambda block: False))


def test_memory_decides_how_many_train_together(cells, monkeypatch):
    one = Block(cells[1], (0,), (0,)).ensemble()
    room = (bytes_needed(cells[1].ensemble) + bytes_needed(one)) // 2
    monkeypatch.setattr(memory, "device_bytes", lambda: room)
    blocks = blocks_of(cells_of(E), set())
    assert len(blocks) > 2 and all(bytes_needed(block.ensemble()) <= room for block in blocks)
    assert all_keys(blocks) == all_keys(blocks_of(cells, set()))
    monkeypatch.setattr(memory, "device_bytes", lambda: bytes_needed(one) - 1)
    with pytest.raises(ToysaeError, match="d_sae 16 x 1 SAEs needs about"):
        check_cells(cells_of(E))


def test_what_is_half_trained_goes_on_as_the_block_it_was(cells):
    begun = Block(cells[0], (0, 2), (1, 3))
    blocks = blocks_of(cells, set(), [begun.keys])
    assert blocks[0].name == begun.name
    assert all_keys(blocks) == all_keys(blocks_of(cells, set()))
    # Not if some of it is finished, or not asked for any more.
    for done, asked in (({begun.keys[0, 0]}, E), (set(), replace(E, l1_coeff=(0.05, 0.2)))):
        blocks = blocks_of(cells_of(asked), done, [begun.keys])
        assert begun.name not in {block.name for block in blocks}


def test_the_same_sae_of_two_cells_is_trained_once():
    twice = replace(E, inits=("recipe", "transpose"), ratios=(1,))  # the recipe's own
    both = cells_of(twice)
    np.testing.assert_array_equal(both[0].keys, both[1].keys)
    assert [block.cell for block in blocks_of(both, set())] == both[:1]
    again = replace(E, ratios=(1,), l1_coeff=(0.1, 0.1))
    (block,) = blocks_of(cells_of(again), set())
    assert block.keys.shape == (3, 2)


def test_places_are_those_of_any_device(cells):
    block = Block(cells[0], (1,), (0, 1))
    devices = {device for leaf in jax.tree.leaves(block.ensemble()) for device in leaf.devices()}
    assert devices == cells[0].ensemble.sae_seeds.devices()
