"""Reads any SAE on disk, whichever library wrote it, and scores it."""

import warnings
from collections.abc import Callable
from pathlib import Path

from .. import checked
from ..errors import require
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
"""By the file that only a library's folder has: the library's name and its reader."""

OF_A_SITE = "site.safetensors"
"""The file that ``toysae lm train`` writes next to an SAE."""


def load_any(path: str | Path) -> SAE:
    """Reads an SAE file of :func:`toysae.sae.files.save_sae`, or a folder of another library.

    Raises:
        ToysaeError: there is nothing, the folder is of no known library or of several, or its
            reader refuses it.
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
    files = [name for name in _READERS if (path / name).is_file()]
    known = ", ".join(f"{name} ({library})" for name, (library, _) in _READERS.items())
    require(len(files) > 0, f"{path} is not an SAE folder: it has none of {known}")
    require(len(files) == 1, f"{path} holds {' and '.join(files)}: put each SAE in its own folder")
    return _READERS[files[0]][1](path)


def score(
    path_or_sae: str | Path | SAE, world: World, n_samples: int = 65_536, seed: int = 0
) -> Scored:
    """Scores an SAE, loaded if it is a path, against a world's truth, see
    :func:`toysae.evaluation.score.score_sae`.

    Raises:
        ToysaeError: see :func:`load_any`; the SAE has another d_in than the world.
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
