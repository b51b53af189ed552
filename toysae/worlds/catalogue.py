"""Named worlds with a free choice of each component; `presets` has the published ones.

A plain world is a dictionary (its name) x firing x probabilities x magnitude x noise. To add a
choice, add a row to DICTIONARIES or FIRINGS.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
import scipy
from jaxtyping import Array

from ..checked import FLOAT32_MAX, shown
from ..errors import ToysaeError, require, unknown
from ..keys import named_key
from . import dictionaries, groups
from .assemble import assemble
from .bursts import bursts
from .compositional import compositional
from .copula import low_rank_copula
from .dictionaries import anisotropic_matrix
from .exactly_k import exactly_k
from .firing import Firing
from .independent import independent
from .magnitudes import Circle, Scaled
from .magnitudes import magnitude as magnitude_law
from .plant import fitted_below, forest, regular_forest
from .probabilities import firing_probabilities
from .world import World


@dataclass(frozen=True)
class WorldRow:
    """A row of the catalogue: how to build a named world.

    Attributes:
        about: one line, with the source.
        build: `build(key, **fields)`.
        fields: type and default of each field.
    """

    about: str
    build: Callable[..., World]
    fields: Mapping[str, tuple[Any, Any]]

    def __post_init__(self) -> None:
        require(
            callable(self.build),
            f"build {shown(self.build)} of a WorldRow is not a function: give one of "
            "(key, **fields) that returns a World",
        )
        require(
            isinstance(self.fields, Mapping),
            f"fields {shown(self.fields)} of a WorldRow is not a mapping: give the type and "
            "default of each field by its name, as in {'noise': (float, 0.0)}, or {}",
        )


def world_row(build: Callable[..., World]) -> WorldRow:
    """Returns a row whose fields are the keyword parameters of a function `(key, ...)`."""
    about = (inspect.getdoc(build) or "").split("\n")[0].rstrip(".")
    return WorldRow(about, build, dials(build, 1))


def dials(function: Callable, skip: int) -> dict[str, tuple[Any, Any]]:
    """Returns type and default of a function's parameters after the first `skip`."""
    hints = get_type_hints(function)
    parameters = list(inspect.signature(function).parameters.values())[skip:]
    return {p.name: (hints.get(p.name), p.default) for p in parameters}


DICTIONARIES: dict[str, tuple[str, Callable[..., Array]]] = {
    "sphere": ("random unit directions", dictionaries.sphere),
    "antipodal": ("pairs (f, -f): the easiest superposition", dictionaries.antipodal),
    "orthogonal": ("orthonormal directions: no superposition", dictionaries.orthogonal),
    "frame": ("a low-coherence frame, pushed towards the Welch bound", dictionaries.frame),
    "clusters": ("clusters of near-duplicates at a chosen cosine", dictionaries.clusters),
    "privileged": ("noised unit vectors: features lean on coordinates", dictionaries.privileged),
    "pairs": ("pairs at exactly cosine rho", dictionaries.pairs),
    "low-rank": ("random directions within a subspace", dictionaries.low_rank),
    "circles": ("two-dimensional features: a radius and a shared angle", dictionaries.circles),
}
"""Plain worlds by name: what each is, and the function `(key, n_features, d_in, ...)` of rows."""


def _copula(key, probs: np.ndarray, copula_rank: int = 25, copula_scale: float = 0.1) -> Firing:
    return low_rank_copula(key, probs, copula_rank, copula_scale)


