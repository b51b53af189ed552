"""Old names do what today's do, and say so once; both at once are refused."""

import importlib
import sys
from dataclasses import dataclass

import pandas as pd
import pytest

import toysae
from toysae import Experiment, ToysaeError, aliases, make_world, points, run
from toysae.cli import main
from toysae.evaluation import ceilings
from toysae.lm.saes.train import Training
from toysae.recovery import best_coefficient
from toysae.recovery.minima import verdicts
from toysae.sweeps.cells import cells
from toysae.sweeps.study import Study

TINY = {"d_in": 4, "ratios": 1, "l0": 1.0, "recipes": "tied", "ceiling": False, "world_seeds": 1,
        "n_steps": 2, "batch_size": 4, "n_eval": 64, "curve_points": 1, "figures": ()}  # fmt: skip
STUDY = """
from dataclasses import dataclass
import pandas as pd
from toysae.sweeps.study import Study

@dataclass(frozen=True)
class Options:
    l1_coeff: float = 0.5

study = Study("Q?", Options(), lambda o: [], smoke={"l1": 0.25},
              answer=lambda o, results: {"asked": pd.DataFrame({"l1_coeff": [o.l1_coeff]})})
"""


@pytest.fixture(autouse=True)
def nothing_noted_yet():
    aliases.tell_once.cache_clear()
    yield
    aliases.tell_once.cache_clear()


def noted(old, new):
    return pytest.warns(FutureWarning, match=rf"^{old} is called {new} now: write {new}$")


def table(**columns):
    rows = [{"world_seed": seed, "mmcs": 0.9, "l0": 2.0, "true_l0": 2.0} for seed in (0, 1)]
    return pd.DataFrame(rows).assign(**columns)


def test_an_experiment_takes_the_old_names_of_its_fields():
    with noted("l1", "l1_coeff") as told:
        e = Experiment("Q?", l1=(0.1, 0.2))
    assert e == Experiment("Q?", l1_coeff=(0.1, 0.2)) and told[0].filename == __file__
    with noted("axes", "points"):
        e = Experiment("Q?", axes=points.grid(lr=0.1))
    assert e.points == points.grid(lr=0.1)


def test_a_note_comes_once(recwarn):
    for _ in range(3):
        Experiment("Q?", l1=0.1)
    assert len(recwarn) == 1


def test_smoke_and_full_take_old_names():
    e = Experiment("Q?", smoke={"l1": (0.3,)}, full={"axes": points.grid(lr=0.1)})
    with noted("l1", "l1_coeff"):
        assert e.smoked().l1_coeff == (0.3,)
    with noted("axes", "points"):
        assert e.at_full_size().points == points.grid(lr=0.1)


def test_a_point_takes_the_old_name_of_a_grid():
    with noted("l1", "l1_coeff"):
        old = Experiment("Q?", points=points.grid(l1=(0.1, 0.2), lr=0.1), **TINY)
    new = Experiment("Q?", points=points.grid(l1_coeff=(0.1, 0.2), lr=0.1), **TINY)
    assert old == new and cells(old)[0].columns["sparsity"] == (0.1, 0.2)


def test_functions_take_old_names():
    world = make_world("orthogonal", 0, d_in=4, n_features=4, l0=1.0)
    given = {"methods": ("truth-fista",), "n_samples": 1024, "cache": False}
    with noted("l1", "l1_coeff"):
        old = ceilings(world, l1=(0.1,), **given)
    pd.testing.assert_frame_equal(old, ceilings(world, l1_coeff=(0.1,), **given))


def test_training_takes_old_names():
    with noted("l1", "l1_coeff"):
        assert Training(l1=(0.3,)) == Training(l1_coeff=(0.3,))


def test_results_select_by_old_columns(tmp_path):
    e = Experiment("Q?", **TINY, l1_coeff=(0.1, 0.2))
    results = run(e, tmp_path / "out", quiet=True)
    with noted("l1", "sparsity"):
        assert len(results.select(l1=0.2)) == 1
    with noted("group", "cell"):
        assert len(results.select(group=results.cells[0])) == 2
    with pytest.raises(ToysaeError, match="l1 and sparsity are one: give sparsity alone"):
        results.select(l1=0.2, sparsity=0.2)


def test_coefficients_are_found_by_their_old_column():
    made = table(sparsity=0.1)
    with noted("l1", "sparsity"):
        old = best_coefficient(made, [], coefficient="l1")
    pd.testing.assert_frame_equal(old, best_coefficient(made, []))
    assert len(best_coefficient(table(l1=0.1), [], coefficient="l1")) == 2  # a table of old
    aliases.tell_once.cache_clear()
    cell = {"world": "w", "d_in": 4, "n_features": 4, "ratio": 1.0, "d_sae": 4, "recipe": "r"}
    judged = made.assign(**cell, init=["truth", "random"], eval_loss=1.0, score=1.0, world_seed=0)
    with noted("l1", "sparsity"):
        verdicts(judged, score="score", coefficient="l1")


