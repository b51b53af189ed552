"""Values at the door, and what training says of itself: each a fault that once passed unseen."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError, make_world, train
from toysae.worlds import sample
from toysae.worlds.magnitudes import MAGNITUDES

# A member is judged by its own scale


@pytest.mark.parametrize("seed", range(4))
def test_a_batch_without_firings_makes_no_healthy_sae_diverge(seed):
    """l0 1 and eight samples: one batch in three thousand is empty, and its loss is no scale."""
    world = make_world("sphere", seed, d_in=16, n_features=32, l0=1.0)
    result = train(world, "topk", k=1, batch_size=8, n_steps=2000, n_eval=1024, quiet=True)
    assert not result.table["diverged"].any()


def test_a_loss_that_is_not_finite_still_stops_a_member():
    world = make_world("sphere", 0, d_in=8, n_features=8)
    result = train(world, "untied", l1_coeff=[0.05, 1e30], lr=1e-2, n_steps=50, batch_size=32,
                   n_eval=256, quiet=True)  # fmt: skip
    assert result.table["diverged"].tolist() == [False, True]


# What is minimised is what is logged


def test_the_loss_of_fista_is_what_its_codes_minimise():
    world = make_world("sphere", 0, d_in=8, n_features=8, l0=2.0)
    table = train(world, "fista", l1_coeff=0.2, n_steps=20, batch_size=64, n_eval=4096,
                  quiet=True)  # fmt: skip
    sae, row = table.sae(0), table.table.iloc[0]
    assert {type(part).__name__ for part in sae.spec.components()} >= {"FISTA", "CodesL1"}
    x = sample(world, jax.random.key(0), 4096).x
    f = sae(x)
    square, codes = jnp.sum((x - f.x_hat) ** 2, -1).mean(), jnp.abs(f.z).sum(-1).mean()
    np.testing.assert_allclose(row["eval_loss"], square + 0.2 * codes, rtol=0.05)
    assert 0.2 * codes > 0.3 * square


# Numbers at the door


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"n_steps": 8.5}, "n_steps 8.5 is not a whole"), ({"n_steps": True}, "n_steps True"),
        ({"n_steps": 20.0}, "n_steps 20.0 is not a whole number: write 20"),
        ({"batch_size": "8"}, "batch_size '8'"), ({"lr": np.inf}, "lr inf is not finite"),
        ({"l1_coeff": np.inf}, "l1_coeff inf"), ({"l1_coeff": "8"}, "l1_coeff '8' is not a number"),
        ({"data_seed": 8.5}, "data_seed 8.5"), ({"sae_seeds": (0, 0)}, "sae_seeds has .0. twice"),
        ({"sae_seeds": 2**32}, "out of range"), ({"curve_points": 0}, "curve_points 0"),
        ({"d_sae": "32"}, "d_sae '32' is not a whole number"),
    ],
)  # fmt: skip
def test_numbers_are_checked_before_anything_trains(given, said):
    world = make_world("sphere", d_in=4, n_features=4, l0=1.0)
    with pytest.raises(ToysaeError, match=said):
        train(world, "untied", **{"l1_coeff": 0.1, "n_steps": 2, "quiet": True, **given})


def test_numpys_integers_and_single_seeds_are_taken():
    world = make_world("sphere", np.int64(1), d_in=4, n_features=4, l0=1.0)
    result = train(world, "untied", l1_coeff=0.1, n_steps=np.int64(2), sae_seeds=3, n_eval=64,
                   d_sae=np.int32(4), batch_size=np.int64(4), quiet=True)  # fmt: skip
    assert result.table["sae_seed"].tolist() == [3]


@pytest.mark.parametrize("seed", [2**32, 1.5, -1, "0", None])
def test_a_seed_is_one_world(seed):
    with pytest.raises(ToysaeError, match="make_world: seed |^seed "):
        make_world("sphere", seed)


def test_a_part_of_a_latent_cannot_be_kept():
    world = make_world("sphere", d_in=4, n_features=8)
    with pytest.raises(ToysaeError, match="k 4.5 of each sample cannot be kept: give 4 or 5"):
        train(world, "topk", k=4.5, n_steps=2, quiet=True)


@pytest.mark.parametrize("what", ["sphere", None, 3])
def test_what_is_no_world_is_named(what):
    with pytest.raises(ToysaeError, match="is not a World: give make_world"):
        train(what)
    with pytest.raises(ToysaeError, match="is not a text or an SAESpec"):
        train(make_world("sphere", d_in=4, n_features=4, l0=1.0), ["tied", "untied"])


# A law gives the L0 that was asked for


@pytest.mark.parametrize(("law", "spread"), [("normal", 1.0), ("linear", 0.5)])
def test_a_law_that_is_often_zero_is_refused(law, spread):
    with pytest.raises(ToysaeError, match="of firings, so that fewer features would be active"):
        make_world("sphere", magnitude=law, magnitude_spread=spread, l0=5.0)


@pytest.mark.parametrize("law", MAGNITUDES)
@pytest.mark.parametrize("firing", ["independent", "exactly-k"])
def test_every_law_gives_the_l0_that_was_asked_for(law, firing):
    world = make_world("sphere", d_in=8, n_features=16, magnitude=law, firing=firing, l0=4.0)
    counts = (sample(world, jax.random.key(0), 20_000).feature_acts != 0).sum(-1)
    assert abs(float(counts.mean()) - 4) < 0.05
