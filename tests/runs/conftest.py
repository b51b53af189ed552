"""A small sweep of two cells, run once without interruption, to hold others against."""

from dataclasses import fields

import pytest

from toysae import Experiment, Results, run


@pytest.fixture(scope="session")
def tiny():
    return Experiment(
        question="Does it last?", d_in=8, ratios=(1, 2), l0=1.5, recipes=("tied",), ceiling=False,
        l1_coeff=(0.05, 0.2), world_seeds=2, n_steps=40, batch_size=32, lr=3e-3, n_eval=256,
        curve_points=3, figures=(),
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_file(tiny, tmp_path_factory):
    """The same as a file."""
    path = tmp_path_factory.mktemp("experiment") / "asks.py"
    given = {f.name: getattr(tiny, f.name) for f in fields(tiny) if f.name != "points"}
    path.write_text(f"from toysae import Experiment\nexperiment = Experiment(**{given!r})\n")
    return path


@pytest.fixture(scope="session")
def reference(tiny, tmp_path_factory):
    """The directory of the uninterrupted run."""
    return run(tiny, tmp_path_factory.mktemp("reference") / "out", quiet=True).path


@pytest.fixture(scope="session")
def assert_same():
    """Two directories hold the same bits: tables, arrays and weights."""

    def check(one, two):
        assert (one / "table.csv").read_bytes() == (two / "table.csv").read_bytes()
        first, second = Results.load(one), Results.load(two)
        assert first.cells == second.cells
        for cell in first.cells:
            for read in (Results.arrays, Results.weights):
                a, b = read(first, cell), read(second, cell)
                assert a.keys() == b.keys()
                assert all(a[name].tobytes() == b[name].tobytes() for name in a)

    return check


@pytest.fixture
def trained_saes(monkeypatch):
    """A list that grows by the number of SAEs of each cell that starts training."""
    import importlib

    module, counted = importlib.import_module("toysae.runs.run"), []
    train_group = module.train_ensemble

    def counts(cell, *args, **kwargs):
        counted.append(cell.n_rows)
        return train_group(cell, *args, **kwargs)

    monkeypatch.setattr(module, "train_ensemble", counts)
    return counted
