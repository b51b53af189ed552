"""Latents beside coordinates, against NumPy on all tokens at once; and the commands."""

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from toysae import ToysaeError
from toysae.lm.effects.neurons import neurons
from toysae.recovery.geometry import basis_alignment, random_basis_alignment

SITE = "blocks.0.hook_resid_post"
D, ALL = 6, np.arange(30)


@pytest.fixture(scope="module")
def source(hand):
    """Coordinates of several sizes, with large means."""
    rng = np.random.default_rng(0)
    mixed = np.diag([1, 2, 3, 1, 0.5, 2]) + 0.2 * rng.normal(size=(D, D))
    return hand.Acts([rng.normal(size=(n, D)) @ mixed + 50 for n in rng.integers(3, 9, len(ALL))])


def test_correlations_are_those_of_all_tokens_at_once(hand, source):
    rows = np.random.default_rng(1).normal(size=(8, D))
    sae = hand.made(rows, SITE, mean=50.0, bias=0.3)
    found = neurons(sae, source, ALL, [4, 1, 7], batch_size=7)
    x = source.read(ALL).astype(np.float64)
    z = hand.encoded(sae, x)[:, [4, 1, 7]]
    both = np.abs(np.corrcoef(z.T, x.T)[:3, 3:])
    np.testing.assert_allclose(found.table["neuron_corr"], both.max(1), atol=1e-4)
    np.testing.assert_array_equal(found.table["neuron"], both.argmax(1))
    axes = np.linalg.eigh(np.cov(x.T))[1]
    along = np.abs(np.corrcoef(z.T, (x @ axes).T)[:3, 3:])
    np.testing.assert_allclose(found.table["pca_corr"], along.max(1), atol=1e-4)
    units = np.abs(rows / np.linalg.norm(rows, axis=1, keepdims=True))[[4, 1, 7]]
    np.testing.assert_allclose(found.table["axis_cos"], units.max(1), rtol=1e-5)
    np.testing.assert_array_equal(found.table["axis"], units.argmax(1))
    np.testing.assert_allclose(np.sort(found.pca_axis_cos), np.sort(np.abs(axes).max(0)), atol=1e-3)
    assert found.n_tokens == len(x)


def test_latents_that_are_neurons_stand_out_and_a_rotation_hides_them(hand, source):
    sae = hand.made(np.eye(D), SITE, mean=50.0, bias=90.0)
    found = neurons(sae, source, ALL)
    np.testing.assert_allclose(found.table[["axis_cos", "neuron_corr"]], 1, atol=1e-4)
    np.testing.assert_array_equal(found.table["neuron"], np.arange(D))
    assert found.table["rotated_corr"].max() < 0.99
    said = found.summary()
    assert said["axis_cos"] == pytest.approx(1) and said["random_axis_cos"] < 0.9


def test_a_latent_that_never_fires_has_no_correlation(hand, source):
    sae = hand.made(np.eye(D)[:2], SITE, mean=50.0, bias=-1e6)
    table = neurons(sae, source, ALL).table
    assert table[["neuron_corr", "rotated_corr", "pca_corr"]].isna().all(axis=None)
    assert (table["axis_cos"] == 1).all()


def test_latents_that_an_sae_does_not_have_are_refused(hand, source):
    with pytest.raises(ToysaeError, match="latent 6"):
        neurons(hand.made(np.eye(D), SITE), source, ALL, [6])


@pytest.mark.parametrize("d", [2, 6, 512])
def test_the_expected_alignment_of_random_directions_is_that_of_a_sample(d):
    rows = np.random.default_rng(0).normal(size=(4000, d))
    sample = np.asarray(basis_alignment(jnp.asarray(rows, jnp.float32)))
    half_width = 4 * float(sample.std()) / len(sample) ** 0.5
    assert random_basis_alignment(d) == pytest.approx(float(sample.mean()), abs=half_width)
    assert random_basis_alignment(1) == pytest.approx(1, abs=1e-6)


