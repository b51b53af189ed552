"""Running an experiment: what is on disk, resuming, and what is refused."""

import importlib
import json
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from toysae import Experiment, ToysaeError
from toysae.disk import write
from toysae.evaluation import summarise_runs
from toysae.keys import named_key, seed_key
from toysae.recovery.mcs import EDGES
from toysae.sae import RECIPES
from toysae.sweeps import Results, load_experiment, run
from toysae.sweeps.cells import cells
from toysae.training import memory
from toysae.worlds import make_world, sample

TINY = Experiment(
    question="Does it run?",
    d_in=8,
    ratios=(1, 2),
    l0=1.5,
    recipes=("tied",),
    ceiling=False,
    l1_coeff=(0.05, 0.2),
    world_seeds=2,
    n_steps=40,
    batch_size=32,
    lr=3e-3,
    n_eval=256,
    curve_points=3,
)


def run_module():
    """The module `toysae.runs.run`; the package's attribute of that name is the function."""
    return importlib.import_module("toysae.runs.run")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "tiny"
    run(TINY, path, quiet=True)
    return path


def stamps(path):
    return {p.name: p.stat().st_mtime_ns for p in (path / "blocks").iterdir()}


def same_results(one, two):
    """Bit for bit: tables and arrays."""
    assert (one / "table.csv").read_bytes() == (two / "table.csv").read_bytes()
    assert Results.load(one).cells == Results.load(two).cells
    for cell in Results.load(one).cells:
        for read in (Results.arrays, Results.weights):
            first, second = read(Results.load(one), cell), read(Results.load(two), cell)
            assert first.keys() == second.keys()
            for name in first:
                assert first[name].tobytes() == second[name].tobytes(), name


def test_a_run_writes_its_files(finished):
    cells = ["sphere-n8-tied-recipe-s8", "sphere-n16-tied-recipe-s16"]
    assert Results.load(finished).cells == cells
    parts = {name.split(".")[0] for name in stamps(finished)}
    assert {part[: -len("-12345678")] for part in parts} == set(cells) and len(parts) == 2
    assert set(stamps(finished)) == {f"{part}.{end}" for part in parts
                                     for end in ("csv", "npz", "safetensors", "json")}  # fmt: skip
    config = json.loads((finished / "config.json").read_text())
    assert config["question"] == "Does it run?" and config["settings"]["l1_coeff"] == [0.05, 0.2]
    assert {"jax", "toysae"} <= set(config["versions"])
    assert not list(finished.rglob("*tmp")) and not list(finished.glob("checkpoints/*"))


def test_the_table_has_a_row_for_each_sae(finished):
    table = pd.read_csv(finished / "table.csv")
    assert len(table) == 2 * 2 * 2
    documented = [
        "cell", "world", "recipe", "init", "knob", "sparsity", "row", "d_in", "n_features", "ratio",
        "d_sae", "world_seed", "sae_seed", "n_steps", "batch_size", "n_eval", "l1_coeff", "lr",
        "diverged", "true_l0", "mmcs", "mmcs_abs", "mmcs_latents", "mcs_above_0.8",
        "mcs_above_0.9", "mcs_above_0.95", "mcc", "mcc_abs", "l0", "ev", "fvu", "mse", "shrinkage",
        "dead_latents", "dead_fraction", "loss", "eval_loss", "floor", "mmcs_init", "steps_to_0.9",
        "censored_0.9", "truth_fista_ev", "truth_fista_l0",
    ]  # fmt: skip
    assert set(documented) <= set(table.columns)
    assert not table.columns.duplicated().any()
    arms = table.groupby(["n_features", "world_seed", "sparsity"]).size()
    assert len(arms) == 8 and (arms == 1).all()
    np.testing.assert_allclose(table["sparsity"], table["l1_coeff"], rtol=1e-6)
    np.testing.assert_allclose(table["ev"] + table["fvu"], 1, atol=1e-5)
    assert (table["n_steps"] == 40).all() and (table["n_eval"] == 256).all()
    finite = [c for c in documented[17:] if c not in ("steps_to_0.9", "censored_0.9")]
    assert np.isfinite(table[finite].astype(float)).all().all()


