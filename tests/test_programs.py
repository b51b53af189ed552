"""The compilation cache: whatever is wrong with it is one line, and the numbers are the same."""

import os
import subprocess
import sys

import pytest

from toysae import programs

CHILD = """
import sys
from pathlib import Path
from toysae import programs
programs.MIN_SECONDS = 0.0
programs.keep_programs(Path(sys.argv[1]))
import jax, jax.numpy as jnp

@jax.jit
def doubled(x):
    return 2 * x

@jax.jit
def summed(x):
    return jnp.sin(x).sum()

print(float(summed(doubled(jnp.ones(3)))))
print([event for event in hits])
""".replace(
    "import jax, jax.numpy as jnp\n",
    "import jax, jax.numpy as jnp\nhits = []\n"
    "jax.monitoring.register_event_listener(\n"
    "    lambda event, **_: hits.append(1) if event.endswith('cache_hits') else None)\n",
)
RIGHT = "2.7278923988342285"


def begun(folder, **given):
    environment = {k: v for k, v in os.environ.items() if k != "JAX_COMPILATION_CACHE_DIR"} | given
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(folder)], text=True, env=environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process):
    """Its result, the number of programs found, and the lines on stderr."""
    out, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    result, hits = out.splitlines()
    assert float(result) == pytest.approx(float(RIGHT), abs=1e-6)
    return hits.count("1"), said.splitlines()


def entries(folder):
    return sorted(folder.glob("*-cache"))


@pytest.fixture(scope="module")
def filled(tmp_path_factory):
    folder = tmp_path_factory.mktemp("filled") / "programs"
    assert ended(begun(folder)) == (0, [])
    assert len(entries(folder)) >= 2
    return folder, {entry: entry.read_bytes() for entry in entries(folder)}


@pytest.fixture
def kept(filled):
    """The very folder, whole again: jax's keys depend on its path."""
    folder, contents = filled
    for entry, content in contents.items():
        entry.write_bytes(content)
    assert entries(folder) == list(contents)
    return folder


def test_a_second_process_compiles_nothing(kept):
    assert ended(begun(kept)) == (len(entries(kept)), [])


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_entries_are_dropped_and_made_again(kept, damage):
    names = [entry.name for entry in entries(kept)]
    for entry in entries(kept):
        whole = bytearray(entry.read_bytes())
        middle = len(whole) // 2
        if damage == "flipped":
            whole[middle] ^= 0x10
        else:
            whole = whole[: middle if damage == "truncated" else 0]
        entry.write_bytes(bytes(whole))
    hits, (line,) = ended(begun(kept))
    assert hits == 0 and line.startswith("toysae: a kept program is damaged (jit_")
    assert str(kept) in line
    assert [entry.name for entry in entries(kept)] == names
    assert ended(begun(kept)) == (len(names), [])


def test_a_folder_is_bounded_and_the_oldest_go_first(tmp_path, monkeypatch):
    for age, name in enumerate(("jit_c-1-cache", "jit_a-2-cache", "jit_b-3-cache", "my-cache")):
        (tmp_path / name).write_bytes(bytes(10))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    programs.drop_oldest(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4
    monkeypatch.setattr(programs, "MAX_BYTES", 25)
    programs.drop_oldest(tmp_path)
    kept = {entry.name for entry in tmp_path.iterdir()}
    assert kept == {"jit_c-1-cache", "jit_a-2-cache", "my-cache"}


def test_a_full_disk_costs_a_line(small_disk):
    disk = small_disk(8)
    _, (line,) = ended(begun(disk / "programs"))
    assert "could not be kept in" in line and "No space left on device" in line
    _, said = ended(begun(disk / "programs"))  # what was cut off there is told apart
    assert len(said) <= 2 and all(each.startswith("toysae: ") for each in said)


@pytest.mark.parametrize("place", ["file", "/proc/programs"])
def test_where_nothing_can_be_written_it_is_said(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    folder = tmp_path / place / "inside"
    hits, (line,) = ended(begun(folder))
    assert hits == 0 and f"programs are not kept in {folder} (" in line
    assert "JAX_COMPILATION_CACHE_DIR" in line


@pytest.mark.parametrize("place", ["file", "/proc/programs"])
def test_where_the_variable_names_no_folder_it_is_said(tmp_path, place):
    (tmp_path / "file").write_text("not a folder")
    hits, (line,) = ended(begun(tmp_path, JAX_COMPILATION_CACHE_DIR=str(tmp_path / place)))
    assert hits == 0 and f"not kept in {tmp_path / place}, which JAX_COMPILATION" in line


def test_several_processes_share_an_empty_folder(tmp_path):
    together = [begun(tmp_path / "programs") for _ in range(3)]
    for process in together:
        _, said = ended(process)  # one may read what another writes: then it compiles it
        assert len(said) <= 1 and all("is damaged" in line for line in said)
    assert ended(begun(tmp_path / "programs"))[0] >= 2
