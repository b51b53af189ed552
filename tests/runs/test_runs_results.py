"""What can be taken out of a results directory: SAEs, worlds, rows."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toysae
from toysae import Experiment, Results, ToysaeError, run
from toysae.runs.directory import Directory
from toysae.training.state import keys_of
from toysae.worlds import sample


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    e = Experiment(
        "?", d_in=6, ratios=(1, 1.5), l0=1.5, recipes=("untied", "topk"), l1_coeff=(0.05, 0.2),
        k=(1.0, 2.0), world_seeds=2, sae_seeds=2, ceiling=False, n_steps=60, batch_size=64,
        n_eval=128, curve_points=2, dials={"noise": 0.01},
    )  # fmt: skip
    return run(e, tmp_path_factory.mktemp("results") / "out", quiet=True)


def test_an_sae_of_every_row_scores_what_the_table_says(results):
    """Its samples are the evaluation's own, in the same batches."""
    table = Results.load(results.path).table
    assert len(table) == 2 * 2 * 2 * 2 * 2
    for row in range(0, len(table), 3):
        told, sae, world = table.iloc[row], results.sae(row), results.world(row)
        assert (sae.spec.d_sae, world.n_features) == (told["d_sae"], told["n_features"])
        key = keys_of(jnp.int32([told["world_seed"]]), "evaluation")[0]
        batches = [sample(world, jax.random.fold_in(key, i), 64) for i in range(2)]
        z = np.concatenate([sae.encode(batch.x) for batch in batches])
        np.testing.assert_allclose((z != 0).sum(1).mean(), told["l0"], rtol=1e-6)
        cos = toysae.recovery.cosines(world.target, sae.W_dec)
        np.testing.assert_allclose(cos.max(1).mean(), told["mmcs"], rtol=1e-6)
        number = "k" if told["recipe"] == "topk" else "l1_coeff"
        np.testing.assert_allclose(sae.hypers[number], told["sparsity"], rtol=1e-6)


def test_select_keeps_the_places_of_the_rows(results):
    table = results.table
    found = results.select(recipe="topk", ratio=1.5, sparsity=[1, 2])
    assert len(found) == 8 and (found["recipe"] == "topk").all() and (found["ratio"] == 1.5).all()
    assert results.sae(int(found.index[-1])).spec.d_sae == 9
    assert (
        found.index.tolist()
        == table.index[(table.recipe == "topk") & (table.ratio == 1.5)].tolist()
    )
    with pytest.raises(ToysaeError, match="unknown column 'recipes': did you mean 'recipe'"):
        results.select(recipes="topk")
    with pytest.raises(ToysaeError, match="no row has recipe 'tied': .* topk"):
        results.select(ratio=1, recipe="tied")


def test_a_row_that_is_not_there_is_named(results):
    for ask in (results.sae, results.world, results.manifest):
        with pytest.raises(ToysaeError, match="row 32 is out of range: write 0 to 31"):
            ask(32)


def test_worlds_are_those_of_training_bit_for_bit(results):
    world = results.world(0)
    again = toysae.make_world("sphere", 0, d_in=6, n_features=6, l0=1.5, noise=0.01)
    assert np.array_equal(world.directions, again.directions)


@pytest.mark.parametrize("kind", ["activations", "a twin", "features that are dimensions", None])
def test_data_that_are_no_named_world_are_not_made_again(results, tmp_path, kind):
    copy = shutil.copytree(results.path, tmp_path / "out")
    directory = Directory.open(copy)
    name = next(name for name in directory.names("blocks") if name.endswith(".json"))
    manifest = json.loads(directory.read(name))
    manifest["data"] = {} if kind is None else {"kind": kind}
    directory.write({name: json.dumps(manifest).encode()})
    found = Results.load(copy)
    keys = [key for cell in found.plan for key in cell["keys"]]
    row = keys.index(manifest["keys"][0])
    said = kind or "data of a study's own"
    with pytest.raises(ToysaeError, match=f"row {row} was trained on {said}, not on a world that "):
        found.world(row)
    assert found.manifest(row).object("data").value == manifest["data"]


def test_the_blocks_are_scanned_once_until_a_file_changes(results, monkeypatch):
    opened, n_blocks = Results.load(results.path), len(list(results.path.glob("blocks/*.json")))
    names, read = [], Directory.read
    monkeypatch.setattr(Directory, "read", lambda d, name: names.append(name) or read(d, name))
    table = opened.table
    assert len(names) == len(set(names)) == 2 * n_blocks + 1  # manifests, tables and the plan
    names.clear()
    table["mmcs"] = 0.0  # a copy
    assert opened.cells and (opened.table["mmcs"] > 0).all() and opened.world(3) is not None
    assert len(names) == 1  # the manifest of the row's block
    directory = Directory.open(results.path)
    directory.write({"note.txt": b"new"})
    names.clear()
    assert len(opened.table) == len(table) and len(names) == 2 * n_blocks + 1
    directory.remove(["note.txt"])
