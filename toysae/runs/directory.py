"""A directory that knows what was written into it: a mark lists every file by name and seal.

toysae-run.json           the mark, there before anything else
.toysae-run.json.copy     the same again, for when one of the two is damaged

Only what the mark lists is read, replaced, moved or removed: by exact name, inside the directory,
and never through a link. Whatever else lies there is left as it is.

Several processes may write at once: each changes the mark alone, for the moment that it takes.
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
    why_not_ours,
    write_mark,
)

BROKEN = "broken"
"""The folder inside that damaged files are moved to, for good."""

_ALONE_SECONDS, _MOST_WAIT = 20.0, 60.0  # after which who stands still has lost it; to wait for it
_TRIES, _PAUSE = 10, 0.05  # a file may be replaced while it is read


class Directory:
    """A directory with a mark. Any number of processes may read and write; no two of them write
    the same name, see :mod:`toysae.runs.claims`.

    Attributes:
        path: of the directory.
        files: by name, a POSIX path from `path`, the seal of every file; None from before a file
            is written until it is there.
    """

    def __init__(self, path: Path, files: Mapping[str, Seal | None]):
        self.path, self.files = path, dict(files)
        self._lock = SoftFileLease(path / LOCK, lease_duration=_ALONE_SECONDS)

    @classmethod
    def open(cls, path: str | Path) -> "Directory":
        """The directory as its mark has it at this moment.

        Raises:
            ToysaeError: no run has written there; both copies of the mark are damaged; it is of
                another version.
        """
        path = Path(path)
        refused = why_not_ours(path)
        require(not refused, f"{path} {refused}: give the directory of a run")
        require(is_marked(path), f"{path} holds no results: give the directory of a run")
        return cls(path, read_mark(path))

    @classmethod
    def claim(cls, path: str | Path) -> "Directory":
        """The directory, made and marked if it is not there or is empty.

        Raises:
            ToysaeError: it holds anything that is not a run's.
        """
        path = Path(path)
        check_ours(path)
        with telling_of_no_access(path):
            path.mkdir(parents=True, exist_ok=True)
        found = cls(path, {})
        with found.alone():
            found.files = read_mark(path) if is_marked(path) else {}
            found._write_mark()
        return found

    @contextmanager
    def alone(self) -> Iterator[None]:
        """No other process changes the mark in the block, which must be short; it is read anew.

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

    def names(self, folder: str = "") -> list[str]:
        """The files directly in a folder, `folder/name`, sorted; written ones alone."""
        return sorted(
            name
            for name, seal in self.files.items()
            if seal is not None and str(PurePosixPath(name).parent) == (folder or ".")
        )

    def write(self, files: Mapping[str, bytes]) -> None:
        """Writes files, each whole or not at all; all are listed before, and sealed after.

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
        """:meth:`write` of files that are too large to be held, or that a library writes.

        Args:
            writers: by name, what writes the file whose path it is given.
            sizes: in bytes, where known, to be told if the disk is full.
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
                    for name in writers.keys() - seals.keys():  # what was there is there still
                        self.files.pop(name, None)
                        self.files |= {name: before[name]} if name in before else {}
                    self.files |= seals
                    self._write_mark()
            raise
        with self.alone():
            self.files |= seals
            self._write_mark()

    def inside(self, path: Path) -> str | None:
        """The name that a path has in this directory; None if it is not in it."""
        try:
            return str(PurePosixPath(path.absolute().relative_to(self.path.absolute())))
        except ValueError:
            return None

    def check_reachable(self, names: Iterable[str] | None = None) -> None:
        """Refuses to go on where somebody put a link, a folder or a pipe in the place of a listed
        file, or of a folder of such: nothing is changed, so that it can be put back.

        Raises:
            ToysaeError: naming the first.
        """
        for name in self.files if names is None else names:
            through, path = self._through_a_link(name), self.path / name
            require(not through, f"{through} is a link or not a folder: put the run's own back")
            good = is_regular(path) or not os.path.lexists(path)
            require(good, f"{path} is a link or not a file: put the run's own back, or remove it")

    def check_free(self, names: Iterable[str]) -> None:
        """Refuses to write where something is that no run wrote.

        Raises:
            ToysaeError: naming the first.
        """
        for name in names:
            path, temporary, listed = self.path / name, self._temporary(name), name in self.files
            through = self._through_a_link(name)
            require(not through, f"{through} is a link or not a folder: move it away")
            for each in (path, temporary):
                # What is written anew has no seal; only then is its temporary file ours.
                ours = listed and is_regular(each) and (each == path or self.files[name] is None)
                require(
                    ours or not os.path.lexists(each),
                    f"{each} was not written by toysae, and a file of that name is to be: move it "
                    "away",
                )

    def read(self, name: str) -> bytes:
        """The bytes of a file, as they were written.

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
            "it anew"
        )

    def wrong(self, name: str) -> str:
        """What is wrong with a file, to be said after its name; "" if it is as it was written."""
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
        """Removes listed files, and the folders that are empty then. One that is not as it was
        written is set aside instead.

        Returns:
            Where those were moved to.
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
        """Moves listed files into `broken`, where nothing is ever removed; what was cut off while
        it was written is removed.

        Returns:
            Where they were moved to; not those that are missing, or reached through a link.
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
        """Removes what a killed process left half written, of these names or of all."""
        with self.alone():
            cut_off = [n for n, seal in self.files.items() if seal is None]
            cut_off = cut_off if names is None else [n for n in cut_off if n in set(names)]
            self.check_reachable(cut_off)
            for name in cut_off:
                if is_regular(self._temporary(name)):
                    self._temporary(name).unlink()
            if cut_off:
                self.remove(cut_off)

    def strangers(self) -> list[str]:
        """What lies in the directory and is not listed; a folder of such things is one."""
        own = {MARK, COPY, CLAIMS, BROKEN, *LOCKS, *self.files}
        folders = {str(up) for name in self.files for up in PurePosixPath(name).parents}
        found = []
        for folder in sorted({".", *folders}):
            with suppress(OSError):
                for each in sorted((self.path / folder).iterdir()):
                    name = str(PurePosixPath(folder) / each.name)
                    if name not in own and name not in folders:
                        found.append(name)
        return found

    def _write_mark(self) -> None:
        write_mark(self.path, self.files)

    def _through_a_link(self, name: str) -> str:
        """The first of a file's folders inside the directory that is a link or no folder, or ""."""
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
        for up in list(PurePosixPath(name).parents)[:-1]:
            if any(PurePosixPath(other).is_relative_to(up) for other in self.files):
                return
            try:
                (self.path / up).rmdir()
            except OSError:
                return
