"""How long something takes, and how several measurements are reported."""

import time
from collections.abc import Callable
from typing import Any

import numpy as np


def seconds_of(work: Callable[[], Any]) -> float:
    """Seconds that a call takes, until every array that it returns is there."""
    import jax

    begun = time.perf_counter()
    jax.block_until_ready(work())
    return time.perf_counter() - begun


def median(values: Any, digits: int = 2) -> float:
    """The median of several numbers, rounded."""
    return round(float(np.median(values)), digits)


def range_text(values: Any) -> str:
    """The lowest and the highest of several numbers."""
    return f"{min(values):.2f}-{max(values):.2f}"
