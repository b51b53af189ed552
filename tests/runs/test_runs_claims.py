"""Several processes in one directory: every SAE once, the same bits, and nobody is in the way."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from toysae import Results, ToysaeError, run
from toysae.cli import main
from toysae.runs.claims import CLAIMS, Claims, claimed
from toysae.runs.directory import Directory
from toysae.runs.options import Options
from toysae.runs.queue import Queue
from toysae.runs.run import run as run_cells
from toysae.sweeps import load_experiment, status
from toysae.sweeps.run import asked_of

ROOT = Path(__file__).parents[2]


def started(*args, **environment):
    """A process of the command line, on one device."""
    here = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1", **environment}
    return subprocess.Popen(
        [sys.executable, "-m", "toysae", *map(str, args)], env=here, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def ended(process, seconds=240):
    out, err = process.communicate(timeout=seconds)
    assert process.returncode == 0, err
    return out, err


@pytest.fixture(scope="module")
def wide(tmp_path_factory):
    """An experiment of six cells of one program, as a file, and what one process makes of it on one
    device."""
    folder = tmp_path_factory.mktemp("wide")
    file = folder / "wide.py"
    file.write_text(
        "from toysae import Experiment, points\n"
        "experiment = Experiment('Who does it?', d_in=8, ratios=1, l0=1.5, recipes='tied',\n"
        "    ceiling=False, l1_coeff=(0.05, 0.2), world_seeds=2, batch_size=32, n_eval=256,\n"
        "    curve_points=3, figures=(), points=points.grid(n_steps=range(200, 500, 50)))\n"
    )
    ended(started("run", file, "--out", folder / "alone", "--quiet"))
    return file, folder / "alone"


def blocks_of(out):
    """The keys of every block, each SAE as often as it is there."""
    manifests = (out / "blocks").glob("*.json")
    return sorted(key for file in manifests for key in json.loads(file.read_text())["keys"])


def assert_once_and_same(out, alone):
    keys = blocks_of(out)
    assert len(keys) == len(set(keys)) and keys == blocks_of(alone)
    assert (out / "table.csv").read_bytes() == (alone / "table.csv").read_bytes()
    for file in (alone / "blocks").glob("*.safetensors"):
        assert (out / "blocks" / file.name).read_bytes() == file.read_bytes()
    assert not (out / CLAIMS).exists() and not list(out.glob("checkpoints/*"))


@pytest.mark.parametrize("n", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_processes_that_start_at_once_share_the_work(wide, tmp_path, n):
    """And whoever reads meanwhile sees whole blocks."""
    file, alone = wide
    out, seen = tmp_path / "out", {0}
    processes = [started("run", file, "--out", out, "--quiet") for _ in range(n)]
    while any(process.poll() is None for process in processes):
        if (out / "config.json").exists():
            seen.add(len(Results.load(out).table))
        time.sleep(0.05)
    for process in processes:
        ended(process)
    assert_once_and_same(out, alone)
    assert len(seen) > 2 and all(n % 4 == 0 for n in seen)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_some_are_killed_and_one_stands_still(wide, tmp_path, seed, record_property):
    """At random moments. What stands still past its heartbeat is taken over, and does no harm when
    it wakes."""
    file, alone = wide
    out, rng = tmp_path / "out", random.Random(seed)
    code = (
        "import sys; from toysae.runs import options\n"
        "options.Options.__dataclass_fields__['lease_seconds'].default = 3.0\n"
        "options.Options.__init__.__defaults__ = "
        "(*options.Options.__init__.__defaults__[:-1], 3.0)\n"
        "from toysae.cli import main; main(sys.argv[1:])"
    )

    def begun():
        here = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
        return subprocess.Popen(
            [sys.executable, "-c", code, "run", str(file), "--out", str(out), "--quiet",
             "--checkpoint-seconds", "0"], env=here, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip

    workers = [begun() for _ in range(3)]
    while not list((out / CLAIMS).glob("*.claim")):
        time.sleep(0.02)
    time.sleep(rng.uniform(0, 1.5))
    working = [worker.poll() is None for worker in workers]
    workers[0].send_signal(signal.SIGKILL)
    workers[1].send_signal(signal.SIGSTOP)
    workers.append(begun())
    errors = [worker.communicate(timeout=300)[1] for worker in workers[2:]]
    assert [worker.returncode for worker in workers[2:]] == [0, 0], errors
    assert_once_and_same(out, alone)
    workers[1].send_signal(signal.SIGCONT)
    _, said = workers[1].communicate(timeout=300)
    record_property("hit", (working, "was taken over" in said))
    assert workers[1].returncode == 0, said
    assert_once_and_same(out, alone)


def test_work_helps_by_the_command_that_began(wide, tmp_path):
    file, alone = wide
    out = tmp_path / "out"
    first = started("run", file.name, "--out", out, "--quiet", "--fresh", PWD=str(file.parent))
    first.kill()  # before it began
    first.communicate()
    first = subprocess.Popen(
        [sys.executable, "-m", "toysae", "run", file.name, "--out", str(out), "--quiet"],
        cwd=file.parent, env={**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    while not (out / "config.json").exists() and first.poll() is None:
        time.sleep(0.1)
    told, _ = ended(started("work", out))
    assert "of 24 SAEs are finished" in told.replace("\n", " ")
    ended(first)
    assert_once_and_same(out, alone)
    told, _ = ended(started("work", out))  # there is nothing left
    assert "24 of 24 SAEs are finished" in told.replace("\n", " ")


def test_what_was_not_begun_by_a_command_says_how_to_help(tiny, reference, capsys):
    with pytest.raises(SystemExit):
        main(["work", str(reference)])
    (line,) = capsys.readouterr().err.splitlines()
    assert "does not say what it was made by: call the same run(...)" in line


def held_by_another(out, name="sphere"):
    """A process that has a claim there."""
    code = (
        "import sys, pathlib; from toysae.runs.claims import Claims\n"
        "claims = Claims(pathlib.Path(sys.argv[1])); claims.take(sys.argv[2])\n"
        "print('held', flush=True); sys.stdin.read()"
    )
    other = subprocess.Popen(
        [sys.executable, "-c", code, str(out), name], env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert other.stdout.readline() == "held\n"
    return other


def test_other_saes_other_versions_and_fresh_are_refused_beside_another(
    tiny, tmp_path, monkeypatch, trained_saes, capsys
):
    out = tmp_path / "out"
    run(tiny, out, quiet=True)
    trained_saes.clear()
    other = held_by_another(out)
    try:
        who = f"process {other.pid} on "
        assert who in status(out)[1]
        more = replace(tiny, l1_coeff=(0.05, 0.1, 0.2))
        with pytest.raises(ToysaeError, match=f"{who}.* trains other SAEs in .*: let it finish"):
            run(more, out, quiet=True)
        with pytest.raises(ToysaeError, match=f"--fresh would discard what {who}"):
            run(tiny, out, fresh=True, quiet=True)
        monkeypatch.setattr(
            "toysae.runs.prepare.provenance",
            lambda: {"versions": {"toysae": "9", "jax": "9", "jaxlib": "9"}},
        )
        asked = asked_of(tiny, out)
        with pytest.raises(ToysaeError, match="other versions .toysae .* there, 9 here; jax"):
            run_cells(asked.cells, out, Options(quiet=True))
        allowed = Options(quiet=True, other_versions=True)
        assert len(run_cells(asked.cells, out, allowed).table) == 8
        assert trained_saes == []
    finally:
        other.kill()
        other.wait()
    monkeypatch.undo()
    assert "not running" in status(out)[1]  # the dead hold nothing
    assert len(run(replace(tiny, l1_coeff=(0.05, 0.1, 0.2)), out, quiet=True).table) == 12


def test_fresh_and_other_saes_are_refused_between_two_blocks_of_another(
    wide, tmp_path, trained_saes
):
    """It holds the claim of the last block until it has the next one."""
    file, alone = wide
    out = tmp_path / "out"
    code = (
        "import sys; from toysae.runs.queue import Queue\n"
        "take, taken = Queue.take, []\n"
        "def slow(queue):\n"
        "    if len(taken) == 1:\n"
        "        print('between', flush=True); sys.stdin.readline()\n"
        "    taken.append(take(queue)); return taken[-1]\n"
        "Queue.take = slow\n"
        "from toysae.cli import main; main(sys.argv[1:])"
    )
    here = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "1"}
    other = subprocess.Popen(
        [sys.executable, "-c", code, "run", str(file), "--out", str(out), "--quiet"], env=here,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert "between\n" in other.stdout
        assert len(Results.load(out).table) == 4 and f"run by process {other.pid}" in status(out)[1]
        experiment = load_experiment(file)
        with pytest.raises(ToysaeError, match=f"--fresh would discard what process {other.pid} on"):
            run(experiment, out, fresh=True, quiet=True)
        with pytest.raises(ToysaeError, match=f"process {other.pid} on .* trains other SAEs in"):
            run(replace(experiment, l1_coeff=0.1), out, quiet=True)
        assert len(Results.load(out).table) == 4 and trained_saes == []
        other.stdin.write("\n")
        other.stdin.close()
        assert other.wait(240) == 0, other.stderr.read()
    finally:
        other.kill()
        other.wait()
    assert_once_and_same(out, alone)


def test_a_claim_edited_by_hand_is_held_while_its_process_lives_and_lapses_after(tmp_path):
    mine, other = Claims(tmp_path, 1.0), Claims(tmp_path, 1.0)
    assert mine.take("a") and not other.take("a")
    (tmp_path / CLAIMS / "a.claim").write_text("mine!")
    assert claimed(tmp_path) == {"a": "process unknown on unknown"}
    until = time.monotonic() + 4
    while time.monotonic() < until:
        assert not other.take("a") and not mine.is_lost("a")
        time.sleep(0.2)
    mine.release("a")
    until = time.monotonic() + 20
    while not other.take("a"):
        assert time.monotonic() < until
        time.sleep(0.2)
    other.release_all()
    assert not (tmp_path / CLAIMS).exists()


def test_processes_that_disagree_about_the_lease_are_told(tmp_path):
    mine, other = Claims(tmp_path, 1.0), Claims(tmp_path, 2.0)
    assert mine.take("a")
    with pytest.raises(ToysaeError, match="lease_seconds of 1, here 2: give all the same"):
        other.take("a")
    mine.release_all()


def test_clocks_of_two_machines_are_never_compared(tmp_path):
    """A claim whose file is hours old or of tomorrow is as good as any while it is refreshed."""
    mine, other = Claims(tmp_path, 2.0), Claims(tmp_path, 2.0)
    assert mine.take("a")
    for hours in (-5, 5):
        until = time.monotonic() + 3
        while time.monotonic() < until:
            moved = time.time() + 3600 * hours
            os.utime(tmp_path / CLAIMS / "a.claim", (moved, moved))
            assert not other.take("a")
            time.sleep(0.3)
        assert not mine.is_lost("a")
    mine.release_all()


def test_a_run_that_another_took_the_directory_from_stops(tiny, tmp_path):
    """Between two blocks it holds no claim; the places in the other's queue are not its own."""
    out = tmp_path / "out"
    mine, other = (
        Queue(out, asked_of(e, out).cells) for e in (tiny, replace(tiny, l1_coeff=(0.1, 0.3)))
    )
    Directory.claim(out)
    for queue in (mine, other):
        queue.write([])
    with pytest.raises(ToysaeError, match="another run, of other SAEs, has begun in"):
        mine.take()
    assert other.take() is None and other.is_empty()
