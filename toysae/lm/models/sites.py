"""The places of a model where activations are read, by TransformerLens' names."""

import re
from dataclasses import dataclass

from ...errors import ToysaeError, require, unknown
from .config import LMConfig

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
"""Sites after an elementwise nonlinearity, whose coordinates have a meaning of their own."""

_IN_ORDER = (
    "hook_resid_pre", "attn.hook_z", "hook_attn_out", "hook_resid_mid", "mlp.hook_post",
    "hook_mlp_out", "hook_resid_post",
)  # fmt: skip


@dataclass(frozen=True)
class Site:
    """A site of a layer; `str(Site(3, "hook_resid_post"))` is "blocks.3.hook_resid_post"."""

    layer: int
    name: str

    def __str__(self) -> str:
        return f"blocks.{self.layer}.{self.name}"


def parse_site(text: str, config: LMConfig) -> Site:
    """Reads the name of a site of a model.

    Raises:
        ToysaeError: another form, or a layer or site that the model does not have.
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


def width(site: Site, config: LMConfig) -> int:
    """The number of dimensions of the activations at a site."""
    widths = {"mlp.hook_post": config.d_mlp, "attn.hook_z": config.n_heads * config.d_head}
    return widths.get(site.name, config.d_model)


def is_behind(later: Site, earlier: Site, config: LMConfig) -> bool:
    """Whether the activations at `later` depend on those at `earlier`, another site."""
    if later.layer != earlier.layer:
        return later.layer > earlier.layer
    if config.parallel and "attn" in earlier.name and "mlp" in later.name:
        return False  # both read the same residual stream
    return _IN_ORDER.index(later.name) > _IN_ORDER.index(earlier.name)