def _exclusive(key, probs: np.ndarray, group_size: int = 4) -> Firing:
    require(group_size >= 1, f"group_size {group_size} must be at least 1")
    return groups.exclusive(probs, np.arange(probs.size) // group_size)


def _pairs(key, probs: np.ndarray, co_occurrence: float = 0.0) -> Firing:
    return groups.paired_groups(probs, co_occurrence)


def _forest(
    key, probs: np.ndarray, n_roots: int = 4, branching: int = 3, depth: int = 1,
    siblings_exclude: bool = True,
) -> Firing:  # fmt: skip
    parents = regular_forest(n_roots, branching, depth)
    require(
        len(parents) <= probs.size,
        f"{n_roots} trees of branching {branching} and depth {depth} have {len(parents)} nodes, "
        f"more than n_features {probs.size}: make them smaller",
    )
    parents = np.concatenate([parents, np.full(probs.size - len(parents), -1)])
    return forest(parents, fitted_below(parents, probs, siblings_exclude), siblings_exclude)


def _compositional(key, probs: np.ndarray, n_attributes: int = 2, n_values: int = 4) -> Firing:
    return compositional(probs, n_attributes, n_values)


def _bursts(key, probs: np.ndarray, persistence: float = 0.5) -> Firing:
    return bursts(probs, persistence)


FIRINGS: dict[str, Callable[..., Firing]] = {
    "independent": lambda key, probs: independent(probs),
    "exactly-k": lambda key, probs: exactly_k(probs),
    "copula": _copula,
    "exclusive": _exclusive,
    "pairs": _pairs,
    "forest": _forest,
    "compositional": _compositional,
    "bursts": _bursts,
}
"""Ways of firing by name: functions of a key, the marginals, and dials of their own."""


def make_firing(name: str, key, probs: np.ndarray, dial_values: Mapping[str, Any]) -> Firing:
    """Builds a named way of firing; dials that are None keep their defaults.

    Raises:
        ToysaeError: an unknown name, or a dial that this way of firing does not read.
    """
    if name not in FIRINGS:
        raise unknown("firing", name, FIRINGS)
    known = dials(FIRINGS[name], 2)
    chosen = {dial: value for dial, value in dial_values.items() if value is not None}
    for dial in chosen:
        if dial not in known:
            reads = f"reads {', '.join(known)}" if known else "has no dials"
            raise ToysaeError(f"{dial} is not read by firing {name!r}, which {reads}")
    firing = FIRINGS[name](key, probs, **chosen)
    require(isinstance(firing, Firing), f"FIRINGS[{name!r}] gives {shown(firing)}, not a Firing")
    return firing


def _fill(
    key, d_in: int = 64, n_features: int = 128, l0: float = 5.0,
    probs: str = "uniform", decay: float = 0.99, exponent: float = 1.0, decades: float = 3.0,
    firing: str = "independent", magnitude: str = "uniform", magnitude_spread: float = 0.25,
    asymmetry: float = 0.0, bias: float = 0.0, noise: float = 0.0, rectify: bool = False,
    *, dictionary: Callable[[Array], tuple[Array, Array | None]], circular: bool = False,
    **firing_dials,
) -> World:  # fmt: skip
    """Builds a plain world: `dictionary` gives its rows and generating matrix, the rest is shared.

    Probabilities, magnitudes and asymmetry belong to units: features, or circles of two.
    """
    require(asymmetry >= 0, f"asymmetry {asymmetry} must be at least 0")
    require(0 < l0 <= n_features, f"l0 {l0} must be in (0, n_features = {n_features}]")
    rows, generating = dictionary(named_key(key, "directions"))
    size = 2 if circular else 1
    n_units = n_features // size
    jitter = {name: np.ones(n_units) for name in ("norms", "probabilities", "magnitudes")}
    if asymmetry:
        with np.errstate(over="ignore"):
            jitter = {
                name: np.exp(
                    asymmetry * _quantiles(named_key(key, f"asymmetry of {name}"), n_units)
                )
                for name in jitter
            }
        fits = all(values.max() <= FLOAT32_MAX for values in jitter.values())
        require(fits, f"asymmetry {asymmetry} makes features too large for float32: lower it")
    marginals = firing_probabilities(
        probs, n_units, l0 / size, decay, exponent, decades, jitter["probabilities"]
    )
    fires = make_firing(firing, named_key(key, "firing"), marginals, firing_dials)
    law = magnitude_law(magnitude, n_units, magnitude_spread)
    if asymmetry:
        norms = np.repeat(jitter["norms"], size)
        rows = rows * jnp.asarray(norms, jnp.float32)[:, None]
        law = Scaled(law, jnp.asarray(jitter["magnitudes"], jnp.float32))
    if circular:
        fires, law = groups.Together(fires, size), Circle(law)
    shift = bias * dictionaries.sphere(named_key(key, "bias"), 1, d_in)[0] if bias else None
    return assemble(
        rows, fires, law, generating_matrix=generating, bias=shift, noise_sd=noise,
        rectify=rectify,
    )  # fmt: skip


def _quantiles(key, n: int) -> np.ndarray:
    """Normal quantiles in random order: worlds of different seeds have the same set of them."""
    order = np.asarray(jax.random.permutation(key, n))
    return scipy.special.ndtri((np.arange(n) + 0.5) / n)[order]


def _shared_fields() -> dict[str, tuple[Any, Any]]:
    """Fields of every plain world; a firing's dial is None for its default."""
    fields = dials(_fill, 1)
    for inner in ("dictionary", "circular", "firing_dials"):
        del fields[inner]
    for firing in FIRINGS.values():
        fields |= {name: (kind | None, None) for name, (kind, _) in dials(firing, 2).items()}
    return fields


def plain(name: str) -> WorldRow:
    """Returns the row of a world over a named dictionary, with every other choice open."""
    about, dictionary = DICTIONARIES[name]
    own = dials(dictionary, 3)

    def build(key, d_in, n_features, **fields):
        own_values = {field: fields.pop(field) for field in own}
        return _fill(
            key, d_in, n_features, circular=name == "circles", **fields,
            dictionary=lambda key: (dictionary(key, n_features, d_in, **own_values), None),
        )  # fmt: skip

    fields = _shared_fields() | own
    if name == "orthogonal":
        fields["n_features"] = (int, 64)
    return WorldRow(about, build, fields)


def _hidden_layer(key, d_in, n_features, spectrum, **fields) -> World:
    require(spectrum >= 0, f"spectrum {spectrum} must be at least 0")

    def dictionary(direction_key):
        hidden = dictionaries.sphere(direction_key, n_features, d_in)
        weights = anisotropic_matrix(named_key(key, "weights"), d_in, d_in, spectrum)
        rows = hidden @ weights.T
        return rows / jnp.linalg.norm(rows, axis=1).mean(), weights

    return _fill(key, d_in, n_features, dictionary=dictionary, **fields)


PLAIN_WORLDS: dict[str, WorldRow] = {name: plain(name) for name in DICTIONARIES} | {
    "hidden-layer": WorldRow(
        "x = ReLU(W h), W anisotropic: where an SVD init can mean anything",
        _hidden_layer,
        _shared_fields() | {"rectify": (bool, True), "spectrum": (float, 0.5)},
    ),
}
