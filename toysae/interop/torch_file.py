"""Reads a dict of plain tensors out of a file of `torch.save`, without torch and without running
anything from the file.

Such a file is a zip: `NAME/data.pkl` describes the dict, `NAME/data/KEY` are raw little-endian
storages. The unpickler below knows a few harmless names and refuses all others, so that a pickle
that would call anything else is refused.
"""

import io
import math
import pickle
import pickletools
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..checked import integer, shown
from ..errors import ToysaeError, require

_DTYPES: dict[str, Any] = {
    "FloatStorage": np.float32, "DoubleStorage": np.float64, "HalfStorage": np.float16,
    "BFloat16Storage": ml_dtypes.bfloat16, "LongStorage": np.int64, "IntStorage": np.int32,
    "ShortStorage": np.int16, "CharStorage": np.int8, "ByteStorage": np.uint8,
    "BoolStorage": np.bool_,
}  # fmt: skip
_MOST_PICKLE = 2**24  # bytes of a description, which needs some hundred for each tensor
_COPIES = 4  # how often a file's bytes may be used: tensors that share a storage are copied each


def read_torch_file(path: Path) -> dict[str, np.ndarray]:
    """The tensors of a saved state dict by name.

    Raises:
        ToysaeError: there is no such file, it is in torch's format of before 2020, damaged, or
            holds anything but a flat dict of plain tensors.
    """
    require(path.is_file(), f"there is no {path}")
    try:
        with zipfile.ZipFile(path) as archive:
            pickles = [name for name in archive.namelist() if name.endswith("/data.pkl")]
            require(len(pickles) == 1, "it is not a file of torch.save")
            _check_sizes(archive)
            root = pickles[0].removesuffix("data.pkl")
            order = f"{root}byteorder"
            little = order not in archive.namelist() or archive.read(order) == b"little"
            require(little, "it is big-endian: save it again on a common machine")
            data = archive.read(pickles[0])
            _check_memo(data)
            state = _Unpickler(data, archive, root).load()
    except zipfile.BadZipFile as error:
        raise ToysaeError(
            f"{path} is truncated or not in torch's zip format: load it with torch and save it "
            "again with torch.save(state_dict, path)"
        ) from error
    except ToysaeError as error:
        raise ToysaeError(f"{path}: {error}") from error
    except Exception as error:  # a damaged pickle fails in any way at all
        raise ToysaeError(f"{path} is damaged ({error!r})") from error
    plain = isinstance(state, dict) and all(isinstance(v, np.ndarray) for v in state.values())
    require(plain, f"{path} holds more than tensors by name: save only the state_dict")
    return dict(state)


def _check_sizes(archive: zipfile.ZipFile) -> None:
    """Refuses compressed files, which torch never writes and which could unpack into far more."""
    for entry in archive.infolist():
        plain = entry.compress_type == zipfile.ZIP_STORED and entry.file_size == entry.compress_size
        require(plain, f"its {entry.filename} is compressed, which torch never does")
        require(
            entry.file_size <= _MOST_PICKLE or not entry.filename.endswith("data.pkl"),
            f"its description has {entry.file_size:,} bytes, more than {_MOST_PICKLE:,}",
        )


def _check_memo(data: bytes) -> None:
    """Refuses large places in the memo, for which the unpickler would allocate memory."""
    for i, (operation, value, _) in enumerate(pickletools.genops(data)):
        if "PUT" in operation.name and isinstance(value, int):
            require(0 <= value <= i, f"it names place {value:,} in a memo of at most {i:,}")


class _Unpickler(pickle.Unpickler):
    """Knows OrderedDict, torch's storages and its two rebuilding functions."""

    def __init__(self, data: bytes, archive: zipfile.ZipFile, root: str):
        super().__init__(io.BytesIO(data))
        self._archive, self._root = archive, root
        self._left = _COPIES * sum(entry.file_size for entry in archive.infolist())

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch._utils" and name == "_rebuild_tensor_v2":
            return self._tensor
        if module == "torch._utils" and name == "_rebuild_parameter":
            return lambda tensor, *_: tensor
        if module == "torch" and name in _DTYPES:
            return _DTYPES[name]
        raise ToysaeError(f"it would load {module}.{name}, which no plain tensor needs: not read")

    def persistent_load(self, pid: Any) -> np.ndarray:
        kind, dtype, key, _, n = pid
        require(kind == "storage", f"it refers to a {kind!r}, not a storage")
        require(str(key).isalnum(), f"storage key {shown(key)} is not plain")
        data = self._archive.read(f"{self._root}data/{key}")
        integer("the length of a storage", n, 0, len(data) // np.dtype(dtype).itemsize)
        return np.frombuffer(data, np.dtype(dtype), count=n)

    def _tensor(self, storage: Any, offset: int, shape: Any, stride: Any, *_: Any) -> np.ndarray:
        tensor = _view(storage, offset, shape, stride)
        self._left -= tensor.nbytes
        require(self._left >= 0, "its tensors are together much larger than the file")
        return np.array(tensor, order="C", copy=True)


def _view(storage: Any, offset: int, shape: Any, stride: Any) -> np.ndarray:
    """The tensor that is a view of a storage; refuses one that would reach beyond it."""
    require(isinstance(storage, np.ndarray), "a tensor without a storage")
    numbers = (offset, *shape, *stride)
    require(len(shape) == len(stride) and all(isinstance(n, int) and n >= 0 for n in numbers),
            f"a tensor of shape {shape} and stride {stride}")  # fmt: skip
    last = offset + sum((n - 1) * s for n, s in zip(shape, stride, strict=True))
    require(0 in shape or last < storage.size, "a tensor that reaches beyond its storage")
    size = math.prod(shape)
    require(size <= storage.size, f"a tensor of {size:,} elements on {storage.size:,} in its file")
    strides = [s * storage.itemsize for s in stride]
    return np.lib.stride_tricks.as_strided(storage[offset:], shape, strides)
