"""The experiments on language models, every part of them, on tiny models and a text at hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from toysae.cli import main
from toysae.lm.capture import sample
from toysae.lm.saes.site_sae import load_site_sae

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests" / "lm" / "golden"
PYTHIA = str(ROOT / "experiments" / "lm_pythia")
INITS = str(ROOT / "experiments" / "lm_inits")


@pytest.fixture(scope="module")
def ran(tmp_path_factory):
    """The published recipe on a tiny model of Pythia's family, reading this package."""
    folder = tmp_path_factory.mktemp("pythia")
    text = folder / "text.txt"
    sources = sorted((ROOT / "toysae").rglob("*.py"))[:40]
    text.write_text("\n".join(file.read_text(encoding="utf-8") for file in sources))
    out = folder / "out"
    main(["run", PYTHIA, "--models", str(GOLDEN / "gpt-neox"), "--layers", "1", "--text", str(text),
          "--n-tokens", "4000", "--n-ctx", "32", "--n-steps", "60", "--batch-size", "64", "--seeds",
          "2", "--sizes", "0.5", "1", "--resid-l1-coeff", "0.01", "0.03", "--mlp-l1-coeff", "0.01",
          "--n-sequences", "6", "--out", str(out)])  # fmt: skip
    return out


@pytest.mark.slow
def test_the_recipe_is_the_published_one(ran):
    table = pd.read_csv(ran / "table.csv")
    resid, mlp = (table[table["site"].str.contains(word)] for word in ("resid", "mlp"))
    assert len(resid) == 2 * 2 * 2 and len(mlp) == 2 * 2
    assert set(table["recipe"]) == {"cunningham-2023"} and set(table["lr"]) == {1e-3}
    # The paper's code averages the error over dimensions.
    np.testing.assert_allclose(sorted(set(resid["l1_coeff"])), [0.01 * 32, 0.03 * 32], rtol=1e-6)
    np.testing.assert_allclose(sorted(set(mlp["l1_coeff"])), [0.01 * 64], rtol=1e-6)
    assert set(table["model"]) == {str(GOLDEN / "gpt-neox")}
    sae = load_site_sae(ran, row=int(resid.index[0]))
    assert not np.asarray(sae.mean).any() and float(sae.scale) == 1  # activations as they are


@pytest.mark.slow
def test_dictionaries_are_sought_in_the_next_larger_one(ran):
    table = pd.read_csv(ran / "saes.csv")
    small = table[table["d_sae"] == 16]
    assert small["mmcs_larger"].notna().all()
    assert (
        table[table["d_sae"] == table.groupby("site")["d_sae"].transform("max")]["mmcs_larger"]
        .isna()
        .all()
    )
    row = small.iloc[0]
    alike = (table["site"] == row["site"]) & (table["l1_coeff"] == row["l1_coeff"])
    alike &= (table["sae_seed"] != row["sae_seed"]) & (table["d_sae"] == 32)
    here, there = (
        np.asarray(load_site_sae(ran, row=int(at)).W_dec, np.float64)
        for at in (small.index[0], table[alike].index.item())
    )
    unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (here, there)]
    assert row["dead_fraction"] == 0 and table[alike]["dead_fraction"].item() == 0
    assert row["mmcs_larger"] == pytest.approx((unit[0] @ unit[1].T).max(1).mean(), abs=1e-5)


@pytest.mark.slow
def test_figures_and_their_numbers_are_there(ran):
    for name in ("mcs_across_seeds", "cross_entropy"):
        assert (ran / "figures" / f"{name}.png").stat().st_size > 10_000
    losses = pd.read_csv(ran / "figures" / "cross_entropy.csv")
    clean = losses[losses["arm"] == "clean"]
    assert len(clean) == 2 and clean["ce"].nunique() == 1  # the same model and text at both sites


@pytest.fixture(scope="module")
def inits(tmp_path_factory):
    """Three inits, two of them no draw, on a tiny model reading this package."""
    folder = tmp_path_factory.mktemp("inits")
    text = folder / "text.txt"
    text.write_text((ROOT / "toysae" / "lm" / "saes" / "train.py").read_text(encoding="utf-8") * 3)
    main(["run", INITS, "--model", str(GOLDEN / "gpt-neox"),
          "--text", str(text), "--layer", "1", "--n-tokens", "3000", "--n-ctx", "32", "--inits",
          "random", "svd-write", "svd-read", "--n-steps", "20", "--batch-size", "64", "--seeds",
          "3", "--curve-points", "3", "--size", "1", "--n-sequences", "4", "--out",
          str(folder / "out")])  # fmt: skip
    return folder / "out"


