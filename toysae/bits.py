"""32-bit mode: all is computed in 32 bits, whatever mode the caller has set in jax."""

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import jax

F = TypeVar("F", bound=Callable[..., Any])


def in_32_bits(function: F) -> F:
    """Returns the function as it runs with ``jax_enable_x64`` off."""

    @wraps(function)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        if not jax.config.values.get("jax_enable_x64"):
            return function(*args, **kwargs)
        with jax.enable_x64(False):
            return function(*args, **kwargs)

    return cast(F, wrapped)
