"""The SAEs behind ceilings and floors: each method gives SAEs of one dictionary, over a grid.

Methods differ in what they know of the truth: the features, the features and their best encoder,
or nothing. All give SAEs, so that all are scored in the same way (:mod:`.ceilings`).
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from ..recovery.baselines import Dictionary, make_baseline
from ..recovery.probe import recovery_probe
from ..recovery.thresholds import add_scores, empty_counts, shared_threshold
from ..sae import SAE, SAESpec, make_spec
from ..sae.activations import ReLU
from ..sae.component import Weights
from ..sae.decoders import Bias, Decoder, Free
from ..sae.encoders import Encoder, Untied
from ..sae.frozen import Frozen
from ..sae.penalties import Sum
from ..sae.pursuit import OMP
from ..training import train_ensemble
from ..training.members import fallback, make_ensemble
from ..training.state import keys_of
from ..worlds import Batch, World, batches

L1_GRID = (0.004, 0.02, 0.06, 0.15, 0.3, 0.6, 1.2)
"""L1 coefficients, in units of the mean length that a feature adds to x when it is on."""
_K_GRID = (0.5, 1.0, 1.5, 2.0)  # of OMP, in units of the true L0, besides the most ever active
_FIT_SAMPLES = 16_384
_ITERATIONS = 200  # of FISTA: by then the supports in an incoherent dictionary no longer change
_BATCH = 256  # of training

Point = tuple[str, float, SAE | None]
"""A number's name, the number, and its SAE; None if that diverged."""


