"""toysae lm train, eval and export from end to end, on captures of a tiny model."""

import itertools
import json
import os
import random
import re
import shutil
import signal
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from safetensors.numpy import load_file, save_file

import toysae.lm.saes.train as module
from toysae import ToysaeError
from toysae.cli import main
from toysae.cli.lm import count
from toysae.interop import from_saelens
from toysae.lm import load_model
from toysae.lm.capture.shards import Shards, read_manifest, write_manifest
from toysae.lm.capture.sources import open_site
from toysae.lm.capture.stream import split_off
from toysae.lm.models.matrices import reading_matrix, writing_matrix
from toysae.lm.models.sites import parse_site
from toysae.lm.saes.site_sae import load_site_sae
from toysae.lm.saes.train import Training, site_cells, train_site
from toysae.runs.mark import COPY, MARK
from toysae.runs.options import Options
from toysae.runs.results import Results

engine = import_module("toysae.runs.run")
GOLDEN = Path(__file__).parent / "golden"
SITE, OTHER = "blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"
D, L1, SEEDS, N_STEPS = 32, (0.3, 30.0), 2, 60
# One shape, so that every training below runs the same programs.
COMMON = ["--sizes", 1, "--seeds", SEEDS, "--batch-size", 16, "--quiet", "--curve-points", 2]
NUMBERS = [*COMMON, "--n-steps", N_STEPS, "--lr", 0.02, "--l1-coeff", *L1]
INITS = ("recipe", "svd-write", "svd-read")


def lm(*args):
    main(["lm", *map(str, args)])


def refused(capsys, *args):
    """The line that a command was refused with."""
    with pytest.raises(SystemExit) as stop:
        lm(*args)
    assert stop.value.code == 2
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    rng = random.Random(0)
    words = ["the", "argument", "of", "parser", "café", "None", "return", "string", "12", "x"]
    file = tmp_path_factory.mktemp("text") / "text.txt"
    file.write_text(" ".join(rng.choices(words, k=500)), encoding="utf-8")
    return file


def captured(text, out, sites=(SITE,), model=GOLDEN / "gpt-neox", live=()):
    lm("capture", model, "--site", *sites, "--text", text, "--out", out, "--n-ctx", 16, "--quiet",
       *live)  # fmt: skip
    return out


@pytest.fixture(scope="module")
def two(text, tmp_path_factory):
    """A capture of two sites."""
    return captured(text, tmp_path_factory.mktemp("two") / "acts", (SITE, OTHER))


@pytest.fixture(scope="module")
def one(text, tmp_path_factory):
    """A capture of one, which another program ran."""
    return captured(text, tmp_path_factory.mktemp("one") / "acts")


EVERY = ["--site", SITE, "--recipes", "tied", "untied", "--inits", *INITS, *NUMBERS]


@pytest.fixture(scope="module")
def out(two):
    """What is trained of every recipe, init, coefficient and seed."""
    lm("train", two, *EVERY)
    return two / "saes" / SITE


def table_of(out):
    """One row an SAE, with what seeds have in common."""
    return pd.concat([pd.read_csv(out / name) for name in ("table.csv", "seeds.csv")], axis=1)


@pytest.fixture(scope="module")
def table(out):
    return table_of(out)


def cells(table):
    """(name, rows) of each cell."""
    return list(table.groupby("cell", sort=False))


def held_out(folder):
    shards = Shards(folder)
    return np.asarray(shards.read(split_off(shards.counts)[1]), np.float32)


def same_groups(out, wanted):
    """The blocks of a run are those of another, byte for byte, less when they were written."""
    one, two = (
        {f.name: f.read_bytes() for f in (place / "blocks").iterdir()} for place in (out, wanted)
    )
    assert one and one.keys() <= two.keys()
    assert [name for name in one if one[name] != two[name] and not name.endswith(".json")] == []


# What is written


