"""Launchers: start other processes that work in a run's directory, through submitit.

>>> launcher("local:2"), launcher("slurm:partition=gpu,gpus=1,jobs=32,time=4h")

A launched process runs `toysae work DIR`. The same command can be started without submitit: by
hand, over ssh or as the jobs of Kubernetes.
"""

import os
import re
import shlex
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..checked import integer
from ..errors import ToysaeError, require, unknown
from ..watch import Stopped, doing, stop_requests
from .progress import Progress, say
from .queue import Queue

WORKERS = "workers"
"""The folder of submitit's files and of what the workers print."""

_LOOK_SECONDS = 1.0
_END_SECONDS, _STOP_SECONDS = 12.0, 6.0  # for a worker to save its block, and to wait for that
_YEAR = 365 * 24 * 60  # minutes
_KINDS = ("local", "slurm")


@dataclass(frozen=True)
class Work:
    """The work of a job: a command that runs until it ends or is stopped.

    When Slurm tells a job that its time is over, submitit queues it again, and it goes on from the
    last checkpoint.

    Attributes:
        command: of the process.
        stop: a file whose existence tells the process to end.
        environment: variables that are set in addition to those there are.
        cores: that the process may use; all if empty.
    """

    command: tuple[str, ...]
    stop: str
    environment: Mapping[str, str] = field(default_factory=dict)
    cores: tuple[int, ...] = ()

    def __call__(self) -> int:
        if self.cores and hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, self.cores)
        child = subprocess.Popen(self.command, env={**os.environ, **self.environment})
        _children.append(child)
        while child.poll() is None:
            if os.path.exists(self.stop):
                _end(child)
            time.sleep(_LOOK_SECONDS / 2)
        return child.returncode

    def checkpoint(self) -> Any:
        """Ends the process and returns what submitit queues when the time is over."""
        from submitit.helpers import DelayedSubmission

        for child in _children:
            _end(child)
        return DelayedSubmission(self)


_children: list[subprocess.Popen] = []


def _end(child: subprocess.Popen) -> None:
    """Stops a worker, with time to save what it trains."""
    child.terminate()
    try:
        child.wait(_END_SECONDS)
    except subprocess.TimeoutExpired:
        child.kill()


class Launcher(ABC):
    """A way to start workers."""

    @property
    @abstractmethod
    def n_jobs(self) -> int:
        """The number of workers."""

    @abstractmethod
    def executor(self, folder: Path) -> Any:
        """Submitit's executor, which keeps its files in `folder`.

        Raises:
            ToysaeError: submitit, or the system that it submits to, is not installed.
        """

    @abstractmethod
    def work(self, command: Sequence[str], stop: str, i: int) -> Work:
        """The work of the i-th worker."""


@dataclass(frozen=True)
class Local(Launcher):
    """Processes on this machine, each with its share of the cores, or a GPU of its own.

    Attributes:
        n: how many processes.
    """

    n: int

    @property
    def n_jobs(self) -> int:
        return self.n

    def executor(self, folder: Path) -> Any:
        executor = _submitit().LocalExecutor(folder=folder)
        executor.update_parameters(timeout_min=_YEAR)
        return executor

    def work(self, command: Sequence[str], stop: str, i: int) -> Work:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
        share = tuple(cores[i :: self.n]) if len(cores) >= self.n else ()
        gpus = [g for g in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if g]
        own = {"CUDA_VISIBLE_DEVICES": gpus[i % len(gpus)]} if gpus else {}
        return Work(
            tuple(command), stop, {"JAX_NUM_CPU_DEVICES": str(max(len(share), 1)), **own}, share
        )


@dataclass(frozen=True)
class Slurm(Launcher):
    """Jobs of Slurm, in one array.

    Attributes:
        jobs: how many.
        time: of each job in minutes, after which it is queued again.
        gpus: of each job.
        cpus: of each job.
        memory: of each job, as Slurm writes it, e.g. "32G".
        partition: of the cluster.
        more: further options of sbatch, by name.
    """

    jobs: int = 1
    time: int = 60
    gpus: int = 0
    cpus: int = 4
    memory: str = ""
    partition: str = ""
    more: tuple[tuple[str, str], ...] = ()

    @property
    def n_jobs(self) -> int:
        return self.jobs

    def executor(self, folder: Path) -> Any:
        submitit = _submitit()
        try:
            executor = submitit.SlurmExecutor(folder=folder, max_num_timeout=1000)
        except RuntimeError as error:
            raise ToysaeError(f"launcher slurm: {' '.join(str(error).split())}") from error
        optional = {"gpus_per_node": self.gpus, "mem": self.memory, "partition": self.partition}
        executor.update_parameters(
            time=self.time, cpus_per_task=self.cpus, array_parallelism=self.jobs,
            job_name="toysae", additional_parameters=dict(self.more),
            **{name: value for name, value in optional.items() if value},
        )  # fmt: skip
        return executor

    def work(self, command: Sequence[str], stop: str, i: int) -> Work:
        return Work(tuple(command), stop)