def test_the_module_of_points_is_found_by_its_old_name():
    sys.modules.pop("toysae.axes", None)
    vars(toysae).pop("axes", None)
    with noted("toysae.axes", "toysae.points") as told:
        from toysae import axes
    assert axes.Points is points.Points and axes.grid is points.grid
    assert told[0].filename == __file__ and "axes" not in dir(toysae)
    assert importlib.import_module("toysae.axes") is toysae.axes


@dataclass(frozen=True)
class Own:
    l1: float = 0.1


def test_a_name_that_is_still_there_is_not_old(recwarn):
    assert aliases.accepts_old_names(Own)(l1=0.3).l1 == 0.3
    assert list(points.grid(l1=1, axes=2)) == [{"l1": 1, "axes": 2}]
    assert len(recwarn) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Experiment("Q?", l1=1, l1_coeff=1), "l1 and l1_coeff .* give l1_coeff alone"),
        (lambda: Training(l1=1, l1_coeff=1), "l1 and l1_coeff .* give l1_coeff alone"),
        (lambda: Experiment("Q?", smoke={"l1": 1, "l1_coeff": 1}).smoked(), "l1 and l1_coeff"),
        (lambda: Experiment("Q?", points=points.grid(l1=1, l1_coeff=1)), "l1 and l1_coeff"),
        (lambda: ceilings(make_world("sphere"), l1=1, l1_coeff=1), "l1 and l1_coeff"),
    ],
)
@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_both_names_are_refused_in_one_line(make, message):
    with pytest.raises(ToysaeError, match=message) as refused:
        make()
    assert "\n" not in str(refused.value)


def test_a_study_and_the_command_line_take_the_old_name(tmp_path, capsys, recwarn):
    file = tmp_path / "asked.py"
    file.write_text(STUDY)

    def asked(*args):
        aliases.tell_once.cache_clear()
        out = tmp_path / f"out{len(list(tmp_path.iterdir()))}"
        main(["run", str(file), "--quiet", "--out", str(out), *args])
        return pd.read_csv(out / "asked.csv")["l1_coeff"].item(), capsys.readouterr().err

    note = "toysae: --l1 is called --l1-coeff now: write --l1-coeff\n"
    in_file = "toysae: l1 is called l1_coeff now: write l1_coeff\n"  # its smoke
    assert asked("--l1", "0.1") == asked("--l1=0.1") == (0.1, in_file + note)
    assert asked("--l1-coeff", "0.1") == (0.1, in_file)
    assert asked("--smoke") == (0.25, in_file)
    with pytest.raises(SystemExit):
        asked("--l1", "0.1", "--l1-coeff", "0.1")
    refused = "toysae: --l1 and --l1-coeff are one: give --l1-coeff alone\n"
    assert capsys.readouterr().err == in_file + refused
    assert len(recwarn) == 0


@pytest.mark.parametrize("command", ["train", "twin"])
def test_commands_about_layers_take_the_old_name(command, capsys):
    with pytest.raises(SystemExit):
        main(["lm", command, "nowhere", "--recipes", "untied", "--l1", "1"])
    note, refused = capsys.readouterr().err.splitlines()
    assert note == "toysae: --l1 is called --l1-coeff now: write --l1-coeff"
    assert "holds no captured site" in refused


def test_a_figure_by_its_old_name_is_drawn(tmp_path, capsys):
    aliases.tell_once.cache_clear()
    out, file = tmp_path / "out", tmp_path / "tiny.py"
    tiny = TINY | {"figures": ("l1_by_size",)}
    file.write_text(f"from toysae import Experiment\nexperiment = Experiment('Q?', **{tiny})")
    main(["run", str(file), "--quiet", "--out", str(out)])
    assert capsys.readouterr().err.count("l1_by_size is called sparsity_by_size now") == 1
    assert (out / "figures" / "sparsity_by_size.png").exists()


def test_a_field_that_there_is_not_is_refused_by_the_nearest():
    with pytest.raises(ToysaeError, match="unknown field of Experiment 'ratoes': did you mean 'ra"):
        Experiment("Which?", ratoes=(1, 2))
    with pytest.raises(ToysaeError, match="unknown field of Study 'cell': did you mean 'cells'"):
        Study("Which?", options=None, cell=None)
