"""All is computed in 32 bits, whatever jax is set to: 64-bit mode belongs to the caller."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])


def in_32_bits(function: F) -> F:
    """The function, run with ``jax_enable_x64`` off."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not jax.config.values.get("jax_enable_x64"):
            return function(*args, **kwargs)
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return cast(F, wrapped)