def test_the_table_has_one_row_of_each_combination(table, out):
    columns = ["recipe", "init", "l1_coeff", "sae_seed"]
    rows = list(map(tuple, table[columns].to_numpy()))
    wanted = itertools.product(("tied", "untied"), INITS, L1, range(SEEDS))
    assert [tuple(row) for row in rows] == [tuple(row) for row in wanted]
    assert (table["site"] == SITE).all() and not table["diverged"].any()
    assert (table["d_in"] == D).all() and (table["d_sae"] == D).all()
    assert len(cells(table)) == 6
    scores = ["fvu", "ev", "l0", "mse", "dead_fraction", "mmcs_seeds", "mmcs_seeds_init", "floor"]
    assert np.isfinite(table[scores]).all(axis=None)
    assert not list(out.glob("checkpoints/*"))
    config = json.loads((out / "config.json").read_text())["settings"]
    assert config["manifest"]["site"] == SITE and config["training"]["n_steps"] == N_STEPS


def test_more_l1_leaves_fewer_latents_on_and_a_worse_reconstruction(table):
    weak, strong = (table[table["l1_coeff"] == l1].reset_index() for l1 in L1)
    assert (weak["l0"] > 2 * strong["l0"]).all() and (weak["fvu"] < strong["fvu"]).all()
    assert (weak["fvu"] < 0.5).all()


def test_seeds_of_an_svd_init_have_it_in_common(table):
    at_start = table.groupby("init")["mmcs_seeds_init"].agg(["min", "max"])
    assert at_start.loc[["svd-write", "svd-read"], "min"].min() > 0.98
    assert at_start.loc["recipe", "max"] < 0.5


def test_every_folder_is_an_sae_of_the_site_with_its_normalisation(out, table, two):
    x = held_out(two / SITE).astype(np.float64)
    scale = 1 / np.sqrt(((x - x.mean(0)) ** 2).mean())
    found = [load_site_sae(out, row=row) for row in range(len(table))]
    manifest = read_manifest(two / SITE)
    for sae, (_, row) in zip(found, table.iterrows(), strict=True):
        np.testing.assert_allclose(sae.mean, x.mean(0), atol=1e-6)
        assert float(sae.scale) == pytest.approx(scale, rel=1e-5)
        wanted = {"site": SITE, "model": str(GOLDEN / "gpt-neox"), "first": 1, "centred": False,
                  "weights": manifest.weights, "recipe": row["recipe"], "init": row["init"],
                  "seed": row["sae_seed"], "n_tokens": 16 * N_STEPS}  # fmt: skip
        assert sae.info == wanted
        assert float(sae.sae.hypers.get("l1_coeff", row["l1_coeff"])) == np.float32(row["l1_coeff"])
        np.testing.assert_allclose(np.linalg.norm(sae.W_dec, axis=1), 1, atol=1e-5)
    W = np.stack([np.asarray(sae.W_dec) for sae in found])
    gaps = np.abs(W[:, None] - W[None]).max((-1, -2))[np.triu_indices(len(W), 1)]
    assert gaps.min() > 1e-4


# Scores


def evaluated(out, row, x):
    """(z, x, x_hat) in the units that the SAE was trained in."""
    sae = load_site_sae(out, row=row)
    z = np.asarray(sae.encode(jnp.asarray(x)))
    x_hat = (np.asarray(sae.decode(jnp.asarray(z))) - np.asarray(sae.mean)) * float(sae.scale)
    return z, (x - np.asarray(sae.mean)) * float(sae.scale), x_hat


def test_scores_are_those_of_numpy_on_what_was_held_out(out, table, two):
    x = held_out(two / SITE)
    assert (table["n_eval"] == len(x)).all()
    dead = dense = 0
    for name, rows in cells(table):
        freq = Results.load(out).arrays(name)["firing_freq"]
        for place, (i, row) in enumerate(rows.iterrows()):
            z, clean, x_hat = evaluated(out, i, x)
            on = z != 0
            np.testing.assert_allclose(freq[place], on.mean(0), atol=1e-6)
            assert row["dead_latents"] == (~on.any(0)).sum()
            assert row["dead_fraction"] == pytest.approx((~on.any(0)).mean())
            assert row["dense_latents"] == (on.mean(0) > 0.1).sum()
            assert row["l0"] == pytest.approx(on.sum(1).mean(), rel=1e-5)
            error = ((clean - x_hat) ** 2).sum(1).mean()
            assert row["mse"] == pytest.approx(error, rel=1e-4)
            assert row["fvu"] == pytest.approx(error / clean.var(0).sum(), rel=1e-4)
            dead, dense = dead + row["dead_latents"], dense + row["dense_latents"]
    n = D * len(table)
    assert 0.02 * n < dead < 0.9 * n and 0.02 * n < dense < 0.98 * n


