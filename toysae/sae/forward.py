"""One forward pass for every spec, and the trained SAE as users hold it."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import ArrayLike

from .. import pytree
from ..door import asked
from ..errors import require
from ..keys import named_key
from .arithmetic import SPARSE
from .component import Forward, Hypers, Params, Stats, Weights
from .inits import InitData, first_bias
from .spec import SAESpec


def init_params(spec: SAESpec, key: PRNGKeyArray, data: InitData, h: Hypers) -> Params:
    """The first parameters of one SAE, on its decoder's constraint.

    Raises:
        ToysaeError: a number of the spec that is missing; see also :func:`params_from`.
    """
    missing = ", ".join(name for name in spec.hypers() if name not in h)
    require(not missing, f"the numbers lack {missing}: resolve_hypers gives them all")
    rows = spec.init.directions(named_key(key, "init"), spec.d_sae, data, h)
    return params_from(spec, key, rows, first_bias(spec.decoder.bias_start, data.x), h)


def params_from(
    spec: SAESpec, key: PRNGKeyArray, rows: tuple[Array, Array], bias: Array, h: Hypers
) -> Params:
    """The first parameters of one SAE, from the rows of its init.

    Args:
        spec: of the SAE; its init is not read.
        key: of the SAE, for what else its encoder draws.
        rows: of the decoder and of the encoder, `[d_sae, d_in]` each.
        bias: `[d_in]` where b_dec starts, if it has one.
        h: its numbers.

    Raises:
        ToysaeError: a component has an array whose axes over latents it does not declare.
    """
    enc = spec.encoder.init(named_key(key, "encoder"), rows[1], h)
    act = spec.activation.init(spec.d_sae, h)
    for component, arrays in ((spec.encoder, enc), (spec.activation, act)):
        undeclared = ", ".join(sorted(set(arrays) ^ set(component.latent_axes())))
        require(not undeclared, f"{type(component).__name__} does not say which axes of "
                f"{undeclared} run over latents: name them in its latent_axes()")  # fmt: skip
    b_dec = None if spec.decoder.bias == "none" else bias
    return Params(spec.decoder.start(rows[0]), b_dec, enc, act)


def init_stats(spec: SAESpec) -> Stats:
    """The running statistics that the spec's components read, before any step."""
    return {name: stat.init(spec.d_sae) for name, stat in spec.stats().items()}


def resolve(spec: SAESpec, params: Params) -> Weights:
    """Applies the decoder's constraint once; the forward pass reads only the result."""
    W_dec = spec.decoder.resolve(params.W_dec)
    return Weights(W_dec, params.b_dec, params.enc, params.act, spec.arithmetic)


def forward(
    spec: SAESpec, w: Weights, run: Stats, h: Hypers, x: Float[Array, "*batch d_in"]
) -> Forward:
    """Encodes and decodes `x`, one SAE, any leading batch axes."""
    require(
        x.ndim > 0 and x.shape[-1] == spec.d_in,
        f"x of shape {list(x.shape)} must be [..., d_in {spec.d_in}]",
    )
    shift = w.b_dec if spec.decoder.bias == "pre" else None
    encoding = spec.encoder.encode(w, x, shift, h)
    z = spec.activation.apply(encoding.pre_acts, w.act, run, h)
    if encoding.gate_acts is not None:
        z = jnp.where(encoding.gate_acts > 0, z, 0.0)
    live = spec.activation.live(encoding.pre_acts, z, w.act, h) if w.arithmetic == SPARSE else None
    return Forward(x, decode(w, z, live), z, encoding.pre_acts, encoding.gate_acts, w, live)


def decode(
    w: Weights, z: Float[Array, "*batch d_sae"], live: Float[Array, "*batch d_sae"] | None = None
) -> Float[Array, "*batch d_in"]:
    """The reconstruction x_hat from z; `live` as in :meth:`.Weights.reconstruction`."""
    x_hat = w.reconstruction(z, w.W_dec, live)
    return x_hat if w.b_dec is None else x_hat + w.b_dec


@pytree.dataclass
class SAE:
    """A trained SAE: everything that is saved, scored and used.

    Attributes:
        weights: resolved weights; `weights.W_dec [d_sae, d_in]` is the dictionary.
        run: read-only running statistics (BatchTopK's threshold, ...).
        hypers: its numbers (TopK reads its k, FISTA its coefficient).
        spec: as used outside training.
    """

    weights: Weights
    run: Stats
    hypers: Hypers
    spec: SAESpec = pytree.field(pytree_node=False)

    def __repr__(self) -> str:
        s = self.spec
        names = (type(getattr(s, axis)).__name__ for axis in ("decoder", "encoder", "activation"))
        return f"SAE(d_in {s.d_in}, d_sae {s.d_sae}, {', '.join(names)})"

    def __call__(self, x: Float[Array, "*batch d_in"] | ArrayLike) -> Forward:
        """The whole pass, in 32 bits. Lists, tables and NumPy arrays are accepted too.

        Raises:
            ToysaeError: x does not hold numbers, or has another width than d_in.
        """
        x = _numbers("x", x, self.spec.d_in)
        return forward(self.spec, self.weights, self.run, self.hypers, x)

    def encode(self, x: Float[Array, "*batch d_in"] | ArrayLike) -> Float[Array, "*batch d_sae"]:
        """The latent activations z."""
        return self(x).z

    def decode(self, z: Float[Array, "*batch d_sae"] | ArrayLike) -> Float[Array, "*batch d_in"]:
        """The reconstruction x_hat.

        Raises:
            ToysaeError: z does not hold numbers, or has another width than d_sae.
        """
        return decode(self.weights, _numbers("z", z, self.spec.d_sae))

    @property
    def W_dec(self) -> Float[Array, "*lead d_sae d_in"]:
        """The learned dictionary: one row a latent (an ensemble's has leading axes)."""
        return self.weights.W_dec


def _numbers(name: str, value: object, width: int) -> Float[Array, "*batch n"]:
    """The inputs of an SAE as an array of at most 32 bits."""
    if not isinstance(value, jax.Array):
        value = asked("SAE", name, value, Float[Array, "..."])
    assert isinstance(value, jax.Array)
    fits = value.ndim > 0 and value.shape[-1] == width
    require(fits, f"{name} of shape {list(value.shape)} must be [..., {width}]")
    return value.astype(jnp.float32) if value.dtype == jnp.float64 else value


def finished(spec: SAESpec, params: Params, run: Stats, h: Hypers) -> SAE:
    """The trained SAE of a member's parameters, with training counted as complete."""
    run = {**jax.lax.stop_gradient(run), "progress": jnp.float32(1)}
    spec = spec.at_inference()
    return SAE(resolve(spec, params), run, h, spec)


def of_arrays(spec: SAESpec, arrays: dict[str, Array], h: Hypers) -> SAE:
    """The SAE of these resolved weights and running statistics, by their own names."""
    run = {name: arrays[name] for name in spec.stats()} | {"progress": jnp.float32(1)}
    enc = {name: arrays[name] for name in spec.encoder.latent_axes()}
    act = {name: arrays[name] for name in spec.activation.latent_axes()}
    weights = Weights(arrays["W_dec"], arrays.get("b_dec"), enc, act, spec.arithmetic)
    return SAE(weights, run, h, spec.at_inference())
