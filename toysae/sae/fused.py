"""What the kernels of :mod:`toysae.sae.kernels` are for: the loss of plain SAEs, and what is not.

`arithmetic="fused"` of a spec takes its training steps with them.
"""

import warnings

import jax
from jaxtyping import Array, Float

from ..errors import require
from .activations import ReLU
from .component import Hypers, Stats, Weights
from .objectives import Plain
from .plain import ENCODERS, LINEAR, arrays_of, parts_of
from .spec import SAESpec
from .tiles import SMALLEST, tile_of

WIDEST = 256
"""The largest d_in, as each tile has whole rows of encoder and decoder; not tried on a device."""


def loss_of(spec: SAESpec, w: Weights, run: Stats, h: Hypers, x: Array) -> Float[Array, ""]:
    """The loss that training minimises on one batch, as the kernels compute it."""
    from .kernels import fused_loss  # Pallas takes .2 s to import

    if jax.default_backend() == "cpu":
        warnings.warn(
            "arithmetic 'fused' is for GPUs and TPUs: on a CPU an interpreter stands in for its "
            'kernels, which is slow; give arithmetic="float32"',
            stacklevel=2,
        )

    return fused_loss(x, *arrays_of(spec, w, run, h))


def check_fused(spec: SAESpec, batch_size: int, n_devices: int) -> None:
    """Refuses what the kernels do not compute.

    Args:
        spec: of an SAE whose arithmetic is "fused".
        batch_size: samples a step.
        n_devices: that each SAE is split among.

    Raises:
        ToysaeError: naming the component or the size.
    """
    other = 'give arithmetic="float32"'
    for component, kinds in (
        (spec.encoder, ENCODERS), (spec.activation, (ReLU,)), (spec.objective, (Plain,)),
        *((part, LINEAR) for part in parts_of(spec.penalty)),
    ):  # fmt: skip
        names = " or ".join(kind.__name__ for kind in kinds)
        require(
            type(component) in kinds,
            f"arithmetic 'fused' computes {component.axis} {names} alone, not "
            f"{type(component).__name__}: {other}",
        )
    read = ", ".join(spec.stats())
    require(not read, f"arithmetic 'fused' does not follow {read}, which resampling reads: {other}")
    sizes = {"d_in": spec.d_in, "d_sae": spec.d_sae, "batch_size": batch_size}
    for name, size in sizes.items():
        require(
            tile_of(size) >= SMALLEST,
            f"arithmetic 'fused' needs a {name} that {SMALLEST} divides, not {size}: {other}",
        )
    require(
        spec.d_in & (spec.d_in - 1) == 0 and spec.d_in <= WIDEST,
        f"arithmetic 'fused' is for small SAEs: it needs a d_in that is a power of two and at most "
        f"{WIDEST}, not {spec.d_in}: {other}",
    )
    require(
        n_devices == 1,
        f"arithmetic 'fused' keeps each SAE on one device: leave the split out, or {other}",
    )
