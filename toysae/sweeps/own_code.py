"""What code of the user's decides an SAE's numbers: recipes, parts and worlds may be their own.

It counts by whole files, with all of the user's files that they import: an edit that makes no
difference costs a training, and one that was not seen would give the old numbers for the new code.
Not seen is what code reads from elsewhere while it runs, and what it imports by a computed name.
"""

import ast
import dataclasses
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

_OUR_NAMES = {"experiment", "study"}
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def own_code(*values: Any) -> str:
    """A digest of all code behind some parts that is neither toysae's nor a library's; "" if there
    is none. Comments, docstrings, formatting, the place of files, and the file's `experiment` or
    `study`, whose settings are told from its code, make no difference.

    A class or function without a file, as of a notebook, has a digest of its own, until it is
    defined again or the process ends.
    """
    found: dict[Path, str] = {}
    without_file = set()
    for owner in dict.fromkeys(_owners(values, {})):  # most share their bases
        file, package = _file_of(owner)
        if file is None:
            without_file.add(_tokens.setdefault(owner, uuid4().hex))
        elif not _of_library(file):
            _follow(file, package, found)
    texts = [*sorted(found.values()), *sorted(without_file)]
    return sha256("\n".join(texts).encode()).hexdigest() if texts else ""


def _owners(value: Any, seen: dict[int, Any]) -> Iterator[type | FunctionType]:
    """Classes and functions behind a value and what it holds."""
    if id(value) in seen:
        return
    seen[id(value)] = value  # held, or another could come to have its id
    if isinstance(value, FunctionType):
        yield value
        yield from _owners(getattr(value, "__wrapped__", None), seen)
    elif isinstance(value, type):
        yield from value.__mro__
    elif isinstance(value, dict | list | tuple):
        for item in value.items() if isinstance(value, dict) else value:
            yield from _owners(item, seen)
    elif isinstance(value, partial):
        yield from _owners((value.func, value.args, value.keywords), seen)
    else:
        yield from type(value).__mro__
        if dataclasses.is_dataclass(value):
            for f in dataclasses.fields(value):
                yield from _owners(getattr(value, f.name, None), seen)
        elif _of_library(_file_of(type(value))[0]):  # as of jax.jit, and of custom derivatives
            for name in ("__wrapped__", "fun"):
                yield from _owners(getattr(value, name, None), seen)


def _file_of(owner: type | FunctionType) -> tuple[Path | None, str | None]:
    """Where it is defined, and the package of that file; Python's own place for what is built in.
    None where no file holds it, as in a notebook."""
    name = owner.__module__ or "builtins"
    # Some of C's classes name a module that is not there.
    module = sys.modules.get(name) or sys.modules.get(name.split(".")[0])
    if isinstance(owner, FunctionType):
        place = owner.__code__.co_filename
    elif module is not None and (owner.__module__ != "__main__" or hasattr(module, "__file__")):
        place = getattr(module, "__file__", None) or str(_PLACES[1])
    else:  # of a file that was run: a class does not say which, its functions do
        codes = (f.__code__ for f in vars(owner).values() if isinstance(f, FunctionType))
        place = next((c.co_filename for c in codes if Path(c.co_filename).is_file()), "")
    file = Path(place).resolve()
    return (file if place and file.exists() else None), getattr(module, "__package__", None)


def _follow(file: Path, package: str | None, found: dict[Path, str]) -> None:
    """Takes a file and all of the user's that it imports, anywhere in it."""
    if file in found:
        return
    found[file], imports = _read(file.read_bytes())
    for name, level in imports:
        with suppress(ImportError, ValueError, AttributeError):  # nor could the file import it
            full = importlib.util.resolve_name("." * level + name, package) if level else name
            for end in range(1, full.count(".") + 2):  # packages run before what is in them
                spec = importlib.util.find_spec(".".join(full.split(".")[:end]))
                if spec is None or not spec.has_location or spec.origin is None:
                    continue
                inside = Path(spec.origin).resolve()
                if not _of_library(inside):
                    _follow(inside, spec.parent, found)


@lru_cache(maxsize=256)
def _read(source: bytes) -> tuple[str, list[tuple[str, int]]]:
    """A file less its prose, and the names and levels of what it imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # no Python
        return sha256(source).hexdigest(), []
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            inside = f"{node.module}." if node.module else ""
            imports += [(node.module or "", node.level)]
            imports += [(inside + alias.name, node.level) for alias in node.names]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[has_docstring:]
    tree.body = [statement for statement in tree.body if not _is_ours(statement)]
    return sha256(ast.dump(tree).encode()).hexdigest(), imports


def _is_ours(statement: ast.stmt) -> bool:
    """Whether it only gives the experiment its name."""
    return isinstance(statement, ast.Assign) and all(
        isinstance(target, ast.Name) and target.id in _OUR_NAMES for target in statement.targets
    )


def _of_library(file: Path | None) -> bool:
    """Whether it is toysae's, Python's or an installed package's, by where it lies: a user's may
    have the name of one of Python's."""
    return file is not None and any(file.is_relative_to(place) for place in _PLACES)


_PLACES = tuple(
    Path(place).resolve()
    for place in (
        Path(__file__).parents[1],
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        site.getusersitepackages(),
    )
)
