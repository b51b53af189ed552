"""Signals as requests, for the run alone, in the main thread alone; and what is stuck ends."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest

from toysae import watch
from toysae.sweeps import Stopped, run
from toysae.watch import SIGNALS, about, doing, stop_requests


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_handlers_are_put_back(number, capfd, heard):
    before = [signal.getsignal(each) for each in SIGNALS]
    with stop_requests() as request:
        assert request.number == 0
        signal.raise_signal(number)
        heard()
        assert request.number == number
    assert [signal.getsignal(each) for each in SIGNALS] == before
    assert signal.set_wakeup_fd(-1) == -1
    assert "stopping at the end of this chunk" in capfd.readouterr().err


def test_what_was_ignored_stays_ignored():
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with stop_requests():
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)


def test_other_threads_take_no_signals(tiny, tmp_path):
    handler, seen = signal.getsignal(signal.SIGINT), []

    def elsewhere():
        with stop_requests() as request:
            seen.append((request.number, signal.getsignal(signal.SIGINT)))
        seen.append(len(run(tiny, tmp_path / "out", quiet=True).table))

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [(0, handler), 8]


def test_a_stopped_run_in_python_goes_on(
    tiny, tmp_path, reference, assert_same, monkeypatch, heard
):
    import importlib

    module, out = importlib.import_module("toysae.runs.run"), tmp_path / "out"
    update, steps = module.Progress.update, []

    def interrupts(self, cell, done):
        update(self, cell, done)
        steps.append(done)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
            heard()

    with monkeypatch.context() as patch:
        patch.setattr(module.Progress, "update", interrupts)
        with pytest.raises(Stopped, match=r"0 of 8 SAEs are finished, sphere-n8-.* is at step \d+ ") as stop:  # noqa: E501  # fmt: skip
            run(tiny, out, quiet=True)
    assert stop.value.status == 130 and isinstance(stop.value, KeyboardInterrupt)
    (part,) = (out / "checkpoints").iterdir()
    step = steps[2] // (4 * tiny.batch_size)
    assert {file.name for file in part.iterdir()} == {"part.json", f"{step}.npz"}
    run(tiny, out, quiet=True)
    assert_same(out, reference)


STUCK = """
import sys, threading
import jax, jax.numpy as jnp
from toysae.training import loop
from toysae import cli

def forever(x):
    print("stuck", flush=True)
    threading.Event().wait()

whole = loop.advance
def advance(state, cell, until, n_steps, layout=None):
    if int(until) > 5:
        wait = jax.jit(lambda x: jax.pure_callback(forever, jax.ShapeDtypeStruct((), "float32"), x))
        jax.block_until_ready(wait(jnp.float32(0)))
    return whole(state, cell, until, n_steps, layout)

loop.advance = advance
sys.argv = ["toysae", *sys.argv[1:]]
cli.main()
"""
"""A run whose device call does not return once step 5 is passed."""


def begun(code, *args):
    return subprocess.Popen(
        [sys.executable, "-X", "faulthandler", "-c", code, *map(str, args)], text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_a_stuck_device_call_ends_within_ten_seconds_and_what_was_saved_is_kept(
    tiny, tiny_file, tmp_path, reference, assert_same
):
    args = ["run", tiny_file, "--quiet", "--checkpoint-seconds", "0", "--out"]
    outs = {number: tmp_path / number.name for number in SIGNALS}
    stuck = {number: begun(STUCK, *args, out) for number, out in outs.items()}
    for process in stuck.values():
        assert any(line == "stuck\n" for line in process.stdout)
    since = time.monotonic()
    for number, process in stuck.items():
        process.send_signal(number)
    for number, process in stuck.items():
        said, out = process.communicate(timeout=60)[1], outs[number]
        assert process.returncode == 128 + number and time.monotonic() - since < 10
        asked, stopped, *trace = said.splitlines()
        assert "stopping at the end of this chunk, within 10 s" in asked
        assert "stopped while sphere-n8-tied" in stopped
        assert ": steps 1 to 9 of 40 (for " in stopped
        again = f"Go on with: toysae run {tiny_file} --quiet --checkpoint-seconds 0 --out {out}"
        assert again in stopped
        assert any("watch.py" in line for line in trace), "faulthandler was asked for"
        assert list((out / "checkpoints").glob("*/1.npz")), "no checkpoint was kept"
    run(tiny, outs[signal.SIGTERM], quiet=True)
    assert_same(outs[signal.SIGTERM], reference)


@pytest.mark.parametrize(
    ("seconds", "number"),
    [(0.15, signal.SIGINT), (0.6, signal.SIGTERM), (1.2, signal.SIGINT), (1.8, signal.SIGTERM)],
)
def test_the_first_seconds(tmp_path, number, seconds, tiny_file):
    """While jax is being imported, and what needs it; by then nothing is at stake."""
    code = (
        "import sys\nfrom toysae.cli import main\nprint('begun', flush=True)\n"
        "sys.argv = ['toysae', *sys.argv[1:]]\nmain()"
    )
    long = ["--n-steps", "1000000"]
    process = begun(code, "run", tiny_file, "--out", tmp_path / "out", "--quiet", *long)
    assert process.stdout.readline() == "begun\n"
    time.sleep(seconds)
    since = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 128 + number and time.monotonic() - since < 10
    assert "Traceback" not in said
    assert f"Go on with: toysae run {tiny_file}" in said.splitlines()[-1] or "File" in said


def said(capfd, words, wait):
    """What has been said when these words have, on a machine that may stand still for seconds."""
    err, until = "", time.monotonic() + 20
    while words not in err and time.monotonic() < until:
        wait()
        err += capfd.readouterr().err
    return err


def test_silence_is_told_with_what_is_going_on_and_how_to_go_on(monkeypatch, capfd):
    for name, value in {"_SILENCE_SECONDS": 0.3, "_IDLE_SECONDS": 1.0, "_TICK": 0.1}.items():
        monkeypatch.setattr(watch, name, value)
    with stop_requests(), about("tied-4"):
        doing("steps 9 to 20 of 40", usual_seconds=1e6)
        idle = said(capfd, "Ctrl-C ends it", lambda: time.sleep(0.1))
        doing("steps 20 to 40 of 40", usual_seconds=0.01)
        # At work, but for far longer than it should take.
        slow = said(capfd, "should take about", lambda: None)
        doing("scoring", usual_seconds=1e6)
        until = time.monotonic() + 1.5
        while time.monotonic() < until:
            pass
        assert capfd.readouterr().err == ""
    assert "nothing has ended for" in idle and "uses no processor time" in idle
    assert "while tied-4: steps 9 to 20 of 40 (for " in idle and "Ctrl-C ends it" in idle
    assert "while tied-4: steps 20 to 40 of 40" in slow and "should take about" in slow


def test_a_call_that_comes_back_late_in_a_notebook_does_not_end_its_process(monkeypatch, capfd):
    monkeypatch.setattr(watch, "GRACE_SECONDS", 0.2)
    monkeypatch.setattr(sys, "ps1", ">>> ", raising=False)
    with stop_requests() as request:
        signal.raise_signal(signal.SIGINT)
        err = said(capfd, "does not come back", lambda: time.sleep(0.1))
        assert request.number == signal.SIGINT
    assert "stopping at the end of this chunk" in err and "does not come back" in err
