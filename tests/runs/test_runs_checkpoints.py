"""Snapshots on disk: exact, checked, the last two; broken ones are named and passed over."""

import shutil
from dataclasses import replace

import jax
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.recovery.probe import recovery_probe
from toysae.runs.blocks import blocks_of
from toysae.runs.checkpoints import Checkpoints, all_checkpoints, clear_away
from toysae.runs.directory import Directory
from toysae.runs.mark import COPY, MARK
from toysae.sae import INITS
from toysae.sweeps import run
from toysae.sweeps.cells import cells
from toysae.training import Snapshot, train_ensemble


@pytest.fixture(scope="module")
def part(tiny):
    return blocks_of(cells(tiny), set())[0]


@pytest.fixture(scope="module")
def edges(part):
    """Every snapshot of its training, copied off the device."""
    found = []
    train_ensemble(part.ensemble(), 40, recovery_probe, 12, 64,
                on_chunk=lambda edge: found.append(jax.device_get(edge)))  # fmt: skip
    return found


@pytest.fixture
def saved(part, edges, tmp_path):
    checkpoints = Checkpoints(Directory.claim(tmp_path / "run"), "part")
    checkpoints.begin(part.keys, 40)
    for edge in edges[:4]:
        checkpoints.save(edge)
    return checkpoints


def folder_of(checkpoints):
    return checkpoints.directory.path / "checkpoints" / checkpoints.block


def same(a: Snapshot, b: Snapshot):
    assert a.step == b.step and jax.tree.structure(a) == jax.tree.structure(b)
    for one, two in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, two = np.asarray(one), np.asarray(two)
        assert (one.dtype, one.shape, one.tobytes()) == (two.dtype, two.shape, two.tobytes())


def test_what_is_read_is_what_was_written(saved, part, edges):
    same(saved.latest(part.ensemble()), edges[3])
    saved.save(edges[-1])
    same(saved.latest(part.ensemble()), edges[-1])


@pytest.mark.parametrize("init", INITS)
def test_it_is_read_whatever_the_init(saved, part, edges, init):
    cell = part.ensemble()
    same(saved.latest(replace(cell, spec=replace(cell.spec, init=INITS[init]))), edges[3])


def test_arrays_without_elements_are_read_too(saved, part, edges, monkeypatch):
    """The firings of no features, where the truth is not known."""

    def without(state):
        return replace(state, firings=state.firings[:, :0])

    from toysae.runs import checkpoints

    start = checkpoints.start
    monkeypatch.setattr(checkpoints, "start", lambda cell: without(start(cell)))
    edge = replace(edges[-1], state=without(edges[-1].state))
    saved.save(edge)
    same(saved.latest(part.ensemble()), edge)


def test_the_last_two_are_kept(saved, edges):
    assert saved.steps() == [edges[3].step, edges[2].step]
    names = {f"{step}.npz" for step in saved.steps()} | {"part.json"}
    assert {each.name for each in folder_of(saved).iterdir()} == names


def test_any_damage_is_noticed(saved, part, edges, capsys):
    last, before = (folder_of(saved) / f"{edges[i].step}.npz" for i in (3, 2))
    whole = last.read_bytes()
    for broken in (whole[: len(whole) // 2], whole + b"x", bytes([whole[0] ^ 1]) + whole[1:]):
        last.write_bytes(broken)
        with pytest.raises(ToysaeError, match=r"has [\d,]+ bytes of|has other bytes than"):
            saved._read(edges[3].step, part.ensemble())
    last.write_bytes(whole)
    same(saved.latest(part.ensemble()), edges[3])
    last.write_bytes(b"")
    same(saved.latest(part.ensemble()), edges[2])
    line = capsys.readouterr().err
    assert len(line.splitlines()) == 1 and f"{edges[3].step}.npz is broken" in line
    assert saved.steps() == [edges[2].step] and not last.exists()
    before.unlink()
    assert saved.latest(part.ensemble()) is None and saved.steps() == []


def test_a_state_of_another_structure_is_not_read(saved, tiny, capsys):
    other = blocks_of(cells(replace(tiny, recipes=("untied",))), set())[0]
    assert saved.latest(other.ensemble()) is None
    assert len(capsys.readouterr().err.splitlines()) == 2


def test_one_that_was_cut_off_is_removed(saved, part, edges, tmp_path, monkeypatch):
    """By SIGKILL, say, which lets nothing be put right."""

    def writing(file, **arrays):
        file.write(b"half")
        file.flush()
        for mark in (MARK, COPY):
            shutil.copy(saved.directory.path / mark, tmp_path / mark)
        shutil.copy(file.name, tmp_path / "half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(np, "savez", writing)
        saved.save(edges[-1])
    for mark in (MARK, COPY):
        shutil.copy(tmp_path / mark, saved.directory.path / mark)
    half = folder_of(saved) / f".{edges[-1].step}.npz.toysae-tmp"
    shutil.copy(tmp_path / "half", half)
    directory = Directory.open(saved.directory.path)
    assert directory.files[f"checkpoints/part/{edges[-1].step}.npz"] is None
    directory.tidy()
    (keys,) = clear_away(directory, set())
    np.testing.assert_array_equal(keys, part.keys)
    names = {"part.json", *(f"{edges[i].step}.npz" for i in (2, 3))}
    assert {each.name for each in folder_of(saved).iterdir()} == names
    assert clear_away(directory, set(part.keys.reshape(-1).tolist())) == []
    assert not folder_of(saved).exists()


def test_a_full_disk_is_told_in_one_line(saved, part, edges, monkeypatch, capfd):
    def no_room(file, **arrays):
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np, "savez", no_room)
    with pytest.raises(ToysaeError, match=r"cannot write .*: the disk is full, .* free"):
        saved.save(edges[-1])
    assert saved.steps() == [edges[3].step, edges[2].step]
    assert not [f for f in folder_of(saved).iterdir() if str(edges[-1].step) in f.name]
    same(saved.latest(part.ensemble()), edges[3])
    assert capfd.readouterr().err == ""


def interrupted(*_):
    raise InterruptedError


@pytest.mark.parametrize("broken", [1, 2])
def test_a_run_goes_back_before_broken_snapshots(
    tiny, tmp_path, reference, assert_same, monkeypatch, capsys, broken
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("toysae.evaluation.measure.score_ensemble", interrupted)
        run(tiny, out, quiet=True, checkpoint_seconds=0)
    (checkpoints,) = all_checkpoints(Directory.open(out))
    for step in checkpoints.steps()[:broken]:
        (folder_of(checkpoints) / f"{step}.npz").unlink()
    run(tiny, out, quiet=True)
    said = capsys.readouterr().err
    assert said.count("is broken") == broken and ("goes on at step" in said) == (broken == 1)
    assert_same(out, reference)


def test_a_half_trained_part_goes_on_in_a_larger_grid(tiny, tmp_path, monkeypatch, capsys):
    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("toysae.evaluation.measure.score_ensemble", interrupted)
        run(tiny, out, quiet=True, checkpoint_seconds=0)
    table = run(replace(tiny, l1_coeff=(0.05, 0.1, 0.2)), out, quiet=True).table
    assert len(table) == 12 and "goes on at step 40 of 40" in capsys.readouterr().err
    assert not list(out.glob("checkpoints/*"))
