"""Children answer, fail with words, and stand still in between."""

import subprocess
import sys
import time
from pathlib import Path

import pytest

from toysae import ToysaeError
from toysae.bench.against import WORKER
from toysae.bench.protocol import Child
from toysae.bench.run import import_seconds

PEER = [sys.executable, str(Path(__file__).with_name("fake_peer.py"))]
WAY = {"threads": 1, "sparse": True, "autocast": False, "autocast_data": False}


def test_answers_come_back_whatever_is_printed():
    with Child(PEER) as child:
        assert child.ask("train", n_steps=4, **WAY) == pytest.approx(0.02)
        assert child.ask("train", n_steps=2, **WAY) == pytest.approx(0.01)
        assert child.age() > 0


def test_a_failure_names_the_child_and_the_reason_and_the_child_goes_on():
    with Child(PEER) as child:
        with pytest.raises(ToysaeError, match="fake_peer.py failed at 'fail': .*on purpose"):
            child.ask("fail")
        assert child.ask("peak") == 123_000_000


def test_a_child_that_ends_is_reported_with_its_last_words():
    with Child(PEER) as child, pytest.raises(ToysaeError, match="exit status 3"):
        child.ask("end")
    command = [sys.executable, "-c", "raise RuntimeError('no such luck')"]
    with Child(command) as child, pytest.raises(ToysaeError, match="no such luck"):
        child.ask("train")


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="needs /proc")
def test_a_child_stands_still_between_requests():
    with Child(PEER) as child:
        child.ask("peak")
        stat = Path(f"/proc/{child._process.pid}/stat")
        deadline = time.monotonic() + 10
        while (state := stat.read_text().rsplit(") ", 1)[1][0]) != "T":
            assert time.monotonic() < deadline, f"state {state}, not stopped"
            time.sleep(0.01)
        assert child.ask("peak") == 123_000_000  # and goes on when asked


def test_peak_memory_counts_what_is_held():
    code = (
        "from toysae.bench.protocol import peak_resident_bytes as peak\n"
        "before = peak(); held = b'x' * (before + 50_000_000); assert peak() > len(held)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)  # this process may hold gigabytes


def test_what_lies_in_the_folder_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "json.py").write_text("raise SystemExit('taken for json')")
    monkeypatch.chdir(tmp_path)
    assert import_seconds("import toysae") > 0
    with Child(WORKER) as child:
        assert child.ask("peak") > 0