@pytest.fixture(scope="module")
def captured(hand, tmp_path_factory):
    from toysae.cli import main
    from toysae.lm.saes.site_sae import save_site_sae

    folder = tmp_path_factory.mktemp("effects")
    (folder / "text.txt").write_text("the cat sat on the mat, and it came and went\n" * 60)
    main(["lm", "capture", str(hand.GOLDEN / "gpt2"), "--site", SITE, "--text",
          str(folder / "text.txt"), "--tokens", "600", "--n-ctx", "16", "--out",
          str(folder / "cap"), "--quiet"])  # fmt: skip
    save_site_sae(hand.drawn(32, SITE), folder / "sae")
    return folder


def lm(captured, command, *args):
    from toysae.cli import main

    main(["lm", command, str(captured / "sae"), *args, "--capture", str(captured / "cap")])


def test_the_steer_command_shows_the_moved_tokens(captured, capsys):
    out = captured / "steer.csv"
    lm(captured, "steer", "--latent", "2", "--pin", "5", "--n-sequences", "3", "--out", str(out))
    said = capsys.readouterr().out
    assert "latent 2 pinned to 5" in said and "KL" in said
    table = pd.read_csv(out)
    assert list(table.columns[:2]) == ["sae", "up"] and len(table) == 10
    assert table["up_delta_log_p"].is_monotonic_decreasing


def test_the_patch_command_shows_both_curves(captured, capsys):
    out = captured / "patch.csv"
    lm(captured, "patch", "--pairs", "3", "--names", "the", "of", "is", "--out", str(out))
    assert "recovered" in capsys.readouterr().out
    table = pd.read_csv(out)
    assert set(table["arm"]) == {"clean", "latents", "axes", "error", "activation"}


def test_the_neurons_command_shows_the_medians(captured, capsys):
    out = captured / "neurons.csv"
    lm(captured, "neurons", "--n-tokens", "all", "--n", "3", "--out", str(out))
    said = capsys.readouterr().out
    assert "random_axis_cos" in said and "nearest to neurons" in said
    assert len(pd.read_csv(out)) == 12


def test_the_downstream_command_shows_the_largest_changes(captured, hand, capsys):
    from toysae.lm.saes.site_sae import save_site_sae

    later = hand.drawn(32, "blocks.2.hook_resid_post", seed=1)
    save_site_sae(later, captured / "later")
    out = captured / "downstream.csv"
    lm(captured, "downstream", str(captured / "later"), "--latents", "0", "2", "--n-sequences",
       "3", "--n", "4", "--out", str(out))  # fmt: skip
    assert "of 2 latents move nothing there" in capsys.readouterr().out
    table = pd.read_csv(out)
    assert len(table) == 4 and set(table["latent"]) <= {0, 2}
    assert table["change"].abs().is_monotonic_decreasing


@pytest.mark.parametrize(
    ("command", "args", "message"),
    [
        ("downstream", ["--latents", "2"], "name a later site's run, or the folder of an SAE"),
        ("downstream", ["nowhere", "--latents", "2"], "nowhere"),
        ("neurons", ["--n-tokens", "few"], "few"),
        ("steer", ["--latent", "2", "--pin", "5", "--times", "1"], "exclude each other"),
        ("steer", ["--latent", "99"], "latent 99 is outside"),
        ("steer", ["--latent", "2", "--n-sequences", "0"], "n_sequences"),
        ("patch", ["--pairs", "0"], "n 0 must be"),
        ("patch", [], "0 of the 24 names"),
        ("patch", ["--pear", "3"], "did you mean --pairs"),
    ],
)
def test_the_commands_refuse_bad_input(captured, capsys, command, args, message):
    with pytest.raises(SystemExit) as stopped:
        lm(captured, command, *args)
    assert stopped.value.code == 2
    said = capsys.readouterr()
    assert message in " ".join((said.out + said.err).split())
