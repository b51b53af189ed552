"""The command line: every bad input is one line that names the value and the remedy."""

import json
import os
import re
import subprocess
import sys
import warnings
from importlib import import_module
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import toysae
from toysae.cli import _one_line_warnings, main

ROOT = Path(__file__).parent.parent
TINY = ["--d-in", "8", "--ratios", "1", "--l1-coeff", "0.1", "--world-seeds", "2", "--n-steps", "4",
        "--n-eval", "256", "--curve-points", "2", "--recipes", "tied", "--inits", "random",
        "--l0", "2", "--quiet"]  # fmt: skip
STANDARD = str(ROOT / "tests" / "golden" / "saelens" / "standard")
RECOVERY = str(ROOT / "experiments" / "recovery.py")
STUDY = str(ROOT / "experiments" / "worlds_gallery")


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["rum"], ["'rum'", "'run'"]),
        (["world", "spere"], ["'spere'", "'sphere'"]),
        (["world"], ["name a world"]),
        (["run", RECOVERY, "--n-steps", "banana"], ["--n-steps banana cannot be read", "INT"]),
        (["run", RECOVERY, "--lr=x"], ["--lr=x cannot be read", "--lr FLOAT"]),
        (["world", "sphere", "--d-in", "4.5"], ["--d-in 4.5 cannot be read"]),
        (["run", RECOVERY, "--lr", "nan"], ["lr nan is not finite"]),
        (["run", RECOVERY, "--out", ""], ["an empty text is given"]),
        (["run", RECOVERY, "--out", "x" * 300, "--dry-run"], ["--out", "300 bytes: at most 255"]),
        (["run", RECOVERY, "--checkpoint-seconds", "-1"], ["--checkpoint-seconds -1"]),
        (["run", RECOVERY, "junk"], ["junk: not an option of toysae run"]),
        (["run", RECOVERY, "--lr"], ["--lr", "Missing value"]),
        (["world", "sphere", "--n-featurs", "4"], ["--n-featurs", "--n-features"]),
        (["world", "sphere", "--n-features", "0"], ["n_features 0", "positive"]),
        (["world", "sphere", "--l0", "900"], ["l0 900", "128"]),
        (["world", "sphere", "--probs", "zip"], ["'zip'", "'zipf'"]),
        (["world", "sphere", "absorbtion"], ["'absorbtion'", "'absorption'"]),
        (["world", "sphere", "absorption", "--l0", "3"], ["'sphere' and 'absorption'", "--l0"]),
        (["world", "sphere", "--group-size", "2"], ["group_size", "'independent'"]),
        (["run", RECOVERY, "--dials", "rhoo", "1"], ["'rhoo'", "dial"]),
        (["run", RECOVERY, "--worlds", "hedging"], ["'hedging'", "n_steps"]),
        (["world", "sphere", "--magnitude", "unifrm"], ["'unifrm'", "'uniform'"]),
        (["run"], ["name an experiment file"]),
        (["run", str(ROOT / "experiments" / "recovry.py")], ["recovry.py", "recovery.py"]),
        (["run", __file__], ["is not an experiment"]),
        (["run", RECOVERY, "--recipes", "untide"], ["'untide'", "'untied'"]),
        (["run", RECOVERY, "--inits", "orthogonl"], ["'orthogonl'", "'orthogonal'"]),
        (["run", RECOVERY, "--worlds", "spere"], ["'spere'", "'sphere'"]),
        (["run", RECOVERY, "--ratoes", "3"], ["--ratoes", "--ratios"]),
        (["run", RECOVERY, "--figures", "mcs_histogram"], ["'mcs_histogram'", "'mcs_histograms'"]),
        (["run", RECOVERY, "--l1-coeff"], ["l1_coeff", "empty"]),
        (["run", RECOVERY, "--l1-coeff", "-1"], ["l1_coeff -1", "[0"]),
        (["run", RECOVERY, "--d-in", "-3"], ["d_in -3"]),
        (["run", RECOVERY, "--sizes", "0"], ["sizes 0"]),
        (["run", RECOVERY, "--ratios", "-1"], ["ratios -1"]),
        (["run", RECOVERY, "--sizes", "10000000"], ["GiB", "d_sae"]),
        (["run", RECOVERY, "--ratios", "1", "--d-in", "1000000000"], ["GiB", "d_in"]),
        (["run", RECOVERY, "--ratios", "1", "--d-in", "1000000000", "--dry-run"], ["GiB"]),
        (["world", "sphere", "--d-in", "1000000000"], ["GiB", "are left"]),
        (["ceilings", "sphere", "--d-sae", "1000000000"], ["1,000,000,000 latents needs about"]),
        (["score", STANDARD, "--world", "sphere", "--d-in", "1000000000"], ["1,000,000,000"]),
        (["run", RECOVERY, "--l1-coeff", "inf"], ["l1_coeff", "inf", "not finite"]),
        (["run", RECOVERY, "--recipes", "topk", "--k", "nan"], ["k", "nan", "not finite"]),
        (["run", RECOVERY, "--checkpoint-seconds", "nan"], ["checkpoint", "nan", "not finite"]),
        (
            ["run", RECOVERY, "--curve-points", "1000000000"],
            ["curve_points 1,000,000,000", "range"],
        ),
        (["run", RECOVERY, "--l1-convention", "sharky"], ["'sharky'", "known"]),
        (["run", RECOVERY, "--smoke", "--full"], ["--smoke and --full"]),
        (["run", str(ROOT / "experiments" / "sae_zoo.py"), "--full"], ["no full size"]),
        (["run", STUDY, "--full"], ["no full size"]),
        (["run", STUDY, "--launcher", "slrum:jobs=2"], ["unknown launcher", "slurm"]),
        (["work", "nowhere"], ["nowhere", "holds no results"]),
        (
            ["run", str(ROOT / "experiments")],
            ["folder of experiments", "experiments/arithmetic.py"],
        ),
        (["run", RECOVERY, "--figures-dir", "/proc/no"], ["to /proc", "--figures-dir"]),
        (["export", RECOVERY], ["name the folder to write"]),
        (["export", "nowhere", str(ROOT / "docs")], ["docs is there already", "a new folder"]),
        (["export", "nowhere", RECOVERY], ["recovery.py is there already"]),
        (["export", "nowhere", "out", "--format", "saelense"], ["unknown format", "saelens"]),
        (["bench", "--preset", "smal"], ["'smal'", "'small'"]),
        (["bench", "--preset", "topk@smal"], ["'topk@smal'", "'topk@small'"]),
        (["list", "gao-topk-2042"], ["'gao-topk-2042'", "'gao-topk-2024'"]),
        (["ceilings"], ["name a world"]),
        (["ceilings", "spere"], ["'spere'", "'sphere'"]),
        (["ceilings", "sphere", "--d-sea", "4"], ["--d-sea", "--d-sae"]),
        (["ceilings", "sphere", "--d-sae", "0"], ["d_sae 0"]),
        (["score"], ["name an SAE"]),
        (["score", "here"], ["--world NAME"]),
        (["score", "here", "--world", "spere"], ["'spere'", "'sphere'"]),
        (["score", "/no/such", "--world", "sphere"], ["no /no/such"]),
        (["score", STANDARD, "--world", "sphere"], ["d_in 6", "64"]),
        (["list", "/no/such/place"], ["/no/such/place"]),
        (["status"], ["name the directory"]),
        (["status", "/no/such/place"], ["/no/such/place", "holds no results"]),
    ],
)
def test_bad_input_is_one_line_and_status_2(args, words, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(args)
    assert stop.value.code == 2
    message = capsys.readouterr().err.strip()
    assert len(message.splitlines()) == 1, message
    for word in words:
        assert word in message
    assert not list(tmp_path.iterdir()), "something was written before the check"


BRACKETS = """
from toysae import Experiment
experiment = Experiment("Is [/b] or [bold]x?", d_in=6, ratios=(1,), recipes=("tied",),
    inits=("random",), l1_coeff=(0.1,), world_seeds=1, n_steps=3, n_eval=256, ceiling=False,
    curve_points=2, figures=("mmcs_by_ratio",))
"""


def test_brackets_are_no_markup_before_or_after_the_training(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "asks.py").write_text(BRACKETS)
    main(["run", "asks.py", "--out", "a[/b]", "--quiet"])
    printed = capsys.readouterr().out
    assert "Is [/b] or [bold]x?" in printed and "1 SAEs in a[/b]/table.csv" in printed
    main(["status", "a[/b]"])
    assert "a[/b]" in capsys.readouterr().out


def test_the_fields_of_a_world_are_told_with_their_defaults(capsys):
    from toysae.worlds.registry import about_field

    with pytest.raises(SystemExit) as stop:
        main(["world", "sphere", "--help"])
    told = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0 and "--d-in" in told and "(default: 64)" in told
    words = [word for word in about_field("n_features").split() if word.isalpha()]
    assert " ".join(words[:3]) in told


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_device_as_output_is_one_line():
    command = [sys.executable, "-m", "toysae", "list"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "cannot write" in line


@pytest.mark.parametrize("command", [["list"], ["world", "sphere", "--n-features", "8"]])
def test_a_locale_without_our_letters_is_enough(command):
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run([sys.executable, "-m", "toysae", *command], env=environment,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.isascii() and "Traceback" not in done.stderr


def test_a_place_for_a_worlds_figure_that_is_a_file_is_one_line(tmp_path, capsys):
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as stop:
        main(["world", "sphere", "--n-features", "8", "--out", str(tmp_path / "file" / "inside")])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "cannot write" in line


def test_what_another_process_discards_before_it_is_drawn_is_a_line(tmp_path, capsys, monkeypatch):
    """As by --fresh in another terminal, once nothing is in training any more."""
    from toysae import Results
    from toysae.plotting import rows

    def discarded(results):
        monkeypatch.setattr(Results, "table", property(lambda self: pd.DataFrame()))
        return pd.DataFrame()["d_sae"]

    monkeypatch.setattr(rows, "members", discarded)
    with pytest.raises(SystemExit) as stop:
        main(["run", RECOVERY, "--out", str(tmp_path / "out"), "--quiet", *TINY])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "has discarded what was trained in" in line
    assert "run the same command again" in line


def test_run_writes_results_and_figures_and_takes_another_configuration(tmp_path, capsys):
    out = tmp_path / "out"
    main(["run", RECOVERY, "--out", str(out), *TINY])
    printed = capsys.readouterr().out
    assert "mmcs" in printed and "±" in printed and " (2) " in printed
    assert (out / "table.csv").exists()
    config = json.loads((out / "config.json").read_text())
    assert config["settings"]["d_in"] == 8 and config["versions"]["jax"]
    for figure in ("mcs_histograms", "mmcs_by_ratio", "learning_curves"):
        assert (out / "figures" / f"{figure}.png").stat().st_size > 5000
        assert (out / "figures" / f"{figure}.csv").stat().st_size > 0
    before = (out / "blocks").stat().st_mtime_ns
    main(["run", RECOVERY, "--out", str(out), *TINY])
    assert (out / "blocks").stat().st_mtime_ns == before, "a finished group was run again"
    capsys.readouterr()
    main(["run", RECOVERY, "--out", str(out), *TINY, "--lr", "0.5"])
    assert "lr was 0.003, now 0.5" in capsys.readouterr().err
    assert set(pd.read_csv(out / "table.csv")["lr"].round(3)) == {0.5}
    main(["status", str(out)])
    assert "not running, 4 of 4 SAEs finished" in " ".join(capsys.readouterr().out.split())


def test_list_names_every_experiment_and_world(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    main(["list"])
    printed = capsys.readouterr().out
    for word in ("recovery.py", "interim-report", "held-orthogonal", "svd-data"):
        assert word.split("-")[0] in printed


def test_list_prints_a_recipe_whole(capsys):
    main(["list", "gao-topk-2024"])
    printed = capsys.readouterr().out
    for word in ("Gao et al. 2024", "toy: k", "paper: lr", "0.0001", "token by token"):
        assert word in printed


def test_a_warning_of_ours_is_one_line_without_its_place():
    with _one_line_warnings():
        ours, other = (
            warnings.formatwarning("take care", UserWarning, file, 3)
            for file in (toysae.__file__, "elsewhere.py")
        )
    assert ours == "toysae: warning: take care\n" and other.startswith("elsewhere.py:3: UserW")
    assert "toysae" not in warnings.formatwarning("take care", UserWarning, "elsewhere.py", 3)


def test_bench_times_a_recipe_beside_the_plain_one(monkeypatch):
    from toysae.bench import training
    from toysae.bench.presets import Preset

    monkeypatch.setitem(training.RECIPE_PRESETS, "tied@small", Preset("tied", 8, 12, 16, 2, 32))
    row = training.time_recipe("tied@small", 0.01, 2)
    assert row["recipe"] == "tied" and row["low"] <= row["high"]
    ours, plain = row["rounds"].values()
    assert row["of untied"] == pytest.approx(
        sum(o / p for o, p in zip(ours, plain, strict=True)) / 2, abs=1e-3
    )


@pytest.mark.parametrize("records", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_bench_times_scoring_beside_training(monkeypatch, records):
    from toysae.bench import scoring
    from toysae.bench.presets import Preset

    small = scoring.Scoring(Preset("untied", 8, 12, 16, 2 - records), 2048, records)
    monkeypatch.setitem(scoring.SCORING_PRESETS, "score-sweep", small)
    row = scoring.time_scoring("score-sweep", 0.01, 1)
    assert row["SAEs"] == 2 - records and row["samples"] == 2048
    assert row["share of training"] > 0 and row["train 20k steps, s/SAE"] > 0


def test_world_prints_its_card(capsys):
    main(
        ["world", "sphere", "--d-in", "8", "--n-features", "16", "--l0", "2", "--n-samples", "2560"]
    )
    printed = capsys.readouterr().out
    assert "16 in 8" in printed and "Welch" in printed


@pytest.mark.parametrize("as_json", [False, True])
def test_a_saelens_folder_is_scored(capsys, as_json):
    args = ["score", STANDARD, "--world", "sphere", "--d-in", "6", "--n-features", "8"]
    main([*args, "--l0", "2", "--n-samples", "1024", *(["--json"] if as_json else [])])
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("mmcs", "floor", "f1_latents_alive", "saelens_f1"))
    if as_json:
        scores = json.loads(printed)
        assert scores["n_features"] == 8 and 0 < scores["mmcs"] <= 1
        assert scores["mmcs"] == pytest.approx(np.mean(scores["features"]["mcs"]), rel=1e-6)
        assert len(scores["latents"]["f1"]) == scores["d_sae"]


def test_scores_asked_for_are_printed_alone_or_refused(capsys):
    args = ["score", STANDARD, "--world", "sphere", "--d-in", "6", "--n-features", "8", "--l0", "2",
            "--n-samples", "1024", "--scores"]  # fmt: skip
    main([*args, "mmcs", "f1"])
    printed = capsys.readouterr().out
    assert "mmcs" in printed and "f1" in printed and "auroc" not in printed
    for asked, words in (("mcss", ("'mcss'", "'mmcs'")), ("absorption_rate", ("cannot be",))):
        with pytest.raises(SystemExit) as stop:
            main([*args, "mmcs", asked])
        told = capsys.readouterr().err
        assert stop.value.code == 2 and all(word in told for word in words)


def small_ceilings(monkeypatch, tmp_path):
    """The command's own table, with three methods of it and no file elsewhere."""
    ceilings = import_module("toysae.evaluation.ceilings")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "100")
    chosen = ("truth-fista", "truth-threshold", "random")
    monkeypatch.setattr(ceilings, "_chosen", lambda *_: dict.fromkeys(chosen, True))


def test_ceilings_of_a_world_are_printed_and_kept(capsys, tmp_path, monkeypatch):
    small_ceilings(monkeypatch, tmp_path)
    args = ["ceilings", "sphere", "--d-in", "6", "--n-features", "8", "--l0", "2"]
    main([*args, "--n-samples", "1024", "--out", str(tmp_path / "out")])
    printed = capsys.readouterr().out
    for word in ("truth-fista", "random", "MCS > .9", "Welch bound 0.218", "limit"):
        assert word in printed, word
    assert max(map(len, printed.splitlines()[:-1])) <= 100
    table = pd.read_csv(tmp_path / "out" / "ceilings.csv")
    assert set(table["method"]) == {"truth-fista", "truth-threshold", "random"}


@pytest.mark.parametrize("as_json", [False, True])
def test_ceilings_stand_beside_a_scored_sae(capsys, tmp_path, monkeypatch, as_json):
    small_ceilings(monkeypatch, tmp_path)
    args = ["score", STANDARD, "--world", "sphere", "--d-in", "6", "--n-features", "8", "--l0", "2"]
    main([*args, "--n-samples", "1024", "--ceilings", *(["--json"] if as_json else [])])
    printed = capsys.readouterr().out
    if as_json:
        scores = json.loads(printed)
        by_method = {row["method"]: row for row in scores["ceilings"]}
        assert by_method["truth-fista"]["mmcs"] == pytest.approx(1)
        assert by_method["random"]["mmcs"] == pytest.approx(scores["floor"])
    else:
        assert all(word in printed for word in ("this SAE", "truth-fista", "floor", "MCS > .9"))


def test_more_features_than_samples_are_warned_of(capsys):
    args = ["score", STANDARD, "--world", "sphere", "--d-in", "6", "--n-features", "3000"]
    main([*args, "--l0", "2", "--n-samples", "1000", "--json"])
    printed = capsys.readouterr()
    assert "warning: 1,024 samples for 3,000 features: the rare ones" in printed.err
    assert json.loads(printed.out)["unseen_features"] > 500


def test_two_worlds_stand_side_by_side(capsys, tmp_path):
    args = ["world", "absorption", "exclusive-pair", "--d-in", "8", "--n-samples", "1024"]
    main([*args, "--out", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "absorption" in printed and "exclusive-pair" in printed and "coherence" in printed
    assert (tmp_path / "absorption-exclusive-pair.png").stat().st_size > 5000


STUDY = """
from dataclasses import dataclass
import pandas as pd
from toysae.sweeps.study import Study

@dataclass(frozen=True)
class Options:
    n: int = 1000
    names: tuple[str, ...] = ("a",)

def answer(options, results):
    return {"n": pd.DataFrame({"n": [options.n], "names": [",".join(options.names)]})}

def draw(options, results):
    yield "page", "<p>drawn</p>", pd.DataFrame({"n": [options.n]})

study = Study("Does it run?", Options(), lambda options: [], answer, draw, smoke={"n": 3})
"""


@pytest.mark.parametrize(
    ("args", "written"),
    [
        ([], "1000,a"),
        (["--smoke"], "3,a"),
        (["--smoke", "--n", "7", "--names", "x", "y"], '7,"x,y"'),
    ],
)
def test_a_study_runs_with_its_options(tmp_path, capsys, args, written):
    (tmp_path / "asks.py").write_text(STUDY)
    out = tmp_path / "out"
    main(["run", str(tmp_path / "asks.py"), "--out", str(out), *args])
    assert (out / "n.csv").read_text() == f"n,names\n{written}\n"
    assert (out / "figures" / "page.html").read_text() == "<p>drawn</p>"
    assert "Does it run?" in capsys.readouterr().out


def test_a_study_refuses_what_it_does_not_have(tmp_path, capsys):
    (tmp_path / "asks.py").write_text(STUDY)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tmp_path / "asks.py"), "--nmes", "x"])
    assert stop.value.code == 2 and "--names" in capsys.readouterr().err


POINTS = """
from toysae import Experiment, points
experiment = Experiment("Q?", d_in=8, ratios=(1,), recipes=("tied",), l1_coeff=(0.1,),
                        ceiling=False, world_seeds=1, n_steps=3, n_eval=256, curve_points=2,
                        figures=(), points=points.zipped(l0=(1, 2), k=(1, 2)),
                        full={"world_seeds": 2})
"""


def test_an_experiment_has_a_full_size_and_points_of_its_own(tmp_path, capsys):
    (tmp_path / "asks.py").write_text(POINTS)
    out = tmp_path / "out"
    main(["run", str(tmp_path / "asks.py"), "--full", "--out", str(out), "--quiet", "--lr", "0.01"])
    table = pd.read_csv(out / "table.csv")
    assert table["l0_asked"].tolist() == [1, 1, 2, 2] and set(table["world_seed"]) == {0, 1}
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "asks.py"), "--l0", "3", "--out", str(out)])
    assert "--l0: the points of this experiment set l0" in capsys.readouterr().err
    (tmp_path / "asks.py").write_text(POINTS.replace("k=", "kk="))
    with pytest.raises(SystemExit):
        main(["run", str(tmp_path / "asks.py"), "--out", str(out)])
    assert "unknown dimension 'kk'" in capsys.readouterr().err


