"""Named worlds: the one table that knows their names. Add a row to add a world."""

import inspect
from collections.abc import Callable
from dataclasses import replace

import jax

from ..errors import require, unknown
from ..keys import named_key, seed_key
from . import dictionaries
from .dictionaries import anisotropic_matrix, unit_rows
from .firing import independent
from .interim_firing import Power, Replication, power_root, replication_root
from .magnitudes import magnitude as magnitude_law
from .probabilities import firing_probabilities
from .world import World


def _plain(key, directions, firing, l0, decay, exponent, magnitude) -> World:
    probs = firing_probabilities(firing, directions.shape[0], l0, decay, exponent)
    return World(directions, directions, directions.T, independent(probs), magnitude_law(magnitude))


def sphere(
    key,
    d_in: int = 64,
    n_features: int = 128,
    l0: float = 5.0,
    firing: str = "uniform",
    decay: float = 0.99,
    exponent: float = 1.0,
    magnitude: str = "uniform",
) -> World:
    """Random unit directions that fire independently."""
    directions = dictionaries.sphere(named_key(key, "directions"), n_features, d_in)
    return _plain(key, directions, firing, l0, decay, exponent, magnitude)


def antipodal(
    key,
    d_in: int = 64,
    n_features: int = 128,
    l0: float = 5.0,
    firing: str = "uniform",
    decay: float = 0.99,
    exponent: float = 1.0,
    magnitude: str = "uniform",
) -> World:
    """Pairs (f, -f) that fire independently; the easiest superposition."""
    directions = dictionaries.antipodal(named_key(key, "directions"), n_features, d_in)
    return _plain(key, directions, firing, l0, decay, exponent, magnitude)


def hidden_layer(
    key,
    d_in: int = 64,
    n_features: int = 128,
    l0: float = 5.0,
    firing: str = "uniform",
    decay: float = 0.99,
    exponent: float = 1.0,
    magnitude: str = "uniform",
    spectrum: float = 0.5,
    rectify: bool = True,
) -> World:
    """x = ReLU(W h), h a sum of random features, W's singular values (i+1)^-spectrum.

    A feature's target is the direction of what it alone produces: ReLU(W u) (or W u).
    """
    require(spectrum >= 0, f"spectrum {spectrum} must be at least 0")
    hidden = dictionaries.sphere(named_key(key, "directions"), n_features, d_in)
    weights = anisotropic_matrix(named_key(key, "weights"), d_in, d_in, spectrum)
    rows = hidden @ weights.T
    rows = rows / jax.numpy.linalg.norm(rows, axis=1).mean()
    directions = unit_rows(jax.nn.relu(rows) if rectify else rows)
    probs = firing_probabilities(firing, n_features, l0, decay, exponent)
    law = magnitude_law(magnitude)
    return World(directions, rows, weights, independent(probs), law, rectify=rectify)


def _interim(key, d_in, n_features, l0, magnitude, firing) -> World:
    require(0 < l0 <= n_features, f"l0 {l0} must be in (0, n_features = {n_features}]")
    directions = dictionaries.sphere(named_key(key, "directions"), n_features, d_in)
    return World(directions, directions, directions.T, firing, magnitude_law(magnitude))


def interim_report(
    key,
    d_in: int = 256,
    n_features: int = 512,
    l0: float = 5.0,
    decay: float = 0.99,
    magnitude: str = "uniform",
) -> World:
    """The interim report as its replication codes it: one draw of z for each batch."""
    root = replication_root(named_key(key, "covariance"), n_features)
    firing = Replication(root, l0, decay, per_sample=False)
    return _interim(key, d_in, n_features, l0, magnitude, firing)


def interim_report_per_sample(
    key,
    d_in: int = 256,
    n_features: int = 512,
    l0: float = 5.0,
    decay: float = 0.99,
    magnitude: str = "uniform",
) -> World:
    """The replication's generator with its own z for each sample."""
    root = replication_root(named_key(key, "covariance"), n_features)
    firing = Replication(root, l0, decay, per_sample=True)
    return _interim(key, d_in, n_features, l0, magnitude, firing)


def interim_report_power(
    key,
    d_in: int = 256,
    n_features: int = 512,
    l0: float = 5.0,
    decay: float = 0.99,
    magnitude: str = "uniform",
) -> World:
    """The other reading: Sigma = A A^T, Phi(z)^(decay g), rescaled for each sample."""
    firing = Power(power_root(named_key(key, "covariance"), n_features), l0, decay)
    return _interim(key, d_in, n_features, l0, magnitude, firing)


WORLDS: dict[str, Callable[..., World]] = {
    "sphere": sphere,
    "antipodal": antipodal,
    "hidden-layer": hidden_layer,
    "interim-report": interim_report,
    "interim-report-per-sample": interim_report_per_sample,
    "interim-report-power": interim_report_power,
}


def world_fields(name: str) -> dict[str, object]:
    """The fields of a named world with their defaults.

    Raises:
        ToysaeError: no world of that name.
    """
    if name not in WORLDS:
        raise unknown("world", name, WORLDS)
    parameters = inspect.signature(WORLDS[name]).parameters
    return {field: parameters[field].default for field in list(parameters)[1:]}


def make_world(name: str, seed: int = 0, **fields) -> World:
    """Builds a named world.

    Args:
        name: a row of :data:`WORLDS`.
        seed: of the directions and of everything else that is drawn once.
        **fields: see :func:`world_fields`, e.g. ``d_in=64, n_features=128, l0=5.0``.

    Raises:
        ToysaeError: an unknown name or field, or a value out of range.
    """
    known = world_fields(name)
    for field in fields:
        if field not in known:
            raise unknown(f"field of world {name!r}", field, known)
    for field in ("d_in", "n_features"):
        value = fields.get(field, known[field])
        require(
            isinstance(value, int) and value >= 1, f"{field} {value} must be a positive integer"
        )
    return replace(WORLDS[name](seed_key(seed, "world"), **fields), name=name)
