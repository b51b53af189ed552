"""Files that are whole or not there: atomic writes, and tensors with one JSON text beside them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from .errors import ToysaeError, require


def cache_dir() -> Path:
    """Where what can be made again is kept: ``$XDG_CACHE_HOME/toysae``, or ``~/.cache/toysae``."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "toysae"


def write(path: Path, writer: Callable[[Path], Any]) -> None:
    """Writes through a temporary file, so that `path` is never half written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        writer(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_tensors(path: Path, tensors: dict[str, np.ndarray], entry: str, text: str) -> None:
    """One safetensors file with `text` as its only metadata, under the name `entry`; its folder
    is made if need be."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, lambda temporary: save_file(tensors, temporary, {entry: text}))


def read_tensors(path: Path, entry: str, kind: str) -> tuple[dict[str, np.ndarray], str]:
    """The tensors and the text of a file that :func:`write_tensors` wrote.

    Args:
        path: of the file.
        entry: the name of its metadata.
        kind: what the file is called in messages, e.g. "world".

    Raises:
        ToysaeError: no such file, a truncated one, or one without that entry.
    """
    article = "an" if kind == "SAE" else "a"
    require(path.is_file(), f"there is no {kind} file {path}")
    try:
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(entry, "")
            save = f"save_{kind.lower()}"
            require(text, f"{path} is not {article} {kind} file: write one with {save}")
            return {name: file.get_tensor(name) for name in file.keys()}, text  # noqa: SIM118
    except SafetensorError as error:
        raise ToysaeError(f"{path} is truncated or not {article} {kind} file ({error})") from error


def subclasses(base: type) -> set[type]:
    """Every loaded class below `base`."""
    return {c for child in base.__subclasses__() for c in (child, *subclasses(child))}
