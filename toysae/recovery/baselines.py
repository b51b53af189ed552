"""Classical dictionaries that a trained SAE has to beat, as SAEs, so that every score applies.

A method gives directions. All are coded in the same way, by non-negative FISTA at a coefficient of
your choice, so that dictionaries are compared and not encoders.
"""

from collections.abc import Callable
from inspect import signature
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from toysae.errors import ToysaeError, require, unknown
from toysae.keys import seed_key
from toysae.recovery.dictionary_learning import learn_fista, learn_mod
from toysae.recovery.ksvd import learn_ksvd
from toysae.sae import SAE, SAESpec
from toysae.sae.activations import ReLU
from toysae.sae.classical import (
    fast_ica,
    k_means,
    principal_axes,
    sample_order,
    semi_nmf,
    spectral_directions,
)
from toysae.sae.component import Weights
from toysae.sae.decoders import Free
from toysae.sae.encoders import FISTA
from toysae.sae.penalties import CodesL1
from toysae.worlds.dictionaries import sphere, unit_rows

from .. import pytree


@pytree.dataclass
class Dictionary:
    """Directions found without training an SAE.

    Attributes:
        rows: `[d_sae, d_in]` unit rows.
        bias: `[d_in]`, subtracted before coding and added after; None for nothing.
        name: of the method.
    """

    rows: Float[Array, "d_sae d_in"]
    bias: Float[Array, " d_in"] | None = None
    name: str = pytree.field(pytree_node=False, default="")

    def sae(self, l1_coeff: float, n_iterations: int = 100) -> SAE:
        """Returns an SAE with non-negative FISTA codes for ||x - zD||^2 + l1_coeff ||z||_1.

        Raises:
            ToysaeError: a negative coefficient, or n_iterations below 1.
        """
        require(l1_coeff >= 0, f"l1_coeff {l1_coeff:g} must be at least 0")
        require(n_iterations >= 1, f"n_iterations {n_iterations} must be at least 1")
        n, d_in = self.rows.shape
        spec = SAESpec(
            d_in,
            n,
            decoder=Free("none" if self.bias is None else "pre"),
            encoder=FISTA(n_iterations),
            activation=ReLU(),
            penalty=CodesL1(),
        )
        run, hypers = {"progress": jnp.float32(1)}, {"l1_coeff": jnp.float32(l1_coeff)}
        return SAE(Weights(self.rows, self.bias, {}), run, hypers, spec)


_ICA = jax.jit(fast_ica, static_argnames="n_steps")
_K_MEANS = jax.jit(k_means, static_argnames=("n", "n_steps"))
_SEMI_NMF = jax.jit(semi_nmf, static_argnames=("n", "n_steps"))
_SPECTRAL = jax.jit(spectral_directions, static_argnames=("n", "oversample"))

Baseline = Callable[..., tuple[Array, Array | None]]


def _signed(rows: Array, rank: Array, n: int) -> Array:
    """Returns the strongest axes, then their negatives: at most `n` rows."""
    strongest = rows[: min(int(rank), n)]
    return jnp.concatenate([strongest, -strongest])[:n]


def _pca(key: PRNGKeyArray, x: Array, n: int):
    axes = principal_axes(x)
    return _signed(axes.rows, axes.rank, n), x.mean(0)


def _ica(key: PRNGKeyArray, x: Array, n: int, n_steps: int = 200):
    axes = principal_axes(x)
    return _signed(_ICA(key, x, axes, n_steps=n_steps), axes.rank, n), x.mean(0)


def _nmf(key: PRNGKeyArray, x: Array, n: int, n_steps: int = 400):
    require(bool((x >= 0).all()), "nmf needs x >= 0, and this x has negative entries: use semi-nmf")
    nmf = _sklearn().NMF(n, max_iter=n_steps, tol=1e-5, random_state=_integer(key))
    return unit_rows(_fitted(nmf, x)), None


