"""One meaning a word: public names are defined once, and what docstrings refer to is there."""

import ast
import re
from collections import defaultdict
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = sorted((ROOT / "toysae").rglob("*.py"))

SAME = {
    "forward": "what a model or an SAE gives for an input",
    "plan": "of an experiment, by that of its cells",
    "Results": "a finished run: its directory, and anything else with a table and arrays",
    "run": "of an experiment, by that of its cells",
    "save": "the face of the plots' own",
    "uniform": "values between two bounds: those of a sweep, and random ones",
}
"""Names that several modules define with one meaning, and which."""


def names_of(source: str) -> set[str]:
    """The public names that a module defines, but for type variables."""
    found = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in found if not name.startswith("_") and len(name) > 1}


def test_no_name_is_defined_in_two_modules_with_two_meanings():
    """A command of the command line is called like what it does."""
    homes = defaultdict(list)
    for file in MODULES:
        if file.parent.name != "cli":
            for name in names_of(file.read_text(encoding="utf-8")):
                homes[name].append(str(file.relative_to(ROOT)))
    several = {name: files for name, files in homes.items() if len(files) > 1}
    assert {name: files for name, files in several.items() if name not in SAME} == {}
    assert SAME.keys() <= several.keys(), "a name that is defined once needs no reason"


def missing(reference: str) -> bool:
    """Whether nothing has this dotted name."""
    parts = reference.split(".")
    for n in range(len(parts), 0, -1):
        try:
            found = import_module(".".join(parts[:n]))
        except ImportError:
            continue
        for name in parts[n:]:
            if name in getattr(found, "__annotations__", {}):
                return False
            if not hasattr(found, name):
                return True
            found = getattr(found, name)
        return False
    return True


@pytest.mark.parametrize("folder", ["toysae", "experiments"])
def test_what_docstrings_refer_to_is_there(folder):
    roles = re.compile(r":(?:func|class|mod|meth|data|attr):`~?(toysae[\w.]*)`")
    wrong = [
        f"{file.relative_to(ROOT)}: {reference}"
        for file in sorted((ROOT / folder).rglob("*.py"))
        for reference in roles.findall(file.read_text(encoding="utf-8"))
        if missing(reference)
    ]
    assert wrong == []
