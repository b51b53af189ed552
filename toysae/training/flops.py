"""FLOPs of a training step, counted in its traced program before anything is compiled."""

from collections.abc import Iterable, Iterator
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp

from . import Ensemble
from .memory import state_shapes
from .state import member_step


def step_flops(ensemble: Ensemble) -> int:
    """FLOPs of the matrix products in one step of all SAEs of an ensemble. Sampling the world and
    everything else is left out, and a loop of unknown length counts once."""
    ensemble = ensemble.once_started()
    one = partial(jax.tree.map, lambda leaf: jax.ShapeDtypeStruct(leaf.shape[2:], leaf.dtype))
    member = one(state_shapes(ensemble).members)
    hypers = {name: jax.ShapeDtypeStruct((), jnp.float32) for name in ensemble.hypers}
    x = jax.ShapeDtypeStruct((ensemble.batch_size, ensemble.spec.d_in), jnp.float32)
    key, progress = jax.eval_shape(lambda: (jax.random.key(0), jnp.float32(0)))
    step = jax.make_jaxpr(partial(member_step, ensemble.spec))(member, hypers, key, x, progress)
    return ensemble.n_rows * _products(step.jaxpr)


def _inside(values: Iterable[Any]) -> Iterator[Any]:
    """The programs among an equation's parameters, also inside tuples and lists."""
    for value in values:
        if hasattr(value, "eqns"):
            yield value
        elif hasattr(value, "jaxpr"):
            yield value.jaxpr
        elif isinstance(value, tuple | list):
            yield from _inside(value)


def _products(jaxpr: Any) -> int:
    """FLOPs of the matrix products in a program and the programs inside it."""
    total = 0
    for equation in jaxpr.eqns:
        if equation.primitive.name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            left = equation.invars[0].aval.shape
            total += 2 * prod(equation.outvars[0].aval.shape) * prod(left[i] for i in contracted)
        times = equation.params["length"] if equation.primitive.name == "scan" else 1
        inner = [_products(sub) for sub in _inside(equation.params.values())]
        branches = equation.primitive.name == "cond"
        total += times * ((max(inner) if branches else sum(inner)) if inner else 0)
    return total