def launcher(text: str) -> Launcher:
    """The launcher that a text names: "local:N", or "slurm:" with options as in
    `partition=gpu,gpus=1,jobs=32,time=4h`.

    Raises:
        ToysaeError: another launcher, or an option that it does not have.
    """
    kind, _, rest = text.partition(":")
    if kind not in _KINDS:
        raise unknown("launcher", kind, _KINDS)
    if kind == "local":
        return Local(integer("--launcher local:", _whole(rest, "local:2"), 1, 1024))
    options: dict[str, Any] = {}
    more: list[tuple[str, str]] = []
    for item in filter(None, rest.split(",")):
        name, equals, value = item.partition("=")
        require(equals and value, f"--launcher slurm: {item!r} is not NAME=VALUE")
        if name in ("jobs", "gpus", "cpus"):
            options[name] = integer(f"--launcher slurm:{name}", _whole(value, "8"), 0, 100_000)
        elif name == "time":
            options[name] = _minutes(value)
        elif name in ("memory", "partition"):
            options[name] = value
        else:  # of sbatch
            require(re.fullmatch(r"[a-z][a-z0-9_-]*", name), f"--launcher slurm: {name!r} is not "
                    "the name of an option of sbatch")  # fmt: skip
            more.append((name.replace("-", "_"), value))
    slurm = Slurm(**options, more=tuple(more))
    require(slurm.jobs >= 1, "--launcher slurm:jobs=0: give at least 1")
    return slurm


def follow(queue: Queue, how: Launcher, command: Sequence[str], quiet: bool) -> None:
    """Starts workers and waits until no block is left.

    Args:
        queue: prepared.
        how: starts the workers.
        command: of each worker.
        quiet: no progress bar.

    Raises:
        ToysaeError: all workers ended and SAEs are left; with the last line of one.
        Stopped: by Ctrl-C or SIGTERM; the workers are stopped too.
    """
    if queue.is_empty():
        return
    folder = (queue.path / WORKERS).absolute()
    executor, stop = how.executor(folder), folder / "stop"
    stop.unlink(missing_ok=True)
    with _without_the_folder(), executor.batch():
        jobs = [executor.submit(how.work(command, str(stop), i)) for i in range(how.n_jobs)]
    ids = ", ".join(str(job.job_id) for job in jobs[:4]) + ", ..." * (len(jobs) > 4)
    say(f"{len(jobs)} workers started ({ids}); their output is in {folder}")
    cost = {block.name: block.cost for block in queue.read()[0]}
    try:
        with stop_requests() as request, Progress(cost, quiet) as progress:
            while not queue.is_empty():
                doing("following the workers", 100 * _LOOK_SECONDS)
                progress.follow(queue.done())
                if number := request.number:
                    kept = f"all of it is kept in {queue.path}"
                    raise Stopped(f"stopped, and the workers too; {kept}", number)
                if all(job.done() for job in jobs) and not queue.is_empty():
                    raise ToysaeError(
                        f"all workers ended and SAEs are left in {queue.path}: {_last_words(jobs)}"
                    )
                time.sleep(_LOOK_SECONDS)
            progress.follow(cost)
    except BaseException:
        stop.touch()
        _wait(jobs, _STOP_SECONDS)  # they end by themselves, even after this process
        raise
    _wait(jobs, _END_SECONDS)
    for job in jobs:
        with suppress(OSError, subprocess.SubprocessError):  # it may be gone by now
            if not job.done():
                job.cancel()


@contextmanager
def _without_the_folder() -> Iterator[None]:
    """Has Python processes that are started in the `with` block, and theirs, import no module from
    the folder that they happen to start in."""
    before = os.environ.get("PYTHONSAFEPATH")
    os.environ["PYTHONSAFEPATH"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["PYTHONSAFEPATH"]
        else:
            os.environ["PYTHONSAFEPATH"] = before


def _wait(jobs: Sequence[Any], most_seconds: float) -> None:
    """Waits until all jobs have ended, or for `most_seconds`."""
    until = time.monotonic() + most_seconds
    while time.monotonic() < until and not all(job.done() for job in jobs):
        time.sleep(_LOOK_SECONDS / 4)


def work_command(out: Path) -> list[str]:
    """The command of a worker in a directory."""
    return [sys.executable, "-P", "-m", "toysae", "work", str(out.absolute()), "--quiet"]


def _last_words(jobs: Sequence[Any]) -> str:
    """The last line of toysae that a worker printed, or the file with what it printed."""
    for job in jobs:
        lines = [line for line in (job.stderr() or "").splitlines() if line.startswith("toysae: ")]
        if lines:
            return lines[-1].removeprefix("toysae: ")
    return f"see {shlex.quote(str(jobs[0].paths.stderr))}"


def _submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise ToysaeError(
            "launching needs submitit: pip install 'toysae[slurm]', or start `toysae work DIR` as "
            "often as you like"
        ) from error
    return submitit


def _whole(text: str, example: str) -> int:
    require(text.isdecimal(), f"--launcher: {text!r} is not a whole number, as in {example}")
    return int(text)


def _minutes(text: str) -> int:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)(m|min|h|d|)", text)
    if match is None:
        raise ToysaeError(f"--launcher slurm:time={text}: give minutes, or e.g. 4h")
    return max(round(float(match[1]) * {"h": 60, "d": 1440}.get(match[2], 1)), 1)
