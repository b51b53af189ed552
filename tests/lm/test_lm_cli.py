"""What `toysae lm` says before anything is computed."""

from pathlib import Path

import pytest

from toysae.cli import main
from toysae.cli.lm import COMMANDS
from toysae.lm.capture.shards import read_manifest
from toysae.lm.saes.site_sae import save_site_sae
from toysae.runs.lock import locked

GOLDEN = Path(__file__).parent / "golden"
SITE = "blocks.1.hook_resid_post"


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("To be, or not to be: that is the question.\n" * 30)
    return path


def capture(text, out, *args):
    main(["lm", "capture", str(GOLDEN / "gpt2"), "--site", SITE, "--text", str(text), "--out",
          str(out), "--n-ctx", "16", "--quiet", *args])  # fmt: skip


def refused(capsys, command, *args):
    with pytest.raises(SystemExit) as stop:
        command(*args)
    assert stop.value.code == 2
    return capsys.readouterr().err.replace("\n", " ")


def test_a_dry_run_says_what_it_would_take_and_stores_no_activation(text, tmp_path, capsys):
    capture(text, tmp_path / "out", "--tokens", "300", "--dry-run")
    said = " ".join(capsys.readouterr().out.split())
    assert "300 activations of 1 site(s) in sequences of 16 tokens, positions before 1" in said
    assert f"{300 * (32 * 2 + 16) / 1024:.1f} KiB on disk" in said and "free" in said
    assert not (tmp_path / "out" / SITE).exists()
    capture(text, tmp_path / "out", "--tokens", "300")
    assert list((tmp_path / "out" / SITE).glob("*.safetensors"))


def test_what_does_not_fit_the_disk_is_refused_before_the_model_runs(
    text, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr("toysae.disk.free_bytes", lambda path: 1000)
    said = refused(capsys, capture, text, tmp_path / "out", "--dry-run")
    assert "the disk is full, it needs" in said and not (tmp_path / "out" / SITE).exists()


def test_a_dry_run_and_a_refused_run_leave_nothing_in_the_way(text, tmp_path, capsys):
    capture(text, tmp_path / "out", "--tokens", "300", "--dry-run")
    refused(capsys, capture, text, tmp_path / "out", "--n-ctx", "4096")
    capture(text, tmp_path / "out", "--tokens", "200", "--n-ctx", "8")
    assert list((tmp_path / "out" / SITE).glob("*.safetensors"))


def test_a_live_capture_does_not_replace_a_stored_one(text, tmp_path, capsys):
    capture(text, tmp_path / "out")
    assert "live False, now True" in refused(capsys, capture, text, tmp_path / "out", "--live")
    assert read_manifest(tmp_path / "out" / SITE).shards


@pytest.mark.parametrize(
    ("about", "said"),
    [({"centred": True}, "differ in whether"), ({"weights": "others"}, "on another model")],
)
def test_a_card_refuses_an_sae_of_other_activations(text, tmp_path, capsys, hand, about, said):
    capture(text, tmp_path / "out")
    save_site_sae(hand.drawn(32, SITE, **about), tmp_path / "sae")
    assert said in refused(
        capsys, main, ["lm", "card", str(tmp_path / "out"), "--sae", str(tmp_path / "sae")]
    )


def test_two_captures_do_not_write_one_folder(text, tmp_path, capsys):
    with locked(tmp_path / "out"):
        said = refused(capsys, capture, text, tmp_path / "out")
    assert "is being written by process" in said


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--site", "blocks.9.hook_resid_post"], "the model has layers 0 to 2"),
        (["--site", "blocks.0.resid"], "did you mean"),
        (["--tokens", "many"], "many"),
        (["--tokens", "1M"], "1,000,000 were asked for"),
        (["--n-ctx", "4096"], "longer than the model's"),
        (["--dtype", "int8"], "bfloat16"),
    ],
)
def test_bad_input_is_named(text, tmp_path, capsys, args, said):
    assert said in refused(capsys, capture, text, tmp_path / "out", *args)


def test_a_folder_that_holds_no_sae_is_refused(tmp_path, capsys):
    said = refused(capsys, main, ["lm", "eval", str(tmp_path)])
    assert str(tmp_path) in said and "--capture" not in said


def test_every_command_is_in_the_usage_and_has_help(capsys):
    main(["lm"])
    usage = capsys.readouterr().out
    for name in COMMANDS:
        assert f"  {name} " in usage
        with pytest.raises(SystemExit) as stop:
            main(["lm", name, "--help"])
        assert stop.value.code in (0, None)
        assert f"usage: toysae lm {name}" in capsys.readouterr().out
