"""The architecture, checked: imports run downward, `import toysae` is light, files are short."""

import ast
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "toysae"
FOLDERS = ["worlds", "sae", "training", "recovery", "evaluation", "runs", "sweeps", "plotting",
           "interop", "lm"]  # fmt: skip
WINGS = ["models", "capture", "saes", "effects", "cards"]  # of lm
TOP = len(FOLDERS)  # cli.py and bench.py may import everything; so may toysae/__init__.py
HELPERS = -1  # other top-level modules: all may import them, they import no folder
FILES = sorted(PACKAGE.rglob("*.py"))
MAX_LINES = 350


def rank(name: str) -> float:
    """The height of a dotted module, or of a name in one, e.g. ``toysae.sae.spec.SAESpec``."""
    part, wing = (*name.split("."), "", "")[1:3]
    if part in FOLDERS:
        within = WINGS.index(wing) if part == "lm" and wing in WINGS else len(WINGS)
        return FOLDERS.index(part) + within / 10
    is_helper = part not in ("cli", "bench", "__main__") and (PACKAGE / f"{part}.py").exists()
    return HELPERS if part and is_helper else TOP


def imported(source: str, package: str) -> list[tuple[int, str]]:
    """(line, dotted name) of each import from toysae in a module of `package`, lazy ones too."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = parents[: len(parents) - node.level + 1] if node.level else []
            base = ".".join([*base, *([node.module] if node.module else [])])
            names = [f"{base}.{alias.name}" for alias in node.names]
        else:
            continue
        found += [(node.lineno, name) for name in names if name.split(".")[0] == "toysae"]
    return found


def upward(source: str, file: Path) -> list[str]:
    """The imports in `source`, placed at `file`, that run upward."""
    parts = file.relative_to(ROOT).with_suffix("").parts
    own = rank(".".join(parts))
    names = imported(source, ".".join(parts[:-1]))
    return [f"{file.name}:{line} imports {name}" for line, name in names if rank(name) > own]


SOURCES = {file: file.read_text(encoding="utf-8") for file in FILES}


def test_imports_run_only_downward():
    found = [upward(SOURCES[file], file) for file in FILES if file != PACKAGE / "__init__.py"]
    assert [line for lines in found for line in lines] == []


@pytest.mark.parametrize(
    ("place", "source", "allowed"),
    [
        ("sae/x.py", "from toysae.worlds.world import World", True),
        ("sae/x.py", "from ..keys import named_key", True),
        ("sae/x.py", "from . import spec", True),
        ("sae/x.py", "from ..training import loop", False),
        ("sae/x.py", "def f():\n    import toysae.lm", False),
        ("sae/x.py", "import toysae", False),
        ("sae/x.py", "from toysae import training", False),
        ("lm/saes/x.py", "from ..capture.text import Corpus", True),
        ("lm/capture/x.py", "from ..saes import site_sae", False),
        ("errors.py", "from .worlds import world", False),
        ("cli.py", "from toysae import lm, __version__", True),
    ],
)
def test_the_rule_itself(place, source, allowed):
    assert (upward(source, PACKAGE / place) == []) is allowed


def test_modules_do_not_import_each_other_in_a_circle():
    """Imports inside functions and for type checkers count too."""
    modules = {".".join(f.relative_to(ROOT).with_suffix("").parts): f for f in FILES}

    def home(name: str) -> str | None:
        """The module that an imported name lives in, or None where it is a package's face."""
        return name if name in modules else home(name.rpartition(".")[0]) if "." in name else None

    def parents(name: str) -> str:
        return name.rpartition(".")[0]

    wanted = {
        module: {home(name) for _, name in imported(SOURCES[file], parents(module))} - {None}
        for module, file in modules.items()
    }
    order = TopologicalSorter(wanted)
    try:
        order.prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(error.args[1]))


def test_import_toysae_is_light():
    code = "import sys, toysae; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"torch", "toysae.lm", "matplotlib", "pandas"}
    heavy |= {"tokenizers", "gguf", "huggingface_hub"}
    assert heavy & set(done.stdout.split()) == set()


def test_a_world_and_training_do_not_wait_for_what_they_do_not_need():
    """Together these take as long to import as jax; nor is matplotlib loaded where it is only asked
    which figures there are."""
    code = (
        "import sys, toysae; from toysae.plotting import FIGURES; 'mcs_histograms' in FIGURES; "
        "toysae.make_world('sphere'), toysae.train; print(*sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    heavy = {"scipy.stats", "scipy.special", "scipy.optimize", "pandas", "flax", "matplotlib"}
    assert heavy.isdisjoint(done.stdout.split())


def test_files_are_short():
    lengths = {str(file): len(source.splitlines()) for file, source in SOURCES.items()}
    assert {file: n for file, n in lengths.items() if n > MAX_LINES} == {}, "one concept per file"


LAPACK = {
    "cholesky", "cho_factor", "cho_solve", "cond", "det", "eig", "eigh", "eigvals", "eigvalsh",
    "expm", "inv", "lstsq", "lu", "lu_factor", "lu_solve", "matrix_power", "matrix_rank",
    "multi_dot", "pinv", "polar", "qr", "schur", "slogdet", "solve", "solve_triangular", "sqrtm",
    "svd", "svdvals", "tensorinv", "tensorsolve", "triangular_solve",
}  # fmt: skip
JAX = ("jnp.linalg", "jax.numpy.linalg", "jax.scipy.linalg", "jax.lax.linalg", "lax.linalg")


def lapack_calls(source: str) -> list[str]:
    """jax's factorisations, see :mod:`toysae.linalg`: such names as attributes, or imported."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) in JAX:
            found += [ast.unparse(node)] * (node.attr in LAPACK)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("jax."):
            found += [a.name for a in node.names if a.name in {*LAPACK, "linalg"}]
        elif isinstance(node, ast.Attribute) and ast.unparse(node) == "jax.random.orthogonal":
            found.append(ast.unparse(node))
    return found


def test_nothing_calls_jaxs_lapack():
    """With as many CPU devices as cores such a call, once batched, can wait for ever."""
    experiments = (ROOT / "experiments").rglob("*.py")
    sources = SOURCES | {file: file.read_text(encoding="utf-8") for file in experiments}
    calls = {str(file): lapack_calls(source) for file, source in sources.items()}
    assert {file: found for file, found in calls.items() if found} == {}
    for bad in ("jnp.linalg.svd(x)", "from jax.numpy import linalg",
                "jax.scipy.linalg.solve(a, b)", "jax.random.orthogonal(key, 3)"):  # fmt: skip
        assert lapack_calls(bad)
    assert not lapack_calls("jnp.linalg.norm(x), np.linalg.svd(x)")
