"""Where in a model activations are read, by TransformerLens' names; which matrices meet there."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import jax.numpy as jnp
from jaxtyping import Array, Float

from ..errors import ToysaeError, require, unknown

if TYPE_CHECKING:
    from .models import LM, LMConfig

SITES = {
    "hook_resid_pre": "residual stream before a layer",
    "hook_resid_mid": "residual stream between attention and MLP",
    "hook_resid_post": "residual stream after a layer",
    "mlp.hook_post": "hidden layer of the MLP, after its nonlinearity",
    "hook_mlp_out": "what the MLP adds to the residual stream",
    "attn.hook_z": "heads' outputs side by side, before the output matrix",
    "hook_attn_out": "what attention adds to the residual stream",
}
PRIVILEGED = ("mlp.hook_post",)
"""Sites behind an elementwise nonlinearity, whose coordinates mean something."""

_IN_ORDER = (
    "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post",
    "hook_mlp_out", "hook_resid_post",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """`str(Site(3, "hook_resid_post"))` is "blocks.3.hook_resid_post"."""

    layer: int
    name: str

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.name}"


def parse_site(text: str, config: "LMConfig") -> Site:
    """A site of a model.

    Raises:
        ToysaeError: not of the form, a layer that the model does not have, or a site that its
            architecture does not have.
    """
    match = re.fullmatch(r"blocks\.(-?\d+)\.(.+)", text)
    if match is None or match[1] != str(int(match[1])):  # as in "blocks.01.hook_z"
        examples = ", ".join(f"blocks.L.{name}" for name in SITES)
        raise ToysaeError(f"site {text!r} is not one of {examples}, L a layer")
    layer, name = int(match[1]), match[2]
    if name not in SITES:
        raise unknown("site", name, SITES)
    require(
        0 <= layer < config.n_layers,
        f"site {text!r}: the model has layers 0 to {config.n_layers - 1}",
    )
    require(
        not (config.parallel and name == "hook_resid_mid"),
        f"site {text!r} does not exist: the blocks of {config.family} are parallel, attention and "
        "MLP read the same residual stream; use hook_resid_pre or hook_resid_post",
    )
    return Site(layer, name)


def width(site: Site, config: "LMConfig") -> int:
    """Dimensions of the activations at a site."""
    widths = {"mlp.hook_post": config.d_mlp, "attn.hook_z": config.n_heads * config.d_head}
    return widths.get(site.name, config.d_model)


def is_behind(later: Site, earlier: Site, config: "LMConfig") -> bool:
    """Whether the activations at `later` depend on those at `earlier`, another site."""
    if later.layer != earlier.layer:
        return later.layer > earlier.layer
    if config.parallel and "attn" in earlier.name and "mlp" in later.name:
        return False  # both read the same residual stream
    return _IN_ORDER.index(later.name) > _IN_ORDER.index(earlier.name)


def writing_matrix(model: "LM", site: Site) -> Float[Array, "d_in d_hidden"]:
    """The matrix whose columns are what the site's activations are sums of: the MLP's output
    matrix for the residual stream behind it, its input matrices for its hidden layer, the values'
    for the heads' outputs; the embedding for the residual stream before the first layer."""
    c, layer = model.config, site.layer
    if site.name == "hook_resid_pre" and layer == 0:
        return model.weights["W_E"].T
    w = model.block(layer - 1 if site.name == "hook_resid_pre" else layer)
    if site.name == "mlp.hook_post":
        return jnp.concatenate([w["W_in"], *([w["W_gate"]] if c.gated else [])]).T
    if site.name == "attn.hook_z":
        values = w["W_V"].reshape(c.d_model, c.n_kv_heads, c.d_head)
        return jnp.repeat(values, c.n_heads // c.n_kv_heads, 1).reshape(c.d_model, -1).T
    return w["W_O" if site.name in ("hook_attn_out", "hook_resid_mid") else "W_out"].T


def reading_matrix(model: "LM", site: Site) -> Float[Array, "d_in d_hidden"]:
    """The matrices that read the site's activations next, side by side: queries, keys, values and,
    in parallel blocks, the MLP's input; with the weights of the norm between, and without what
    LayerNorm takes out. At `hook_attn_out` and `hook_mlp_out` those that read the residual stream
    behind."""
    c, name = model.config, site.name
    if name in ("mlp.hook_post", "attn.hook_z"):
        return model.block(site.layer)["W_out" if name == "mlp.hook_post" else "W_O"]
    behind = {"hook_attn_out": "hook_resid_post" if c.parallel else "hook_resid_mid"}
    name = {"hook_mlp_out": "hook_resid_post", **behind}.get(name, name)
    if name == "hook_resid_mid":
        w = model.block(site.layer)
        return _through_norm(model, w["ln2"], _mlp_in(c, w))
    layer = site.layer + (name == "hook_resid_post")
    if layer == c.n_layers:
        return _through_norm(model, model.weights["ln_final"], model.W_U)
    w = model.block(layer)
    heads = jnp.concatenate([w["W_Q"], w["W_K"], w["W_V"]], 1)
    read = [_through_norm(model, w["ln1"], heads)]
    if c.parallel:
        read.append(_through_norm(model, w["ln2"], _mlp_in(c, w)))
    return jnp.concatenate(read, 1)


def _mlp_in(c: "LMConfig", w: dict) -> Array:
    return jnp.concatenate([w["W_in"], *([w["W_gate"]] if c.gated else [])], 1)


def _through_norm(model: "LM", norm: dict, W: Array) -> Array:
    W = norm["w"][:, None] * W
    return W - W.mean(0) if model.config.norm == "layer" else W
