"""Before any step an SAE knows nothing of its world: its score is chance, whatever the init."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.keys import named_key, seed_key
from toysae.recovery import mmcs, random_floor
from toysae.sae import make_spec
from toysae.training import start
from toysae.training.members import make_ensemble
from toysae.training.starting import init_samples
from toysae.worlds import make_world, sample

D, S, N_SAES = 64, 128, 24


@pytest.fixture(scope="module")
def world():
    return make_world("sphere", 0, d_in=D, n_features=128, l0=3.0)


@pytest.fixture(scope="module")
def other():
    return make_world("sphere", 99, d_in=D, n_features=128, l0=3.0)


def dictionaries(world, spec, world_seed=0, n=N_SAES, **hypers):
    number = {"l1_coeff": 0.1} if "l1_coeff" in spec.hypers() else {"k": 4.0}
    ensemble = make_ensemble([world], [world_seed], spec, {**number, **hypers}, range(n), 32)
    return np.asarray(start(ensemble).members.params.W_dec[0], np.float64)


def score(directions, rows):
    """MMCS in float64."""
    directions = np.asarray(directions, np.float64)
    return (directions @ (rows / np.linalg.norm(rows, axis=1, keepdims=True)).T).max(1).mean()


@pytest.mark.parametrize("recipe", ["tied", "untied"])
@pytest.mark.parametrize("init", ["random", "transpose"])
def test_random_inits_score_the_random_floor(world, recipe, init):
    rows = dictionaries(world, make_spec(recipe, D, S, init))
    scores = [score(world.directions, W) for W in rows]
    assert np.mean(scores) == pytest.approx(random_floor(D, S), rel=0.01)
    assert len({round(s, 8) for s in scores}) == N_SAES  # every seed its own start
    in_float32 = mmcs(world.directions, jnp.asarray(rows[0], jnp.float32))
    assert float(in_float32) == pytest.approx(scores[0], abs=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_equal_seeds_of_world_and_sae_do_not_share_a_stream(seed):
    world = make_world("sphere", seed, d_in=D, n_features=S, l0=3.0)
    spec = make_spec("untied", D, S, "random")
    ensemble = make_ensemble([world], [seed], spec, {"l1_coeff": 0.1}, [seed], 32)
    W = np.asarray(start(ensemble).members.params.W_dec[0, 0])
    assert score(world.directions, W) == pytest.approx(random_floor(D, S), rel=0.05)
    assert np.abs(np.asarray(world.directions) @ W.T).max() < 0.8


def test_orthogonal_scores_its_world_as_any_other(world, other):
    rows = dictionaries(world, make_spec("untied", D, S, "orthogonal"))
    own = np.array([score(world.directions, W) for W in rows])
    others = np.array([score(other.directions, W) for W in rows])
    sigma = np.sqrt((own.var() + others.var()) / N_SAES)
    assert abs(own.mean() - others.mean()) < 5 * sigma + 0.01 * random_floor(D, S)
    # As independently drawn tight frames do.
    rng = np.random.default_rng(0)
    frames = [np.linalg.qr(rng.normal(size=(S, D)))[0] for _ in range(N_SAES)]
    chance = np.mean([score(world.directions, W) for W in frames])
    assert own.mean() == pytest.approx(chance, rel=0.01)


@pytest.mark.parametrize("init", ["svd", "svd-data"])
def test_svd_inits_score_what_their_singular_vectors_score(world, init):
    spec = make_spec("tied", D, S, init)
    rows = dictionaries(world, spec, n=2, init_noise=0.0)
    if init == "svd":
        axes = np.linalg.svd(np.asarray(world.directions.T, np.float64))[0].T
    else:
        x = np.asarray(jax.jit(init_samples)(world, 0), np.float64)
        axes = np.linalg.svd(x - x.mean(0), full_matrices=False)[2]
    expected = score(world.directions, np.concatenate([axes, -axes]))
    for W in rows:
        assert score(world.directions, W) == pytest.approx(expected, abs=1e-4)
    assert expected < 0.6
    noised = dictionaries(world, spec, n=2, init_noise=0.5)
    assert all(score(world.directions, W) < 0.6 for W in noised)


def test_the_truth_scores_one_in_its_world_and_chance_in_another(world, other):
    (W,) = dictionaries(world, make_spec("tied", D, S, "truth"), n=1)
    assert score(world.directions, W) == pytest.approx(1, abs=1e-6)
    assert score(other.directions, W) == pytest.approx(random_floor(D, S), rel=0.06)


def test_the_streams_of_a_world_are_different_samples(world):
    """Init data, training, learning curves, evaluation, oracle: five streams, five samples."""
    keys = [named_key(seed_key(0, "data"), label)
            for label in ("train", "curve", "evaluation", "oracle")]  # fmt: skip
    keys = [*keys, seed_key(0, "init data"), seed_key(0, "world"), seed_key(0, "sae")]
    keys += [jax.random.fold_in(key, step) for key in keys for step in (0, 1)]
    xs = [np.asarray(sample(world, key, 8).x) for key in keys]
    assert len({x.tobytes() for x in xs}) == len(keys)
