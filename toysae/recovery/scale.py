"""Scale-aware recovery: whether a latent writes what its feature contributes, in length too.

The scale is in the coefficients, so that neither cosines nor decoder norms alone show it. With
s_g = E[a_g | on] f_g and ŝ_j = E[z_j | fires] d_j of the best latent, the scale error is
‖s_g - ŝ_j‖ / ‖s_g‖: 0 if exact, 1 for a latent that writes nothing.
"""

import jax
import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from .detections import Detections


def scale_error(
    seen: Detections,
    cos: Float[np.ndarray, " n_features"],
    lengths: Float[np.ndarray, " d_sae"],
) -> NDArray[np.float64]:
    """Returns the scale error of each feature, NaN if it never fired.

    Args:
        seen: detections.
        cos: cosine of each feature with its `best_latent`.
        lengths: of the decoder rows.
    """
    latent = np.asarray(seen.best_latent)
    n, n_on, act, fired, mean = (
        np.asarray(v, np.float64)
        for v in jax.device_get(
            (seen.n_samples, seen.n_on, seen.act_mean, seen.latent_firings, seen.latent_mean)
        )
    )
    when_firing = mean * n / np.maximum(fired, 1)
    ratio = (when_firing * lengths)[latent] / np.where(n_on > 0, act, np.nan)
    return np.sqrt(np.maximum(1 + ratio**2 - 2 * ratio * np.asarray(cos, np.float64), 0))