def test_the_arrays_behind_the_table(finished):
    results = Results.load(finished)
    table = results.table
    for cell in results.cells:
        arrays, weights = results.arrays(cell), results.weights(cell)
        rows = table[table["cell"] == cell]
        world_seeds = rows["world_seed"].to_numpy()
        assert rows["row"].tolist() == [0, 1, 2, 3] and world_seeds.tolist() == [0, 0, 1, 1]
        np.testing.assert_allclose(arrays["mcs"].mean(1), rows["mmcs"], rtol=1e-5)
        np.testing.assert_allclose((arrays["mcs"] > 0.8).mean(1), rows["mcs_above_0.8"])
        np.testing.assert_allclose(arrays["latent_freq"].sum(1), rows["l0"], rtol=1e-4)
        np.testing.assert_allclose(arrays["curve_mmcs"][:, 0], rows["mmcs_init"], rtol=1e-6)
        np.testing.assert_allclose(arrays["curve_mmcs"][:, -1], rows["mmcs"], atol=1e-5)
        assert arrays["curve_steps"][[0, -1]].tolist() == [0, 40]
        hists = arrays["curve_mcs_hist"]
        assert hists.shape == (4, 40, len(arrays["curve_steps"]))
        assert (hists.sum(1) == rows["n_features"].iloc[0]).all()
        last = [np.histogram(m.clip(0, 1), EDGES)[0] for m in arrays["mcs"]]
        np.testing.assert_array_equal(hists[:, :, -1], last)
        assert arrays["firings_seen"].sum(1).mean() == pytest.approx(1.5 * 40 * 32, rel=0.1)
        # The weights are those scored: their MCS against the world, in NumPy.
        n = int(rows["n_features"].iloc[0])
        for row, seed in enumerate(world_seeds):
            world = make_world("sphere", int(seed), d_in=8, n_features=n, l0=1.5)
            key = named_key(seed_key(int(seed), "data"), "evaluation")  # 256 samples, 32 at a time
            counts = [sample(world, jax.random.fold_in(key, i), 32).feature_counts().sum()
                      for i in range(8)]  # fmt: skip
            assert rows["true_l0"].iloc[row] == pytest.approx(np.sum(counts) / 256, rel=1e-6)
            mcs = (np.asarray(world.directions) @ weights["W_dec"][row].T).max(1)
            np.testing.assert_allclose(mcs, arrays["mcs"][row], atol=1e-5)


def test_a_finished_run_computes_nothing_again(finished, monkeypatch):
    def no_training(*args, **kwargs):
        raise AssertionError("trained again")

    before = stamps(finished)
    table = (finished / "table.csv").read_bytes()
    monkeypatch.setattr(run_module(), "train_ensemble", no_training)
    run(TINY, finished, quiet=True)
    assert stamps(finished) == before
    assert (finished / "table.csv").read_bytes() == table
    # Prose may differ.
    run(replace(TINY, question="Again?", expected="Nothing."), finished, quiet=True)
    assert stamps(finished) == before