@dataclass(frozen=True)
class Setting:
    """A world and the settings that the methods share. They are fitted on samples that no score
    sees.

    Attributes:
        world: with the true directions.
        d_sae: latents of methods that do not hold the whole truth.
        l1_coeff: coefficients in units of squared error per unit of code; None for `L1_GRID` times
            the world's own scale.
        n_fit: samples to fit on.
        n_steps: training steps of 256 samples each.
        seed: of samples and of random starts.
    """

    world: World
    d_sae: int
    l1_coeff: tuple[float, ...] | None
    n_fit: int
    n_steps: int
    seed: int

    @property
    def fit_key(self) -> PRNGKeyArray:
        """The key of the samples to fit on."""
        return keys_of(jnp.array([self.seed], jnp.int32), "ceilings")[0]

    def batches(self) -> Iterator[Batch]:
        """The samples to fit on."""
        return batches(self.world, self.fit_key, self.n_fit)

    @property
    def bias(self) -> Float[Array, " d_in"] | None:
        """What the world adds to every input; None if it rectifies, as that is not constant."""
        return None if self.world.rectify else self.world.bias

    @property
    def where(self) -> Bias:
        """Where SAEs of the truth have their bias."""
        return "none" if self.bias is None else "pre"

    @cached_property
    def x(self) -> Float[Array, "n_fit d_in"]:
        """The inputs to fit on, less the bias."""
        x = jnp.concatenate([batch.x for batch in self.batches()])
        return x if self.bias is None else x - self.bias

    @cached_property
    def _seen(self) -> tuple[np.ndarray, np.ndarray, int]:
        """Firings and summed sizes of each feature, and the most active features of one sample."""
        counts, lengths, most = 0.0, 0.0, 0
        for batch in self.batches():
            acts = jnp.abs(batch.feature_acts)
            counts = counts + np.asarray((acts != 0).sum(0), np.float64)
            lengths = lengths + np.asarray(acts.sum(0), np.float64)
            most = max(most, int((acts != 0).sum(1).max()))
        return np.asarray(counts), np.asarray(lengths), most

    @property
    def coefficients(self) -> tuple[float, ...]:
        """The grid of L1 coefficients."""
        if self.l1_coeff is not None:
            return self.l1_coeff
        counts, lengths, _ = self._seen
        rows = np.linalg.norm(np.asarray(self.world.rows, np.float64), axis=1)
        scale = float(lengths @ rows / max(counts.sum(), 1.0)) or 1.0
        return tuple(scale * share for share in L1_GRID)

    @property
    def ks(self) -> tuple[int, ...]:
        """The grid of OMP's k, each at most the number of dimensions and of directions."""
        counts, _, most = self._seen
        l0 = counts.sum() / (-(-self.n_fit // 1024) * 1024)
        wanted = [most, *(int(np.ceil(share * l0)) for share in _K_GRID)]
        highest = min(self.world.target.shape)
        return tuple(sorted({min(max(k, 1), highest) for k in wanted}))

    @cached_property
    def order(self) -> np.ndarray:
        """The places of the scored features, most frequent first if their firing is known."""
        if self.world.truth is not None:
            return np.arange(len(self.world.target))
        return np.argsort(-self._seen[0], kind="stable")


@dataclass(frozen=True)
class Method:
    """A way to compute a ceiling or a floor.

    Attributes:
        kind: which of the two.
        about: one line.
        points: gives the SAEs; all of one call have the same dictionary unless `moves`.
        rows: (n_features, d_sae) -> rows of the dictionary.
        needs: "firing" if the features' firing must be known, "fewer" for fewer latents than
            features, "" for nothing.
        moves: each SAE of a call has a dictionary of its own.
        trained: by gradient descent, which costs most.
    """

    kind: Literal["ceiling", "floor"]
    about: str
    points: Callable[[Setting], Iterator[Point]]
    rows: Callable[[int, int], int]
    needs: Literal["", "fewer", "firing"] = ""
    moves: bool = False
    trained: bool = False


def _all(n_features: int, d_sae: int) -> int:
    return n_features


def _own(n_features: int, d_sae: int) -> int:
    return d_sae


def _coded(s: Setting, rows: Array, bias: Array | None, name: str) -> Iterator[Point]:
    """FISTA codes in a dictionary of x without the world's bias, over the L1 grid."""
    biases = [b for b in (s.bias, bias) if b is not None]
    dictionary = Dictionary(rows, sum(biases[1:], biases[0]) if biases else None, name)
    for l1 in s.coefficients:
        yield "l1_coeff", l1, dictionary.sae(l1, _ITERATIONS)


def _baseline(name: str) -> Callable[[Setting], Iterator[Point]]:
    def points(s: Setting) -> Iterator[Point]:
        baseline = make_baseline(name, s.x, s.d_sae, s.seed)
        return _coded(s, baseline.rows, baseline.bias, name)

    return points


def _sae(s: Setting, encoder: Encoder, enc: dict[str, Array], hypers: dict[str, Array]) -> SAE:
    """An SAE with the true directions as its decoder and a given encoder."""
    n, d_in = s.world.target.shape
    spec = SAESpec(
        d_in, n, decoder=Free(s.where), encoder=encoder, activation=ReLU(), penalty=Sum()
    )
    return SAE(Weights(s.world.target, s.bias, enc), {"progress": jnp.float32(1)}, hypers, spec)


def _truth_omp(s: Setting) -> Iterator[Point]:
    encoder = OMP(max(s.ks))
    for k in s.ks:
        yield "k", k, _sae(s, encoder, {}, {"k": jnp.float32(k)})


@jax.jit
def _count(counts: Array, batch: Batch, F: Array, bias: Array | float) -> Array:
    scores = jnp.matmul(batch.x - bias, F.T, precision=jax.lax.Precision.HIGHEST)
    return add_scores(counts, scores, batch.feature_acts != 0)


@jax.jit
def _overlaps(batch: Batch, F: Array, bias: Array | float, threshold: Array) -> Array:
    """<x, y> and <y, y> of y = (F x - t)_+ F."""
    x = batch.x - bias
    y = jax.nn.relu(x @ F.T - threshold) @ F
    return jnp.stack([jnp.sum(x * y), jnp.sum(y * y)])


def _truth_threshold(s: Setting) -> Iterator[Point]:
    """z = gain (F x - t)_+, with t for the best mean F1 and then the gain by least squares."""
    F, bias = s.world.target, 0.0 if s.bias is None else s.bias
    counts = empty_counts(len(F))
    for batch in s.batches():
        counts = _count(counts, batch, F, bias)
    t = shared_threshold(counts)
    sums = np.zeros(2)
    for batch in s.batches():
        sums += np.asarray(_overlaps(batch, F, bias, jnp.float32(t)))
    gain = jnp.float32(sums[0] / sums[1] if sums[1] > 0 else 1.0)
    enc = {"W_enc": gain * F.T, "b_enc": jnp.full(len(F), -gain * t, jnp.float32)}
    yield "threshold", t, _sae(s, Untied(), enc, {})


def _trained(init: str, decoder: Decoder | None, whole: bool = False):
    """The recipe "untied" over the L1 grid in one program, with another decoder if given."""

    def points(s: Setting) -> Iterator[Point]:
        d_sae = len(s.world.target) if whole else s.d_sae
        axes = {} if decoder is None else {"decoder": decoder}
        spec = make_spec("untied", s.world.d_in, d_sae, init, **axes)
        # An init with fewer latents than features starts at the most frequent features.
        world = replace(s.world, truth=s.world.target[s.order]) if init == "truth" else s.world
        numbers = {**fallback("untied", spec), "l1_coeff": s.coefficients}
        ensemble = make_ensemble([world], [s.seed], spec, numbers, (0,), _BATCH)
        trained = train_ensemble(ensemble, s.n_steps, recovery_probe, n_points=1)
        for i, l1 in enumerate(s.coefficients):
            sae = jax.tree.map(lambda leaf, i=i: leaf[0, i], trained.saes)
            yield "l1_coeff", l1, None if trained.diverged[0, i] else sae

    return points


_FROZEN = Frozen("pre", "geometric_median")

METHODS: dict[str, Method] = {
    "truth-fista": Method(
        "ceiling", "non-negative FISTA codes in the true directions",
        lambda s: _coded(s, s.world.target, None, "truth"), _all,
    ),
    "truth-omp": Method(
        "ceiling", "non-negative OMP codes in the true directions", _truth_omp, _all
    ),
    "truth-threshold": Method(
        "ceiling", "gain (F x - t)_+ in the true directions F, one threshold of the best mean F1",
        _truth_threshold, _all, "firing",
    ),
    "truth-encoder": Method(
        "ceiling", "true directions frozen, linear-ReLU encoder trained",
        _trained("truth", _FROZEN, True), _all, trained=True,
    ),
    "truth-trained": Method(
        "ceiling", "started at the truth, then trained whole: mmcs' own ceiling",
        _trained("truth", None), _own, moves=True, trained=True,
    ),
    "top-M-by-frequency": Method(
        "ceiling", "the M = d_sae most frequent true directions, FISTA codes",
        lambda s: _coded(s, s.world.target[s.order[: s.d_sae]], None, "top-M"), _own, "fewer",
    ),
    "random": Method("floor", "random directions, FISTA codes", _baseline("random"), _own),
    "data-samples": Method(
        "floor", "directions of data samples, FISTA codes", _baseline("data-samples"), _own
    ),
    "pca": Method("floor", "+- principal axes, FISTA codes", _baseline("pca"), _own),
    "ica": Method("floor", "+- independent components, FISTA codes", _baseline("ica"), _own),
    "frozen-random": Method(
        "floor", "random directions frozen, linear-ReLU encoder trained",
        _trained("random", _FROZEN), _own, trained=True,
    ),
}  # fmt: skip


def fit_samples(d_sae: int) -> int:
    """The number of samples to fit on: baselines need one for each row."""
    return max(_FIT_SAMPLES, d_sae)
