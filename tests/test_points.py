"""The algebra of points against itertools; and what an experiment makes of them."""

import operator
from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from toysae import Experiment, Results, ToysaeError, make_world, run, train
from toysae.evaluation.summary import summarise_runs
from toysae.points import (
    Points,
    chain,
    grid,
    linear,
    log_spaced,
    log_uniform,
    random,
    uniform,
    zipped,
)
from toysae.recovery import best_coefficient
from toysae.sweeps.cells import cells

E = Experiment(
    question="?", d_in=8, ratios=(2,), l0=1.5, recipes=("untied",), ceiling=False,
    l1_coeff=(0.05, 0.2), world_seeds=2, n_steps=40, batch_size=32, n_eval=256, curve_points=3,
)  # fmt: skip


def rows(points):
    return list(points)


def keys(e):
    return [key for cell in cells(e) for key in cell.keys.reshape(-1).tolist()]


def test_a_grid_is_a_product_with_the_last_dimension_fastest():
    points = grid(a=(1, 2), b=("x", "y", "z"), c=0.5)
    assert rows(points) == [{"a": a, "b": b, "c": 0.5} for a, b in product((1, 2), "xyz")]
    assert rows(grid(a=(1, 2)) * grid(b=("x", "y", "z")) * grid(c=0.5)) == rows(points)
    assert rows(grid()) == rows(Points()) == [{}]


def test_zipped_goes_in_step_and_sums_go_one_after_the_other():
    a, b = zipped(l0=(1, 2), k=np.array([3, 4])), grid(lr=0.1)
    assert rows(a) == [{"l0": 1, "k": 3}, {"l0": 2, "k": 4}]
    assert all(type(value) is int for point in a for value in point.values())
    assert rows(a + b) == rows(chain(a, b)) == [*rows(a), *rows(b)]
    assert (a + b).names == ("l0", "k", "lr") and len(a + b) == 3
    assert a * (b + Points()) == Points.of({**p, **q} for p in a for q in ({"lr": 0.1}, {}))


def test_points_cannot_be_changed():
    points = grid(a=1)
    next(iter(points))["a"] = 2
    assert rows(points) == [{"a": 1}] and hash(points) == hash(grid(a=1))


def test_spaced_values_are_numpys():
    np.testing.assert_allclose(log_spaced(0.1, 10, 3), [0.1, 1, 10])
    np.testing.assert_allclose(linear(0, 1, 5), [0, 0.25, 0.5, 0.75, 1])
    assert log_spaced(2, 9, 4)[0] == 2 and log_spaced(2, 9, 4)[-1] == 9


def test_random_points_are_those_of_their_ranges_whatever_stands_beside_them():
    given = {"lr": log_uniform(1e-4, 1e-2), "noise": uniform(0, 0.2), "probs": ("zipf", "uniform")}
    points = rows(random(2000, 3, **given))
    assert points == rows(random(2000, 3, **given)) != rows(random(2000, 4, **given))
    assert points[:7] == rows(random(7, 3, **given))
    alone = [point["lr"] for point in random(2000, 3, lr=given["lr"])]
    lr = np.array([point["lr"] for point in points])
    np.testing.assert_array_equal(lr, alone)
    noise = np.array([point["noise"] for point in points])
    # Six standard deviations of the mean and of the correlation.
    assert abs(np.log10(lr).mean() + 3) < 6 * 2 / np.sqrt(12 * 2000)
    assert abs(noise.mean() - 0.1) < 6 * 0.2 / np.sqrt(12 * 2000)
    assert abs(np.corrcoef(np.log(lr), noise)[0, 1]) < 6 / np.sqrt(2000)
    assert {point["probs"] for point in points} == {"zipf", "uniform"}
    assert lr.min() >= 1e-4 and lr.max() < 1e-2


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: zipped(a=(1, 2), b=(1, 2, 3)), "differ in length: a 2, b 3"),
        (lambda: grid(a=1) * grid(a=2, b=1), "a on both sides of a product"),
        (lambda: grid(a=()), "a is an empty grid"),
        (lambda: chain(), "no points"),
        (lambda: Points.of([{"a": (1, 2)}]), r"a \(1, 2\) is neither a number nor a name"),
        (lambda: log_spaced(0, 1, 3), "above 0"),
        (lambda: log_uniform(-1, 1), "above 0"),
        (lambda: linear(0, 1, 0), "n 0"),
        (lambda: random(0, 0, a=uniform(0, 1)), "n 0"),
        (lambda: random(3, 0), "points of nothing"),
        (lambda: random(3, 0, a=()), "a is an empty grid"),
    ],
)
def test_what_makes_no_points_is_refused(make, message):
    with pytest.raises(ToysaeError, match=message):
        make()


