"""`toysae bench`: refusals before anything is timed, one whole run, imports."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from toysae import ToysaeError
from toysae.bench import against, run
from toysae.bench.run import BenchOptions, bench
from toysae.cli import main


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (BenchOptions(("smal",)), "'smal': did you mean 'small'"),
        (BenchOptions(()), "preset is empty"),
        (BenchOptions(("small",), rounds=0), "rounds 0"),
        (BenchOptions(("small",), seconds=0.0), "seconds 0"),
        (BenchOptions(("small",), "saelens"), "unknown peer 'saelens': did you mean 'sae-lens'"),
        (BenchOptions(("small-tied",), "sae-lens"), "'small-tied' has no SAE .*small, "),
        (BenchOptions(("worlds",), "sae-lens"), "'worlds' has no SAE"),
        (BenchOptions(("smal",), "sae-lens"), "'smal': did you mean 'small'"),
    ],
)
def test_bad_options_are_refused(options, words):
    with pytest.raises(ToysaeError, match=words):
        bench(options)


@pytest.mark.parametrize("missing", ["sae_lens", "torch"])
def test_a_missing_peer_is_named_with_the_remedy(monkeypatch, capsys, missing):
    monkeypatch.setattr(against, "find_spec", lambda name: None if name == missing else name)
    with pytest.raises(SystemExit):
        main(["bench", "--preset", "small", "--against", "sae-lens"])
    printed = capsys.readouterr().err
    assert f"needs {missing}:" in printed and "pip install -e '.[peers]'" in printed


def test_one_round_of_the_smallest_preset(tmp_path):
    out = tmp_path / "bench.json"
    (frame,) = bench(BenchOptions(("small",), seconds=0.01, rounds=1, out=out))
    row = frame.iloc[0]
    numbers = {name: value for name, value in row.items() if not isinstance(value, str)}
    assert all(math.isfinite(value) and value > 0 for value in numbers.values()), numbers
    assert row["low"] <= row["k SAE-samples/s"] <= row["high"]
    record = json.loads(out.read_text())
    assert {"commit", "versions", "device", "command", "import_s", "import_train_s"} <= set(record)
    (rounds,) = record["rounds"]
    assert {len(values) for values in rounds.values()} == {1}
    # A share is what was counted over what was measured.
    done = rounds["SAE-samples/s"][0] * 10 * 64 * 256
    assert row["share of matmul"] == pytest.approx(done / rounds["matmul FLOP/s"][0], abs=1e-3)
    assert row["planned MB"] < row["peak MB"]


def test_rows_of_one_kind_share_a_table(monkeypatch):
    def rows(name, options):
        yield {"preset": name, "rounds": [1]} | ({"run": "a"} if name == "time-to-mcc" else {})

    monkeypatch.setattr(run, "_rows", rows)
    monkeypatch.setattr(run, "import_seconds", lambda code: 0.0)
    training, races = bench(BenchOptions(("small", "time-to-mcc", "medium")))
    assert list(training["preset"]) == ["small", "medium"] and list(training) == ["preset"]
    assert list(races["preset"]) == ["time-to-mcc"] and list(races) == ["preset", "run"]


def test_each_row_is_printed_as_soon_as_it_is_measured(monkeypatch, capsys):
    def rows(name, options):
        if name == "medium":
            raise ToysaeError("stopped midway")
        yield {"preset": name, "rounds": [1.0], "rate": 123456.789, "device": "cpu"}

    monkeypatch.setattr(run, "_rows", rows)
    with pytest.raises(ToysaeError, match="stopped midway"):
        bench(BenchOptions(("small", "medium")))
    assert capsys.readouterr().err == "small: rate 1.235e+05, device cpu\n"


def test_the_parent_neither_loads_torch_nor_takes_the_device():
    code = (
        "import sys, toysae.bench.run, jax\n"
        "from jax._src import xla_bridge\n"
        "assert 'torch' not in sys.modules and 'sae_lens' not in sys.modules\n"
        "assert not xla_bridge.backends_are_initialized()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_childs_module_loads_no_library_by_itself():
    code = (
        "import sys, toysae.bench.saelens, toysae.bench.worker\n"
        "heavy = {'jax', 'numpy', 'torch', 'pandas'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_children_live_beside_the_code_that_starts_them():
    for module in (against.WORKER, against.SAELENS):
        file = Path(against.__file__).parents[2].joinpath(*module.split("."))
        assert file.with_suffix(".py").is_file()


def test_a_capture_is_timed_beside_the_bare_forward(tmp_path, monkeypatch):
    from toysae.bench import capturing
    from toysae.lm.capture import sample

    text = tmp_path / "text.txt"
    text.write_text("To be, or not to be: that is the question.\n" * 2000)
    golden = Path(__file__).parents[1] / "lm" / "golden" / "gpt2"
    monkeypatch.setattr(sample, "is_there", lambda: True)
    monkeypatch.setattr(sample, "model_path", lambda: golden)
    monkeypatch.setattr(sample, "text_path", lambda: text)
    monkeypatch.setattr(capturing, "_N_CTX", 16)
    monkeypatch.setitem(capturing.CAPTURE_PRESETS, "tiny", ("blocks.1.hook_resid_post",))
    row = capturing.time_capture("tiny", 0.01, 2)
    rounds = row["rounds"]
    assert row["tokens/s"] == round(sum(rounds["tokens/s"]) / 2)
    of_each = [f / c for f, c in zip(rounds["forward tokens/s"], rounds["tokens/s"], strict=True)]
    assert row["forward / capture"] == pytest.approx(sum(of_each) / 2, abs=0.01)
    monkeypatch.setattr(sample, "is_there", lambda: False)
    with pytest.raises(ToysaeError, match="run `toysae lm sample`"):
        capturing.time_capture("tiny", 0.01, 1)
