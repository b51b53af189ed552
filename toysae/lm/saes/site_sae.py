"""SAEs of a site, which read activations as the model has them and can replace them there."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from ... import pytree
from ...checked import Fields, parse_json, read_json, text
from ...disk import read_tensors, write_tensors
from ...errors import ToysaeError, require
from ...interop.saelens import decoded, from_saelens, saelens_files, to_saelens
from ...runs.mark import is_marked
from ...runs.results import Results
from ...sae import SAE
from ...sae.files import load_sae, save_sae
from ..models.edits import Edit
from .normalise import Normalisation, folded

ACTIVATIONS = "activations"
"""The kind of data that SAEs of a site are trained on, in manifests of runs."""

_SAE, _SITE, _ENTRY = "sae.safetensors", "site.safetensors", "toysae_site"


@pytree.dataclass
class SiteSAE:
    """An SAE with the normalisation of its inputs.

    Attributes:
        sae: of (x - mean) * scale.
        mean: `[d_in]`.
        scale: a positive number.
        about: as JSON: "site", "model", "weights" (the model's checksum), "first" and whatever else
            is worth keeping.
    """

    sae: SAE
    mean: Float[Array, " d_in"]
    scale: Float[Array, ""]
    about: str = pytree.field(pytree_node=False, default="{}")

    @property
    def info(self) -> dict[str, Any]:
        """`about` as a dict."""
        return Fields(parse_json(self.about, "what the SAE says of itself"), "the SAE").value

    @property
    def site(self) -> str:
        return self.info["site"]

    @property
    def first(self) -> int:
        """The first position of a sequence that it reads."""
        return int(self.info.get("first", 0))

    @property
    def centred(self) -> bool:
        """Whether it reads activations less their own mean over dimensions."""
        return bool(self.info.get("centred"))

    @property
    def W_dec(self) -> Float[Array, "d_sae d_in"]:
        return self.sae.W_dec

    def encode(self, x: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_sae"]:
        """Returns latents, in the units of the normalised input."""
        return self.sae.encode((x.astype(jnp.float32) - self.mean) * self.scale)

    def latents(self, acts: Float[Array, "*batch d_in"]) -> Float[Array, "*batch d_sae"]:
        """:meth:`encode` of activations as the model has them, centred first if need be."""
        return self.encode(acts - self.own_mean(acts))

    def own_mean(self, acts: Float[Array, "*batch d_in"]) -> Float[Array, "*batch 1"]:
        """What is subtracted from each activation first: its mean over dimensions if the SAE reads
        centred activations, otherwise 0."""
        own = acts.astype(jnp.float32).mean(-1, keepdims=True)
        return own if self.centred else jnp.zeros_like(own)

    def decode(self, z: Float[Array, "*batch d_sae"]) -> Float[Array, "*batch d_in"]:
        """Returns x_hat, in the units of x."""
        return self.sae.decode(z) / self.scale + self.mean


@pytree.dataclass
class Spliced(Edit):
    """Passes activations through an SAE: x -> decode(z'), z' its latents, perhaps changed.

    Attributes:
        sae: of the edit's site.
        times: `[d_sae]` factors of the latents: 1 leaves a latent, 0 ablates it, -4 writes A -
            5 a X; None for all 1.
        pinned: `[d_sae]` values that latents are set to; NaN leaves a latent; None for all NaN.
        error: whether to add back what the SAE misses, x - decode(z), so that only changed latents
            have an effect.
    """

    sae: SiteSAE
    times: Float[Array, " d_sae"] | None = None
    pinned: Float[Array, " d_sae"] | None = None
    error: bool = pytree.field(pytree_node=False, default=False)

    def __call__(self, acts: Array) -> Array:
        z = self.sae.latents(acts)
        changed = z if self.times is None else z * self.times
        if self.pinned is not None:
            changed = jnp.where(jnp.isnan(self.pinned), changed, self.pinned)
        if not self.error:
            return self.sae.decode(changed) + self.sae.own_mean(acts)
        # The difference first: exactly 0 where no latent changes.
        return acts.astype(jnp.float32) + (self.sae.decode(changed) - self.sae.decode(z))


def spliced(sae: SiteSAE, **how: Any) -> Spliced:
    """The edit at the SAE's own site, from its first position on."""
    return Spliced(sae.site, sae, first=sae.first, **how)


def save_site_sae(sae: SiteSAE, folder: str | Path) -> Path:
    """Writes a folder of two files, each whole or not at all, and returns its path."""
    folder = Path(folder)
    for name, put in site_sae_writers(sae).items():
        put(folder / name)
    return folder


def site_sae_writers(sae: SiteSAE) -> dict[str, Callable[[Path], Any]]:
    """The functions that write the files of such a folder, by name."""
    tensors = {"mean": np.asarray(sae.mean, np.float32), "scale": np.asarray(sae.scale, np.float32)}
    return {
        _SAE: lambda path: save_sae(sae.sae, path),
        _SITE: lambda path: write_tensors(path, tensors, _ENTRY, sae.about),
    }


def is_of_site(path: Path) -> bool:
    """Whether a folder holds an SAE of a site, or a run on one."""
    if not is_marked(path):
        return (path / _SITE).exists()
    results = Results.load(path)
    return len(results.table) > 0 and results.manifest(0).object("data").text("kind") == ACTIVATIONS


def load_site_sae(folder: str | Path, site: str | None = None, row: int = 0) -> SiteSAE:
    """Reads what :func:`save_site_sae` wrote, a folder of SAELens' format, or one of the SAEs that
    `toysae lm train` left.

    Args:
        folder: of one SAE, or of a run.
        site: of the SAE, for a folder that does not say it.
        row: of the run's table.

    Raises:
        ToysaeError: none of the three, damaged files, an unknown site, or no such row.
    """
    folder = Path(folder)
    if is_marked(folder):
        return sae_of_run(Results.load(folder), row)
    if not (folder / _SITE).exists():
        return _from_saelens(folder, site)
    sae = load_sae(folder / _SAE)
    tensors, about = read_tensors(folder / _SITE, _ENTRY, "SAE")
    fits = {"mean", "scale"} <= set(tensors) and tensors["mean"].shape == (sae.spec.d_in,)
    require(fits, f"{folder / _SITE} does not fit the SAE beside it: save both again")
    return SiteSAE(sae, jnp.asarray(tensors["mean"]), jnp.asarray(tensors["scale"]), about)


def sae_of_run(results: Results, row: int) -> SiteSAE:
    """Loads the SAE of a row of the table of a run on a site.

    Raises:
        ToysaeError: no such row, or a run on worlds.
    """
    manifest, columns = results.manifest(row), results.table.iloc[row]
    data = manifest.object("data")
    require(
        data.text("kind") == ACTIVATIONS,
        f"{results.path} was trained on worlds, not on a site: take its SAEs with Results.sae(row)",
    )
    about = {name: data.any(name) for name in ("site", "model", "weights", "first", "centred")} | {
        "recipe": columns["recipe"], "init": columns["init"], "seed": int(columns["sae_seed"]),
        "n_tokens": manifest.integer("n_steps") * manifest.integer("batch_size"),
    }  # fmt: skip
    arrays = results.arrays_of(row)
    return SiteSAE(
        results.sae(row), jnp.asarray(arrays["mean"]), jnp.asarray(arrays["scale"]),
        json.dumps(about),
    )  # fmt: skip


def _from_saelens(folder: Path, site: str | None) -> SiteSAE:
    sae = from_saelens(folder)
    config = folder / "cfg.json"
    metadata = Fields(read_json(config), config).value
    metadata = Fields({**metadata, **(metadata.get("metadata") or {})}, config)
    site = site or metadata.any("hook_name", None)
    require(site, f"{folder} does not say which site it is of: name it with --site")
    text(f"{config}: hook_name", site)
    about = {"site": site, "model": metadata.any("model_name", None), "first": 1}
    return SiteSAE(sae, jnp.zeros(sae.spec.d_in), jnp.float32(1), json.dumps(about))


def fold(sae: SiteSAE) -> SAE:
    """Moves the normalisation into the weights, exactly: same latents, x_hat in the units of x.
    Tied weights become untied.

    Raises:
        ToysaeError: an encoder that is not an affine map (MLP, LISTA, FISTA, pursuit).
    """
    config, tensors = saelens_files(sae.sae)
    n = Normalisation(np.asarray(sae.mean), float(sae.scale))
    tensors = folded(tensors, n, config["apply_b_dec_to_input"])
    return decoded({**config, "apply_b_dec_to_input": False}, tensors)


def export_site_sae(sae: SiteSAE, folder: str | Path) -> Path:
    """Writes a folder that SAELens reads, with the normalisation in the weights.

    Raises:
        ToysaeError: see :func:`fold` and :func:`toysae.interop.saelens.to_saelens`; a site whose
            name has no layer.
    """
    try:
        whole = fold(sae)
    except ToysaeError as error:
        raise ToysaeError(f"this SAE cannot be exported: {error}") from error
    layer = re.match(r"blocks\.(\d+)\.", sae.site)
    require(layer, f"this SAE cannot be exported: site {sae.site!r} names no layer")
    assert layer is not None
    return to_saelens(
        whole, folder, model_name=str(sae.info.get("model")), hook_name=sae.site,
        hook_layer=int(layer[1]),
    )  # fmt: skip
