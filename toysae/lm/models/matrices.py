"""Which matrices write the activations of a site, and which read them."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from .config import LMConfig
from .forward import LM
from .sites import Site


def writing_matrix(model: LM, site: Site) -> Float[Array, "d_in d_hidden"]:
    """The matrix of whose columns the site's activations are sums: the MLP's output matrix for the
    residual stream after it, the MLP's input matrices for its hidden layer, the value matrix for
    the heads' outputs, and the embedding for the residual stream before the first layer."""
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


def reading_matrix(model: LM, site: Site) -> Float[Array, "d_in d_hidden"]:
    """The matrices that read the site's activations next, side by side: queries, keys, values and,
    in parallel blocks, the MLP's input. They include the weights of the norm between, and exclude
    the mean that LayerNorm removes. At `hook_attn_out` and `hook_mlp_out` they are those that read
    the residual stream after it."""
    c, name = model.config, site.name
    if name in ("mlp.hook_post", "attn.hook_z"):
        return model.block(site.layer)["W_out" if name == "mlp.hook_post" else "W_O"]
    after_attention = "hook_resid_post" if c.parallel else "hook_resid_mid"
    name = {"hook_mlp_out": "hook_resid_post", "hook_attn_out": after_attention}.get(name, name)
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


def _mlp_in(c: LMConfig, w: dict) -> Array:
    return jnp.concatenate([w["W_in"], *([w["W_gate"]] if c.gated else [])], 1)


def _through_norm(model: LM, norm: dict, W: Array) -> Array:
    W = norm["w"][:, None] * W
    return W - W.mean(0) if model.config.norm == "layer" else W
