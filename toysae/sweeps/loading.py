"""Loads files that define an experiment or a study, each as a module of its own."""

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
"""The folder of the last experiment, if loading it has added that to `sys.path`."""
_neighbours: dict[str, tuple[ModuleType, str]] = {}
"""Modules of no library that experiments have imported, with a digest of their text then."""
_entries: dict[tuple[int, str], tuple[Path, Callable[[], Any]]] = {}
"""The file that made an entry of one of toysae's tables, and a weak reference to the entry."""


def load_experiment(path: str | Path) -> Experiment | Study:
    """Loads the object named `experiment` (or `study`) in a Python file, which may import files
    next to it.

    The file is run at each call, and so are edited neighbours, so that edits take effect without a
    new process.

    Raises:
        ToysaeError: no such file (with the nearest one); no experiment in it; a neighbour that is
            not found because something else has its name; or the name of a recipe, an init or a
            law of worlds to which another experiment of this process has given another meaning.
    """
    asked = checked_path("path", path)
    path = file_of(asked)
    if not path.is_file():
        if inside := experiments_in(asked) if asked.is_dir() else []:
            names = ", ".join(p.name for p in inside)
            raise ToysaeError(
                f"{asked} is a folder of experiments: name one, e.g. {inside[0]} (of {names})"
            )
        folders = dict.fromkeys((path.parent, Path("experiments")))
        known = [str(p) for folder in folders for p in experiments_in(folder)]
        if not known:
            raise ToysaeError(
                f"there is no experiment file {path}: give the path of one, e.g. "
                "experiments/recovery.py in a checkout of toysae"
            )
        raise unknown("experiment file", str(path), known)
    names = vars(_run(path))
    experiment = names.get("experiment", names.get("study"))
    if not isinstance(experiment, Experiment | Study):
        raise ToysaeError(
            f"{path} is not an experiment: define `experiment = Experiment(...)` or "
            "`study = Study(...)` in it"
        )
    settable = experiment if isinstance(experiment, Experiment) else experiment.options
    check_overrides(settable, "smoke", experiment.smoke)
    check_overrides(settable, "full", getattr(experiment, "full", {}))
    return experiment


def file_of(path: Path) -> Path:
    """The file of an experiment: the `experiment.py` of a folder; ".py" may be left out."""
    if path.is_dir():
        return path / OF_FOLDER
    with_ending = path.with_name(f"{path.name}.py") if path.name else path
    return with_ending if not path.exists() and with_ending.is_file() else path


def name_of(path: Path) -> str:
    """The name of an experiment: that of its file, or of its own folder."""
    file = file_of(path)
    return file.resolve().parent.name if file.name == OF_FOLDER else file.stem


def experiments_in(folder: Path) -> list[Path]:
    """The Python files of a folder, and its folders with an experiment of their own, by name."""
    files = [p for p in folder.glob("*.py") if p.is_file() and p.name != OF_FOLDER]
    return sorted([*files, *(p.parent for p in folder.glob(f"*/{OF_FOLDER}"))])


def _run(path: Path) -> ModuleType:
    """Runs a file as a module, whose name tells which file its classes come from.

    An experiment with a folder of its own is a package, and imports other files of the folder as
    `from .figures import ...`.
    """
    resolved = path.resolve()
    name = f"{name_of(path)}_{sha256(str(resolved).encode()).hexdigest()[:8]}"
    if path.name == OF_FOLDER:
        package = sys.modules.setdefault(name, ModuleType(name))
        package.__path__, package.__package__ = [str(resolved.parent)], name
        package.__spec__ = ModuleSpec(name, None, is_package=True)
        name = f"{name}.experiment"
    module = ModuleType(name)
    module.__file__, module.__package__ = str(resolved), name.rpartition(".")[0]
    source = read_regular(path, kind="experiment file")
    _open_to_neighbours(resolved, source)
    own_code.experiments[name] = resolved
    known = set(sys.modules)
    sys.modules[name] = module  # where dataclasses look up names
    try:
        with _no_entry_replaced(resolved):
            exec(compile(source, str(resolved), "exec"), vars(module))
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
    """Lets a file import its neighbours, the files next to it, which never replace a library.

    Raises:
        ToysaeError: something that is neither a neighbour nor a library has a neighbour's name.
    """
    folder = path.parent
    # All are loaded again if one was edited, as others may import it.
    edited = any(_text(module.__file__) != text for module, text in _neighbours.values())
    for name, (module, _) in list(_neighbours.items()):
        # Modules of a package have names of their own: reloading would double their classes.
        file = Path(str(module.__file__)).resolve()
        left = _folder != [folder] and name not in own_code.inside
        left = left and any(file.is_relative_to(last) for last in _folder)
        if (edited or left) and sys.modules.get(name) is module:
            del sys.modules[name]
        if edited or left:
            del _neighbours[name]
    importlib.invalidate_caches()  # a neighbour may be newer than the last look at its folder
    while _folder:
        with suppress(ValueError):
            sys.path.remove(str(_folder.pop()))
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
        _folder.append(folder)
    imports = own_code.read(source)[1]
    for name in sorted({name.split(".")[0] for name, level in imports if not level and name}):
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
    """A digest of a file's text; "" if it cannot be read."""
    with suppress(OSError, TypeError):
        return sha256(Path(str(file)).read_bytes()).hexdigest()
    return ""


@contextmanager
def _no_entry_replaced(path: Path) -> Iterator[None]:
    """Refuses a file that gives a name of toysae's tables another meaning than an earlier file, and
    restores the tables: an experiment looks up names when it runs.

    Raises:
        ToysaeError: naming both files.
    """
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
