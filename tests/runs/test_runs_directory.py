"""A run's directory: what it lists is sealed, and nothing else is touched."""

import json
import os
import shutil

import pytest

from toysae import Experiment, Results, ToysaeError
from toysae.cli import main
from toysae.runs.directory import Directory
from toysae.runs.mark import COPY, LAYOUT, LOCK, MARK, _digest, read_mark
from toysae.sweeps import plan, run, status


def state(path):
    """Everything below a path: links by their target, files by their bytes and time."""
    found = {}
    for each in sorted(path.rglob("*")):
        if each.is_symlink():
            found[each] = os.readlink(each)
        elif each.is_file():
            found[each] = (each.read_bytes(), each.stat().st_mtime_ns)
        else:
            found[each] = None
    return found


@pytest.fixture
def copy(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "out")


# What is not a run's


def model_folder(path):
    (path / "config.json").write_text('{"architectures": ["GPT2LMHeadModel"]}')
    (path / "notes").mkdir()
    (path / "notes" / "thesis.tex").write_text("years of work")


def broken_config(path):
    (path / "config.json").write_text("no JSON")
    (path / "checkpoints").mkdir()
    (path / "checkpoints" / "epoch-1.pt").write_text("weights")


def lone_plan(path):
    (path / "plan.json").write_text("{}")
    (path / "blocks").mkdir()
    (path / "blocks" / "a.csv").write_text("a")


def git(path):
    (path / ".git").mkdir()
    (path / ".git" / "HEAD").write_text("ref")


def temporaries(path):
    (path / ".tmpAb3dEf").write_text("mine")
    (path / ".x.1.tmp").write_text("mine")


FOREIGN = [model_folder, broken_config, lone_plan, git, temporaries]


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("make", FOREIGN, ids=[make.__name__ for make in FOREIGN])
def test_somebodys_folder_is_refused_and_not_touched(
    tiny, tiny_file, tmp_path, capsys, make, fresh
):
    path = tmp_path / "theirs"
    path.mkdir()
    make(path)
    before = state(path)
    with pytest.raises(ToysaeError, match="not the directory of a run|older toysae"):
        run(tiny, path, fresh=fresh, quiet=True)
    with pytest.raises(SystemExit) as stop:
        main(["run", str(tiny_file), "--out", str(path), *["--fresh"] * fresh])
    (line,) = capsys.readouterr().err.splitlines()
    assert stop.value.code == 2 and "choose another --out; nothing in it was touched" in line
    for read in (lambda: plan(tiny, path), lambda: status(path), lambda: Results.load(path)):
        with pytest.raises(ToysaeError):
            read()
    assert state(path) == before


def test_what_a_user_puts_into_a_run_stays(copy, tiny, reference, assert_same, capsys):
    theirs = [
        "notes.md", "blocks/notes.md", "blocks/sphere.csv", "figures/mine.png", ".hidden/x",
        "checkpoints/epoch-1.pt", "blocks/.tmpAb3dEf", ".table.csv.12.tmp", "broken/x",
        "figures/.mmcs_by_ratio.png.toysae-tmp",
    ]  # fmt: skip
    for name in theirs:
        (copy / name).parent.mkdir(exist_ok=True)
        (copy / name).write_text(name)
    run(tiny, copy, quiet=True)
    run(tiny, copy, fresh=True, quiet=True)
    assert all((copy / name).read_text() == name for name in theirs)
    (line,) = capsys.readouterr().err.splitlines()
    assert "also holds files that no run wrote, which are left: " in line
    assert_same(copy, reference)


def test_fresh_removes_all_that_was_written_and_nothing_else(copy, tiny):
    directory = Directory.open(copy)
    assert set(directory.names()) == {"config.json", "plan.json", "queue.json", "table.csv"}
    assert len(directory.names("blocks")) == 8
    directory.remove(list(directory.files))
    assert {each.name for each in copy.iterdir()} == {MARK, COPY}


def test_a_file_that_somebody_changed_is_set_aside_not_removed(copy, tiny, capsys):
    (copy / "table.csv").write_text("sorted in a spreadsheet")
    run(tiny, copy, fresh=True, quiet=True)
    assert (copy / "broken" / "table.csv").read_text() == "sorted in a spreadsheet"
    assert "1 files had other bytes than were written: moved to" in capsys.readouterr().err
    (copy / "table.csv").write_text("again")
    run(tiny, copy, quiet=True)
    assert (copy / "broken" / "1-table.csv").read_text() == "again"


