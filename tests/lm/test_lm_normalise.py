"""Normalisation against NumPy in float64."""

import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm.saes.normalise import SCALES, normalisation

D = 7
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(500, D)) * RNG.uniform(0.1, 9, D) + 20 * RNG.normal(size=D)).astype("f4")


def sizes(x, n):
    """(mean of the norm, root mean square norm) of what comes out, over sqrt(d)."""
    norms = np.linalg.norm((x.astype(np.float64) - n.mean) * n.scale, axis=1) / D**0.5
    return norms.mean(), np.sqrt((norms**2).mean())


@pytest.mark.parametrize("centre", [True, False])
@pytest.mark.parametrize("scale", SCALES)
def test_what_comes_out_has_the_size_and_the_mean_that_were_asked_for(centre, scale):
    n = normalisation(X, centre, scale)
    assert n.mean.shape == (D,) and n.mean.dtype == np.float32 and n.scale > 0
    wanted = X.astype(np.float64).mean(0) if centre else np.zeros(D)
    np.testing.assert_allclose(n.mean, wanted, rtol=1e-6)
    mean_norm, rms = sizes(X, n)
    assert rms > 1.02 * mean_norm or not centre  # the two are told apart
    if scale == "none":
        assert n.scale == 1
    else:
        assert {"mean-norm": mean_norm, "rms": rms}[scale] == pytest.approx(1, rel=1e-6)


def test_sums_do_not_drown_in_a_large_mean():
    x = (RNG.normal(size=(2000, D)) + 1e4).astype("f4")
    n = normalisation(x)
    np.testing.assert_allclose(n.mean, x.astype(np.float64).mean(0), rtol=1e-7)
    assert n.scale == pytest.approx(1 / x.astype(np.float64).std(0).mean(), rel=0.02)


def test_what_cannot_be_normalised_is_refused():
    with pytest.raises(ToysaeError, match="unknown scale 'rsm': did you mean 'rms'"):
        normalisation(X, scale="rsm")
    for scale in ("rms", "mean-norm"):
        with pytest.raises(ToysaeError, match="these activations are all alike"):
            normalisation(np.tile(X[:1], (300, 1)), scale=scale)
        with pytest.raises(ToysaeError, match="all alike"):
            normalisation(np.zeros((9, D), np.float32), False, scale)
