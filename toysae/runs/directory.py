"""A run's directory: a mark lists every file that runs wrote there, by name and seal.

toysae-run.json           the mark, written before anything else
.toysae-run.json.copy     the same again, in case one of the two is damaged

Only what the mark lists is read, replaced, moved or removed: by exact name, inside the directory,
and never through a link. Whatever else lies there is left as it is.

Several processes may write at once: a lock is held for the moment in which one changes the mark.
"""

import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import SoftFileLease

from ..checked import read_regular
from ..disk import file_sha256, sync, telling_of_a_full_disk, telling_of_no_access
from ..errors import ToysaeError, require
from .claims import CLAIMS as CLAIMS
from .claims import held
from .mark import (
    COPY,
    LOCK,
    LOCKS,
    MARK,
    Seal,
    check_ours,
    is_marked,
    is_regular,
    read_mark,
    update_mark,
    why_not_ours,
)

BROKEN = "broken"
"""The folder inside that damaged files are moved to, for good."""

_LEASE_SECONDS = 20.0  # after which a process that stands still loses the lock of the mark
_MOST_WAIT = 60.0  # seconds to wait for that lock
_TRIES, _PAUSE = 10, 0.05  # a file may be replaced while it is read


class Directory:
    """A directory with a mark. Any number of processes may read and write; no two of them write
    the same name, see :mod:`toysae.runs.claims`.

    Attributes:
        path: of the directory.
        files: the seal of every file by name, a POSIX path relative to `path`; None while the file
            is being written.
    """

    def __init__(self, path: Path, files: Mapping[str, Seal | None]):
        self.path, self.files, self._read = path, dict(files), dict(files)
        self._lock = SoftFileLease(path / LOCK, lease_duration=_LEASE_SECONDS)

    @classmethod
    def open(cls, path: str | Path) -> "Directory":
        """Opens the directory as its mark describes it at this moment.

        Raises:
            ToysaeError: no run has written there; both copies of the mark are damaged; it is of
                another version.
        """
        path = Path(path)
        problem = why_not_ours(path)
        require(not problem, f"{path} {problem}: give the directory of a run")
        require(is_marked(path), f"{path} holds no results: give the directory of a run")
        return cls(path, read_mark(path))

    @classmethod
    def claim(cls, path: str | Path) -> "Directory":
        """Opens the directory, which is made and marked if it is missing or empty.

        Raises:
            ToysaeError: it holds files that are not a run's.
        """
        path = Path(path)
        check_ours(path)
        with telling_of_no_access(path):
            path.mkdir(parents=True, exist_ok=True)
        directory = cls(path, {})
        with directory.alone():
            directory._write_mark()
        return directory

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Reads the mark again and keeps other processes from changing it in the `with` block,
        which must be short.

        Raises:
            ToysaeError: nothing can be written there; others hold it for a minute.
        """
        with held(self._lock, _MOST_WAIT):
            if self._lock.lock_counter == 1 and is_marked(self.path):
                self.refresh()
            yield

    def refresh(self) -> None:
        """Reads the mark again, which another object or process may have written."""
        self.files = read_mark(self.path)
        self._read = dict(self.files)

    def names(self, folder: str = "") -> list[str]:
        """The names of the completely written files directly in a folder, sorted."""
        return sorted(
            name
            for name, seal in self.files.items()
            if seal is not None and name.rpartition("/")[0] == folder
        )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files, each whole or not at all: all are listed before, and sealed afterwards.

        Raises:
            ToysaeError: the disk is full; something that is not ours has one of these names.
        """
        self.put(
            {name: lambda path, data=data: path.write_bytes(data) for name, data in files.items()},
            {name: len(data) for name, data in files.items()},
        )

    def put(
        self, writers: Mapping[str, Callable[[Path], Any]], sizes: Mapping[str, int] | None = None
    ) -> None:
        """Writes files as :meth:`write` does, for files that a library writes or that are large.

        Args:
            writers: by name of the file, a function that writes it to the path that it is given.
            sizes: in bytes, where known, for the message about a full disk.
        """
        with self.alone():
            self.tidy(writers)
            self.check_free(writers)
            self.set_aside(n for n in writers if self.files.get(n) is not None and self.wrong(n))
            before = {name: self.files[name] for name in writers if name in self.files}
            self.files |= dict.fromkeys(writers)
            self._write_mark()
        seals: dict[str, Seal] = {}
        try:
            for name, writer in writers.items():
                path, temporary = self.path / name, self._temporary(name)
                with telling_of_a_full_disk(path, (sizes or {}).get(name)):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    writer(temporary)
                    sync(temporary)
                seal = Seal(temporary.stat().st_size, file_sha256(temporary))
                os.replace(temporary, path)
                sync(path.parent)
                seals[name] = seal
        except BaseException:
            with suppress(ToysaeError, OSError):
                for name in writers:
                    self._temporary(name).unlink(missing_ok=True)
                with self.alone():
                    for name in writers.keys() - seals.keys():  # the earlier file is still there
                        self.files.pop(name, None)
                        self.files |= {name: before[name]} if name in before else {}
                    self.files |= seals
                    self._write_mark()
            raise
        with self.alone():
            self.files |= seals
            self._write_mark()

    def inside(self, path: Path) -> str | None:
        """Returns the name of a path in this directory, or None if it lies elsewhere."""
        try:
            return str(PurePosixPath(path.absolute().relative_to(self.path.absolute())))
        except ValueError:
            return None

    def check_reachable(self, names: Iterable[str] | None = None) -> None:
        """Refuses to go on if a link, a folder or a pipe has taken the place of a listed file or
        of its folder. Nothing is changed, so that the file can be put back.

        Raises:
            ToysaeError: naming the first such place.
        """
        for name in self.files if names is None else names:
            through, path = self._through_a_link(name), self.path / name
            require(not through, f"{through} is a link or not a folder: put the run's own back")
            good = is_regular(path) or not os.path.lexists(path)
            require(good, f"{path} is a link or not a file: put the run's own back, or remove it")

    def check_free(self, names: Iterable[str]) -> None:
        """Refuses to replace files that no run wrote.

        Raises:
            ToysaeError: naming the first such file.
        """
        for name in names:
            path, temporary, listed = self.path / name, self._temporary(name), name in self.files
            through = self._through_a_link(name)
            require(not through, f"{through} is a link or not a folder: move it away")
            for each in (path, temporary):
                # A file that is being written has no seal; only then is its temporary file ours.
                ours = listed and is_regular(each) and (each == path or self.files[name] is None)
                require(
                    ours or not os.path.lexists(each),
                    f"{each} was not written by toysae, which needs that name: move it away",
                )

    def read(self, name: str) -> bytes:
        """Returns the bytes of a file, checked against its seal.

        Raises:
            ToysaeError: the file is not listed, or is not as it was written.
        """
        path = self.path / name
        for _ in range(_TRIES):
            seal = self.files.get(name)
            if seal is not None and not self._through_a_link(name):
                with suppress(ToysaeError):
                    data = read_regular(path, seal.size)
                    if Seal.of(data) == seal:
                        return data
            self.refresh()
            if seal is not None and self.files.get(name) == seal:
                break
            time.sleep(_PAUSE)
        raise ToysaeError(
            f"{path} {self.wrong(name) or 'has changed'}: run the experiment again, which makes "
            "it again"
        )

    def wrong(self, name: str) -> str:
        """What is wrong with a file, as the end of a sentence; "" if it is as it was written."""
        seal, path = self.files.get(name), self.path / name
        if seal is None:
            return "was being written when the run ended" if name in self.files else "is missing"
        if self._through_a_link(name):
            return "is reached through a link"
        try:
            about = path.lstat()
        except OSError:
            return "is missing"
        if not stat.S_ISREG(about.st_mode):
            return "is not a regular file"
        if about.st_size != seal.size:
            return f"has {about.st_size:,} bytes of {seal.size:,}"
        return "" if file_sha256(path) == seal.sha256 else "has other bytes than were written"

    def remove(self, names: Iterable[str]) -> list[Path]:
        """Removes listed files, and the folders that are then empty. A file that is not as it was
        written is set aside instead.

        Returns:
            The new paths of the files that were set aside.
        """
        with self.alone():
            names = [name for name in names if name in self.files]
            self.check_reachable(names)
            moved = self.set_aside(n for n in names if self.files[n] is not None and self.wrong(n))
            for name in names:
                if name in self.files:
                    (self.path / name).unlink(missing_ok=True)
                self.files.pop(name, None)
                self._remove_empty(name)
            self._write_mark()
        return moved

    def set_aside(self, names: Iterable[str]) -> list[Path]:
        """Moves listed files into `broken`, from which nothing is ever removed. A file that was
        not written to its end is removed.

        Returns:
            The new paths; none for files that are missing.
        """
        names, moved = list(names), []
        with self.alone():
            self.check_reachable(n for n in names if n in self.files)
            for name in names:
                path = self.path / name
                if name in self.files and is_regular(path):
                    if self.files[name] is None:
                        path.unlink()
                    else:
                        os.replace(path, place := self._place_in_broken(name))
                        moved.append(place)
                self.files.pop(name, None)
                self._remove_empty(name)
            self._write_mark()
        return moved

    def tidy(self, names: Iterable[str] | None = None) -> None:
        """Removes files that a killed process left half written, with these names or with any."""
        with self.alone():
            cut_off = [n for n, seal in self.files.items() if seal is None]
            cut_off = cut_off if names is None else [n for n in names if n in cut_off]
            self.check_reachable(cut_off)
            for temporary in filter(is_regular, map(self._temporary, cut_off)):
                temporary.unlink()
            if cut_off:
                self.remove(cut_off)

    def strangers(self) -> list[str]:
        """Names of what lies in the directory without being listed; of a whole folder its own."""
        folders = {str(up) for name in self.files for up in PurePosixPath(name).parents}
        own = {MARK, COPY, CLAIMS, BROKEN, *LOCKS, *self.files, *folders}
        strangers = []
        for folder in sorted({".", *folders}):
            with suppress(OSError):
                names = [str(PurePosixPath(folder, n)) for n in os.listdir(self.path / folder)]
                strangers += sorted(name for name in names if name not in own)
        return strangers

    def _write_mark(self) -> None:
        """Writes the mark, and what others wrote if this process stood still with the lock."""
        self.files = update_mark(self.path, self._read, self.files)
        self._read = dict(self.files)

    def _through_a_link(self, name: str) -> str:
        """The first of a file's folders in here that is a link or not a folder; "" if none is."""
        for up in list(PurePosixPath(name).parents)[-2::-1]:
            folder = self.path / up
            if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
                return str(folder)
        return ""

    def _temporary(self, name: str) -> Path:
        return (self.path / name).with_name(f".{PurePosixPath(name).name}.toysae-tmp")

    def _place_in_broken(self, name: str) -> Path:
        folder, n = self.path / BROKEN, 0
        require(
            not folder.is_symlink() and (folder.is_dir() or not folder.exists()),
            f"{folder} is a link or not a folder: move it away",
        )
        folder.mkdir(exist_ok=True)
        flat = name.replace("/", "-")
        while os.path.lexists(place := folder / (f"{n}-{flat}" if n else flat)):
            n += 1
        return place

    def _remove_empty(self, name: str) -> None:
        with suppress(OSError):
            for up in list(PurePosixPath(name).parents)[:-1]:
                if any(other.startswith(f"{up}/") for other in self.files):
                    return
                (self.path / up).rmdir()
