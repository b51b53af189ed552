"""Scale-aware recovery against vectors made in float64."""

import jax
import jax.numpy as jnp
import numpy as np

from toysae.recovery import add_detections, empty_detections
from toysae.recovery.scale import scale_error
from toysae.worlds import Batch


def test_scale_error_is_the_distance_of_mean_contributions():
    rng = np.random.default_rng(0)
    f, d = rng.standard_normal((3, 4)), rng.standard_normal((5, 4)) * 2
    f /= np.linalg.norm(f, axis=1, keepdims=True)
    acts = np.float32(rng.uniform(0.5, 2, (900, 3)) * (rng.random((900, 3)) < 0.3))
    acts[:, 2] = 0  # never fires
    z = np.float32(rng.uniform(0.5, 2, (900, 5)) * (rng.random((900, 5)) < 0.4))
    z[:, 4] = 0  # dead
    best = np.array([1, 4, 0])
    own = jnp.asarray(best, jnp.int32)
    seen = empty_detections(own, jnp.zeros(5, jnp.int32), own)
    for part in (slice(0, 100), slice(100, 900)):
        n = len(acts[part])
        index = jnp.broadcast_to(jnp.arange(3, dtype=jnp.int32), (n, 3))
        batch = Batch(jnp.zeros((n, 4)), index, jnp.asarray(acts[part]), 3, in_order=True)
        seen = jax.jit(add_detections)(seen, batch, jnp.asarray(z[part]))
    lengths = np.linalg.norm(d, axis=1)
    cos = (f @ (d / lengths[:, None]).T)[np.arange(3), best]
    got = scale_error(seen, cos, lengths)
    for g in (0, 1):
        j = best[g]
        true = np.float64(acts[acts[:, g] > 0, g]).mean() * f[g]
        fires = z[:, j] != 0
        learned = np.float64(z[fires, j]).mean() * d[j] if fires.any() else 0 * d[j]
        wanted = np.linalg.norm(true - learned) / np.linalg.norm(true)
        np.testing.assert_allclose(got[g], wanted, rtol=1e-5)
    assert got[1] == 1 and np.isnan(got[2])
