"""What every test shares: two devices, shapes checked at run time, a compilation cache, markers."""

import contextlib
import functools
import gc
import inspect
import itertools
import os
import signal
import subprocess
import time
from importlib.metadata import version
from pathlib import Path

# Most of the suite's time is compilation, so on a CPU little is optimised; read as jax starts.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false "
    "--xla_cpu_parallel_codegen_split_count=1"
    if version("jaxlib").startswith("0.10.")  # a flag that XLA does not know ends the process
    else "--xla_backend_optimization_level=0",
)
# As on a machine of two cores, whatever this one has; processes that tests start have them too.
os.environ.setdefault("JAX_NUM_CPU_DEVICES", "2")

# A job in the background of a plain shell ignores Ctrl-C, and so would all that it starts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import jax.export
import jaxtyping
import pytest
from beartype import BeartypeConf, beartype

# PEP 484: where a float is asked for, an int will do.
_checked = beartype(conf=BeartypeConf(is_pep484_tower=True))


# These check what users give themselves, and refuse it in a sentence.
_DOORS = {"make_world", "train", "make_spec", "make_ensemble", "ensemble_of", "member_grid",
          "from_saelens", "draw", "grid", "zipped", "random", "stack", "_two_axes"}  # fmt: skip


def functions_only(fn=None, **_):
    """Beartype for functions and methods, with the shapes of all arguments of one call compared.

    In place of :func:`jaxtyping.jaxtyped`, which checks each call twice, makes room for shapes
    where no array is named, and checks constructors too: JAX rebuilds pytree dataclasses with
    batched arrays, axis numbers, shapes or None in their fields (vmap, tree_map, scan), so a check
    in `__init__` would refuse what is legal.
    """
    if fn is None:
        return functions_only
    if inspect.isclass(fn) or fn.__name__ == "__init__" or fn.__name__ in _DOORS:
        return fn
    stated, fn.__annotations__ = fn.__annotations__, _resolved(fn)
    checked, shapes = _checked(fn), "jaxtyping" in str(fn.__annotations__)
    fn.__annotations__ = checked.__annotations__ = stated
    if not shapes:
        return checked

    @functools.wraps(fn)
    def with_shapes(*args, **kwargs):
        with _shapes("context"):
            return checked(*args, **kwargs)

    return with_shapes


def _resolved(fn):
    """Its annotations, less the strings that name what only type checkers import."""
    known = {}
    for name, hint in fn.__annotations__.items():
        with contextlib.suppress(NameError):
            known[name] = eval(hint, fn.__globals__) if isinstance(hint, str) else hint
    return known


# The hook decorates each function with what jaxtyping has by this name.
_shapes, jaxtyping.jaxtyped = jaxtyping.jaxtyped, functions_only
jaxtyping.install_import_hook("toysae", None)


def pytest_configure() -> None:
    """Programs are kept outside the clone, for the processes that tests start too."""
    from toysae import programs

    gc.set_threshold(100_000, 50, 100)  # tracing makes many objects, and little garbage
    jax.monitoring.register_event_duration_secs_listener(_count_compiled)
    if version("jaxlib").startswith("0.10."):  # it reaches into what jax hides
        _share_contexts()
        _put_constants()
    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        os.environ["JAX_COMPILATION_CACHE_DIR"] = str(programs.folder() / "tests")
        os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.002"
        jax.config.update("jax_compilation_cache_dir", os.environ["JAX_COMPILATION_CACHE_DIR"])
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.002)


def _count_compiled(event: str, seconds: float, **_) -> None:
    _compiled[0] += event.endswith("/backend_compile_duration")


def _share_contexts(n: int = 200) -> None:
    """Lowers so many programs in one MLIR context: jax makes one for each, which takes longer than
    to lower a small program."""
    from jax._src.interpreters import mlir

    make, asked, latest = mlir.make_ir_context, itertools.count(), []

    def context():
        if next(asked) % n == 0:
            latest[:] = [make()]
        return latest[0]

    mlir.make_ir_context = context