@pytest.mark.parametrize("name", ["blocks", "checkpoints", "table.csv", ".lock", "broken"])
@pytest.mark.parametrize("fresh", [False, True])
def test_links_are_not_followed(tiny, tmp_path, name, fresh, copy):
    """Files and folders of a run that somebody made links of."""
    target = tmp_path / "elsewhere"
    if name in ("table.csv", ".lock"):
        target.write_text("precious")
    else:
        target.mkdir()
        (target / "precious").write_text("precious")
    if (copy / name).is_dir():
        shutil.rmtree(copy / name)
    else:
        (copy / name).unlink(missing_ok=True)
    (copy / name).symlink_to(target)
    before = state(tmp_path) if target.is_dir() else target.read_text()
    try:
        run(tiny, copy, fresh=fresh, quiet=True, checkpoint_seconds=0)
    except ToysaeError as error:
        assert str(copy / name) in str(error)
    if target.is_dir():
        assert {n: v for n, v in state(target).items()} == {
            n: v for n, v in before.items() if target in n.parents
        }
    else:
        assert target.read_text() == before
    assert (copy / name).is_symlink()


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("name", ["blocks", "one file", "table.csv"])
def test_what_was_replaced_by_a_link_can_be_put_back(copy, tiny, trained_saes, name, fresh):
    """Nothing is disowned: the mark still lists it, and the run goes on with it."""
    path = next(copy.glob("blocks/*.npz")) if name == "one file" else copy / name
    aside = copy.parent / "aside"
    path.rename(aside)
    path.symlink_to(aside)
    before = state(copy)
    for _ in range(2):
        with pytest.raises(ToysaeError, match="put the run's own back"):
            run(tiny, copy, fresh=fresh, quiet=True)
    assert {n: v for n, v in state(copy).items() if n.name not in (MARK, COPY, ".lock")} == {
        n: v for n, v in before.items() if n.name not in (MARK, COPY, ".lock")
    }
    path.unlink()
    aside.rename(path)
    assert len(run(tiny, copy, quiet=True).table) == 8 and trained_saes == []


def test_a_name_that_is_taken_is_refused(tiny, tmp_path, trained_saes):
    out = tmp_path / "out"
    Directory.claim(out)
    (out / "table.csv").write_text("mine")
    with pytest.raises(ToysaeError, match=r"table.csv was not written by toysae.*move it away"):
        run(tiny, out, quiet=True)
    assert (out / "table.csv").read_text() == "mine" and trained_saes == []


def test_figures_are_files_of_the_run(tiny_file, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["run", str(tiny_file), "--out", str(out), "--quiet", "--figures", "mmcs_by_ratio"]
    main(command)
    names = {f"figures/mmcs_by_ratio.{end}" for end in ("png", "csv")}
    assert names < set(Directory.open(out).files)
    (out / "figures" / "mine.png").write_text("mine")
    (out / "figures" / "mmcs_by_ratio.png").write_text("edited")
    main(command)
    assert (out / "broken" / "figures-mmcs_by_ratio.png").read_text() == "edited"
    main([*command[:-1], "learning_curves", "--fresh"])
    assert {each.name for each in (out / "figures").iterdir()} == {
        "mine.png", "learning_curves.png", "learning_curves.csv"
    }  # fmt: skip
    (out / "figures" / "mmcs_by_ratio.csv").write_text("mine")
    capsys.readouterr()
    with pytest.raises(SystemExit):
        main([*command, "--n-steps", "41"])
    assert "mmcs_by_ratio.csv was not written by toysae" in capsys.readouterr().err
    assert len(Results.load(out).table) == 8


def test_a_study_does_not_write_into_somebodys_folder(tmp_path, capsys):
    file = tmp_path / "asks.py"
    file.write_text(
        "from toysae.sweeps.study import Study\nfrom dataclasses import dataclass\n"
        "import pandas as pd\n"
        "@dataclass(frozen=True)\nclass Options:\n    n: int = 1\n"
        "study = Study('Why?', Options(), lambda o: [], lambda o, results: "
        "{'n': pd.DataFrame({'n': [o.n]})})\n"
    )
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "table.csv").write_text("mine")
    with pytest.raises(SystemExit) as stop:
        main(["run", str(file), "--out", str(theirs)])
    assert stop.value.code == 2 and "nothing in it was touched" in capsys.readouterr().err
    assert {each.name: each.read_text() for each in theirs.iterdir()} == {"table.csv": "mine"}
    for _ in range(2):
        main(["run", str(file), "--out", str(tmp_path / "own")])
    assert (tmp_path / "own" / "n.csv").read_text() == "n\n1\n"


# The mark


