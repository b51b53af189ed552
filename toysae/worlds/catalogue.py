"""Named worlds with a free choice on every axis. Published ones are in `presets`.

A plain world is a dictionary (its name) x firing x probabilities x magnitude x noise. Add a row
to DICTIONARIES or FIRINGS to add a choice.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from scipy import special

from ..checked import shown
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
from .magnitudes import Circle, Scaled, magnitude
from .plant import fitted_below, forest, regular_forest
from .probabilities import firing_probabilities
from .world import World


@dataclass(frozen=True)
class WorldRow:
    """A world as the catalogue knows it.

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
    """A row whose fields are the keyword parameters of a function `(key, ...)`."""
    about = (inspect.getdoc(build) or "").split("\n")[0].rstrip(".")
    return WorldRow(about, build, dials(build, 1))


def dials(function: Callable, skip: int) -> dict[str, tuple[Any, Any]]:
    """Type and default of a function's parameters after the first `skip`."""
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
"""Plain worlds by name: what each is, and `(key, n_features, d_in, ...)` that gives its rows."""


def _independent(key, probs: np.ndarray) -> Firing:
    return independent(probs)


def _exactly_k(key, probs: np.ndarray) -> Firing:
    return exactly_k(probs)


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
    "independent": _independent,
    "exactly-k": _exactly_k,
    "copula": _copula,
    "exclusive": _exclusive,
    "pairs": _pairs,
    "forest": _forest,
    "compositional": _compositional,
    "bursts": _bursts,
}
"""Ways of firing by name; each takes a key, the marginals, and dials of its own."""


def make_firing(name: str, key, probs: np.ndarray, given: Mapping[str, Any]) -> Firing:
    """A named way of firing; dials that are None keep their defaults.

    Raises:
        ToysaeError: no way of that name, or a dial that it does not read.
    """
    if name not in FIRINGS:
        raise unknown("firing", name, FIRINGS)
    read = dials(FIRINGS[name], 2)
    chosen = {dial: value for dial, value in given.items() if value is not None}
    for dial in chosen:
        if dial not in read:
            reads = f"reads {', '.join(read)}" if read else "has no dials"
            raise ToysaeError(f"{dial} is not read by firing {name!r}, which {reads}")
    made = FIRINGS[name](key, probs, **chosen)
    require(isinstance(made, Firing), f"FIRINGS[{name!r}] gives {shown(made)}, not a Firing")
    return made


def _all_dials() -> dict[str, tuple[Any, Any]]:
    """Every firing's dials, None standing for "its default"."""
    found = {}
    for firing in FIRINGS.values():
        found |= {name: (kind | None, None) for name, (kind, _) in dials(firing, 2).items()}
    return found


def _fill(
    key, d_in: int = 64, n_features: int = 128, l0: float = 5.0,
    probs: str = "uniform", decay: float = 0.99, exponent: float = 1.0, decades: float = 3.0,
    firing: str = "independent", magnitude_law: str = "uniform", magnitude_spread: float = 0.25,
    asymmetry: float = 0.0, bias: float = 0.0, noise: float = 0.0, rectify: bool = False,
    *, make: Callable[[Array], tuple[Array, Array | None]], circular: bool = False,
    **firing_dials,
) -> World:  # fmt: skip
    """The shared part of plain worlds: all axes but the dictionary, which `make` gives.

    Probabilities, magnitudes and asymmetry belong to units: features, or circles of two.
    """
    require(asymmetry >= 0, f"asymmetry {asymmetry} must be at least 0")
    require(0 < l0 <= n_features, f"l0 {l0} must be in (0, n_features = {n_features}]")
    rows, generating = make(named_key(key, "directions"))
    size = 2 if circular else 1
    n_units = n_features // size
    jitter = {name: np.ones(n_units) for name in ("norms", "probabilities", "magnitudes")}
    if asymmetry:
        jitter = {
            name: np.exp(asymmetry * _quantiles(named_key(key, f"asymmetry of {name}"), n_units))
            for name in jitter
        }
    marginals = firing_probabilities(
        probs, n_units, l0 / size, decay, exponent, decades, jitter["probabilities"]
    )
    fires = make_firing(firing, named_key(key, "firing"), marginals, firing_dials)
    law = magnitude(magnitude_law, n_units, magnitude_spread)
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
    """Normal quantiles in random order: the same set for every key, so that worlds of
    different seeds have the same shapes and the same mean."""
    order = np.asarray(jax.random.permutation(key, n))
    return special.ndtri((np.arange(n) + 0.5) / n)[order]


def _shared_fields() -> dict[str, tuple[Any, Any]]:
    fields = dials(_fill, 1)
    for inner in ("make", "circular", "firing_dials"):
        del fields[inner]
    fields = {{"magnitude_law": "magnitude"}.get(k, k): v for k, v in fields.items()}
    return fields | _all_dials()


def plain(name: str) -> WorldRow:
    """A world over a named dictionary, with every other axis open."""
    about, dictionary = DICTIONARIES[name]
    own = dials(dictionary, 3)

    def build(key, d_in, n_features, magnitude, **fields):
        extra = {field: fields.pop(field) for field in own}
        return _fill(
            key, d_in, n_features, magnitude_law=magnitude, circular=name == "circles",
            make=lambda key: (dictionary(key, n_features, d_in, **extra), None), **fields,
        )  # fmt: skip

    fields = _shared_fields() | own
    if name == "orthogonal":
        fields["n_features"] = (int, 64)
    return WorldRow(about, build, fields)


def _hidden_layer(key, d_in, n_features, spectrum, magnitude, **fields) -> World:
    require(spectrum >= 0, f"spectrum {spectrum} must be at least 0")

    def make(direction_key):
        hidden = dictionaries.sphere(direction_key, n_features, d_in)
        weights = anisotropic_matrix(named_key(key, "weights"), d_in, d_in, spectrum)
        rows = hidden @ weights.T
        return rows / jnp.linalg.norm(rows, axis=1).mean(), weights

    return _fill(key, d_in, n_features, magnitude_law=magnitude, make=make, **fields)


PLAIN: dict[str, WorldRow] = {name: plain(name) for name in DICTIONARIES} | {
    "hidden-layer": WorldRow(
        "x = ReLU(W h), W anisotropic: where an SVD init can mean anything",
        _hidden_layer,
        _shared_fields() | {"rectify": (bool, True), "spectrum": (float, 0.5)},
    ),
}