def _put_constants() -> None:
    """A number or an array of NumPy becomes one of jax without a program that does nothing else."""
    from jax._src.lax import lax

    lax.stage_p.def_impl(lambda x: x if isinstance(x, jax.Array) else jax.device_put(x))


_MORE_BYTES = 5 * 2**30  # than after the last time: not all of it ever comes back
_after, _compiled = [0], [0]


@pytest.fixture(autouse=True)
def _forget_programs():
    """Every compiled program holds memory and maps: all are forgotten when either runs short, and
    not before, since other tests use them too."""
    yield
    if _compiled[0] < 200:  # too few to make a difference
        return
    from toysae import programs

    _compiled[0] = 0
    try:
        resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:  # another system
        resident = 0
    if programs.many_maps(0.9) or resident > _after[0] + _MORE_BYTES:
        gc.unfreeze()
        jax.clear_caches()
        gc.collect()
        _after[0] = resident
    gc.freeze()  # or each collection goes through all that was ever traced


@pytest.fixture
def heard():
    """Waits until the thread that listens has heard a signal."""
    from toysae import watch

    def wait() -> None:
        until = time.monotonic() + 20
        while not watch._open.number and time.monotonic() < until:  # pyright: ignore
            time.sleep(0.01)

    return wait


@pytest.fixture
def small_disk(tmp_path):
    """A file system of so many KiB, where one may be mounted."""
    mounted = []

    def of(kib: int) -> Path:
        path = tmp_path / "disk"
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kib}k", "tmpfs", str(path)]
        try:
            done = subprocess.run(mount, capture_output=True)
        except OSError:
            pytest.skip("there is no mount")
        if done.returncode:
            pytest.skip("mounting is not allowed")
        mounted.append(path)
        return path

    yield of
    for path in mounted:
        subprocess.run(["umount", str(path)], check=True)


@pytest.fixture
def refused_flips(tmp_path):
    """How many copies of a file with one flipped bit in one byte a reader refuses, in one line."""

    def count(load, file: Path, every: int) -> int:
        from toysae import ToysaeError

        data, bad, refused = file.read_bytes(), tmp_path / "flipped", 0
        for at in range(0, len(data), every):
            bad.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
            try:
                load(bad)
            except ToysaeError as error:
                refused += "\n" not in str(error)
        return refused

    return count


@pytest.fixture(scope="session")
def calls_of_lapack():
    """The lines of a program that call LAPACK or what stands for it elsewhere. It is lowered for
    CPU, GPU and TPU, which fails where one of them has no such operation."""
    names = ("lapack", "blas_", "cusolver", "Eigh", "Qr(", "@Svd")

    def lines(program, *args) -> list[str]:
        text = jax.export.export(program, platforms=("cpu", "cuda", "tpu"))(*args).mlir_module()
        assert "stablehlo" in text
        code = (line for line in text.splitlines() if not line.startswith("#loc"))
        return [line for line in code if any(name in line for name in names)]

    return lines


def pytest_runtest_setup(item: pytest.Item) -> None:
    if item.get_closest_marker("gpu") and jax.default_backend() != "gpu":
        pytest.skip("needs a GPU")


@pytest.hookimpl(tryfirst=True)  # before pytest leaves the slow ones out
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Of a product of parameters marked `rotation(n)` every n-th case runs, so that each value of
    an axis meets another one of the next axis; the whole product is slow."""
    for item in items:
        marker = item.get_closest_marker("rotation")
        if marker and sum(item.callspec.indices.values()) % marker.args[0]:  # pyright: ignore
            item.add_marker(pytest.mark.slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A test with the argument `program` runs once for each compiled program among the recipes:
    the others differ from one of these in numbers or in the init alone."""
    if "program" in metafunc.fixturenames:
        from toysae.sae import RECIPES, make_spec

        programs = {make_spec(name, 16, 32).once_started(): name for name in reversed(RECIPES)}
        metafunc.parametrize("program", list(reversed(programs.values())))