def test_points_that_differ_in_numbers_alone_are_members_of_one_cell():
    points = grid(lr=(1e-3, 3e-3)) + grid(lr=2e-3, l1_coeff=0.7) + grid(lr=1e-3, l1_coeff=0.05)
    (cell,) = cells(replace(E, points=points))
    held = [(member["lr"], member["l1_coeff"]) for member in cell.members]
    # The last point asks for an SAE that is there already.
    assert held == [(1e-3, 0.05), (1e-3, 0.2), (3e-3, 0.05), (3e-3, 0.2), (2e-3, 0.7)]
    assert cell.columns["sparsity"] == (0.05, 0.2, 0.05, 0.2, 0.7)
    assert cell.name == "sphere-n16-untied-recipe-s16"


def test_a_point_sets_what_it_names_and_nothing_else():
    points = (
        zipped(l0=(1, 2), k=(2, 3)) * grid(recipe=("tied", "topk"))
        + grid(ratio=1, size=2, batch_size=64, n_steps=log_spaced(10, 20, 2))
        + grid(world="pairs", rho=0.25, noise=0.1, firings_per_feature=80)
    )
    plan = cells(replace(E, points=points))
    first, (fine, coarse), (pairs,) = plan[:4], plan[4:6], plan[6:]
    assert [(c.columns["recipe"], dict(c.data.fields)["l0"]) for c in first] == [
        ("tied", 1), ("topk", 1), ("tied", 2), ("topk", 2)
    ]  # fmt: skip
    assert [c.columns["sparsity"] for c in first] == [(0.05, 0.2), (2,), (0.05, 0.2), (3,)]
    assert [(c.n_steps, c.batch_size, c.spec.d_sae) for c in (fine, coarse)] == [
        (10, 64, 16), (20, 64, 16)
    ]  # fmt: skip
    assert dict(pairs.data.fields)["rho"] == 0.25 and dict(pairs.data.fields)["noise"] == 0.1
    assert pairs.n_steps == np.ceil(80 * 16 / 1.5 / 32) and dict(pairs.data.fields)["l0"] == 1.5
    assert len({c.name for c in plan}) == len(plan) and "l0_2" in first[2].name


def test_arithmetics_are_cells_of_their_own():
    plan = cells(replace(E, points=grid(arithmetic=("float32", "bfloat16"))))
    assert [c.spec.arithmetic for c in plan] == ["float32", "bfloat16"]
    assert plan[1].labels["setting"][0] == "arithmetic bfloat16" and plan[0].name != plan[1].name


def test_numbers_of_some_recipes_go_to_those_that_read_them():
    points = grid(aux_coeff=(0.1, 0.2), recipe=("untied", "topk"))
    plan = {c.columns["recipe"]: c for c in cells(replace(E, points=points))}
    assert [m["aux_coeff"] for m in plan["topk"].members] == [0.1, 0.2]
    assert len(plan["untied"].members) == 2  # the grid of l1_coeff, once
    # A clipped gradient is another program.
    assert len(cells(replace(E, points=Points() + grid(grad_clip=1.0)))) == 2


@pytest.mark.parametrize(
    ("points", "message"),
    [
        (grid(nois=0.1), "unknown dimension 'nois': did you mean 'noise'"),
        (grid(rho=0.1), "unknown dimension 'rho'"),  # no world here has it
        (grid(aux_coeff=2), "unknown dimension 'aux_coeff'"),  # nor does a recipe read it
        (grid(n_features=9), "unknown dimension 'n_features'"),  # but ratio
        (grid(lr="fast"), "dimension lr 'fast': give a number"),
        (grid(recipe=3), "dimension recipe 3: give a name"),
        (grid(ratio=0), "ratios 0 must be larger than 0"),
        (grid(world="spere"), "did you mean 'sphere'"),
        (grid(n_steps=3, firings_per_feature=4), "n_steps and firings_per_feature"),
        (grid(beta1=2.0), "beta1 2 is outside"),
    ],
)
def test_a_point_that_cannot_be_is_refused(points, message):
    with pytest.raises(ToysaeError, match=message):
        cells(replace(E, points=points))


