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
"""Files that were loaded as experiments, by the names of their modules, which are gone once they
have run. Those files alone have settings that are no code."""
inside: dict[str, Path] = {}
"""Files of the packages that experiments are, by the names of their modules, which are gone once
a file is edited and another experiment is loaded."""
_UNTOLD = {"ctx", "kind", "type_comment"}
_MAKERS = {"Experiment", "Study", "replace"}
_PLAIN = {"dict", "tuple", "list", "range"}
_MODULES = ("points", "axes", "np", "numpy")
_tokens: WeakKeyDictionary[Any, str] = WeakKeyDictionary()


def own_code(*values: Any) -> str:
    """A digest of all code behind some parts that is neither toysae's nor a library's; "" if there
    is none. Comments, docstrings, formatting, the place of files, and the `experiment` or `study`
    of an experiment file, whose settings are told from its code, make no difference.

    A class or function without a file, as of a notebook, has a digest of its own, until it is
    defined again or the process ends.
    """
    found: dict[Path, str] = {}
    without_file = set()
    for owner in dict.fromkeys(_owners(values, {})):  # most share their bases
        files, package = _files_of(owner)
        if not files:
            without_file.add(_tokens.setdefault(owner, uuid4().hex))
        for file in files:
            if not of_library(file):
                _follow(file, package, found, owner.__module__ in experiments)
    texts = [*sorted(found.values()), *sorted(without_file)]
    return sha256("\n".join(texts).encode()).hexdigest() if texts else ""


def lasting_code(cls: type) -> str:
    """:func:`own_code` of a class where it is the same in another process; else ""."""
    files = [_files_of(base)[0] for base in cls.__mro__]
    return own_code(cls) if all(files) else ""


def codes_of(classes: Iterable[type]) -> dict[str, str]:
    """What files say of the code of the classes that they name, where it is a user's."""
    found = {cls.__name__: lasting_code(cls) for cls in classes}
    return {name: code for name, code in found.items() if code}


def warn_of_other_code(cls: type, saved: Mapping[str, Any], path: Path) -> None:
    """Warns where a file was saved with other code of a class than is loaded."""
    code = saved.get(cls.__name__, "")
    if code and code != lasting_code(cls):
        where = ", ".join(sorted(map(str, _files_of(cls)[0]))) or "what was typed in"
        warnings.warn(
            f"{path} was saved with other code of {cls.__name__} than that of {where}, which is "
            "used now: load it beside the file that it was saved with",
            stacklevel=2,
        )


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
        elif _is_of_library(type(value)):  # as of jax.jit, and of custom derivatives
            for name in ("__wrapped__", "fun"):
                yield from _owners(getattr(value, name, None), seen)


def _files_of(owner: type | FunctionType) -> tuple[set[Path], str | None]:
    """Where it is defined, and the package of that file; Python's own place for what is built in.
    Nowhere where no file holds it, as in a notebook."""
    name = owner.__module__ or "builtins"
    # Some of C's classes name a module that is not there.
    module = sys.modules.get(name) or sys.modules.get(name.split(".")[0])
    if name in experiments or name in inside:
        places = {str(experiments.get(name) or inside[name])}
    elif isinstance(owner, FunctionType):
        places = {owner.__code__.co_filename}
    elif module is not None and (name != "__main__" or hasattr(module, "__file__")):
        places = {getattr(module, "__file__", None) or str(_PLACES[1])}
    else:  # of a file that was run: a class does not say which, its own functions do
        places = {f.__code__.co_filename for value in vars(owner).values() for f in _inner(value)}
        places = {place for place in places if not of_library(Path(place).resolve())}
    files = {Path(place).resolve() for place in places if place}
    return {file for file in files if file.exists()}, getattr(module, "__package__", None)


def _is_of_library(owner: type) -> bool:
    files = _files_of(owner)[0]
    return bool(files) and all(map(of_library, files))


def _inner(value: Any) -> Iterator[FunctionType]:
    """The functions inside what a class has for a method."""
    while value is not None:
        if isinstance(value, FunctionType):
            yield value
        names = ("__wrapped__", "__func__", "fget", "func", "fun")
        value = next((v for v in (getattr(value, n, None) for n in names) if v is not None), None)


def _follow(
    file: Path, package: str | None, found: dict[Path, str], is_experiment: bool = False
) -> None:
    """Takes a file and all of the user's that it imports, anywhere in it."""
    if file in found:
        return
    found[file], imports = read(file.read_bytes(), is_experiment)
    for name, level in imports:
        with suppress(ImportError, ValueError, AttributeError):  # nor could the file import it
            full = importlib.util.resolve_name("." * level + name, package) if level else name
            for end in range(1, full.count(".") + 2):  # packages run before what is in them
                spec = importlib.util.find_spec(".".join(full.split(".")[:end]))
                if spec is None or not spec.has_location or spec.origin is None:
                    continue
                inside = Path(spec.origin).resolve()
                if inside.is_file() and not of_library(inside):
                    _follow(inside, spec.parent, found)


@lru_cache(maxsize=256)
def read(source: bytes, has_settings: bool = False) -> tuple[str, list[tuple[str, int]]]:
    """A file less its prose and settings, and the names and levels of what it imports."""
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
        elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
            imports += [(arg.value, 0) for arg in node.args[:1] if _is_text(arg)]  # pyright: ignore
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            has_docstring = ast.get_docstring(node, clean=False) is not None
            node.body = node.body[has_docstring:]
    if has_settings:
        tree.body = [statement for statement in tree.body if not _is_setting(statement)]
    return sha256(repr(_told(tree)).encode()).hexdigest(), imports


def _told(node: Any) -> Any:
    """A tree as text that is the same in all versions of Python: ast.dump is not."""
    if isinstance(node, list):
        return [_told(item) for item in node]
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = {name: value for name, value in ast.iter_fields(node) if name not in _UNTOLD}
    told = ((name, _told(v)) for name, v in fields.items() if v is not None and v != [])
    return [type(node).__name__, *told]


def _is_setting(statement: ast.stmt) -> bool:
    """Whether it only makes the experiment of its settings."""
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
    """The last name of what is called."""
    return getattr(call.func, "attr", getattr(call.func, "id", ""))


def _is_of(function: ast.expr, modules: tuple[str, ...]) -> bool:
    return (
        isinstance(function, ast.Attribute)
        and isinstance(function.value, ast.Name)
        and function.value.id in modules
    )


def _is_text(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def of_library(file: Path) -> bool:
    """Whether it is toysae's, Python's or an installed package's, by where it lies: a user's may
    have the name of one of Python's."""
    return any(file.is_relative_to(place) for place in _PLACES)


_PLACES = tuple(
    Path(place).resolve()
    for place in (
        Path(__file__).parent,
        *(sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")),
        site.getusersitepackages(),
    )
)