def _sklearn_learning(
    key: PRNGKeyArray, x: Array, n: int, alpha: float = 0.05, n_steps: int = 1000
):
    """`alpha` is scikit-learn's: the weight of ||z||_1 relative to half the squared error."""
    model = _sklearn().MiniBatchDictionaryLearning(
        n, alpha=alpha, batch_size=256, fit_algorithm="cd", positive_code=True,
        max_iter=max(1, n_steps * 256 // x.shape[0]), random_state=_integer(key),
    )  # fmt: skip
    return unit_rows(_fitted(model, x)), None


BASELINES: dict[str, Baseline] = {
    "random": lambda key, x, n: (sphere(key, n, x.shape[1]), None),
    "data-samples": lambda key, x, n: (unit_rows(x[sample_order(key, x, n)]), None),
    "pca": _pca,  # +- axes about the mean: at most 2 d_in rows
    "ica": _ica,  # also +- axes
    "k-means": lambda key, x, n, n_steps=50: (_K_MEANS(key, x, n=n, n_steps=n_steps), None),
    "nmf": _nmf,  # scikit-learn
    "semi-nmf": lambda key, x, n, n_steps=100: (_SEMI_NMF(key, x, n=n, n_steps=n_steps), None),
    "spectral": lambda key, x, n, oversample=8: (
        _SPECTRAL(key, x, n=n, oversample=oversample), x.mean(0)
    ),
    "fista": lambda key, x, n, l1_coeff=0.1, n_steps=300: (
        learn_fista(key, x, n, l1_coeff, n_steps), None
    ),
    "mod": lambda key, x, n, k=4, n_steps=30: (learn_mod(key, x, n, k, n_steps)[0], None),
    "k-svd": lambda key, x, n, k=4, n_steps=30: (learn_ksvd(key, x, n, k, n_steps)[0], None),
    "sklearn": _sklearn_learning,  # its MiniBatchDictionaryLearning
}  # fmt: skip
"""Methods by name: functions of a key, the data and the number of rows, with options, that return
rows and a bias."""


def make_baseline(
    name: str, x: Float[Array, "samples d_in"], d_sae: int, seed: int = 0, **options: Any
) -> Dictionary:
    """Learns a classical dictionary from a data batch.

    Args:
        name: a row of :data:`BASELINES`.
        x: data to learn from, `[samples, d_in]`; score on other samples.
        d_sae: number of rows, at most the number of samples. PCA and ICA have at most 2 d_in rows
            (axes and their negatives).
        seed: of the method's random start.
        **options: numbers of the method, e.g. ``l1_coeff`` and ``n_steps`` (300 by default) for
            "fista", ``k`` for "mod" and "k-svd".

    Raises:
        ToysaeError: an unknown name or option, too few samples, data that are not finite or that
            the method cannot take, or scikit-learn missing where the method needs it.
    """
    if name not in BASELINES:
        raise unknown("baseline", name, BASELINES)
    method = BASELINES[name]
    known = list(signature(method).parameters)[3:]  # after key, x and n
    for option in options:
        if option not in known:
            raise unknown(f"option of baseline {name!r}", option, known)
    require(d_sae >= 1, f"d_sae {d_sae} must be at least 1")
    require(bool(jnp.isfinite(x).all()), "x is not finite: leave out NaN and infinite samples")
    require(x.shape[0] >= max(d_sae, 2), f"{x.shape[0]} samples for d_sae {d_sae}: give at least "
            "as many samples as rows")  # fmt: skip
    rows, bias = method(seed_key(seed, "baseline"), jnp.asarray(x, jnp.float32), d_sae, **options)
    return Dictionary(rows, bias, name)


def _integer(key: PRNGKeyArray) -> int:
    return int(jax.random.randint(key, (), 0, 2**31 - 1))


def _fitted(model: Any, x: Array) -> Array:
    return jnp.asarray(model.fit(np.asarray(x, np.float64)).components_, jnp.float32)


def _sklearn() -> Any:
    try:
        from sklearn import decomposition
    except ImportError as error:
        raise ToysaeError(
            "this baseline is scikit-learn's: pip install 'toysae[baselines]'"
        ) from error
    return decomposition
