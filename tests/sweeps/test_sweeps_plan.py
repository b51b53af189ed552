"""What a run would take: FLOPs counted by hand, parts that are left, and nothing written."""

from dataclasses import replace

import pytest

from toysae import Experiment, make_world
from toysae.cli import main
from toysae.sae import RECIPES, make_spec
from toysae.sae.encoders import FISTA, Gated
from toysae.sweeps import plan, run
from toysae.training.flops import step_flops
from toysae.training.members import make_ensemble

B, D, S, M = 32, 16, 40, 3
ONE = 2 * B * D * S  # a product of the batch with a dictionary


def group_of(recipe, **numbers):
    spec = make_spec(recipe, D, S)
    given = {**RECIPES[recipe].toy, **numbers}
    return make_ensemble(
        [make_world("sphere", d_in=D, n_features=24)], [0], spec, given, range(M), B
    )


@pytest.mark.parametrize(
    ("recipe", "products"),
    [
        ("untied", 5),  # encode, decode, two gradients of weights, one of z
        ("gated", 5 + 2),  # the gate is decoded too, with a gradient of the gate alone
        ("fista", 3 - 1 + 2 * FISTA().n_iterations),  # no encoder; codes carry no gradient
    ],
)
def test_flops_are_those_of_the_products_counted_by_hand(recipe, products):
    assert isinstance(make_spec("gated", D, S).encoder, Gated)
    small = M * (4 * D * S + 40 * D**2 * S)  # the bias through the encoder; a Lipschitz constant
    counted = step_flops(group_of(recipe))
    assert 0 <= counted - M * products * ONE <= small


E = Experiment(
    "How long would it take?",
    worlds=("sphere",), d_in=8, ratios=(1, 2), l0=2.0, recipes=("untied",), ceiling=False,
    l1_coeff=(0.1, 0.2), world_seeds=2, n_steps=20, batch_size=32, n_eval=64, curve_points=2,
)  # fmt: skip


def test_only_what_is_missing_is_planned_and_nothing_is_written(tmp_path):
    whole = plan(E, tmp_path / "new")
    assert whole.table.SAEs.tolist() == [4, 4] and whole.table.n_steps.tolist() == [20, 20]
    assert "0 of 8 SAEs are finished" in whole.lines[0] and not (tmp_path / "new").exists()
    run(replace(E, ratios=(1,)), tmp_path / "old", quiet=True)
    before = sorted(tmp_path.rglob("*"))
    rest = plan(E, tmp_path / "old")
    assert rest.table.cell.tolist() == ["sphere-n16-untied-recipe-s16"]
    assert "4 of 8 SAEs are finished" in rest.lines[0]
    none = plan(replace(E, ratios=(1,)), tmp_path / "old")
    assert none.table.empty and none.lines[0].startswith("all 4 SAEs are finished")
    assert sorted(tmp_path.rglob("*")) == before


def test_dry_run_says_memory_flops_and_time(tmp_path, capsys):
    file, out = tmp_path / "one.py", tmp_path / "out"
    file.write_text(
        "from toysae import Experiment\n"
        "experiment = Experiment('q', d_in=8, ratios=(1,), l0=2.0, recipes=('untied',), "
        "n_steps=20, batch_size=32)\n"
    )
    main(["run", str(file), "--out", str(out), "--dry-run"])
    said = capsys.readouterr().out
    for word in ("TFLOP", "memory", "seconds", "GiB of memory", "on disk", "0 of 6 SAEs"):
        assert word in said
    assert not out.exists()
