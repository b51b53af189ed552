"""Any SAE on disk, whoever wrote it."""

import warnings
from collections.abc import Callable
from pathlib import Path

from .. import checked
from ..errors import ToysaeError, require
from ..evaluation.score import BATCH, Scored, score_sae
from ..sae import SAE
from ..sae.files import load_sae
from ..worlds import World
from . import dictionary_learning, saelens, sparsify

_READERS: dict[str, tuple[str, Callable[[Path], SAE]]] = {
    saelens.WEIGHTS: ("SAELens", saelens.from_saelens),
    dictionary_learning.WEIGHTS: (
        "dictionary_learning", dictionary_learning.from_dictionary_learning,
    ),
    sparsify.WEIGHTS: ("sparsify", sparsify.from_sparsify),
}  # fmt: skip
"""The file that tells a library's folder, the library, and its reader."""


OF_A_SITE = "site.safetensors"
"""Lies beside an SAE that ``toysae lm train`` wrote."""


def load_any(path: str | Path) -> SAE:
    """Reads an SAE file of :func:`toysae.sae.files.save_sae`, or a folder of another library.

    Raises:
        ToysaeError: nothing there, a folder of no known library or of several, or what its
            reader refuses.
    """
    path = checked.path("path", path)
    require(path.exists(), f"there is no {path}: give an SAE file or folder")
    folder = path.parent if path.is_file() else path
    require(
        not (folder / OF_A_SITE).is_file(),
        f"{path} is an SAE on a language model's activations, whose mean and scale are in "
        f"{OF_A_SITE}: load its folder with toysae.lm's load_site_sae, or fold them into a folder "
        "that can be read here with `toysae export`",
    )
    if path.is_file():
        return load_sae(path)
    found = [name for name in _READERS if (path / name).is_file()]
    if not found:
        known = ", ".join(f"{name} ({library})" for name, (library, _) in _READERS.items())
        raise ToysaeError(f"{path} is no SAE folder: it has none of {known}")
    require(len(found) == 1, f"{path} holds {' and '.join(found)}: put each SAE in its own folder")
    return _READERS[found[0]][1](path)


def score(
    path_or_sae: str | Path | SAE, world: World, n_samples: int = 65_536, seed: int = 0
) -> Scored:
    """Loads an SAE and scores it against a world's truth, see
    :func:`toysae.evaluation.score.score_sae`.

    Raises:
        ToysaeError: what :func:`load_any` refuses, or an SAE of another d_in than the world's.
    """
    if isinstance(n_samples, int) and n_samples % BATCH:
        whole = -(-n_samples // BATCH) * BATCH
        warnings.warn(
            f"scored on {whole:,} samples, not {n_samples:,}: they come in batches of {BATCH:,}",
            stacklevel=2,
        )
    if isinstance(path_or_sae, SAE):
        return score_sae(path_or_sae, world, n_samples, seed)
    scored = score_sae(load_any(path_or_sae), world, n_samples, seed)
    scored.table.insert(0, "sae", str(path_or_sae))
    return scored
