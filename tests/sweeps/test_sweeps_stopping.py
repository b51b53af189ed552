"""Signals as requests: taken for the run alone, in the main thread alone."""

import signal
import threading
import time

import pytest

from toysae.sweeps import Stopped, run
from toysae.sweeps.stopping import SIGNALS, stop_requests


def wait_for(request):
    deadline = time.monotonic() + 20
    while not request.number and time.monotonic() < deadline:
        time.sleep(0.01)


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_is_a_request_and_handlers_are_put_back(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with stop_requests() as request:
        assert request.number == 0
        signal.raise_signal(number)
        wait_for(request)
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


def test_a_stopped_run_in_python_goes_on(tiny, tmp_path, reference, assert_same, monkeypatch):
    import importlib

    module, out = importlib.import_module("toysae.sweeps.run"), tmp_path / "out"
    update, steps = module.Progress.update, []

    def interrupts(self, group, done):
        update(self, group, done)
        steps.append(done)
        if len(steps) == 3:
            signal.raise_signal(signal.SIGINT)
            time.sleep(0.5)  # the other thread hears it

    with monkeypatch.context() as patch:
        patch.setattr(module.Progress, "update", interrupts)
        with pytest.raises(Stopped, match=r"0 of 8 SAEs are finished, sphere-n8-.* is at step \d+ ") as stop:  # noqa: E501  # fmt: skip
            run(tiny, out, quiet=True)
    assert stop.value.status == 130 and isinstance(stop.value, KeyboardInterrupt)
    (part,) = (out / "checkpoints").iterdir()
    assert {file.name for file in part.glob("*.json")} == {
        "part.json",
        f"{steps[2] // (4 * tiny.batch_size)}.json",
    }
    run(tiny, out, quiet=True)
    assert_same(out, reference)