# The first hour


@pytest.mark.parametrize(
    "command", ["run", "world", "score", "ceilings", "status", "list", "bench"]
)
def test_every_command_has_help_without_a_name(command, capsys):
    try:
        main([command, "--help"])
    except SystemExit as stop:
        assert stop.code in (0, None)
    assert "usage: toysae" in capsys.readouterr().out


def test_list_works_anywhere_and_runs_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    main(["list"])
    said = capsys.readouterr().out
    assert "There is no folder experiments here" in said and "sphere" in said
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.py").write_text(
        "raise SystemExit('ran')\nexperiment = Experiment(question='Why [b]?', run_time='1 s')\n"
    )
    (tmp_path / "mine" / "b.py").write_text("this is no Python")
    main(["list", "mine"])
    assert "Why [b]?" in capsys.readouterr().out


def test_a_name_instead_of_a_file_gets_the_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert "did you mean 'experiments/recovery.py'" in refused_in(capsys, "run", "recovery")
    monkeypatch.chdir(tmp_path)
    assert "give the path of one, e.g. experiments/recovery.py" in refused_in(capsys, "run", "x")


def refused_in(capsys, *args):
    with pytest.raises(SystemExit) as stop:
        main(list(args))
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2
    return line


def test_what_is_left_over_is_named(tmp_path, capsys):
    assert "leave out junk" in refused_in(capsys, "status", str(tmp_path), "junk")
    assert "leave out junk" in refused_in(capsys, "list", "untied", "junk")


def test_python_m_toysae_and_a_platform_that_is_not_there():
    command = [sys.executable, "-m", "toysae", "world", "sphere"]
    done = subprocess.run(
        command, env={**os.environ, "JAX_PLATFORMS": "rocm"}, capture_output=True, text=True
    )
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1, done.stderr
    assert "JAX_PLATFORMS=rocm is not available here" in done.stderr


def test_an_empty_name_is_none(capsys):
    assert "name an experiment file" in refused_in(capsys, "run", "")
    assert "name a world" in refused_in(capsys, "world", "")


def test_it_says_its_version(capsys):
    main(["--version"])
    assert re.fullmatch(r"toysae \d+\.\d+\.\d+\n", capsys.readouterr().out)
