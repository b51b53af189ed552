"""Digests of the user's own code behind an SAE's numbers: recipes, components and worlds.

Whole files count, with all of the user's files that they import: an edit without effect only costs
a training, but an edit that is not seen would give the old numbers for the new code. Not seen are
data that code reads while it runs, and imports by a computed name.
"""

import ast
import dataclasses
import importlib.util
import site
import sys
import sysconfig
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import lru_cache, partial
from hashlib import sha256
from pathlib import Path
from types import FunctionType
from typing import Any
from uuid import uuid4
from weakref import WeakKeyDictionary

experiments: dict[str, Path] = {}
"""Files that were loaded as experiments, by the names of their modules, which are removed after
they have run. Only these files have settings that are not code."""
inside: dict[str, Path] = {}
"""Files in the packages of experiments, by the names of their modules, which are removed when a
file is edited and another experiment is loaded."""
_IGNORED = {"ctx", "kind", "type_comment"}
_MAKERS = {"Experiment", "Study", "replace"}
_PLAIN = {"dict", "tuple", "list", "range"}
_MODULES = ("points", "axes", "np", "numpy")
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def own_code(*values: Any) -> str:
    """A digest of all code behind some values that is neither toysae's nor a library's; "" if there
    is none. It does not depend on comments, docstrings, formatting, the place of files, and the
    `experiment` or `study` of an experiment file, which is settings and not code.

    A class or function without a file, as in a notebook, has a digest of its own until it is
    defined again or the process ends.
    """
    digests: dict[Path, str] = {}
    tokens = set()
    for owner in dict.fromkeys(_owners(values, {})):  # most share their bases
        files, package = _files_of(owner)
        if not files:
            tokens.add(_tokens.setdefault(owner, uuid4().hex))
        for file in files:
            if not of_library(file):
                _follow(file, package, digests, owner.__module__ in experiments)
    texts = [*sorted(digests.values()), *sorted(tokens)]
    return sha256("\n".join(texts).encode()).hexdigest() if texts else ""


def lasting_code(cls: type) -> str:
    """:func:`own_code` of a class if it is the same in another process; else ""."""
    files = [_files_of(base)[0] for base in cls.__mro__]
    return own_code(cls) if all(files) else ""


def codes_of(classes: Iterable[type]) -> dict[str, str]:
    """The digests that files keep of the users' own classes in them, by name."""
    codes = {cls.__name__: lasting_code(cls) for cls in classes}
    return {name: code for name, code in codes.items() if code}


def warn_of_other_code(cls: type, saved: Mapping[str, Any], path: Path) -> None:
    """Warns if a file was saved with other code of a class than is loaded."""
    code = saved.get(cls.__name__, "")
    if code and code != lasting_code(cls):
        where = ", ".join(sorted(map(str, _files_of(cls)[0]))) or "what was typed in"
        warnings.warn(
            f"{path} was saved with other code of {cls.__name__} than that of {where}, which is "
            "used now: load it with the file that it was saved with",
            stacklevel=2,
        )


def _owners(value: Any, seen: dict[int, Any]) -> Iterator[type | FunctionType]:
    """The classes and functions behind a value and what it holds."""
    if id(value) in seen:
        return
    seen[id(value)] = value  # kept alive, so that no other value can get its id
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
        elif _is_of_library(type(value)):  # as of jax.jit, and of custom derivatives
            for name in ("__wrapped__", "fun"):
                yield from _owners(getattr(value, name, None), seen)


def _files_of(owner: type | FunctionType) -> tuple[set[Path], str | None]:
    """The files that define an owner, and their package; a folder of Python for builtins. None for
    what no file defines, as in a notebook."""
    name = owner.__module__ or "builtins"
    # Some classes written in C name a module that does not exist.
    module = sys.modules.get(name) or sys.modules.get(name.split(".")[0])
    if name in experiments or name in inside:
        places = {str(experiments.get(name) or inside[name])}
    elif isinstance(owner, FunctionType):
        places = {owner.__code__.co_filename}
    elif module is not None and (name != "__main__" or hasattr(module, "__file__")):
        places = {getattr(module, "__file__", None) or str(_PLACES[1])}
    else:  # in a file that was run: the class does not tell which, but its functions do
        places = {f.__code__.co_filename for value in vars(owner).values() for f in _inner(value)}
        places = {place for place in places if not of_library(Path(place).resolve())}
    files = {Path(place).resolve() for place in places if place}
    return {file for file in files if file.exists()}, getattr(module, "__package__", None)


