import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import quad

from toysae.errors import ToysaeError
from toysae.recovery import cosine_cdf, mmcs, mmcs_abs, random_floor
from toysae.worlds.dictionaries import welch_bound

PUBLISHED = [
    (64, 64, 0.289),
    (64, 128, 0.319),
    (64, 256, 0.346),
    (256, 256, 0.176),
    (256, 512, 0.189),
    (256, 1024, 0.201),
]


@pytest.mark.parametrize(("d_in", "n_latents", "floor"), PUBLISHED)
def test_published_floors(d_in, n_latents, floor):
    assert round(random_floor(d_in, n_latents), 3) == floor


@pytest.mark.parametrize(("d_in", "n_latents"), [(2, 3), (3, 1), (3, 7), (20, 40), (300, 1000)])
def test_floor_equals_the_quadrature_of_its_defining_integral(d_in, n_latents):
    def cdf(t):
        return float(cosine_cdf(t, d_in))

    signed = (
        quad(lambda t: 1 - cdf(t) ** n_latents, 0, 1, limit=200)[0]
        - quad(lambda t: cdf(-t) ** n_latents, 0, 1, limit=200)[0]
    )
    unsigned = quad(lambda t: 1 - (2 * cdf(t) - 1) ** n_latents, 0, 1, limit=200)[0]
    assert random_floor(d_in, n_latents) == pytest.approx(signed, abs=1e-7)
    assert random_floor(d_in, n_latents, absolute=True) == pytest.approx(unsigned, abs=1e-7)


@pytest.mark.parametrize(("d_in", "n_latents"), [(1, 3), (2, 5), (16, 32)])
def test_floor_equals_simulation(d_in, n_latents):
    rng = np.random.default_rng(0)
    W_dec = jnp.float32(rng.standard_normal((300, n_latents, d_in)))
    directions = jnp.float32(rng.standard_normal((300, 20, d_in)))
    for score, absolute in ((mmcs, False), (mmcs_abs, True)):
        values = np.float64(jax.vmap(score)(directions, W_dec))
        error = np.std(values) / np.sqrt(len(values)) + 1e-6
        assert abs(np.mean(values) - random_floor(d_in, n_latents, absolute)) < 4 * error


def test_small_dimensions_and_very_many_latents():
    assert random_floor(1, 1) == 0.0
    assert random_floor(1, 2) == 0.5
    assert random_floor(1, 10**6) == 1.0
    assert random_floor(1, 1, absolute=True) == 1.0
    # One latent: signed 0; in the plane E|cos| = 2/π; in space |cos| is uniform, so 1/2.
    assert random_floor(2, 1) == pytest.approx(0, abs=1e-9)
    assert random_floor(2, 1, absolute=True) == pytest.approx(2 / np.pi, abs=1e-8)
    assert random_floor(3, 1, absolute=True) == pytest.approx(0.5, abs=1e-8)
    # In space cos is uniform: M/(M+1) of the way, signed from -1 to 1.
    assert random_floor(3, 10**6) == pytest.approx(1 - 2 / (10**6 + 1), abs=1e-9)
    # In the plane the nearest angle is about π/M away, E θ² = 2 (π/M)².
    assert 1 - random_floor(2, 10**6) == pytest.approx((np.pi / 1e6) ** 2, rel=1e-3)
    # High dimension: sqrt(2 log M / d), less a known correction.
    assert 0.8 < random_floor(10**5, 10**6) / np.sqrt(2 * np.log(1e6) / 1e5) < 1


def test_floor_rises_with_latents_and_falls_with_dimension():
    assert random_floor(64, 63) < random_floor(64, 64) < random_floor(63, 64)
    assert random_floor(64, 64) < random_floor(64, 64, absolute=True)


@pytest.mark.parametrize(("d_in", "n_latents"), [(0, 4), (4, 0), (-1, 4), (4, True)])
def test_floor_refuses_bad_sizes(d_in, n_latents):
    with pytest.raises(ToysaeError, match="positive integer|n_latents True is not a whole number"):
        random_floor(d_in, n_latents)


def test_welch_bound():
    assert welch_bound(3, 2) == pytest.approx(0.5)  # three lines at 60 degrees attain it
    assert welch_bound(4, 4) == welch_bound(1, 1) == 0.0
    unit = np.random.default_rng(0).standard_normal((12, 5))
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert np.abs(unit @ unit.T - np.eye(12)).max() > welch_bound(12, 5)
    with pytest.raises(ToysaeError, match="n_features"):
        welch_bound(0, 2)