def mcs(W, other, alive, other_alive):
    """Of each latent of W; NaN of dead ones."""
    unit, unit_other = (w / np.linalg.norm(w, axis=1, keepdims=True) for w in (W, other))
    if not other_alive.any():
        return np.full(len(W), np.nan)
    best = (unit @ unit_other[other_alive].T).max(1)
    return np.where(alive, best, np.nan)


def test_latents_are_found_in_other_seeds_as_numpy_finds_them(out, table, two):
    t = Training(("tied", "untied"), INITS, (1,), L1, seeds=SEEDS, batch_size=16, lr=0.02,
                 n_steps=N_STEPS, curve_points=2)  # fmt: skip
    mcs_seeds = train_site(two / SITE, t, out).mcs_seeds  # all of it is finished
    assert mcs_seeds.keys() == {name for name, _ in cells(table)}
    for name, rows in cells(table):
        arrays = {**Results.load(out).arrays(name), "mcs_seeds": mcs_seeds[name]}
        W = [np.asarray(load_site_sae(out, row=i).W_dec, np.float64) for i in rows.index]
        alive = arrays["firing_freq"] > 0
        for i, (_, row) in enumerate(rows.iterrows()):
            j = i ^ 1  # the other seed of the same coefficient
            wanted = mcs(W[i], W[j], alive[i], alive[j])
            np.testing.assert_allclose(arrays["mcs_seeds"][i], wanted, atol=1e-5)
            assert row["mmcs_seeds"] == pytest.approx(np.nanmean(wanted), abs=1e-5)
            share = (wanted[~np.isnan(wanted)] > 0.9).mean()
            assert row["mcs_seeds_above_0.9"] == pytest.approx(share, abs=0.05)
        ev = arrays["curve_ev"]
        assert ev.shape == (4, len(arrays["curve_steps"])) and arrays["curve_steps"][-1] == N_STEPS
        assert (ev[:2, -1] > ev[:2, 0]).all()
        np.testing.assert_allclose(ev[:, -1], rows["ev"], atol=1e-4)  # the same activations


def test_a_member_that_diverged_is_left_out_of_the_others_scores(two, tmp_path, monkeypatch):
    train_group, made = engine.train_ensemble, []

    def with_one_gone(*args, **given):
        trained = train_group(*args, **given)
        made.append(trained)
        diverged = np.array([[False, True, False, False]])
        return replace(trained, diverged=diverged)

    monkeypatch.setattr(engine, "train_ensemble", with_one_gone)
    t = Training(sizes=(1,), l1_coeff=(0.3,), seeds=4, batch_size=16, lr=0.02, n_steps=N_STEPS,
                 curve_points=2)  # fmt: skip
    trained = train_site(two / SITE, t, tmp_path)
    found = trained.table
    assert found["diverged"].tolist() == [False, True, False, False]
    assert found["mmcs_seeds"].isna().tolist() == found["diverged"].tolist()
    ((name, rows),) = cells(found)
    arrays = {**trained.results.arrays(name), "mcs_seeds": trained.mcs_seeds[name]}
    alive, W = arrays["firing_freq"] > 0, np.asarray(made[0].saes.W_dec[0], np.float64)
    left = [0, 2, 3]
    for i in left:
        others = [mcs(W[i], W[j], alive[i], alive[j]) for j in left if j != i]
        assert rows["mmcs_seeds"][i] == pytest.approx(np.nanmean(others), abs=1e-5)
        following = {0: 2, 2: 3, 3: 0}[i]
        wanted = mcs(W[i], W[following], alive[i], alive[following])
        np.testing.assert_allclose(arrays["mcs_seeds"][i], wanted, atol=1e-5)
    assert np.isnan(arrays["mcs_seeds"][1]).all()


