"""A twin: the world whose inputs look like a layer's activations, so that one can ask there which
features are recoverable."""

from collections.abc import Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Float

from ...keys import seed_key
from ...worlds import World
from ...worlds.assemble import assemble
from ...worlds.copula import from_factors
from ...worlds.firing import Firing
from ...worlds.independent import independent
from ...worlds.magnitudes import LogNormal
from ...worlds.panel.activations import PanelStats, add, empty_panel, finished_panel, panel_of
from ...worlds.probabilities import firing_probabilities
from ...worlds.world import batches
from .massive import Massive

_NODES = 9


@dataclass(frozen=True)
class Twin:
    """The parameters of a world.

    Attributes:
        d_in: dimensions.
        ratio: features over dimensions.
        directions: "sphere", uniform; or "layer", drawn with the layer's covariance.
        exponent: p_i is proportional to rank^-exponent. It trades off with the ratio: a factor of
            two in the ratio is hard to tell from .2 in the exponent.
        l0: mean number of features that fire.
        spread: sigma of the log-normal magnitudes.
        scale: their median.
        noise_sd: in each dimension.
        common: loading in [0, 1) of every feature on one shared Gaussian, which makes busy and
            quiet samples; 0 for independent firing.
        bias: `[d_in]` the mean less the features' own.
        root: `[d_in, d_in]` symmetric root of the covariance that directions are drawn with.
        misfit: root mean square over the statistics of how far the log of each is off.
        massive: a feature of its own, the last of the world; `ratio`, `l0` and the rest describe
            all others.
    """

    d_in: int
    ratio: float
    directions: str
    exponent: float
    l0: float
    spread: float
    scale: float
    noise_sd: float
    common: float
    bias: Float[np.ndarray, " d_in"]
    root: Float[np.ndarray, "d_in d_in"]
    misfit: float = 0.0
    massive: Massive | None = None

    @property
    def n_features(self) -> int:
        return round(self.ratio * self.d_in)

    def numbers(self) -> dict[str, float | int | str]:
        """The parameters that a table shows; `massive_scale` is in units of `scale`."""
        names = ("directions", "ratio", "n_features", "exponent", "l0", "spread", "noise_sd",
                 "common", "misfit")  # fmt: skip
        numbers = {name: getattr(self, name) for name in names}
        m = self.massive
        if m is None:
            return numbers
        return numbers | {"massive_prob": m.prob, "massive_scale": m.scale / self.scale}


def twin_world(t: Twin, seed: int = 0, name: str = "twin") -> World:
    """Makes the world; another seed draws other directions of the same law."""
    p, rows = marginals(t), rows_of(t, seed)
    loading, scale, spread = np.full((3, len(p)), [[t.common], [t.scale], [t.spread]])
    if (m := t.massive) is not None:
        p, rows = np.append(p, m.prob), np.vstack([rows, m.direction])
        own = (0.0, m.scale, m.spread)
        loading, scale, spread = map(np.append, (loading, scale, spread), own)
    firing: Firing = from_factors(p, loading[:, None]) if t.common else independent(p)
    law = LogNormal(jnp.float32(np.log(scale)), jnp.float32(spread))
    return assemble(rows, firing, law, bias=t.bias, noise_sd=t.noise_sd, name=name)


def centred_panel(
    batches: Iterable[Float[np.ndarray, "n d_in"]], mean: Float[np.ndarray, " d_in"]
) -> tuple[PanelStats, Float[np.ndarray, "d_in d_in"]]:
    """The panel of x - mean, and the covariance of x."""
    panel = empty_panel(len(mean))
    for x in batches:
        panel = add(panel, np.asarray(x, np.float32) - np.asarray(mean, np.float32))
    return finished_panel(panel), panel.comoment / max(panel.n, 1)


def panel_of_twin(t: Twin, n_samples: int = 16_384, seed: int = 0) -> PanelStats:
    """The centred panel of samples of the twin."""
    world = twin_world(t, seed)
    mean = np.asarray(
        t.bias + (marginals(t) * t.scale * np.exp(t.spread**2 / 2)) @ rows_of(t, seed)
    ) + (0 if t.massive is None else t.massive.mean)
    drawn = batches(world, seed_key(seed, "twin panel"), n_samples, 4096)
    return panel_of(batch.x - jnp.asarray(mean, jnp.float32) for batch in drawn)


def marginals(t: Twin) -> np.ndarray:
    """The firing probability of each feature, `[n]`."""
    p = firing_probabilities("zipf", t.n_features, t.l0, exponent=t.exponent)
    return np.minimum(p, 0.99) if t.common else p


def firing_given(t: Twin) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(firing probabilities `[n]`, those given values of what features share `[nodes, n]`, the
    weights of these values `[nodes]`)."""
    p = marginals(t)
    if not t.common:
        return p, p[None], np.ones(1)
    nodes, weights = np.polynomial.hermite_e.hermegauss(_NODES)
    own = np.sqrt(1 - t.common**2)
    probs = scipy.special.ndtr((scipy.special.ndtri(p) + t.common * nodes[:, None]) / own)
    return p, probs, weights / weights.sum()


def rows_of(t: Twin, seed: int) -> Float[np.ndarray, "n_features d_in"]:
    """Draws the unit directions, float64."""
    drawn = np.asarray(jax.random.normal(seed_key(seed, "twin directions"), (t.n_features, t.d_in)))
    rows = drawn.astype(np.float64) @ t.root
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
