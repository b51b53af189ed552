"""No disk, no memory: told in one line, and nothing finished is lost."""

import errno
import importlib
import os
from contextlib import suppress
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

import toysae
from toysae import Results, ToysaeError
from toysae.cli import main
from toysae.disk import size, write_bytes
from toysae.plotting import draw
from toysae.sweeps import Unfinished, run, status
from toysae.worlds import make_world, save_world

module = importlib.import_module("toysae.runs.run")


# Disk


@pytest.mark.rotation(2)
@pytest.mark.parametrize("ending", [".csv", ".npz", ".safetensors", ".json", "table.csv"])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_one_line_and_keeps_what_is_finished(
    tiny, tmp_path, reference, assert_same, monkeypatch, ending, code
):
    out, written = tmp_path / "out", []
    original = Path.write_bytes

    def full(self, data):
        if ending in self.name and self.name[1:5] not in ("conf", "plan", "part", "queu"):
            written.append(self.name)
            if len(written) == (1 if ending == "table.csv" else 2):
                original(self, data[: len(data) // 2])
                raise OSError(code, os.strerror(code))
        return original(self, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(ToysaeError, match=r"cannot write .*: the disk is full, it needs [\d.]+ "
                           r"\w+ and [\d.,]+ \w+ are free; what is finished is kept"):  # fmt: skip
            run(tiny, out, quiet=True)
    assert len(Results.load(out).table) >= 4 and not list(out.rglob("*tmp"))
    stems = [file.stem for file in (out / "blocks").iterdir()]
    assert all(stems.count(stem) == 4 for stem in stems), "half a part was left"
    run(tiny, out, quiet=True)
    assert_same(out, reference)


def test_too_little_room_is_refused_before_training(tiny, tmp_path, monkeypatch, trained_saes):
    monkeypatch.setattr("toysae.runs.space.free_bytes", lambda path: 20_000)
    words = r"out will take about .* KiB more \(weights .*, scores and curves .*, checkpoints .*\) "
    with pytest.raises(ToysaeError, match=words + r"and 19\.5 KiB are free: .*--no-save-params"):
        run(tiny, tmp_path / "out", quiet=True)
    assert trained_saes == [] and Results(tmp_path / "out").config is None
    monkeypatch.undo()
    assert len(run(tiny, tmp_path / "out", quiet=True).table) == 8


def test_the_estimate_is_at_least_what_is_written(tiny, reference, monkeypatch, tmp_path):
    used = sum(file.stat().st_size for file in reference.rglob("*") if file.is_file())
    asked = []
    monkeypatch.setattr("toysae.runs.space.require", lambda ok, line: asked.append(line))
    run(tiny, tmp_path / "out", quiet=True)
    unit = {"KiB": 1024, "MiB": 1024**2}
    about, kind = asked[0].split("about ")[1].split()[:2]
    assert used <= float(about) * unit[kind] <= 20 * used


@pytest.mark.parametrize("ballast", [550_000, 570_000, 590_000])
def test_a_disk_that_is_really_full(
    small_disk, tiny, reference, assert_same, monkeypatch, ballast, capfd
):
    disk = small_disk(600)
    (disk / "ballast").write_bytes(bytes(ballast))
    out = disk / "out"
    with pytest.raises(ToysaeError, match="out will take about"):
        run(tiny, out, quiet=True)
    monkeypatch.setattr("toysae.runs.space.free_bytes", lambda path: 2**40)
    with pytest.raises(ToysaeError, match="cannot write .*: the disk is full, it needs"):
        run(tiny, out, quiet=True, checkpoint_seconds=0)
    assert not list(out.rglob("*tmp*"))
    assert capfd.readouterr().err == ""
    (disk / "ballast").unlink()
    monkeypatch.undo()
    run(tiny, out, quiet=True)
    assert_same(out, reference)


def test_sizes_are_for_people():
    assert [size(n) for n in (0, 999, 2048, 3.5 * 2**20, 5 * 2**30)] == [
        "0 B", "999 B", "2 KiB", "3.5 MiB", "5.0 GiB"
    ]  # fmt: skip


def test_a_place_that_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for place in ("nowhere/file", "file/inside"):
        with pytest.raises(ToysaeError, match=f"cannot write .*{place} .*choose another place"):
            write_bytes(tmp_path / place, b"x")
    with pytest.raises(ToysaeError, match="cannot write .*a.safetensors"):
        save_world(
            make_world("sphere", d_in=4, n_features=4, l0=1.0), tmp_path / "file/a.safetensors"
        )


# Memory


@pytest.fixture
def room_for(monkeypatch):
    """Makes a device that has memory for so many SAEs of a cell at once."""

    def make(n_saes, only=lambda cell: True):
        train_group, tried = module.train_ensemble, []

        def limited(cell, *args, **kwargs):
            tried.append(cell.n_rows)
            if cell.n_rows > n_saes and only(cell):
                raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 9")
            return train_group(cell, *args, **kwargs)

        monkeypatch.setattr(module, "train_ensemble", limited)
        return tried

    return make


def test_what_does_not_fit_goes_on_in_halves(tiny, tmp_path, reference, room_for, capsys):
    tried = room_for(2)
    table = run(tiny, tmp_path / "out", quiet=True).table
    assert tried == [4, 2, 2, 4, 2, 2]
    lines = capsys.readouterr().err.splitlines()
    words = "does not fit the device: its 4 SAEs go on in halves"
    assert len(lines) == 2 and all(words in line for line in lines)
    whole = pd.read_csv(reference / "table.csv")
    names = ["cell", "row", "world_seed", "sae_seed", "sparsity"]
    pd.testing.assert_frame_equal(table[names], whole[names])
    np.testing.assert_allclose(table["mmcs"], whole["mmcs"], atol=1e-4)


def test_one_sae_that_does_not_fit_is_left_out_and_named(
    tiny, tmp_path, reference, assert_same, monkeypatch, room_for, capsys
):
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        room_for(0, only=lambda cell: cell.spec.d_sae == 16)
        with pytest.raises(Unfinished, match="4 SAEs did not fit .*sphere-n16-tied-.*The others"):
            run(tiny, out, quiet=True)
        results = Results.load(out)
        assert results.cells == ["sphere-n8-tied-recipe-s8"] and len(results.failed) == 4
        assert len(pd.read_csv(out / "table.csv")) == 4
        found = status(out)[0].set_index("cell")
        assert found["done"].tolist() == [4, 0] and found["failed"].tolist() == [0, 4]
        assert found["missing"].tolist() == [0, 0]
        patch.undo()
    capsys.readouterr()
    monkeypatch.undo()
    run(tiny, out, quiet=True)
    assert_same(out, reference)
    assert Results.load(out).failed == {}


def test_the_command_shows_the_others_and_exits_with_2(tiny_file, tmp_path, room_for, capsys):
    room_for(0, only=lambda cell: cell.spec.d_sae == 16)
    out = tmp_path / "out"
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tiny_file), "--out", str(out), "--quiet"])
    said = capsys.readouterr()
    assert stop.value.code == 2 and "4 SAEs did not fit" in said.err.splitlines()[-1]
    assert "mmcs" in said.out and "4 SAEs in" in said.out