def test_one_that_really_diverges_is_marked_and_harms_no_other(two, table, tmp_path):
    given = [*NUMBERS[: NUMBERS.index("--l1-coeff")], "--l1-coeff", L1[0], 1e38]
    lm("train", two, "--site", SITE, "--out", tmp_path, "--recipes", "untied", *given)
    found = table_of(tmp_path)
    assert found["diverged"].tolist() == [False, False, True, True]
    assert found["mmcs_seeds"].isna().tolist() == [False, False, True, True]
    (_, rows), = [g for g in cells(table) if g[0].startswith("untied-recipe")]  # fmt: skip
    for column in ("fvu", "l0", "mmcs_seeds"):
        np.testing.assert_allclose(found[column][:2], rows[column][:2], rtol=1e-3)
    for row in found.index:
        assert np.isfinite(np.asarray(load_site_sae(tmp_path, row=row).W_dec)).all()


# Where it starts


@pytest.mark.parametrize("init", ["svd-write", "svd-read"])
def test_an_svd_init_lies_along_the_left_singular_vectors(two, tmp_path, init):
    """Of what writes the site, or of what reads it, strongest first, with a little noise."""
    lm("train", two, "--site", SITE, "--out", tmp_path, "--recipes", "untied", "--inits", init,
       *NUMBERS, "--lr", 0)  # fmt: skip
    model = load_model(GOLDEN / "gpt-neox")
    matrix = {"svd-write": writing_matrix, "svd-read": reading_matrix}[init]
    U, s, _ = np.linalg.svd(np.asarray(matrix(model, parse_site(SITE, model.config)), np.float64))
    rank = (s > 1e-5 * s[0]).sum()
    assert rank == {"svd-write": 32, "svd-read": 31}[init]  # LayerNorm takes the mean out
    axes = np.concatenate([U[:, :rank], -U[:, :rank]], 1)[:, :D].T
    for row in pd.read_csv(tmp_path / "table.csv").index:
        W = np.asarray(load_site_sae(tmp_path, row=row).W_dec)
        assert np.abs((W * axes).sum(1)).min() > 0.98
    if rank < D:  # the first axis again, the other way round
        assert W[0] @ W[rank] < -0.97


def test_inits_from_data_see_none_of_what_is_held_out(two, tmp_path):
    lm("train", two, "--site", SITE, "--out", tmp_path, "--recipes", "untied", "--inits",
       "data-samples", *NUMBERS, "--lr", 0)  # fmt: skip
    shards = Shards(two / SITE)
    for row in pd.read_csv(tmp_path / "table.csv").index:
        sae = load_site_sae(tmp_path, row=row)
        best = []
        for sequences in split_off(shards.counts):
            x = np.asarray(shards.read(sequences), np.float32) - np.asarray(sae.mean)
            x /= np.linalg.norm(x, axis=1, keepdims=True)
            best.append((np.asarray(sae.W_dec) @ x.T).max(1))
        trained_on, held = best
        assert trained_on.min() > 0.9  # a sample and a little noise
        assert (trained_on > held + 1e-3).mean() > 0.8  # the others have twins in like surroundings


# Going on


def no_more(*args, **given):
    raise AssertionError("something was trained")


def test_the_same_command_again_trains_nothing(two, out, tmp_path, monkeypatch, capsys):
    dated = {"config.json", MARK, COPY}
    before = {f: f.read_bytes() for f in out.rglob("*") if f.is_file() and f.name not in dated}
    monkeypatch.setattr(engine, "train_ensemble", no_more)
    lm("train", two, *EVERY)
    assert f"24 SAEs in {out / 'table.csv'}" in capsys.readouterr().out.replace("\n", "")
    assert len(before) > 24 and {f: f.read_bytes() for f in before} == before
    other = shutil.copytree(out, tmp_path / "other")
    with pytest.raises(AssertionError, match="something was trained"):
        lm("train", two, *EVERY, "--data-seed", 1, "--out", other)
    assert "is not finished" in refused(capsys, "eval", other)  # its table was of another training


UNTIED = ["--site", SITE, "--recipes", "untied", *NUMBERS]


