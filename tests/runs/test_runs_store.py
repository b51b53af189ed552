"""What is kept: found again under other settings, and named, moved and made again if damaged."""

import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from toysae import Experiment, Results, ToysaeError
from toysae.evaluation import summarise_runs
from toysae.runs.directory import Directory
from toysae.runs.store import stored_blocks
from toysae.sweeps import plan, run, status
from toysae.worlds import make_world, save_world

ENDINGS = (".csv", ".npz", ".safetensors", ".json")


@pytest.fixture
def copy(reference, tmp_path):
    return shutil.copytree(reference, tmp_path / "out")


def part_file(path, ending, slug="sphere-n8-"):
    (file,) = (path / "blocks").glob(f"{slug}*{ending}")
    return file


def rows_of(table, other):
    """The rows of `table` that `other` has too, without what depends on the others beside them."""
    names = ["cell", "sparsity", "world_seed", "sae_seed"]
    joined = other[names].merge(table, on=names, how="left").drop(columns="row")
    return joined[[column for column in other.columns if column != "row"]]


# Other settings


@pytest.mark.parametrize(
    ("change", "trained"),
    [
        # Blocks of the same shape as those that are there, so that nothing new is compiled.
        ({"l1_coeff": (0.05, 0.1, 0.2, 0.3)}, [4, 4]),
        ({"world_seeds": 4}, [4, 4]),
        ({"sae_seeds": 2}, [4, 4]),
        ({"inits": ("recipe", "orthogonal")}, [4, 4]),
        ({"ratios": (2,), "l1_coeff": (0.2,)}, []),
        ({"question": "Again?", "figures": ("mcs_histograms",), "save_params": False}, []),
    ],
)
def test_only_what_is_new_is_trained(copy, tiny, trained_saes, capsys, change, trained):
    before = Results.load(copy)
    table, weights = before.table, before.weights("sphere-n16-tied-recipe-s16")
    files = {file: file.stat().st_mtime_ns for file in (copy / "blocks").iterdir()}
    after = run(replace(tiny, **change), copy, quiet=True)
    assert trained_saes == trained
    assert all(file.stat().st_mtime_ns == at for file, at in files.items())
    both = after.table if len(after.table) < len(table) else table
    pd.testing.assert_frame_equal(
        rows_of(after.table, both)[table.columns.drop("row")],
        rows_of(table, both)[table.columns.drop("row")], check_exact=True,
    )  # fmt: skip
    pd.testing.assert_frame_equal(pd.read_csv(copy / "table.csv"), after.table)
    for cell in after.cells:  # arrays stand in the order of the table's rows
        rows, arrays = after.table[after.table["cell"] == cell], after.arrays(cell)
        assert rows["row"].tolist() == list(range(len(rows))) == list(range(len(arrays["mcs"])))
        np.testing.assert_allclose(arrays["mcs"].mean(1), rows["mmcs"], rtol=1e-5)
        assert arrays["curve_steps"].tolist() == [0, 40]
    old = table[table["cell"] == "sphere-n16-tied-recipe-s16"]
    new = after.table[after.table["cell"] == "sphere-n16-tied-recipe-s16"]
    names = ["sparsity", "world_seed", "sae_seed"]
    places = old[[*names, "row"]].merge(new[[*names, "row"]], on=names)
    found = after.weights("sphere-n16-tied-recipe-s16")["W_dec"]
    np.testing.assert_array_equal(found[places["row_y"]], weights["W_dec"][places["row_x"]])
    said = capsys.readouterr().err
    assert ("are not asked for" in said) == (len(after.table) < len(table))


def test_rows_are_by_cell_world_and_member(copy, tiny):
    grid = (0.2, 0.1, 0.05, 0.3)
    table = run(replace(tiny, l1_coeff=grid), copy, quiet=True).table
    expected = [(n, w, l1) for n in (8, 16) for w in range(2) for l1 in grid]
    found = table[["n_features", "world_seed", "sparsity"]].itertuples(index=False, name=None)
    assert list(found) == expected


def test_what_is_not_asked_for_is_kept_and_named(copy, tiny, reference, assert_same, capsys):
    other = replace(tiny, lr=1e-2)
    assert set(run(other, copy, quiet=True).table["lr"].round(4)) == {0.01}
    line = capsys.readouterr().err
    assert "8 SAEs in" in line and "(lr was 0.003, now 0.01): kept, left out of the table" in line
    run(tiny, copy, quiet=True)
    assert_same(copy, reference)
    assert len(stored_blocks(Directory.open(copy))) == 4


def test_weights_asked_for_later_are_trained_again(tiny, tmp_path, trained_saes, capsys):
    out = tmp_path / "out"
    bare = run(replace(tiny, save_params=False), out, quiet=True)
    table = bare.table
    with pytest.raises(ToysaeError, match="use --save-params"):
        bare.weights(bare.cells[0])
    again = run(tiny, out, quiet=True)
    assert "8 SAEs in" in capsys.readouterr().err and trained_saes == [4, 4, 4, 4]
    pd.testing.assert_frame_equal(again.table, table, check_exact=True)
    assert again.weights(again.cells[0])["W_dec"].shape == (4, 8, 8)