def test_a_point_more_changes_no_other_saes_key():
    points = zipped(l0=(1, 2), lr=(1e-3, 2e-3))
    before, after = (
        keys(replace(E, points=points)),
        keys(replace(E, points=points + grid(noise=0.1))),
    )
    assert set(before) < set(after) and len(set(after)) == len(after) == 12
    assert keys(E)[:4] == keys(replace(E, points=Points() + grid(l0=2)))[:4]
    assert keys(E) == keys(replace(E, l0=3.0, lr=7.0, points=grid(l0=1.5, lr=E.lr)))


def test_the_table_says_what_varies_and_choices_stay_within_it(tmp_path):
    e = replace(E, points=grid(l0=(1, 3)) * zipped(lr=(1e-3, 3e-3)), figures=(), world_seeds=3)
    results = run(e, tmp_path / "out", quiet=True)
    table = Results.load(results.path).table
    assert table["l0_asked"].tolist() == [1] * 12 + [3] * 12
    assert table["setting"].iloc[[0, 2, 12]].tolist() == [
        "l0 1, lr 0.001", "l0 1, lr 0.003", "l0 3, lr 0.001"
    ]  # fmt: skip
    np.testing.assert_allclose(table["true_l0"], table["l0_asked"], atol=0.5)
    by_setting = table["setting"].str.split("lr ").str[1].astype(float)
    np.testing.assert_allclose(by_setting, table["lr"], rtol=1e-6)
    lines = summarise_runs(table)
    assert lines["setting"].tolist() == sorted(table["setting"].unique())
    assert len(best_coefficient(table, ["setting"], "sparsity")) == 4 * 3
    # What the directory says of its settings makes the same points.
    assert Points.of(results.config["settings"]["points"]) == e.points


def test_train_takes_points():
    world = make_world("sphere", 0, d_in=8, n_features=12, l0=1.5)
    quiet = {"n_steps": 30, "n_eval": 256, "batch_size": 32, "quiet": True}
    points = zipped(l1_coeff=(0.1, 0.3), lr=(1e-3, 3e-3))
    table = train(
        world, "untied", points=points, sae_seeds=(0, 1), lr_decay=(0, 0.2), **quiet
    ).table
    held = table[["lr_decay", "l1_coeff", "lr", "sae_seed"]].to_numpy(float)
    expected = [(d, *p, s) for d in (0, 0.2) for p in ((0.1, 1e-3), (0.3, 3e-3)) for s in (0, 1)]
    np.testing.assert_allclose(held, expected, rtol=1e-6)
    with pytest.raises(ToysaeError, match="lr on both sides"):
        train(world, "untied", points=points, lr=1e-2, **quiet)
    with pytest.raises(ToysaeError, match="is not a number"):
        train(world, "untied", points=grid(l1_coeff="much"), **quiet)


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("magnitude", ("constant", "log-normal")), ("firing", ("independent", "exclusive")),
        ("probs", ("uniform", "zipf")),
    ],
)  # fmt: skip
def test_what_worlds_have_by_name_is_a_dimension(name, values):
    each = [key for value in values for key in keys(replace(E, **{name: value}))]
    assert keys(replace(E, points=grid(**{name: values}))) == each
    assert len(set(each)) == len(each) > 0


def test_a_number_of_a_world_is_no_name():
    with pytest.raises(ToysaeError, match="dials.'rho'. '0.5' is not a number"):
        replace(E, worlds=("pairs",), dials={"rho": "0.5"})
    with pytest.raises(ToysaeError, match="dials.'rho'. 'high' is not a number"):
        cells(replace(E, worlds=("pairs",), points=grid(rho=("high",))))


@pytest.mark.parametrize("other", [3, "x", None, {"lr": 1}])
def test_points_go_with_points_alone(other):
    for combine in (operator.mul, operator.add):
        with pytest.raises(ToysaeError, match="is not points: make some with grid"):
            combine(grid(lr=1e-3), other)


@pytest.mark.parametrize("name", ["lr", "l1_coeff"])
def test_a_number_that_a_float32_cannot_hold_is_refused_before_anything_is_trained(name, tmp_path):
    message = rf"{name} 1e\+300 is outside the range of float32: at most 3.4e38"
    with pytest.raises(ToysaeError, match=message):
        run(replace(E, points=grid(**{name: (1e-3, 1e300)})), tmp_path / "out", quiet=True)
    assert not (tmp_path / "out").exists()
