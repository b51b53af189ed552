"""The forward pass of every family, with capture, edits and early stop at any site.

Layers without a captured or edited site run in a loop that is compiled once; the others stand on
their own between such loops.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from ... import pytree
from ...errors import require
from .config import LMConfig, Rotary
from .edits import Edit
from .sites import Site, parse_site

LMWeights = dict[str, Any]
Tokens = Int[Array | np.ndarray, "batch seq"]
Tap = Callable[[str, Array], Array]


@pytree.dataclass
class LM:
    """A language model.

    Attributes:
        weights: `W_E [n_vocab, d_model]`, `W_U [d_model, n_vocab]` (absent where it is W_E^T),
            `W_pos [n_ctx, d_model]` where positions are learned, the final norm's `w` and `b`
            under `ln_final`, and `blocks`, each with a leading layer axis: `ln1`, `ln2`,
            `W_Q [d_model, n_heads * d_head]`, `W_K`, `W_V`, `W_O [n_heads * d_head, d_model]`,
            `W_in [d_model, d_mlp]`, `W_gate`, `W_out [d_mlp, d_model]`, and biases `b_*` where the
            family has them.
        config: static.
        name: what it was loaded from.
    """

    weights: LMWeights
    config: LMConfig = pytree.field(pytree_node=False)
    name: str = pytree.field(pytree_node=False, default="")

    @property
    def W_U(self) -> Float[Array, "d_model n_vocab"]:
        return self.weights["W_U"] if "W_U" in self.weights else self.weights["W_E"].T

    def block(self, layer: int) -> LMWeights:
        """The weights of one layer."""
        return jax.tree.map(lambda leaf: leaf[layer], self.weights["blocks"])


@dataclass(frozen=True)
class Pass:
    """The results of a forward pass.

    Attributes:
        acts: `[batch, seq, width]` by the name of the site, after any edit there.
        logits: `[batch, seq, n_vocab]`; None where the pass stopped before them.
    """

    acts: dict[str, Array]
    logits: Float[Array, "batch seq n_vocab"] | None


def forward(
    model: LM,
    tokens: Tokens,
    sites: Sequence[str] = (),
    edits: Sequence[Edit] = (),
    *,
    logits: bool = True,
) -> Pass:
    """Runs the model on token ids, compiled.

    Args:
        model: any family.
        tokens: `[batch, seq]`. Tokens after a sequence's end do not change what is before it.
        sites: whose activations to return, by TransformerLens' names, e.g.
            "blocks.3.hook_resid_post".
        edits: applied at their sites in the order given.
        logits: whether to go on to the logits; False stops after the last site.

    Raises:
        ToysaeError: an unknown site, a sequence longer than the model's context, or token ids
            that it does not have.
    """
    c = model.config
    check_tokens(model, tokens)
    tokens = jnp.asarray(tokens, jnp.int32)
    for name in [*sites, *(edit.site for edit in edits)]:
        parse_site(name, c)
    unique = tuple(dict.fromkeys(sites))
    return Pass(*_forward(model, tokens, unique, tuple(edits), logits=logits))


def check_tokens(model: LM, tokens: Tokens) -> None:
    """Refuses tokens that would silently be given other embeddings than are meant.

    Raises:
        ToysaeError: a sequence longer than the model's context, or token ids that it does not have.
    """
    c, ids = model.config, np.asarray(tokens)
    seq = ids.shape[1]
    require(seq <= c.n_ctx, f"sequences of {seq} tokens are longer than the model's {c.n_ctx}")
    low, high = (int(ids.min()), int(ids.max())) if ids.size else (0, 0)
    require(
        low >= 0 and high < c.n_vocab,
        f"token ids {low} to {high}: the model has 0 to {c.n_vocab - 1}",
    )


def traced_forward(
    model: LM,
    tokens: Tokens,
    sites: Sequence[str] = (),
    edits: Sequence[Edit] = (),
    *,
    logits: bool = True,
    resume: tuple[int, Float[Array, "batch seq d_model"]] | None = None,
) -> tuple[dict[str, Array], Array | None]:
    """:func:`forward` for use inside compiled code, without its checks: returns (acts, logits).

    `resume` is a layer and its `hook_resid_pre` in another pass: nothing before is computed.
    """
    c, w = model.config, model.weights
    captured: dict[str, Array] = {}

    def tap(name: str, acts: Array) -> Array:
        for edit in edits:
            if edit.site == name:
                acts = edit.applied(acts)
        if name in sites:
            captured[name] = acts
        return acts

    start, x = (0, _embedded(w, tokens)) if resume is None else resume
    tapped = {parse_site(name, c).layer for name in [*sites, *(edit.site for edit in edits)]}
    require(min(tapped, default=start) >= start, f"a pass from layer {start} has no layer {tapped}")
    end = c.n_layers if logits else max(tapped, default=-1) + 1
    angles = None if c.rotary is None else c.rotary.angles(tokens.shape[1])

    def plain(layer: Array, x: Array) -> Array:
        return block(c, _layer(w["blocks"], layer), x, angles, lambda name, acts: acts)

    for layer in [*sorted(layer for layer in tapped if layer < end), end]:
        if layer > start:
            x = jax.lax.fori_loop(start, layer, plain, x)
        if layer < end:
            x = block(c, _layer(w["blocks"], layer), x, angles, partial(_tap_at, tap, layer))
        start = layer + 1
    if not logits:
        return captured, None
    return captured, norm(c, w["ln_final"], x) @ model.W_U


_forward = jax.jit(traced_forward, static_argnames=("sites", "logits"))


def _embedded(w: LMWeights, tokens: Tokens) -> Float[Array, "batch seq d_model"]:
    x = w["W_E"][tokens]
    return x + w["W_pos"][: tokens.shape[1]] if "W_pos" in w else x


def _tap_at(tap: Tap, layer: int, name: str, acts: Array) -> Array:
    return tap(str(Site(layer, name)), acts)


def _layer(blocks: LMWeights, layer: Array | int) -> LMWeights:
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_index_in_dim(leaf, layer, keepdims=False), blocks
    )


def block(
    c: LMConfig, w: LMWeights, x: Float[Array, "batch seq d_model"], angles: Array | None, tap: Tap
) -> Float[Array, "batch seq d_model"]:
    """Runs one layer; `tap(name, acts)` sees, and may change, the activations of each site."""
    x = tap("hook_resid_pre", x)
    z = tap("attn.hook_z", attention(c, w, norm(c, w["ln1"], x), angles))
    attn_out = tap("hook_attn_out", _affine(w, "O", z))
    mid = x if c.parallel else tap("hook_resid_mid", x + attn_out)
    hidden = tap("mlp.hook_post", _hidden(c, w, norm(c, w["ln2"], mid)))
    mlp_out = tap("hook_mlp_out", _affine(w, "out", hidden))
    return tap("hook_resid_post", mid + mlp_out + (attn_out if c.parallel else 0))


def attention(
    c: LMConfig, w: LMWeights, x: Float[Array, "batch seq d_model"], angles: Array | None
) -> Float[Array, "batch seq d_z"]:
    """Causal attention before its output matrix: the outputs of the heads side by side."""

    def heads(name: str, n: int) -> Array:
        return _affine(w, name, x).reshape(*x.shape[:2], n, c.d_head)

    q, k, v = heads("Q", c.n_heads), heads("K", c.n_kv_heads), heads("V", c.n_kv_heads)
    if c.rotary is not None and angles is not None:
        q, k = rotate(c.rotary, q, angles), rotate(c.rotary, k, angles)
    z = jax.nn.dot_product_attention(q, k, v, is_causal=True)
    return z.reshape(*x.shape[:2], c.n_heads * c.d_head)


def rotate(
    rotary: Rotary, heads: Float[Array, "batch seq n d_head"], angles: Float[Array, "seq half"]
) -> Float[Array, "batch seq n d_head"]:
    """Turns the first `dims` dimensions of each head by the angles of its position."""
    cos, sin = (f(angles)[:, None].astype(heads.dtype) for f in (jnp.cos, jnp.sin))
    half = rotary.dims // 2
    a, b, rest = jnp.split(heads, (half, 2 * half), -1)
    return jnp.concatenate([a * cos - b * sin, b * cos + a * sin, rest], -1)


def norm(c: LMConfig, w: LMWeights, x: Float[Array, "*lead d_model"]) -> Array:
    """LayerNorm or RMSNorm, in float32 whatever the type of x."""
    dtype, x = x.dtype, x.astype(jnp.float32)
    if c.norm == "layer":
        x = x - x.mean(-1, keepdims=True)
    x = x * jax.lax.rsqrt((x * x).mean(-1, keepdims=True) + c.norm_eps)
    return (x * w["w"] + w.get("b", 0.0)).astype(dtype)


def _hidden(c: LMConfig, w: LMWeights, x: Array) -> Array:
    act = {
        "gelu": partial(jax.nn.gelu, approximate=False), "gelu_new": jax.nn.gelu,
        "silu": jax.nn.silu, "relu": jax.nn.relu,
    }[c.act]  # fmt: skip
    inner = _affine(w, "in", x)
    return act(_affine(w, "gate", x)) * inner if c.gated else act(inner)


def _affine(w: LMWeights, name: str, x: Array) -> Array:
    y = x @ w[f"W_{name}"]
    return y + w[f"b_{name}"] if f"b_{name}" in w else y
