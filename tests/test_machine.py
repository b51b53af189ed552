"""Memory: the least of the machine's, the container's and the shell's limits is what is planned
with, and where it runs short programs are forgotten before the process is killed."""

import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import pytest

from toysae import Results, ToysaeError, checked, cli, machine, programs

ROOT = Path(__file__).parents[1]
RECOVERY = str(ROOT / "experiments" / "recovery.py")
CONTAINERS = Path("/sys/fs/cgroup/memory")
MIB = 2**20


def said(*args, before=""):
    """A process of its own, with so many devices as two cores are."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_NUM_CPU_DEVICES": "2"}
    code = f"{before}\nimport sys\nfrom toysae.cli import main\nmain(sys.argv[1:])"
    return subprocess.run(
        [sys.executable, "-c", code, *args], env=environment, capture_output=True, text=True
    )


def test_a_limit_of_the_container_counts(tmp_path, monkeypatch):
    free = machine.host_bytes()
    (tmp_path / "memory").mkdir()
    limit = tmp_path / "memory" / "memory.limit_in_bytes"
    monkeypatch.setattr(machine, "_CGROUPS", tmp_path)
    limit.write_text(str(free // 2))
    assert 0 < machine.host_bytes() < free // 2
    limit.write_text(str(100 * MIB))  # less than this process has already
    assert machine.host_bytes() == 0
    with pytest.raises(ToysaeError, match=r"^a world needs about 2 MiB and 0 B are left: raise"):
        machine.check_bytes("a world", 2 * MIB, "give a smaller one")


def test_a_limit_of_the_shell_counts():
    limit = 8 * 2**30
    code = f"""
import resource; resource.setrlimit(resource.RLIMIT_AS, ({limit}, {limit}))
from toysae.machine import host_bytes; print(host_bytes())"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 0 < int(done.stdout) < limit


def test_too_few_addresses_are_one_line():
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))"
    done = said("world", "sphere", "--d-in", "16", before=limit)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2 and "1.0 GiB of addresses (ulimit -v)" in line

    code = f"{limit}\nfrom toysae import make_world"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ToysaeError: this shell allows 1.0 GiB" in done.stderr.splitlines()[-1]


def test_the_memory_error_of_any_command_is_one_line(monkeypatch, capsys):
    def execute(args):
        raise MemoryError

    monkeypatch.setattr("toysae.cli.commands.execute", execute)
    with pytest.raises(SystemExit) as stop:
        cli.main(["list"])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 1 and "does not suffice" in line and "toysae list" in line


def test_a_small_file_takes_little(tmp_path):
    file = tmp_path / "a.json"
    file.write_text("{}")
    tracemalloc.start()
    assert checked.read_regular(file) == b"{}"
    assert tracemalloc.get_traced_memory()[1] < MIB
    tracemalloc.stop()


def test_programs_are_forgotten_where_memory_runs_short(monkeypatch):
    cleared = []
    monkeypatch.setattr(jax, "clear_caches", lambda: cleared.append(1))
    monkeypatch.setattr(programs, "many_maps", lambda: False)
    monkeypatch.setattr(programs, "host_bytes", lambda: 100)
    for needed, times in ((0, 0), (100, 0), (101, 1)):
        programs.forget_if_short(needed)
        assert len(cleared) == times
    monkeypatch.setattr(programs, "many_maps", lambda: True)
    programs.forget_if_short()
    assert len(cleared) == 2


def test_what_is_forgotten_is_compiled_again():
    """In a process of its own: the tests use their programs again."""
    code = """
import jax, jax.numpy as jnp
from toysae import programs
traced = []
doubled = jax.jit(lambda x: traced.append(1) or 2 * x)
for needed in (0, 0, 2**60):
    programs.forget_if_short(needed)
    assert doubled(jnp.ones(2)).sum() == 4
print(len(traced))"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"]


@pytest.mark.slow
def test_a_run_ends_in_a_container_with_hardly_any_memory(tmp_path):
    """Its programs alone would take more."""
    group = CONTAINERS / f"toysae-test-{os.getpid()}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(520 * MIB))
    except OSError:
        pytest.skip("no memory container can be made")
    try:
        enter = f"import os; open({str(group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()))"
        done = said("run", RECOVERY, "--smoke", "--no-ceiling", "--quiet", "--out",
                    str(tmp_path / "out"), before=enter)  # fmt: skip
        assert done.returncode == 0, (done.returncode, done.stderr[-2000:])
        assert len(Results.load(tmp_path / "out").table) == 32
    finally:
        group.rmdir()
