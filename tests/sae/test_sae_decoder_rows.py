"""Meta-SAEs: an SAE's decoder rows as a world, and the parts that an SAE of them finds."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError, train
from toysae.evaluation.score import score_sae
from toysae.recovery import cosines, mcc
from toysae.sae import SAE, Weights, decoder_rows, make_spec
from toysae.sae.decoders import UnitNorm
from toysae.worlds import assemble, load_world, sample, save_world
from toysae.worlds.dictionaries import sphere
from toysae.worlds.exactly_k import ExactlyKEqual

D, N = 16, 12
QUIET = {"batch_size": 64, "n_eval": 1024, "curve_points": 2, "quiet": True}
ATOMS = np.asarray(sphere(jax.random.key(1), N, D))
SUMS = np.stack([ATOMS[i] + ATOMS[j] for i, j in itertools.combinations(range(N), 2)])


def sae_of(rows) -> SAE:
    rows = jnp.asarray(rows, jnp.float32)
    spec = make_spec("untied", rows.shape[-1], rows.shape[-2])
    return SAE(Weights(rows, None, {}), {}, {}, spec)


def unbiased(recipe, d_in, d_sae, init=None):
    """Each row is a sum of exactly two atoms: any vector could be added to all atoms and, twice,
    taken off a decoder bias."""
    return make_spec(recipe, d_in, d_sae, init, decoder=UnitNorm("none"))


def test_samples_are_the_living_rows_equally_often():
    rows = np.random.default_rng(0).normal(size=(7, 5)) * np.arange(1, 8)[:, None]
    rows[2] = 0
    freq = np.array([0.1, 0.2, 0.3, 0.0, 1e-9, 0.5, 1.0])
    world = decoder_rows(sae_of(rows), latent_freq=freq)
    living = rows[[0, 1, 4, 5, 6]]
    living = living / np.linalg.norm(living, axis=1, keepdims=True)
    np.testing.assert_allclose(world.directions, living, atol=1e-6)
    np.testing.assert_array_equal(world.target, world.directions)
    n = 20_000
    batch = sample(world, jax.random.key(0), n)
    which = np.asarray(batch.indices[:, 0])
    np.testing.assert_allclose(batch.x, living[which], atol=1e-6)
    np.testing.assert_array_equal(batch.feature_acts, np.eye(5)[which])
    share = np.bincount(which, minlength=5) / n  # sd .0028
    np.testing.assert_allclose(share, 0.2, atol=0.015)


@pytest.mark.slow
def test_a_meta_sae_recovers_the_atoms_of_summed_rows():
    world = decoder_rows(sae_of(SUMS), ATOMS)
    spec = unbiased("untied", D, N)
    result = train(world, spec, n_steps=1500, l1_coeff=0.1, lr=1e-2, lr_decay=0.3,
                   sae_seeds=range(6), **QUIET)  # fmt: skip
    table = result.table
    assert (table["mcc"] > 0.95).sum() >= 5 and table["l0"].median() < 2.5
    # The scores are those against the atoms, not against the rows that fire.
    assert (table["n_features"] == N).all() and result.arrays["mcs"].shape == (6, N)
    for row in range(6):
        W = np.asarray(result.sae(row).W_dec, np.float64)
        expected = mcc(cosines(jnp.asarray(ATOMS), jnp.asarray(W, jnp.float32)))
        assert table["mcc"][row] == pytest.approx(expected, abs=1e-6)
    assert (table["true_l0"] == 1).all() and result.arrays["feature_freq"].shape == (6, 66)
    scored = score_sae(result.sae(0), world, 2048).table
    assert scored["n_features"][0] == N
    assert scored["mcc"][0] == pytest.approx(table["mcc"][0], abs=1e-6)


def test_by_name_and_without_a_truth():
    result = train(decoder_rows(sae_of(SUMS)), "batchtopk", d_sae=20, k=2, n_steps=5, **QUIET)
    assert result.arrays["mcs"].shape == (1, 66) and result.table["n_features"][0] == 66
    assert not result.table["diverged"][0]


@pytest.mark.slow
def test_latents_that_had_to_compose_are_taken_apart():
    """Two features fire in each sample and one latent may: it stands for both. A meta-SAE of
    those latents has the features back."""
    truth = sphere(jax.random.key(5), 8, 12)
    world = assemble(truth, ExactlyKEqual(8, 2), "constant")
    spec = unbiased("topk", 12, 40, "data-samples")
    composed = train(world, spec, n_steps=1500, k=1, lr=3e-3, **QUIET)
    assert composed.table["mmcs"][0] < 0.9
    rows = decoder_rows(composed.sae(0), world.directions, composed.arrays["latent_freq"][0])
    assert 8 < rows.n_features < 40
    meta = train(rows, unbiased("untied", 12, 8), n_steps=1500, l1_coeff=0.1, lr=1e-2,
                 lr_decay=0.3, sae_seeds=range(4), **QUIET)  # fmt: skip
    assert (meta.table["mcc"] > 0.99).sum() >= 3


def test_the_truth_is_kept_in_a_world_file(tmp_path):
    world = decoder_rows(sae_of(SUMS), 3 * ATOMS)
    np.testing.assert_allclose(world.target, ATOMS, atol=1e-6)
    again = load_world(save_world(world, tmp_path / "rows"))
    np.testing.assert_array_equal(again.target, world.target)
    key = jax.random.key(2)
    np.testing.assert_array_equal(sample(again, key, 9).x, sample(world, key, 9).x)
    wrong = save_world(world.replace(truth=world.target[:, :3]), tmp_path / "wrong")
    with pytest.raises(ToysaeError, match="truth .*does not fit"):
        load_world(wrong)


@pytest.mark.parametrize(
    ("rows", "given", "message"),
    [
        (np.ones((2, 3, 4)), {}, r"W_dec has shape \[2, 3, 4\]: give one SAE.*sae\(0\)"),
        (np.full((3, 4), np.nan), {}, "W_dec is not finite"),
        (np.zeros((3, 4)), {}, "none of the 3 latents is alive"),
        (np.ones((3, 4)), {"latent_freq": np.zeros(3)}, "none of the 3 latents is alive"),
        (np.ones((3, 4)), {"latent_freq": np.ones(4)}, r"latent_freq of shape \[4\] .*\[3\]"),
        (np.ones((3, 4)), {"truth": np.ones((5, 3))}, r"truth of shape \[5, 3\] .*d_in = 4"),
        (np.ones((3, 4)), {"truth": np.zeros((5, 4))}, "truth has rows that are zero"),
        (np.ones((3, 4)), {"truth": np.full((1, 4), np.inf)}, "truth has rows.*not finite"),
    ],
)
def test_bad_input_is_refused(rows, given, message):
    with pytest.raises(ToysaeError, match=message) as caught:
        decoder_rows(sae_of(rows), **given)
    assert "\n" not in str(caught.value)
