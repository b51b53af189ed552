"""The key of an SAE: the same for the same numbers, another for any that differs."""

from dataclasses import replace

import numpy as np
import pytest

from toysae import Experiment
from toysae.sweeps.cells import cells

E = Experiment(
    question="?", d_in=8, ratios=(2,), l0=1.5, recipes=("untied",), ceiling=False,
    l1_coeff=(0.05, 0.2), world_seeds=2, sae_seeds=2, n_steps=40, batch_size=32, n_eval=256,
    curve_points=3, dials={"noise": 0.01},
)  # fmt: skip


def keys(e):
    return np.concatenate([cell.keys.reshape(-1) for cell in cells(e)])


def test_every_sae_has_a_key_of_its_own():
    (cell,) = cells(E)
    assert cell.keys.shape == (2, 4) and len(set(keys(E))) == 8
    assert all(len(key) == 16 and int(key, 16) >= 0 for key in keys(E))


@pytest.mark.parametrize(
    "change",
    [
        {"question": "What?", "expected": "x", "run_time": "y", "figures": ()},
        {"save_params": False},
        {"l1_coeff": (0.05, 0.2 + 1e-9)},  # the same float32
        {"l0": 1.5, "ratios": (2.0,)},
        {"l1_convention": "interim-report", "l1_coeff": (0.05 * 16 / 8, 0.2 * 16 / 8)},
        {"k": (7.0,)},  # read by no recipe here
        {"dials": {"noise": 0.01, "bias": 0.0}},  # a default, spelled out
    ],
)  # fmt: skip
def test_what_changes_no_number_changes_no_key(change):
    np.testing.assert_array_equal(keys(replace(E, **change)), keys(E))


@pytest.mark.parametrize(
    "change",
    [
        {"worlds": ("orthogonal",), "ratios": (1,)}, {"d_in": 9}, {"ratios": (3,)}, {"l0": 1.6},
        {"magnitude": "constant"}, {"dials": {"noise": 0.02}}, {"recipes": ("tied",)},
        {"inits": ("orthogonal",)}, {"sizes": (0.5,)}, {"n_steps": 41}, {"batch_size": 33},
        {"n_eval": 257}, {"curve_points": 4}, {"lr": 2e-3}, {"lr_decay": 0.1},
        {"lr_warmup": 0.1}, {"l1_warmup": 0.1}, {"l1_coeff": (0.06, 0.21)},
    ],
)  # fmt: skip
def test_what_changes_numbers_changes_every_key(change):
    assert not set(keys(replace(E, **change))) & set(keys(E))


@pytest.mark.parametrize(
    "change", [{"l1_coeff": (0.05, 0.1, 0.2)}, {"world_seeds": 3}, {"sae_seeds": 3}]
)  # fmt: skip
def test_a_larger_grid_holds_the_keys_of_the_smaller(change):
    more = set(keys(replace(E, **change)))
    assert set(keys(E)) < more and len(more) == 8 + 4


def test_keys_do_not_change_by_themselves():
    """Results of earlier versions are found by them: where this fails, count FORMAT up."""
    assert keys(E)[0] == "2275cde18ac28330"