def _is_of_library(owner: type) -> bool:
    files = _files_of(owner)[0]
    return bool(files) and all(map(of_library, files))


def _inner(value: Any) -> Iterator[FunctionType]:
    """The functions inside a method, property or other attribute of a class."""
    while value is not None:
        if isinstance(value, FunctionType):
            yield value
        names = ("__wrapped__", "__func__", "fget", "func", "fun")
        value = next((v for v in (getattr(value, n, None) for n in names) if v is not None), None)


def _follow(
    file: Path, package: str | None, digests: dict[Path, str], is_experiment: bool = False
) -> None:
    """Adds the digests of a file and of all the user's files that it imports, anywhere in it."""
    if file in digests:
        return
    digests[file], imports = read(file.read_bytes(), is_experiment)
    for name, level in imports:
        with suppress(ImportError, ValueError, AttributeError):  # the file cannot import it either
            full = importlib.util.resolve_name("." * level + name, package) if level else name
            for end in range(1, full.count(".") + 2):  # packages run before what is in them
                spec = importlib.util.find_spec(".".join(full.split(".")[:end]))
                if spec is None or not spec.has_location or spec.origin is None:
                    continue
                imported = Path(spec.origin).resolve()
                if imported.is_file() and not of_library(imported):
                    _follow(imported, spec.parent, digests)


@lru_cache(maxsize=256)
def read(source: bytes, has_settings: bool = False) -> tuple[str, list[tuple[str, int]]]:
    """A digest of a file without prose and settings, and the names and levels of its imports."""
    try:
        tree = ast.parse(source)
    except (SyntaxError, ValueError):  # not Python
        return sha256(source).hexdigest(), []
    imports = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imports += [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            prefix = f"{node.module}." if node.module else ""
            imports += [(node.module or "", node.level)]
            imports += [(prefix + alias.name, node.level) for alias in node.names]
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            texts = (arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant))
            imports += [(text, 0) for text in texts if isinstance(text, str)]
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[has_docstring:]
    if has_settings:
        tree.body = [statement for statement in tree.body if not _is_setting(statement)]
    return sha256(repr(_as_lists(tree)).encode()).hexdigest(), imports


def _as_lists(node: Any) -> Any:
    """A tree as nested lists, which are the same in all versions of Python, unlike ast.dump's."""
    if isinstance(node, list):
        return [_as_lists(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _IGNORED}
    pairs = ((name, _as_lists(v)) for name, v in fields.items() if v is not None and v != [])
    return [type(node).__name__, *pairs]


def _is_setting(statement: ast.stmt) -> bool:
    """Whether a statement only makes the experiment or study from its settings."""
    return (
        isinstance(statement, ast.Assign)
        and isinstance(statement.value, ast.Call)
        and _called(statement.value) in _MAKERS
        and all(isinstance(t, ast.Name) and t.id in ("experiment", "study")
                for t in statement.targets)
        and not any(isinstance(node, ast.Lambda) for node in ast.walk(statement))
        and all(_called(node) in _MAKERS | _PLAIN or _is_of(node.func, _MODULES)
                for node in ast.walk(statement) if isinstance(node, ast.Call))
    )  # fmt: skip


def _called(call: ast.Call) -> str:
    """The last name of the called function."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _is_of(function: ast.expr, modules: tuple[str, ...]) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in modules
    )


def of_library(file: Path) -> bool:
    """Whether a file is toysae's, Python's or an installed package's. Its folder decides, as a
    user's file may have the name of one of Python's."""
    return any(file.is_relative_to(place) for place in _PLACES)


_PLACES = tuple(
    Path(place).resolve()
    for place in (
        Path(__file__).parent,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        site.getusersitepackages(),
    )
)
