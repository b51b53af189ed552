"""The way that steps are taken: with dense products, or with those of active latents alone.

Both are exact, see :mod:`toysae.sae.sparse`. Which is faster depends on the sizes and on the share
of latents that are active, which falls as training goes on. It is looked at where a point of the
learning curves is measured, so that equal trainings change their way at the same step. The SAEs of
an ensemble change together: the last digits of one depend on which others it trains with.
"""

import warnings
from dataclasses import dataclass, field, replace

import jax
import numpy as np

from .. import hosts
from ..errors import require
from ..sae import SAESpec
from ..sae import sparse as loops
from ..sae.arithmetic import DENSE, FUSED, SPARSE
from ..sae.fused import check_fused
from ..sae.plain import is_plain
from ..watch import doing
from .devices import Split
from .ensemble import Ensemble

FEW = {True: 0.1, False: 0.06}
"""The share of active latents below which sparse steps are faster, as measured on two cores at d_in
32 with 128 latents and 256 with 1,024. True: of plain SAEs, whose active latents are visited once.
"""
SMALLEST = {True: 32 * 128, False: 64 * 256}
"""The numbers in a decoder below which they are hardly faster."""
WORTH = 1e12
"""The operations of a training from which it pays to load them: some ten seconds of a core."""


def check_arithmetic(spec: SAESpec, batch_size: int, split: Split) -> None:
    """Refuses an arithmetic that was asked for and cannot be had.

    Args:
        spec: of the SAEs.
        batch_size: samples a step.
        split: how each SAE is split among devices.

    Raises:
        ToysaeError: naming the component or the size, or what to install.
    """
    if spec.arithmetic == FUSED:
        check_fused(spec, batch_size, split.batch * split.latent)
    if spec.arithmetic == SPARSE:
        reason = _dense_alone(spec, split) or loops.missing()
        require(not reason, f"arithmetic 'sparse': {reason}; or give arithmetic='float32'")


def _dense_alone(spec: SAESpec, split: Split) -> str:
    """Why SAEs of a spec take dense steps alone; "" if they do not."""
    if not spec.encoder.says("affine"):
        return f"the encoder {type(spec.encoder).__name__} is not a single affine map"
    if not spec.activation.flat_where_off:
        name = type(spec.activation).__name__
        return f"the activation {name} does not say that it is flat where it is off"
    if split.batch * split.latent > 1:
        return "each SAE stays on one device: leave the split out"
    return ""


@dataclass
class Ways:
    """The way that one training takes its steps.

    Attributes:
        is_free: whether both ways are there to choose from.
        few: the share of active latents below which steps are sparse.
        asked: whether sparse ones were asked for.
        taken: the first step of each stretch, and its way.
    """

    is_free: bool
    few: float = 0.0
    asked: bool = False
    taken: list[tuple[int, str]] = field(default_factory=lambda: [(0, DENSE)])

    @classmethod
    def of(cls, ensemble: Ensemble, n_steps: int) -> "Ways":
        """Says once where sparse steps would pay and cannot be had."""
        spec, split = ensemble.spec, ensemble.split
        if spec.arithmetic not in ("float32", SPARSE) or _dense_alone(spec, split):
            return cls(False)
        few, smallest = FEW[is_plain(spec)], SMALLEST[is_plain(spec)]
        if spec.arithmetic == SPARSE:
            return cls(True, few, asked=True)
        size = spec.d_in * spec.d_sae
        cost = 10 * size * ensemble.batch_size * ensemble.n_rows * n_steps
        if size < smallest or cost < WORTH or jax.default_backend() != "cpu":
            return cls(False)
        doing("loading sparse steps", phase="starting SAEs")
        reason = loops.missing()
        if reason:
            warnings.warn(f"sparse steps would be faster here, but {reason}", stacklevel=2)
        return cls(not hosts.largest_of_all(len(reason)), few)  # all processes or none

    def look(self, step: int, l0: np.ndarray, d_sae: int) -> bool:
        """Chooses the way of the steps after `step`, where each SAE has this mean number of active
        latents. Returns whether it is another one than before."""
        share = np.nan_to_num(l0, nan=d_sae).mean() / d_sae
        way = SPARSE if self.is_free and share < self.few else DENSE
        changes = way != self.taken[-1][1]
        if changes:
            self.taken.append((step, way))
        return changes

    def end(self) -> tuple[tuple[int, str], ...]:
        """What was taken. Says where it is not what was asked for."""
        if self.asked and len(self.taken) == 1:
            warnings.warn(
                "arithmetic 'sparse': every step was dense, as at no point of the learning curves "
                f"fewer than {self.few:.0%} of the latents were active",
                stacklevel=2,
            )
        return tuple(self.taken)

    def taking(self, ensemble: Ensemble) -> Ensemble:
        """An ensemble of :func:`dense` as the next steps see it."""
        if self.taken[-1][1] == DENSE:
            return ensemble
        return replace(ensemble, spec=replace(ensemble.spec, arithmetic=SPARSE))


def dense(spec: SAESpec) -> SAESpec:
    """The spec of an SAE as it is started, measured and finished: "dense" and "sparse" are
    "float32" there, so that they share its programs."""
    is_one = spec.arithmetic in (DENSE, SPARSE)
    return replace(spec, arithmetic="float32") if is_one else spec
