"""Initialisations: the first dictionary and the first encoder directions, `[d_sae, d_in]` each."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from .. import draws, pytree
from ..errors import ToysaeError, require
from ..keys import named_key
from ..linalg import Axes, polar, singular_axes
from ..worlds.dictionaries import sphere, unit_rows
from .classical import principal_axes, tile_signed
from .component import Component, Hyper, Hypers
from .decoders import BiasStart


@pytree.dataclass
class InitData:
    """The data that an init may look at.

    Attributes:
        x: `[n, d_in]` a data batch; n is 0 if the init declares that it does not read it.
        generating_matrix: `[d_in, d_hidden]` the matrix that writes x.
        directions: `[n_features, d_in]` the truth, for ceilings only.
        axes: those of the array that :attr:`Init.axes_from` names, once computed.
    """

    x: Float[Array, "*lead n d_in"]
    generating_matrix: Float[Array, "*lead d_in d_hidden"]
    directions: Float[Array, "*lead n_features d_in"]
    axes: Axes | None = None

    @property
    def known_axes(self) -> Axes:
        """The axes, which :meth:`Init.directions` computes for inits that read them."""
        assert self.axes is not None
        return self.axes


@dataclass(frozen=True)
class Init(Component, ABC):
    """Base of inits. Encoder directions are the decoder's times `enc_scale`, or independent.

    Attributes:
        encoder: "transpose" starts W_enc at W_dec^T; "independent" draws it on its own.
    """

    encoder: Literal["transpose", "independent"] = "transpose"
    axis: ClassVar = "init"
    hypers: ClassVar = (Hyper("enc_scale", default=1.0, low=0.0),)
    axes_from: ClassVar[Literal["", "x", "generating_matrix"]] = ""
    """The array whose singular vectors it starts from, if any. They are computed once for each
    world, outside of any program, see :mod:`toysae.linalg`."""
    reads_x: ClassVar[bool] = True
    """Whether its rows depend on the data batch, other than through the axes."""

    @abstractmethod
    def decoder_rows(
        self, key: PRNGKeyArray, d_sae: int, data: InitData, h: Hypers
    ) -> Float[Array, "d_sae d_in"]:
        """The first dictionary."""

    def directions(
        self, key: PRNGKeyArray, d_sae: int, data: InitData, h: Hypers
    ) -> tuple[Array, Array]:
        """First decoder rows and encoder rows, `[d_sae, d_in]` each.

        Axes of the data that the init reads and `data` lacks are computed: then `data` must hold
        values, not a transformation's tracers.
        """
        if data.axes is None and self.axes_from:
            data = replace(data, axes=axes_for(self, getattr(data, self.axes_from)))
        dec = self.rows(named_key(key, "decoder"), d_sae, data, h)
        if self.encoder == "transpose":
            return self.scaled(dec, dec, h)
        return self.scaled(dec, self.rows(named_key(key, "encoder"), d_sae, data, h), h)

    def rows(
        self, key: PRNGKeyArray, d_sae: int, data: InitData, h: Hypers
    ) -> Float[Array, "d_sae d_in"]:
        """:meth:`decoder_rows`, after checks.

        Raises:
            ToysaeError: they have another shape, or the init reads what it does not declare.
        """
        name, shape = type(self).__name__, (d_sae, data.x.shape[1])
        if not self.reads_x:
            data = replace(data, x=_NotRead(name, data.x.shape))  # pyright: ignore[reportArgumentType]
        try:
            found = self.decoder_rows(key, d_sae, data, h)
        except KeyError as error:
            missing = error.args[0] if error.args else None
            if not isinstance(missing, str) or missing in h:
                raise
            what = f"init {name} reads the number {missing!r}, which it does not declare"
            raise ToysaeError(f"{what}: add a Hyper of that name to its hypers") from error
        require(jnp.shape(found) == shape, f"the decoder_rows of init {name} have shape "
                f"{list(jnp.shape(found))}: return [d_sae, d_in] = {list(shape)}")  # fmt: skip
        return found

    def __init_subclass__(cls, **more: Any) -> None:
        super().__init_subclass__(**more)
        for method in ("directions", "rows", "scaled"):
            require(method not in vars(cls), f"init {cls.__name__} overrides {method}, which is "
                    "final: write decoder_rows alone")  # fmt: skip

    def scaled(self, dec: Array, enc: Array, h: Hypers) -> tuple[Array, Array]:
        """Decoder and encoder rows at their lengths."""
        return dec, enc * h["enc_scale"]


class _NotRead:
    """Stands for samples that are not drawn, as the init declares that it does not read them."""

    def __init__(self, name: str, shape: tuple[int, ...]):
        self._name, self.shape, self.ndim, self.dtype = name, shape, len(shape), jnp.float32

    def __getattr__(self, attribute: str) -> Any:
        raise ToysaeError(f"init {self._name} declares reads_x = False and reads data.x: remove "
                          "the declaration")  # fmt: skip

    def _refuse(self, *others: object) -> Any:
        return self.__getattr__("value")

    __array__ = __getitem__ = __iter__ = __neg__ = __abs__ = _refuse
    __add__ = __sub__ = __mul__ = __truediv__ = __matmul__ = __pow__ = _refuse
    __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rmatmul__ = __rpow__ = _refuse


@dataclass(frozen=True)
class RandomUnit(Init):
    """Independent directions, uniform on the sphere."""

    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return sphere(key, d_sae, data.x.shape[1])


@dataclass(frozen=True)
class Orthogonal(Init):
    """Orthonormal rows; when d_sae > d_in a tight frame scaled to unit mean square norm
    (orthogonal init of the interim report)."""

    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        d_in = data.x.shape[1]
        frame = polar(draws.normal(key, (d_sae, d_in)))
        return frame * max(d_sae / d_in, 1.0) ** 0.5


@dataclass(frozen=True)
class Kaiming(Init):
    """Entries uniform with variance 2 / d_in (He et al. 2015), so rows of length about sqrt 2.

    A decoder with unit rows normalises them; the encoder's start keeps the scale.
    """

    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        d_in = data.x.shape[1]
        bound = (6 / d_in) ** 0.5
        return draws.uniform(key, (d_sae, d_in), -bound, bound)


@dataclass(frozen=True)
class Short(Init):
    """The rows of another init at length `dec_scale`, for a decoder that is free to grow."""

    init: Init = RandomUnit()
    hypers: ClassVar = (*Init.hypers, Hyper("dec_scale", default=0.1, low=1e-6))

    @property
    def axes_from(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.init.axes_from

    @property
    def reads_x(self):  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.init.reads_x

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return h["dec_scale"] * unit_rows(self.init.decoder_rows(key, d_sae, data, h))


NOISE = (*Init.hypers, Hyper("init_noise", default=0.1, low=0.0))
"""The numbers of inits whose rows repeat beyond a rank: noise of length `init_noise` is added to
each unit row."""


@dataclass(frozen=True)
class SvdWeights(Init):
    """Left singular vectors of the matrix that writes x, strongest first, +-U tiled and noised;
    no more of them than the matrix has rank."""

    hypers: ClassVar = NOISE
    axes_from: ClassVar = "generating_matrix"
    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return tile_noised(key, data.known_axes, d_sae, h["init_noise"])


@dataclass(frozen=True)
class SvdData(Init):
    """Right singular vectors of a centred data batch (its PCA axes), +-V tiled and noised; no
    more of them than the batch has rank. Over a random dictionary whose features fire alike
    these are nearly the same directions as :class:`SvdWeights`: race them where they differ."""

    hypers: ClassVar = NOISE
    axes_from: ClassVar = "x"
    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        return tile_noised(key, data.known_axes, d_sae, h["init_noise"])


@dataclass(frozen=True)
class NoisedBasis(Init):
    """Unit vectors +-e_i, tiled and noised: meaningful only where the basis is privileged, as in
    activations behind an elementwise nonlinearity."""

    hypers: ClassVar = NOISE
    reads_x: ClassVar = False

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        d_in = data.x.shape[1]
        axes = Axes(jnp.eye(d_in), jnp.ones(d_in), jnp.int32(d_in))
        return tile_noised(key, axes, d_sae, h["init_noise"])


@dataclass(frozen=True)
class FromTruth(Init):
    """The true directions, noised; latents beyond n_features start at random. A ceiling."""

    reads_x: ClassVar = False
    hypers: ClassVar = (*Init.hypers, Hyper("truth_noise", default=0.0, low=0.0))

    def decoder_rows(self, key, d_sae, data, h) -> Array:
        n_features, d_in = data.directions.shape
        truth = data.directions[:d_sae]
        noise = sphere(named_key(key, "noise"), truth.shape[0], d_in)
        rest = sphere(named_key(key, "rest"), max(d_sae - n_features, 0), d_in)
        return jnp.concatenate([unit_rows(truth + h["truth_noise"] * noise), rest])


def axes_for(init: Init, matrix: Array | np.ndarray) -> Axes:
    """The axes that an init starts from.

    Args:
        init: says what it reads.
        matrix: that array: `[n, d_in]` data, whose principal axes they are, or `[d_in, d_hidden]`
            the matrix that writes x, whose left singular vectors they are.
    """
    return principal_axes(matrix) if init.axes_from == "x" else singular_axes(matrix.T)


def tile_noised(
    key: PRNGKeyArray, axes: Axes, d_sae: int, noise: Float[Array, ""] | float
) -> Float[Array, "d_sae d_in"]:
    """The axes up to their rank, then their negatives, repeated to `d_sae` unit rows, each with
    its own noise."""
    rows = tile_signed(axes, d_sae)
    return unit_rows(rows + noise * sphere(key, *rows.shape))


def first_bias(start: BiasStart, x: Float[Array, "n d_in"]) -> Float[Array, " d_in"]:
    """Where b_dec starts: zero, the data's mean, or its geometric median (Weiszfeld)."""
    if start == "zero":
        return jnp.zeros(x.shape[1], x.dtype)
    mean = x.mean(0)
    if start == "mean":
        return mean

    def weiszfeld(_, median):
        weights = 1 / jnp.maximum(jnp.sqrt(jnp.sum((x - median) ** 2, -1)), 1e-6)
        return weights @ x / weights.sum()

    return jax.lax.fori_loop(0, 50, weiszfeld, mean)
