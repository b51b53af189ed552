"""Functions whose gradients are computed along with their values."""

from collections.abc import Callable
from typing import Any

import jax
from jaxtyping import Array


def with_gradients(passes: Callable[..., tuple[Array, tuple[Array, ...]]]) -> Callable[..., Array]:
    """Returns the function of a number that `passes` computes with its gradients: those of the last
    of its arguments, as many as there are; the ones before them are data."""

    @jax.custom_vjp
    def value(*args: Array) -> Array:
        return passes(*args)[0]

    def forward(*args: Array) -> tuple[Array, Any]:
        number, gradients = passes(*args)
        return number, (gradients, (None,) * (len(args) - len(gradients)))

    def backward(saved: Any, g: Array) -> tuple[Array | None, ...]:
        gradients, of_data = saved
        return *of_data, *(g * gradient for gradient in gradients)

    value.defvjp(forward, backward)
    return value