def test_trained_alone_it_has_the_same_bits(two, out, tmp_path):
    lm("train", two, *UNTIED, "--out", tmp_path)
    same_groups(tmp_path, out)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_stopped_by_a_signal_it_goes_on_to_the_same_bits(
    two, out, tmp_path, monkeypatch, capsys, heard, n
):
    """A real one, at the n-th chunk; the last follows the last step."""
    update, seen = engine.Progress.update, []

    def interrupted(progress, part, done):
        seen.append(done)
        if len(seen) == n:
            os.kill(os.getpid(), signal.SIGTERM)
            heard()
        update(progress, part, done)

    with monkeypatch.context() as patch:
        patch.setattr(engine.Progress, "update", interrupted)
        with pytest.raises(SystemExit) as stop:
            lm("train", two, *UNTIED, "--out", tmp_path)
    assert stop.value.code == 128 + signal.SIGTERM and len(seen) == n
    step = seen[-1] // (4 * 16)
    said = capsys.readouterr().err
    assert (
        f"is at step {step} of 60; all of it is kept in {tmp_path}. Go on with: toysae lm" in said
    )
    assert not (tmp_path / "table.csv").exists()
    assert "is not finished: run the same" in refused(capsys, "eval", tmp_path)
    seen.clear()
    with monkeypatch.context() as patch:
        patch.setattr(engine.Progress, "update", lambda progress, part, done: seen.append(done))
        lm("train", two, *UNTIED, "--out", tmp_path)
    assert f"goes on at step {step} of 60" in capsys.readouterr().err
    assert all(done > step * 4 * 16 for done in seen)
    same_groups(tmp_path, out)
    assert not list(tmp_path.glob("checkpoints/*"))


def test_checkpoints_are_written_as_often_as_asked(two, out, tmp_path, monkeypatch):
    saved = []
    save = engine.Checkpoints.save
    monkeypatch.setattr(
        engine.Checkpoints, "save", lambda self, s: (saved.append(s.step), save(self, s))
    )
    site = two / SITE
    t = Training(
        sizes=(1,), seeds=2, n_steps=60, lr=0.02, batch_size=16, l1_coeff=L1, curve_points=2
    )
    train_site(site, t, tmp_path, options=Options(quiet=True, checkpoint_seconds=0))
    assert saved[:3] == [0, 1, 9] and saved[-1] == 60  # chunks grow eightfold at most
    same_groups(tmp_path, out)


def test_running_the_model_anew_trains_to_the_bits_of_the_shards(one, text, tmp_path):
    live = captured(text, tmp_path / "live", live=["--live"])
    assert read_manifest(live / SITE).live and not list((live / SITE).glob("*.safetensors"))
    for folder in (one, live):
        lm("train", folder, *UNTIED, "--out", tmp_path / folder.parent.name)
    same_groups(tmp_path / live.parent.name, tmp_path / one.parent.name)


def test_whatever_decides_the_numbers_decides_the_folder(two):
    t = Training(l1_coeff=(0.1,), sizes=(1,))
    data = module.prepare_site(two / SITE, t)
    others = {
        "recipes": ("tied",), "inits": ("svd-write",), "sizes": (2,), "l1_coeff": (0.2,),
        "seeds": 2, "n_steps": 9, "batch_size": 9, "lr": 0.1, "lr_warmup": 0.1, "lr_decay": 0.1,
        "centre": False, "scale": "none", "data_seed": 1, "buffer_rows": 9, "n_held_out": 9,
        "curve_points": 9, "arithmetic": "bfloat16",
    }  # fmt: skip

    def key(data, t):
        return str(site_cells(data, t)[0].keys[0, -1])

    keys = [key(data, replace(t, **{k: v})) for k, v in others.items()]
    keys += [key(data, each) for each in (t, replace(t, inits=("svd-read",)))]
    for field in ("weights", "corpus", "site"):
        manifest = replace(data.manifest, **{field: "other"})
        keys.append(key(replace(data, manifest=manifest), t))
    assert len(set(keys)) == len(keys)
    assert key(data, replace(t, k=(3.0,))) == keys[len(others)]  # nobody reads it
    # Another seed leaves the keys of those that there are.
    assert site_cells(data, replace(t, seeds=2))[0].keys[0, 0] == keys[len(others)]


def test_sizes_and_coefficients_given_twice_train_once(two):
    t = Training(recipes=("tied", "tied"), sizes=(1, 1.0, 1.001), l1_coeff=(0.1, 0.3, 0.1), seeds=2)
    (cell,) = site_cells(module.prepare_site(two / SITE, t), t)
    assert cell.spec.d_sae == D and [m["l1_coeff"] for m in cell.members] == [0.1, 0.3]