def test_other_errors_of_the_device_are_not_taken_for_it(tiny, tmp_path, monkeypatch):
    def broken(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("INTERNAL: something else")

    monkeypatch.setattr(module, "train_ensemble", broken)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run(tiny, tmp_path / "out", quiet=True)


def test_a_place_for_an_sae_that_is_a_file_is_one_line(reference, tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ToysaeError, match=r"^cannot write [^\n]*$"):
        toysae.save_sae(Results.load(reference).sae(0), tmp_path / "file" / "a.safetensors")


def test_a_disk_without_any_room_is_one_line(tiny_file, small_disk, capsys):
    disk = small_disk(64)
    with suppress(OSError), open(disk / "filler", "wb") as file:
        while True:
            file.write(bytes(512))
            file.flush()
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tiny_file), "--out", str(disk / "out"), "--quiet"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "free" in line


# Status


def test_status_before_and_after(tiny, tmp_path, monkeypatch, reference):
    def stops(*args, **kwargs):
        raise InterruptedError

    out = tmp_path / "out"
    with monkeypatch.context() as patch, pytest.raises(InterruptedError):
        patch.setattr("toysae.evaluation.measure.score_ensemble", stops)
        run(tiny, out, quiet=True, checkpoint_seconds=0)
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    table, line = status(out)
    assert table["asked"].tolist() == [4, 4] and table["done"].tolist() == [0, 0]
    assert table["begun"].tolist() == ["4 at 40/40", ""] and table["missing"].tolist() == [0, 4]
    assert line == f"{out}: not running, 0 of 8 SAEs finished"
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    with pytest.raises(ToysaeError, match=r"^nothing is finished in [^\n]*$"):
        draw(Results.load(out), "frontier", tmp_path / "figures")
    assert not (tmp_path / "figures").exists()
    table, line = status(reference)
    assert table["done"].tolist() == [4, 4] and table["missing"].tolist() == [0, 0]
    assert "8 of 8" in line
    with pytest.raises(ToysaeError, match="holds no results"):
        status(tmp_path / "nowhere")