@pytest.mark.slow
def test_what_inits_share_is_the_mmcs_of_unlike_seeds(inits):
    shared = pd.read_csv(inits / "shared.csv")
    assert len(shared) == 9 * 6 and (shared["sae_seed"] != shared["other_seed"]).all()
    table = pd.read_csv(inits / "saes.csv").reset_index(names="row")
    table = table.set_index(["init", "sae_seed"])
    assert (table["dead_fraction"] == 0).all()
    W, V = (
        np.asarray(load_site_sae(inits, row=int(table.loc[where, "row"])).W_dec, np.float64)
        for where in (("svd-read", 2), ("random", 0))
    )
    W, V = (rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in (W, V))
    row = shared.query("init == 'svd-read' and sae_seed == 2")
    row = row.query("other_init == 'random' and other_seed == 0")
    assert row["mmcs"].item() == pytest.approx((W @ V.T).max(1).mean(), abs=1e-5)
    own = shared[shared["init"] == shared["other_init"]].groupby(["init", "sae_seed"])["mmcs"]
    for where, value in own.mean().items():
        assert value == pytest.approx(table.loc[where, "mmcs_seeds"], abs=1e-5)


@pytest.mark.slow
def test_the_curves_of_inits_end_where_the_scores_are(inits):
    frame = pd.read_csv(inits / "figures" / "inits.csv")
    table = pd.read_csv(inits / "table.csv")
    last = frame[frame["step"] == 20].set_index("init")
    assert set(frame["step"].dropna()) >= {0, 20} and (last["n"] == 3).all()
    for init, rows in table.groupby("init"):
        assert last.loc[init, "fvu"] == pytest.approx(rows["fvu"].mean(), rel=0.1)
    assert len(frame[frame["other_init"].notna()]) == 9


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    """The study of the downloaded sample, on a tiny model reading this package."""
    folder = tmp_path_factory.mktemp("smollm")
    text = folder / "text.txt"
    text.write_text((ROOT / "toysae" / "lm" / "saes" / "train.py").read_text(encoding="utf-8") * 3)
    found = {"is_there": True, "model_path": GOLDEN / "gpt-neox", "text_path": text,
             "about_text": "this package (MIT)"}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        for name, value in found.items():
            patch.setattr(sample, name, lambda value=value: value)
        main(["run", str(ROOT / "experiments" / "lm_smollm"), "--smoke", "--layer", "1",
              "--n-tokens", "3000", "--resid-size", "1", "--twin-ratios", "1", "--twin-seeds", "2",
              "--out", str(folder / "out"), "--quiet"])  # fmt: skip
    return folder / "out"


@pytest.mark.slow
def test_sites_and_the_twin_are_one_run(smollm):
    table = pd.read_csv(smollm / "table.csv")
    sites = ["blocks.1.hook_resid_post", "blocks.1.mlp.hook_post"]
    kinds = table.groupby(["site", "recipe", "init"]).size()
    assert len(table) == 2 * 2 * 2 * 2 + 2 * 2 and (kinds == 2).all()  # seeds, or worlds
    twins = table[table["site"] == "twin"]
    assert twins["world_seed"].tolist() == [0, 1] * 2 and set(twins["recipe"]) == {"tied", "untied"}
    assert twins["mmcs"].between(0, 1).all() and table["diverged"].sum() == 0
    recovered = pd.read_csv(smollm / "twin_recovery.csv")
    np.testing.assert_allclose(recovered["mmcs"], twins["mmcs"])
    losses = pd.read_csv(smollm / "cross_entropy.csv")
    assert losses["site"].unique().tolist() == sites
    named = losses["arm"].str.match(r"(tied|untied)-(random|svd-write)-\d+ l1_[\d.]+-seed[01]$")
    assert named.sum() == 16
    saes = pd.read_csv(smollm / "saes.csv")
    assert len(saes) == 16 and saes["mmcs_seeds"].notna().all()
    twin = pd.read_csv(smollm / "twin.csv")
    assert twin["n_features"].item() == 32 and len(pd.read_csv(smollm / "twin_statistics.csv"))


@pytest.mark.slow
def test_the_card_and_the_page_are_of_the_best_sae_of_the_residual_stream(smollm):
    table = pd.read_csv(smollm / "table.csv")
    best = table[table["site"] == "blocks.1.hook_resid_post"].nsmallest(1, "fvu").iloc[0]
    figures = smollm / "figures"
    for name in ("mcs_across_seeds", "cross_entropy", "card-blocks.1.hook_resid_post"):
        assert (figures / f"{name}.png").stat().st_size > 10_000
        assert len(pd.read_csv(figures / f"{name}.csv"))
    card = pd.read_csv(smollm / "card.csv").set_index("what")
    assert card.columns.tolist() == ["blocks.1.hook_resid_post", "sphere"]
    assert card.loc["features"].iloc[0].startswith(f"{best['d_sae']} (")
    page, latents = (figures / "latents.html").read_text(), pd.read_csv(figures / "latents.csv")
    assert f"{best['cell']} l1_" in page and 1 <= len(latents) <= 4
    assert latents["firing_freq"].between(0, 1).all()


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--layers", "1", "2"], "2 layers for 1 models"),
        (["--layers", "9"], "layers 0 to 2"),
        (["--n-steps", "0"], "n_steps 0"),
    ],
)
def test_bad_options_are_one_line(args, words, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text("some text " * 2000)
    with pytest.raises(SystemExit):
        main(["run", PYTHIA, "--models", str(GOLDEN / "gpt-neox"), "--layers", "1", "--text",
              str(text), "--n-tokens", "500", "--n-ctx", "32", "--out", str(tmp_path / "out"),
              *args])  # fmt: skip
    assert words in capsys.readouterr().err
