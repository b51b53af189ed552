"""Whatever is typed: a command does its work, or says in one line what is wrong; nothing else.

But for `bench`, which would time for minutes whatever else is left of its line.
"""

import contextlib
import io

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from toysae import make_spec, make_world, save_world, train
from toysae.cli import main
from toysae.sae import save_sae

SIZES = ["--d-in", "4", "--n-features", "6", "--l0", "1.5"]
LINES = {
    "list": ["list", "untied"],
    "status": ["status", "run"],
    "world": ["world", "sphere", *SIZES, "--n-samples", "256", "--seed", "1"],
    "worlds": ["world", "sphere", "antipodal", *SIZES, "--n-samples", "4096"],
    "saved world": ["world", "world.safetensors", "--n-samples", "256"],
    "score": ["score", "sae.safetensors", "--world", "sphere", *SIZES, "--n-samples", "1024"],
    "score saved": ["score", "sae.safetensors", "--world", "world.safetensors", "--json",
                    "--n-samples", "1024"],
    "plan": ["run", "tiny.py", "--out", "plan", "--dry-run", "--lr", "0.01", "--recipes", "tied"],
    "run": ["run", "tiny.py", "--out", "run", "--quiet", "--l1-coeff", "0.1", "--n-steps", "2"],
    "capture": ["lm", "capture", "nowhere", "--text", "nowhere.txt", "--out", "lm", "--site",
                "blocks.0.hook_resid_post", "--tokens", "10k"],
    "train": ["lm", "train", "nowhere", "--recipes", "untied", "--l1-coeff", "0.1"],
    "eval": ["lm", "eval", "nowhere", "--n-sequences", "2"],
    "page": ["lm", "page", "nowhere", "--latents", "1", "2"],
    "card": ["lm", "card", "nowhere", "--world", "sphere"],
    "twin": ["lm", "twin", "nowhere", "--ratios", "1", "--l1-coeff", "0.1"],
    "steer": ["lm", "steer", "nowhere", "--latent", "1"],
    "export": ["lm", "export", "nowhere", "out"],
}  # fmt: skip
WORDS = ["", " ", "-1", "0", "nan", "inf", "-inf", "1e999", "9" * 30, "banana", "3.5", "True",
         "None", "[1, 2]", "{}", "[b]x[/b]", "ünïcode", "a\nb", "--", "-", "--help", "--no-such",
         "--d-in=", "--seed", "--seed=x", "..", ".", "/dev/null", "/dev/zero", "/proc/self/mem",
         "run", "tiny.py", "world.safetensors", "sae.safetensors", "--out", "~"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("typed")
    world = make_world("sphere", d_in=4, n_features=6, l0=1.5)
    spec = make_spec("untied", 4, 6)
    result = train(world, spec, n_steps=1, batch_size=4, n_eval=64, l1_coeff=0.1, quiet=True)
    save_world(world, folder / "world.safetensors")
    save_sae(result.sae(0), folder / "sae.safetensors")
    (folder / "tiny.py").write_text(
        "from toysae import Experiment\n"
        "experiment = Experiment('Why?', d_in=4, ratios=1.5, l0=1.5, recipes='untied', "
        "firings_per_feature=8, batch_size=4, n_eval=64, curve_points=1, world_seeds=1, "
        "ceiling=False, figures=())\n"
    )
    return folder


@pytest.fixture(autouse=True)
def _here(folder, monkeypatch):
    monkeypatch.chdir(folder)


def typed(args: list[str]) -> tuple[int, str]:
    """The exit status, and what is on stderr."""
    out, err = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main(args)
    except SystemExit as stop:
        return int(stop.code or 0), err.getvalue()
    return 0, err.getvalue()


def check(args: list[str]) -> None:
    status, err = typed(args)
    assert status in (0, 2), (args, err)
    lines = [line for line in err.splitlines() if not line.startswith("toysae: warning: ")]
    assert "Traceback" not in err, (args, err)
    if status == 2:
        assert lines and lines[-1].startswith("toysae: "), (args, err)
        assert len(lines) == 1 or args[0] == "run", (args, err)  # which says what it has begun


@pytest.mark.parametrize("name", LINES)
def test_the_lines_themselves(name):
    check(LINES[name])
    nothing_there = {"capture", "train", "eval", "page", "card", "twin", "steer",
                     "export", "status"}  # fmt: skip
    if name not in nothing_there:
        assert typed(LINES[name])[0] == 0


def edits(args: list[str]) -> st.SearchStrategy:
    place, word = st.integers(0, len(args) - 1), st.sampled_from(WORDS)
    return st.one_of(
        st.builds(lambda i, w: [*args[:i], w, *args[i + 1 :]], place, word),
        st.builds(lambda i, w: [*args[:i], w, *args[i:]], place, word),
        st.builds(lambda i: [*args[:i], *args[i + 1 :]], place),
        st.builds(lambda i, j: [*args, *args[i : j + 1]], place, place),
    )


LIGHT = [name for name in LINES if name not in ("run", "worlds")]


@settings(max_examples=120, deadline=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.sampled_from(LIGHT).flatmap(lambda name: edits(LINES[name])))
def test_a_mistyped_line_is_refused_or_used(args):
    check(args)


@pytest.mark.slow
@pytest.mark.parametrize("name", LINES)
def test_every_word_at_every_place(name, record_property):
    args, failures, n = LINES[name], [], 0
    for i in range(len(args)):
        lines = [[*args[:i], word, *args[i + 1 :]] for word in WORDS]
        lines += [[*args[:i], word, *args[i:]] for word in WORDS]
        for line in [*lines, [*args[:i], *args[i + 1 :]]]:
            n += 1
            try:
                check(line)
            except BaseException as error:
                failures.append(f"{line}: {type(error).__name__}: {str(error)[-300:]}")
    record_property("lines", n)
    assert not failures, f"{len(failures)} of {n} lines:\n" + "\n".join(failures)
