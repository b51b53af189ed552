"""Runs a file that defines an experiment or a study, as a module of its own."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from hashlib import sha256
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any
from weakref import ref

from .. import own_code
from ..checked import path as checked_path
from ..checked import read_regular
from ..errors import ToysaeError, require, unknown
from ..sae.named_inits import INITS
from ..sae.recipes import RECIPES
from ..worlds.registry import TABLES
from .experiment import Experiment
from .study import Study, check_overrides

OF_FOLDER = "experiment.py"
"""The file of an experiment that has a folder of its own."""

_folder: list[Path] = []
"""Of the latest experiment, where that put it at the end of the path."""
_neighbours: dict[str, tuple[ModuleType, str]] = {}
"""What experiments imported that is no library's, with a digest of its text then."""
_entries: dict[tuple[int, str], tuple[Path, Callable[[], Any]]] = {}
"""Which file put what, which is not held, under a name of one of toysae's tables."""


def load_experiment(path: str | Path) -> Experiment | Study:
    """The object named `experiment` (or `study`) in a Python file, which may import its neighbours.

    The file is run anew each time, and so are neighbours that were edited, so that an edit counts
    in one process too.

    Raises:
        ToysaeError: no such file (with the nearest one), no experiment in it, a neighbour that is
            not found because something else has its name, or a name of a recipe, an init or a part
            of a world that another experiment of this process has given another meaning.
    """
    path = file_of(checked_path("path", path))
    if not path.is_file():
        folders = dict.fromkeys((path.parent, Path("experiments")))
        beside = [str(p) for folder in folders for p in experiments_in(folder)]
        if not beside:
            raise ToysaeError(
                f"there is no experiment file {path}: give the path of one, e.g. "
                "experiments/recovery.py in a checkout of toysae"
            )
        raise unknown("experiment file", str(path), beside)
    module = _ran(path)
    found = vars(module).get("experiment", vars(module).get("study"))
    if not isinstance(found, Experiment | Study):
        raise ToysaeError(
            f"{path} is not an experiment: define `experiment = Experiment(...)` or "
            "`study = Study(...)` in it"
        )
    settable = found if isinstance(found, Experiment) else found.options
    check_overrides(settable, "smoke", found.smoke)
    check_overrides(settable, "full", getattr(found, "full", {}))
    return found


def file_of(path: Path) -> Path:
    """The file of an experiment: of a folder the `experiment.py` in it; ".py" may be left out."""
    if path.is_dir():
        return path / OF_FOLDER
    with_ending = path.with_name(f"{path.name}.py") if path.name else path
    return with_ending if not path.exists() and with_ending.is_file() else path


def name_of(path: Path) -> str:
    """What an experiment is called: after its file, or after the folder that it is of."""
    file = file_of(path)
    return file.resolve().parent.name if file.name == OF_FOLDER else file.stem


def experiments_in(folder: Path) -> list[Path]:
    """The files, and the folders with an experiment of their own, by name."""
    found = [p for p in folder.glob("*.py") if p.is_file() and p.name != OF_FOLDER]
    return sorted([*found, *(p.parent for p in folder.glob(f"*/{OF_FOLDER}"))])


def _ran(path: Path) -> ModuleType:
    """The module that a file is. Its classes say by their module which file they are of.

    An experiment with a folder of its own is a package there, and imports what is its own as
    `from .figures import ...`.
    """
    whole = path.resolve()
    name = f"{name_of(path)}_{sha256(str(whole).encode()).hexdigest()[:8]}"
    if path.name == OF_FOLDER:
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__, package.__package__ = [str(whole.parent)], name
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        name = f"{name}.experiment"
    module = ModuleType(name)
    module.__file__, module.__package__ = str(whole), name.rpartition(".")[0]
    source = read_regular(path, kind="experiment file")
    _open_to_neighbours(whole, source)
    own_code.experiments[name] = whole
    known = set(sys.modules)
    sys.modules[name] = module  # where dataclasses look names up
    try:
        with _no_entry_replaced(whole):
            exec(compile(source, str(whole), "exec"), vars(module))
    except ToysaeError:
        raise
    except Exception as error:
        raise ToysaeError(
            f"{path} is not an experiment: {type(error).__name__}: {error}"
        ) from error
    finally:
        del sys.modules[name]
        for new in set(sys.modules) - known:
            file = getattr(sys.modules[new], "__file__", None)
            if file is not None and not own_code.of_library(Path(file).resolve()):
                _neighbours[new] = sys.modules[new], _text(file)
                if "." in name and new.startswith(name.removesuffix("experiment")):
                    own_code.inside[new] = Path(file).resolve()
    return module


def _open_to_neighbours(path: Path, source: bytes) -> None:
    """Lets a file import those beside it; they take the place of no library.

    Raises:
        ToysaeError: something else that is no library has the name of a neighbour.
    """
    folder = path.parent
    # One that was edited is part of those that import it.
    edited = any(_text(module.__file__) != text for module, text in _neighbours.values())
    for name, (module, _) in list(_neighbours.items()):
        # What is in a package has a name of its own: it stays, or its parts would have two classes.
        left = _folder != [folder] and _is_within(module.__file__, _folder)
        left = left and name not in own_code.inside
        if (edited or left) and sys.modules.get(name) is module:
            del sys.modules[name]
        if edited or left:
            del _neighbours[name]
    importlib.invalidate_caches()  # a neighbour may be younger than the last look at its folder
    while _folder:
        with suppress(ValueError):
            sys.path.remove(str(_folder.pop()))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _folder.append(folder)
    for name in sorted(_imported(source)):
        own = next((f for f in (folder / f"{name}.py", folder / name) if f.exists()), None)
        spec = None
        with suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name) if own is not None else None
        if spec is None or spec.origin is None or not spec.has_location:
            continue
        origin = Path(spec.origin).resolve()
        require(
            origin.is_relative_to(folder) or own_code.of_library(origin),
            f"{own} cannot be imported, {origin} has that name and comes first: rename one of them",
        )


def _text(file: str | None) -> str:
    with suppress(OSError, TypeError):
        return sha256(Path(str(file)).read_bytes()).hexdigest()
    return ""


def _is_within(file: str | None, folders: list[Path]) -> bool:
    return any(Path(str(file)).resolve().is_relative_to(folder) for folder in folders)


def _imported(source: bytes) -> set[str]:
    """The packages that a file imports, anywhere in it."""
    return {name.split(".")[0] for name, level in own_code.read(source)[1] if not level and name}


@contextmanager
def _no_entry_replaced(path: Path) -> Iterator[None]:
    """Refuses a file that gives a name of toysae's tables another meaning than an earlier file
    gave it, and gives it back: an experiment asks for what it means by name, when it runs."""
    own: Any = (RECIPES, INITS)
    tables: tuple[dict[str, Any], ...] = (*own, *TABLES)
    before = [dict(table) for table in tables]
    yield
    for i, (table, was) in enumerate(zip(tables, before, strict=True)):
        for name in [name for name in table if table[name] is not was.get(name)]:
            earlier, entry = _entries.get((i, name), (path, lambda: None))
            if earlier != path and entry() is not None and was.get(name) is entry():
                for each, old in zip(tables, before, strict=True):
                    each.clear()
                    each.update(old)
                raise ToysaeError(
                    f"{path} gives {name!r} another meaning, and {earlier} had given it one: load "
                    "it in a new process, or use another name"
                )
            with suppress(TypeError):  # a tuple, say
                _entries[i, name] = path, ref(table[name])