# Evaluations and exports


def test_eval_prints_the_arms_and_writes_them(out, table, tmp_path, capsys):
    file = tmp_path / "ce.csv"
    lm("eval", out, "--rows", 12, 14, "--ranks", 4, "--n-sequences", 8, "--out", file)
    printed = capsys.readouterr().out
    assert "clean" in printed and "pca-4" in printed
    found = pd.read_csv(file).set_index("arm")
    ours = [f"untied-recipe-32 l1_{l1:g}-seed0" for l1 in L1]
    assert list(found.index)[-2:] == ours and found.index[0] == "clean"
    for arm, row in zip(ours, (12, 14), strict=True):
        assert found["fvu"][arm] == pytest.approx(table["fvu"][row], rel=0.4)


def test_eval_shows_how_far_it_is_unless_it_is_to_be_quiet(out, capsys):
    few = ["--rows", 12, "--ranks", 4, "--n-sequences", 8]
    capsys.readouterr()
    lm("eval", out, *few, "--quiet")
    assert "tokens" not in capsys.readouterr().err
    lm("eval", out, *few)
    assert re.search(r"([1-9]\d*) of \1 tokens", capsys.readouterr().err)


def test_an_exported_sae_does_the_same_to_the_model(out, table, two, tmp_path, capsys):
    """In another library's format it does not say what it was trained on."""
    folder = tmp_path / "sae"
    row = 12
    main(["export", str(out), str(folder), "--row", str(row)])
    sae, again = load_site_sae(out, row=row), from_saelens(folder)
    x = jnp.asarray(held_out(two / SITE))
    np.testing.assert_allclose(again.encode(x), sae.encode(x), atol=1e-4)
    files = [tmp_path / "a.csv", tmp_path / "b.csv"]
    few = ["--n-sequences", 8, "--ranks", 4]
    lm("eval", out, "--rows", row, *few, "--out", files[0])
    lm("eval", folder, "--capture", two, *few, "--out", files[1])
    one, other = (pd.read_csv(file).set_index("arm") for file in files)
    np.testing.assert_allclose(other.loc["sae", "ce"], one["ce"].iloc[-1], atol=1e-5)
    np.testing.assert_allclose(other["ce"]["zero"], one["ce"]["zero"], atol=1e-5)
    capsys.readouterr()
    assert "give --capture" in refused(capsys, "eval", folder)
    said = refused(capsys, "eval", folder, "--capture", two / OTHER)
    assert f"is one site, and not {SITE}" in said


def test_what_cannot_be_evaluated_is_refused(out, two, tmp_path, capsys):
    assert "row 24 is outside 0..23" in refused(capsys, "eval", out, "--rows", 24)
    assert "n_sequences 0 must be" in refused(capsys, "eval", out, "--n-sequences", 0)
    other = GOLDEN / "gpt-neox-sequential"
    said = refused(capsys, "eval", out, "--rows", 0, "--model", other)
    assert f"{other} is not the model that {two / SITE} was captured from" in said
    foreign = Path(shutil.copytree(GOLDEN.parents[1] / "golden/saelens/standard", tmp_path / "sae"))
    said = refused(capsys, "eval", foreign, "--capture", two, "--site", SITE)
    assert f"SAE sae is of {SITE} with d_in 6, the capture of {SITE} with 32" in said


def test_a_capture_in_bfloat16_is_run_in_it(text, tmp_path):
    acts = captured(text, tmp_path / "acts", live=["--live", "--arithmetic", "bfloat16"])
    source = open_site(acts / SITE)
    assert source.model.weights["W_E"].dtype == jnp.bfloat16
    assert np.isfinite(np.asarray(source.read(np.arange(2)), np.float32)).all()