def damaged(path, how):
    data = bytearray(path.read_bytes())
    if how == "flip":
        data[len(data) // 2] ^= 1
        path.write_bytes(bytes(data))
    elif how == "cut":
        path.write_bytes(bytes(data[: len(data) // 2]))
    elif how == "remove":
        path.unlink()
    else:
        path.write_text(how)


SHAPES = ["7", '"x"', "[]", "{}", '{"layout": "3"}', '{"layout": 3, "layout": 3}', "[" * 100_000]


@pytest.mark.parametrize("name", [MARK, COPY])
@pytest.mark.parametrize("how", ["flip", "cut", "remove", *SHAPES])
def test_one_copy_of_the_mark_is_enough(copy, tiny, reference, trained_saes, name, how):
    damaged(copy / name, how)
    table = Results.load(copy).table
    assert table.equals(Results.load(reference).table)
    assert len(run(tiny, copy, quiet=True).table) == 8 and trained_saes == []
    assert (copy / MARK).read_bytes() == (copy / COPY).read_bytes()


@pytest.mark.parametrize("how", ["flip", "cut", *SHAPES])
def test_without_either_everything_is_refused_in_one_line(copy, tiny, how):
    for name in (MARK, COPY):
        damaged(copy / name, how)
    before = state(copy)
    for use in (
        lambda: Results.load(copy), lambda: status(copy), lambda: plan(tiny, copy),
        lambda: run(tiny, copy, quiet=True), lambda: run(tiny, copy, fresh=True, quiet=True),
    ):  # fmt: skip
        with pytest.raises(ToysaeError, match="cannot be read") as error:
            use()
        assert "\n" not in str(error.value) and len(str(error.value)) < 1000
    assert state(copy) == before


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", ""])
def test_a_mark_that_names_what_is_outside_is_refused(tmp_path, name):
    body = {"toysae": "the files of a run", "layout": LAYOUT, "files": {name: None}}
    for mark in (MARK, COPY):
        (tmp_path / mark).write_text(json.dumps({**body, "seal": _digest(body)}))
    with pytest.raises(ToysaeError, match="which is not a name of a file inside"):
        Directory.open(tmp_path)


@pytest.mark.parametrize("name", [f"{MARK}.tmp", f"{COPY}.tmp"])
def test_a_directory_whose_first_mark_was_cut_off_is_as_good_as_empty(tmp_path, name):
    """Another process may be writing it at this moment."""
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_text('{"toysae": "the fi')
    Directory.claim(out).write({"a.csv": b"1"})
    assert Directory.open(out).read("a.csv") == b"1" and not list(out.glob("*.tmp"))


def test_what_others_wrote_while_a_process_stood_still_with_the_lock_is_kept(tmp_path):
    still, other = Directory.claim(tmp_path), Directory.open(tmp_path)
    other.write({"both.csv": b"0", "old.csv": b"0"})
    with still.alone():
        (tmp_path / LOCK).unlink()  # as when its lease has run out
        other.write({"theirs.csv": b"1", "both.csv": b"1"})
        still.files |= {"mine.csv": None, "both.csv": None}
        del still.files["old.csv"]
        still._write_mark()
    files = read_mark(tmp_path)
    assert set(files) == {"theirs.csv", "both.csv", "mine.csv"} and files["mine.csv"] is None
    assert Directory.open(tmp_path).read("both.csv") == b"1"


@pytest.mark.parametrize("name", [MARK, COPY])
def test_a_folder_in_place_of_a_mark_is_named_with_what_to_do(copy, tiny, name):
    (copy / name).unlink()
    (copy / name).mkdir()
    with pytest.raises(ToysaeError, match=f"{name} is a link or not a file: put the run's own"):
        run(tiny, copy, quiet=True)


def test_another_layout_is_refused(tmp_path):
    for layout, which in ((LAYOUT - 1, "an older"), (LAYOUT + 1, "a newer")):
        body = {"layout": layout, "files": {}}
        for mark in (MARK, COPY):
            (tmp_path / mark).write_text(json.dumps({**body, "seal": _digest(body)}))
        with pytest.raises(ToysaeError, match=f"written by {which} toysae"):
            Directory.open(tmp_path)


# Every byte


def test_whatever_byte_is_damaged_the_table_is_the_same_or_refused(copy):
    """A sample of every file; the whole of it is slow."""
    wanted = Results.load(copy).table
    for file in sorted(each for each in copy.rglob("*") if each.is_file()):
        whole = file.read_bytes()
        places = sorted({0, len(whole) // 3, len(whole) - 1}) if whole else []
        hits = [whole[:i] + bytes([whole[i] ^ 1]) + whole[i + 1 :] for i in places]
        hits += [whole[:i] for i in places]
        for data in hits:
            file.write_bytes(data)
            _same_or_refused(copy, wanted)
        file.unlink()
        _same_or_refused(copy, wanted)
        file.write_bytes(whole)
    assert Results.load(copy).table.equals(wanted)


@pytest.mark.slow
def test_whatever_byte_is_damaged_of_all(tmp_path, record_property):
    """Each byte of the smallest finished run: flipped, left out, and all from it on cut off."""
    smallest = Experiment(
        "Why?", d_in=2, ratios=1, l0=1.0, recipes="tied", ceiling=False, l1_coeff=0.1,
        world_seeds=1, n_steps=2, batch_size=4, n_eval=64, curve_points=1, figures=(),
    )  # fmt: skip
    path = run(smallest, tmp_path / "out", quiet=True).path
    wanted, n = Results.load(path).table, 0
    for file in sorted(each for each in path.rglob("*") if each.is_file()):
        whole = file.read_bytes()
        for i in range(len(whole)):
            before, after = whole[:i], whole[i + 1 :]
            for data in (before + bytes([whole[i] ^ 1]) + after, before + after, before):
                file.write_bytes(data)
                _same_or_refused(path, wanted)
                n += 1
        file.unlink()
        _same_or_refused(path, wanted)
        file.write_bytes(whole)
        n += 1
    record_property("damages", n)
    assert Results.load(path).table.equals(wanted)


def _same_or_refused(path, wanted):
    try:
        table = Results.load(path).table
    except ToysaeError as error:
        assert "\n" not in str(error)
    else:
        assert table.equals(wanted)