@pytest.mark.parametrize("at", ["training", "writing"])
def test_interrupted_and_resumed_equals_uninterrupted(finished, tmp_path, monkeypatch, at):
    module, out = run_module(), tmp_path / "resumed"
    original, whole, calls = module.train_ensemble, Path.write_bytes, []

    def stops(*args, **kwargs):
        calls.append(args)
        if len(calls) > 1:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    def half_written(path, data):
        if path.name.endswith(".json.toysae-tmp") and path.parent.name == "blocks":
            calls.append(path)
            if len(calls) > 1:
                raise KeyboardInterrupt
        return whole(path, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        if at == "training":
            patch.setattr(module, "train_ensemble", stops)
        else:  # all of the second part is there, but for its manifest
            patch.setattr(Path, "write_bytes", half_written)
        run(TINY, out, quiet=True)
    assert len(Results.load(out).cells) == 1 and len(pd.read_csv(out / "table.csv")) == 4
    assert len(Results.load(out).table) == 4
    first = {k: v for k, v in stamps(out).items() if k.startswith("sphere-n8-")}
    run(TINY, out, quiet=True)
    assert {k: v for k, v in stamps(out).items() if k in first} == first
    same_results(out, finished)


def test_fresh_begins_again(finished, tmp_path):
    one = replace(TINY, ratios=(1,), save_params=False)
    out = tmp_path / "fresh"
    run(one, out, quiet=True)
    before, table = stamps(out), (out / "table.csv").read_bytes()
    run(one, out, fresh=True, quiet=True)
    after = stamps(out)
    assert set(after) == set(before) and all(after[k] > before[k] for k in before)
    assert (out / "table.csv").read_bytes() == table
    with pytest.raises(ToysaeError, match=r"without its weights.*save-params"):
        Results.load(out).weights("sphere-n8-tied-recipe-s8")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"recipes": ("untid",)}, "unknown recipe 'untid': did you mean 'untied'"),
        ({"worlds": ("spere",)}, "unknown world 'spere': did you mean 'sphere'"),
        ({"inits": ("orthogonl",)}, "unknown init 'orthogonl': did you mean 'orthogonal'"),
        ({"l1_convention": "internl"}, "did you mean 'internal'"),
        ({"probs": "zip"}, "did you mean 'zipf'"),
        ({"magnitude": "constnt"}, "did you mean 'constant'"),
        ({"l1_coeff": ()}, "l1_coeff is an empty grid"),
        ({"recipes": ("topk",), "k": ()}, "k is an empty grid"),
        ({"recipes": ()}, "recipes is empty"),
        ({"worlds": ()}, "worlds is empty"),
        ({"ratios": ()}, "ratios is empty"),
        ({"sizes": ()}, "sizes is empty"),
        ({"ratios": (-1,)}, "ratios -1 must be larger than 0"),
        ({"sizes": (0.0,)}, "sizes 0 must be larger than 0"),
        ({"d_in": 0}, "d_in 0"),
        ({"world_seeds": 0}, "world_seeds 0"),
        ({"sae_seeds": 0}, "sae_seeds 0"),
        ({"batch_size": 0}, "batch_size 0"),
        ({"n_steps": 0}, "n_steps 0"),
        ({"n_eval": 0}, "n_eval 0"),
        ({"curve_points": 0}, "curve_points 0"),
        ({"firings_per_feature": -1.0}, "firings_per_feature -1"),
        ({"l0": 9.0}, "l0 9.0"),
        ({"l1_coeff": (-0.1,)}, "l1_coeff -0.1"),
        ({"lr": -1.0}, "lr -1"),
        ({"lr_decay": 2.0}, "lr_decay 2"),
        ({"recipes": ("topk",), "k": (20.0,)}, "k 20 is more than d_sae"),
        ({"worlds": ("antipodal",), "ratios": (9 / 8,)}, "n_features 9 must be even"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(tmp_path, change, message):
    with pytest.raises(ToysaeError, match=message):
        run(replace(TINY, **change), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_a_dictionary_that_does_not_fit_is_refused_with_its_size(tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 2**30)
    with pytest.raises(
        ToysaeError, match=r"d_sae 8000000 .* GiB .*has 1\.0 GiB: use a smaller d_sae"
    ):
        run(replace(TINY, ratios=(1,), sizes=(1e6,)), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()


def test_cells_are_the_product_of_what_was_asked():
    e = replace(TINY, recipes=("tied", "topk"), inits=("recipe", "svd"), sizes=(1.0, 2.0),
                ceiling=True, k=(2.0, 3.0), firings_per_feature=1000, n_steps=None)  # fmt: skip
    plan = cells(e)
    assert len(plan) == 2 * 2 * 3 * 2 == len({c.name for c in plan})
    for c in plan:
        n_features = dict(c.data.fields)["n_features"]
        assert c.spec.d_sae in (n_features, 2 * n_features)
        # Each feature fires 1000 times in n_steps * 32 samples.
        assert c.n_steps == int(np.ceil(round(1000 * n_features / 1.5) / 32))
        assert (c.columns["knob"], c.columns["sparsity"]) == (
            ("k", (2.0, 3.0)) if c.columns["recipe"] == "topk" else ("l1_coeff", (0.05, 0.2))
        )


def test_dials_go_to_the_worlds_that_have_them():
    e = replace(TINY, worlds=("pairs", "sphere"), dials={"rho": 0.25})
    fields = {cell.data.name: dict(cell.data.fields) for cell in cells(e)}
    assert fields["pairs"]["rho"] == 0.25 and "rho" not in fields["sphere"]
    with pytest.raises(ToysaeError, match="unknown dial"):
        cells(replace(TINY, worlds=("sphere",), dials={"rho": 0.25}))


def test_a_world_of_fixed_size_keeps_it():
    e = replace(TINY, worlds=("hedging",), sizes=(0.5,), dials={"d_in": 12, "p_parent": 0.5})
    (cell,) = cells(e)  # one, whatever the ratios
    assert (cell.data.worlds.n_features, cell.spec.d_in, cell.spec.d_sae) == (2, 12, 1)
    assert dict(cell.data.fields) == {"d_in": 12, "p_parent": 0.5}


def test_each_world_is_made_once(tmp_path, monkeypatch):
    made = []

    def counted(name, seed, **fields):
        made.append((name, seed, tuple(fields.items())))
        return make_world(name, seed, **fields)

    def no_training(*args, **kwargs):
        raise InterruptedError

    monkeypatch.setattr("toysae.runs.worlds.make_world", counted)
    monkeypatch.setattr(run_module(), "train_ensemble", no_training)
    e = replace(TINY, worlds=("sphere", "hedging"), recipes=("tied", "untied", "topk"),
                sizes=(0.5, 1.0), inits=("recipe", "svd"), k=(1.0,))  # fmt: skip
    with pytest.raises(InterruptedError):
        run(e, tmp_path / "out", quiet=True)
    # Two ratios of one world and a world of fixed size, on two seeds each.
    assert len(made) == len(set(made)) == 6
    assert len(cells(e)) == (2 + 1) * 3 * 2 * 2


def test_papers_coefficients_are_translated():
    e = replace(TINY, l1_convention="interim-report", sizes=(2.0,), ratios=(2,))
    (cell,) = cells(e)
    coefficients = [member["l1_coeff"] for member in cell.members]
    np.testing.assert_allclose(coefficients, np.array([0.05, 0.2]) * 8 / 32)
    assert cell.columns["sparsity"] == (0.05, 0.2)


def test_a_smoke_run_overrides_its_fields():
    e = replace(TINY, smoke={"d_in": 4, "l1_coeff": (0.1,)})
    assert (e.smoked().d_in, e.smoked().l1_coeff, e.smoked().l0) == (4, (0.1,), 1.5)
    assert "question" not in e.settings() and "smoke" not in e.settings()


def test_load_experiment(tmp_path):
    good = tmp_path / "good.py"
    good.write_text("from toysae import Experiment\nexperiment = Experiment('Why?', d_in=4)\n")
    assert load_experiment(good).d_in == 4
    cases = {
        "empty.py": ("x = 1\n", "define `experiment = Experiment"),
        "wrong.py": ("experiment = 3\n", "define `experiment = Experiment"),
        "broken.py": ("experiment = 1 / 0\n", "ZeroDivisionError"),
        "syntax.py": ("experiment = (\n", "SyntaxError"),
        "field.py": ("from toysae import Experiment\nExperiment('Q', d_inn=3)\n", "d_inn"),
        "smoke.py": ("from toysae import Experiment\n"
                     "experiment = Experiment('Q', smoke={'ratio': (1,)})\n",
                     "did you mean 'ratios'"),
    }  # fmt: skip
    for name, (text, message) in cases.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(ToysaeError, match=message):
            load_experiment(tmp_path / name)
    with pytest.raises(ToysaeError, match=r"unknown experiment file.*did you mean.*good\.py"):
        load_experiment(tmp_path / "goood.py")
    with pytest.raises(ToysaeError, match="unknown experiment file"):
        load_experiment(tmp_path / "nowhere" / "good.py")


def test_loading_what_is_no_run_is_refused(finished, tmp_path):
    for path in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ToysaeError, match="holds no results"):
            Results.load(path)
    (tmp_path / "config.json").write_text("{half")
    with pytest.raises(ToysaeError, match="is not the directory of a run|not empty and not"):
        Results.load(tmp_path)
    for read in (Results.arrays, Results.weights):
        with pytest.raises(
            ToysaeError, match=r"unknown cell.*did you mean 'sphere-n8-tied-recipe-s8'"
        ):
            read(Results.load(finished), "sphere-n8-tied-recipe")


def test_a_writer_that_fails_leaves_the_old_file(tmp_path):
    file = tmp_path / "table.csv"
    write(file, lambda p: p.write_text("old"))

    def fails(path):
        path.write_text("half of the n")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write(file, fails)
    assert file.read_text() == "old"
    write(file, lambda p: p.write_text("new"))
    assert file.read_text() == "new" and [p.name for p in tmp_path.iterdir()] == ["table.csv"]


def test_the_summary_has_one_line_an_arm(finished):
    table = Results.load(finished).table
    lines = summarise_runs(table)
    assert lines["ratio"].tolist() == ["1", "2"]
    for line, ratio in zip(lines.to_dict("records"), (1, 2), strict=True):
        rows = table[table["ratio"] == ratio]
        assert line["floor"] == f"{rows['floor'].iloc[0]:.3f}"
        # The mean over worlds is that of one choice of L1 in each.
        pairs = [rows.loc[rows["world_seed"] == seed, "mmcs"] for seed in (0, 1)]
        means = {f"{(a + b) / 2:.3f}" for a in pairs[0] for b in pairs[1]}
        assert line["mmcs"].split(" ± ")[0] in means
        assert all(line[score].endswith(" (2)") for score in ("mmcs", "MCS > .9", "l0", "ev"))


def test_match_l0_drives_every_recipe_that_can_be_driven():
    e = replace(TINY, match_l0=True, l0_target=(2.0, 3.0), l1_coeff=(0.1,), ratios=(2,),
                recipes=("untied", "gated", "topk", "jumprelu", "fista"))  # fmt: skip
    plan = {cell.columns["recipe"]: cell for cell in cells(e)}
    knobs = {recipe: cell.columns["knob"] for recipe, cell in plan.items()}
    assert knobs == {"untied": "l0_target", "gated": "l0_target", "topk": "k",
                     "jumprelu": "l0_target", "fista": "l1_coeff"}  # fmt: skip
    for recipe, cell in plan.items():
        values = [member[cell.columns["knob"]] for member in cell.members]
        assert values == ([0.1] if recipe == "fista" else [2.0, 3.0])
    for recipe, name in (
        ("jumprelu", "l0_coeff"),
        ("jumprelu", "bandwidth"),
        ("gated", "l1_coeff"),
    ):
        held = {member[name] for member in plan[recipe].members}
        assert held == {RECIPES[recipe].toy[name]}
    free = cells(replace(e, match_l0=False))
    plain = {cell.columns["recipe"]: cell.columns["knob"] for cell in free}
    assert plain["untied"] == "l1_coeff" and plain["jumprelu"] == "l0_coeff"