# Refusals


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (["--recipes", "untied"], "recipe 'untied' needs --l1-coeff"),
        (["--recipes", "topk"], "recipe 'topk' needs --k"),
        (["--recipes", "untied-to-l0", "--l1-coeff", "1"], "'untied-to-l0' needs --l0-target"),
        (
            ["--recipes", "untide", "--l1-coeff", "1"],
            "unknown recipe 'untide': did you mean 'untied'",
        ),
        (["--l1-coeff", "1", "--inits", "truth"], "init 'truth': nobody knows the true features"),
        (["--l1-coeff", "1", "--inits", "svd-wirte"], "'svd-wirte': did you mean 'svd-write'"),
        (["--l1-coeff", "1", "--inits", "svd"], "unknown init 'svd'"),
        (["--l1-coeff", "1", "--sizes", "0"], "size 0 gives 0 latents: give a larger one"),
        (["--l1-coeff", "1", "--seeds", "0"], "seeds 0 must be at least 1"),
        (["--l1-coeff", "1", "--n-steps", "0"], "n_steps 0 must be at least 1"),
        (["--l1-coeff", "1", "--batch-size", "-2"], "batch_size -2 must be at least 1"),
        (["--l1-coeff", "1", "--scale", "rsm"], "unknown scale 'rsm': did you mean 'rms'"),
        (["--l1-coeff", "-1"], "l1_coeff"),
        (["--recipes", "topk", "--k", "64", "--sizes", "1"], "k 64"),
        (["--l1-coeff", "1", "--site", "blocks.1.hook_resid_pots"], f"did you mean '{SITE}'"),
        (["--l1-coeff", "1", "--seed", "3"], "unknown option '--seed': did you mean --seeds"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(two, tmp_path, capsys, changes, words):
    site = [] if "--site" in changes else ["--site", SITE]
    assert words in refused(capsys, "train", two, *site, "--out", tmp_path / "out", *changes)
    assert not (tmp_path / "out").exists()


def test_captures_that_cannot_be_trained_on_are_refused(two, text, tmp_path, capsys):
    given = ["--l1-coeff", "1", "--out", tmp_path / "out"]
    said = refused(capsys, "train", two, *given)
    assert f"holds {SITE}, {OTHER}: name one with --site" in said
    assert "holds no captured site" in refused(capsys, "train", tmp_path, *given)
    half = shutil.copytree(two, tmp_path / "half") / SITE
    manifest = read_manifest(half)
    write_manifest(half, replace(manifest, shards=()))
    said = refused(capsys, "train", half, *given)
    assert f"holds 0 of {manifest.rows:,} activations: run the same `toysae lm capture`" in said
    write_manifest(half, manifest)
    (half / "matrices.npz").write_bytes(b"PK")
    said = refused(capsys, "train", half, *given, "--inits", "svd-write")
    assert "matrices.npz is missing or damaged" in said
    assert not (tmp_path / "out").exists()


def test_a_live_capture_of_a_model_or_text_that_has_changed_is_refused(text, tmp_path, capsys):
    model = Path(shutil.copytree(GOLDEN / "gpt-neox", tmp_path / "model"))
    acts = captured(text, tmp_path / "acts", model=model, live=["--live"])
    given = [acts, "--l1-coeff", "1", "--out", tmp_path / "out"]
    weights = load_file(model / "model.safetensors")
    name = max(weights)
    save_file({**weights, name: weights[name] * 1.01}, model / "model.safetensors")
    said = refused(capsys, "train", *given)
    assert f"{model} is not the model that {acts / SITE} was captured from" in said
    save_file(weights, model / "model.safetensors")
    corpus = acts / "corpus" / "corpus.json"
    about = json.loads(corpus.read_text())
    corpus.write_text(json.dumps({**about, "sha256": "0" * 64}))
    assert "is not that of the capture (corpus differ)" in refused(capsys, "train", *given)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "n"),
    [
        ("", None), ("7", 7), ("500k", 500_000), ("10M", 10_000_000), ("1.5m", 1_500_000),
        ("2B", 2 * 10**9), ("1,000,000", 10**6), ("1_000", 1000), ("0.5K", 500),
    ],
)  # fmt: skip
def test_numbers_of_tokens_are_read(text, n):
    assert count(text) == n


@pytest.mark.parametrize("text", ["ten", "10MB", "-5", "1e6", "M", "1.2.3", "10 M", "0", "0.1"])
def test_what_is_no_number_of_tokens_is_refused(text):
    with pytest.raises(ToysaeError, match=r"is not a number such as 500k, 10M|must be at least 1"):
        count(text)
