"""What code of the user's decides an SAE's numbers: recipes, parts and worlds may be their own.

Functions count by their bytecode, so that comments and places make no difference, with the
constants, functions and classes of their modules that they name.
"""

import dataclasses
import site
import sys
import sysconfig
from contextlib import suppress
from functools import partial
from hashlib import sha256
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

import jax
import numpy as np

from ..disk import file_sha256

_PLAIN = str | bytes | bool | int | float | complex | type(None)
_BOOKKEEPING = {
    "__dict__", "__weakref__", "__doc__", "__module__", "__qualname__", "__match_args__",
    "__dataclass_fields__", "__dataclass_params__", "__abstractmethods__", "_abc_impl",
    "__firstlineno__", "__static_attributes__", "__annotate_func__", "__annotations_cache__",
}  # fmt: skip


def own_code(*values: Any) -> str:
    """A digest of all code behind some parts that is neither toysae's nor a library's; "" if there
    is none. A module that is named by such code counts as a whole."""
    walk = _Walk()
    for value in values:
        walk.visit(value)
    return sha256("\n".join(walk.texts).encode()).hexdigest() if walk.texts else ""


class _Walk:
    def __init__(self) -> None:
        self.texts: list[str] = []
        self._seen: dict[int, Any] = {}  # held, or another object could come to have its id

    def visit(self, value: Any, named: bool = False) -> None:
        """Goes through a value; `named` by the user's code, so that it counts if it is plain."""
        if isinstance(value, _PLAIN):
            if named:
                self.texts.append(repr(value))
            return
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        if isinstance(value, type):
            self._class(value)
        elif isinstance(value, ModuleType):
            if not _of_library(value.__name__) and getattr(value, "__file__", None):
                self.texts.append(file_sha256(Path(str(value.__file__))))
        elif isinstance(value, partial):
            for part in (value.func, value.args, value.keywords):
                self.visit(part, named)
        elif isinstance(value, dict):
            for item in value.items():
                self.visit(item, named)
        elif isinstance(value, list | tuple | set | frozenset):
            for item in sorted(value, key=repr) if isinstance(value, set | frozenset) else value:
                self.visit(item, named)
        elif isinstance(value, np.ndarray | np.generic | jax.Array):
            if named:
                self._array(value)
        elif dataclasses.is_dataclass(value):
            self.visit(type(value))
            for f in dataclasses.fields(value):
                self.visit(getattr(value, f.name, None), named)
        elif callable(value) or isinstance(value, property | classmethod | staticmethod):
            self._callable(value)
        elif not _of_library(type(value).__module__):
            self.visit(type(value))
            self.visit(getattr(value, "__dict__", None), named)

    def _array(self, value: Any) -> None:
        if jax.dtypes.issubdtype(value.dtype, jax.dtypes.prng_key):
            value = jax.random.key_data(value)
        value = np.asarray(value)
        self.texts += [f"{value.dtype} {value.shape}", sha256(value.tobytes()).hexdigest()]

    def _class(self, kind: type) -> None:
        for base in kind.__mro__:
            if _of_library(base.__module__) or (base is not kind and id(base) in self._seen):
                continue
            self._seen[id(base)] = base
            self.texts.append(base.__name__)
            for name, value in sorted(vars(base).items()):
                if name not in _BOOKKEEPING:
                    self.texts.append(name)
                    self.visit(value, named=True)

    def _callable(self, value: Any) -> None:
        """Functions, and what wraps them: properties, methods, jitted and custom derivatives."""
        wrapped = ("fget", "__func__", "__wrapped__", "fun", "fwd", "bwd", "jvp")
        if isinstance(value, FunctionType):
            if value.__code__.co_filename != "<string>" and not _of_library(value.__module__):
                self._function(value)
                self.visit(getattr(value, "__wrapped__", None))
            return
        for name in wrapped:
            self.visit(getattr(value, name, None))
        if not _of_library(type(value).__module__):  # an object that can be called
            self.visit(type(value))
            self.visit(getattr(value, "__dict__", None), named=True)

    def _function(self, function: FunctionType) -> None:
        names = self._code(function.__code__, function.__doc__)
        self.visit((function.__defaults__, function.__kwdefaults__), named=True)
        for cell in function.__closure__ or ():
            with suppress(ValueError):  # nothing is in it yet
                self.visit(cell.cell_contents, named=True)
        for name in names:
            if name in function.__globals__:
                self.texts.append(name)
                self.visit(function.__globals__[name], named=True)

    def _code(self, code: CodeType, prose: str | None = None) -> list[str]:
        """Takes its instructions and constants, less its prose; the names that it uses."""
        self.texts.append(code.co_code.hex())
        names = list(code.co_names)
        for constant in code.co_consts:
            if prose is not None and constant == prose:
                continue
            if isinstance(constant, CodeType):
                names += self._code(constant)
            else:
                self.visit(constant, named=True)
        return names


def _of_library(module: str | None) -> bool:
    """Whether it is toysae's, Python's or an installed package's, by where its file lies: a user's
    may have the name of one of Python's. A file that was run is no module."""
    found = sys.modules.get(module or "builtins")
    if found is None or module == "__main__":
        return False
    file = Path(getattr(found, "__file__", None) or _PLACES[0])
    return any(file.is_relative_to(place) for place in _PLACES)


_PLACES = (
    Path(__file__).parents[1],
    *(Path(sysconfig.get_path(name)) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
    Path(site.getusersitepackages()),
)
