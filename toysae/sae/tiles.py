"""The tiles that kernels work on."""

SMALLEST, TILE = 16, 64
"""The fewest and the most samples or latents of one tile."""


def tile_of(n: int) -> int:
    """The largest power of two that divides n, at most :data:`TILE`."""
    return min(n & -n, TILE)