def test_a_diverged_member_takes_nothing_down(tiny, tmp_path, reference):
    e = replace(tiny, ratios=(1,), l1_coeff=(0.05, 1e30))
    table = run(e, tmp_path / "out", quiet=True).table
    assert table["diverged"].tolist() == [False, True] * 2
    whole = pd.read_csv(reference / "table.csv")
    alone = whole[(whole["sparsity"] == 0.05) & (whole["ratio"] == 1)]
    kept = table[table["sparsity"] == 0.05]
    np.testing.assert_allclose(kept["mmcs"], alone["mmcs"], atol=1e-4)
    (line,) = summarise_runs(table).to_dict("records")
    mean = table.loc[~table["diverged"], "mmcs"].mean()
    assert line["mmcs"].startswith(f"{mean:.3f} ±") and "2 of 4 diverged" in line["note"]


# Damage


def flip(file):
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(bytes(data))


def truncate(file):
    file.write_bytes(file.read_bytes()[:-7])


@pytest.mark.parametrize("ending", ENDINGS)
@pytest.mark.parametrize("damage", [flip, truncate, lambda file: file.unlink()],
                         ids=["flip", "truncate", "remove"])  # fmt: skip
def test_a_damaged_part_is_named_moved_and_made_again(
    copy, tiny, reference, assert_same, trained_saes, capsys, ending, damage
):
    file = part_file(copy, ending)
    if ending == ".json" and damage is flip:
        file.write_text(file.read_text().replace('"keys"', '"kyes"'))
    else:
        damage(file)
    run(tiny, copy, quiet=True)
    assert trained_saes == [4]
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 1 and file.stem in said[0] and file.name in said[0]
    assert "is broken" in said[0] and str(copy / "broken") in said[0]
    broken = {each.name for each in (copy / "broken").iterdir()}
    removed = not (damage is flip or damage is truncate)
    kept = [end for end in ENDINGS if not (removed and end == ending)]
    assert broken == {f"blocks-{file.stem}{end}" for end in kept}
    assert_same(copy, reference)


@pytest.mark.parametrize("ending", ENDINGS[1:3])
def test_damage_is_noticed_where_it_is_read(copy, ending):
    flip(part_file(copy, ending))
    read = Results.arrays if ending == ".npz" else Results.weights
    with pytest.raises(
        ToysaeError, match=rf"{ending} has other bytes than were written: run the exp"
    ):
        read(Results.load(copy), "sphere-n8-tied-recipe-s8")


@pytest.mark.parametrize("ending", ENDINGS)
def test_status_counts_the_saes_of_a_damaged_block_as_missing(copy, ending):
    file = part_file(copy, ending)
    flip(file)
    table, line = status(copy)
    damaged = table.set_index("cell").loc["sphere-n8-tied-recipe-s8"]
    assert (damaged["done"], damaged["missing"]) == (0, 4) and table["done"].sum() == 4
    assert f"{file.stem} is broken" in line and "4 of 8 SAEs finished" in line


def test_status_without_the_plan_is_refused(copy):
    (copy / "plan.json").unlink()
    with pytest.raises(ToysaeError, match=r"^[^\n]*plan\.json[^\n]*$"):
        status(copy)


def test_brackets_and_stars_in_names_stand_for_themselves(tmp_path):
    world = make_world("sphere", 0, d_in=4, n_features=6, l0=1.0)
    save_world(world, tmp_path / "a[bc]*.safetensors")
    asked = Experiment("?", worlds=(str(tmp_path / "a[bc]*.safetensors"),), recipes=("tied",),
                       inits=("random",), l1_coeff=(0.1,), world_seeds=1, n_steps=2, n_eval=256,
                       curve_points=1, ceiling=False)  # fmt: skip
    out = tmp_path / "out"
    (name,) = run(asked, out, quiet=True).cells
    strange = out / "blocks" / f"{name.replace('[bc]*', 'b')}.csv"
    strange.write_text("mine")
    assert len(run(asked, out, fresh=True, quiet=True).table) == 1
    assert strange.read_text() == "mine"


@pytest.mark.parametrize("name", ["config.json", "plan.json", "table.csv"])
def test_what_can_be_written_anew_is(copy, tiny, reference, assert_same, trained_saes, name):
    truncate(copy / name)
    run(tiny, copy, quiet=True)
    assert trained_saes == []
    assert_same(copy, reference)


def test_a_directory_of_an_older_layout_is_refused_by_all(copy, tiny, tiny_file, capsys):
    for name in ("toysae-run.json", ".toysae-run.json.copy"):
        (copy / name).unlink()
    before = {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()}
    for use in (
        lambda: run(tiny, copy, quiet=True), lambda: run(tiny, copy, fresh=True, quiet=True),
        lambda: Results.load(copy), lambda: status(copy), lambda: plan(tiny, copy),
    ):  # fmt: skip
        with pytest.raises(ToysaeError, match="was written by an older toysae, or its toysae-run"):
            use()
    assert {file: file.read_bytes() for file in copy.rglob("*") if file.is_file()} == before
