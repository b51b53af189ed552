"""Figures of sweeps over more than one grid, on made-up results with known answers."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import pytest

from toysae.plotting import FIGURES
from toysae.plotting.phase_diagram import falls_through
from toysae.recovery import phase_transition
from toysae.recovery.minima import TRUTH

N, D_IN, STEPS = 16, 8, np.array([0, 100, 200, 300, 400])


@dataclass
class Fake:
    table: pd.DataFrame
    cells: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    name: str = "made-up"

    def arrays(self, cell):
        return self.cells[cell]


def row(**given):
    return {
        "world": "sphere", "recipe": "untied", "init": "random", "ratio": 2.0, "n_features": N,
        "d_in": D_IN, "d_sae": N, "n_steps": 400, "batch_size": 64, "world_seed": 0,
        "sae_seed": 0, "sparsity": 0.1, "l1_coeff": 0.1, "true_l0": 2.0, "l0": 2.0,
        "diverged": False,
        "mmcs": 0.9, "mcc": 0.9, "mcs_above_0.9": 0.5, "floor": 0.4, "eval_loss": 1.0,
        "row": 0, "setting": "-", "ev": 0.9,
    } | given  # fmt: skip


def test_a_phase_diagram_holds_means_over_worlds_and_the_lines_of_the_limits():
    shares = {(1, 1): 1.0, (1, 4): 0.2, (4, 1): 0.8, (4, 4): 0.0}  # by ratio and L0
    rows = [
        row(ratio=r, n_features=r * D_IN, d_sae=r * D_IN, setting=f"l0 {k}", l0_asked=float(k),
            true_l0=k + 0.1, l0=k * (1 if k == 1 else 9), world_seed=seed,
            **{"mcs_above_0.9": share + 0.01 * (seed - 1)})
        for (r, k), share in shares.items() for seed in range(3)
    ]  # fmt: skip
    figure, frame = FIGURES["phase_diagram"](Fake(pd.DataFrame(rows)))
    cells = frame[frame["recipe"] == "untied"].set_index(["ratio", "l0"])
    assert (cells["case"] == "sphere").all()  # the L0 is an axis and no case
    for at, share in shares.items():
        assert np.isclose(cells.loc[at, "mcs_above_0.9"], share)
        assert np.isclose(cells.loc[at, "mcs_above_0.9_half_width"], 4.302653 * 0.01 / np.sqrt(3))
        assert cells.loc[at, "matched"] == (at[1] == 1)  # an L0 of 9 times the truth is hatched
    limit = frame[frame["recipe"] == "compressed-sensing"].set_index("ratio")["l0"]
    assert limit[1.0] == D_IN and np.isclose(limit[4.0], phase_transition(4 * D_IN, D_IN))
    assert "sphere" not in figure.axes[0].get_title(loc="left")


@pytest.mark.parametrize(
    ("score", "at"),
    [
        ([1, 1, 0.8, 0.2], 4 * 2 ** (-0.5)),  # half way from 1 to .8, in log L0
        ([0.95, 0.85, 0.95, 0.2], 4 * 2 ** (0.05 / 0.75)),  # for good: the last time
        ([0.5, 0.5, 0.5, 0.5], 1),
        ([1, 1, 1, 1], np.inf),
    ],
)
def test_where_an_oracle_falls_through_for_good(score, at):
    assert np.isclose(falls_through(np.array([1.0, 2, 4, 8]), np.array(score, float), 0.9), at)


def survivors(recovered):
    """Curves of SAEs on two worlds that have so many features recovered at each of STEPS."""
    hist = np.zeros((2, 40, len(STEPS)), np.int32)
    hist[:, 38], hist[:, 10] = recovered, N - np.array(recovered)
    return {"curve_steps": STEPS, "curve_mcs_hist": hist}


def test_dictionary_sizes_stand_in_one_panel_with_the_share_not_yet_recovered():
    counts = {1: [0, 4, 8, 8, 8], 4: [0, 8, 16, 16, 12]}  # one is lost again: it was recovered
    rows = [
        row(cell=f"s{s}", row=w, d_sae=s * N, world_seed=w, setting="firings_per_feature 100")
        for s in counts for w in range(2)
    ]  # fmt: skip
    # One size alone, at fewer firings, has no panel beside them.
    rows += [row(cell="s1", setting="firings_per_feature 10", n_steps=40)]
    cells = {f"s{s}": survivors(c) for s, c in counts.items()}
    figure, frame = FIGURES["survival_by_size"](Fake(pd.DataFrame(rows), cells))
    assert frame.groupby(["case", "ratio"]).ngroups == 1 and len(figure.axes) == 1
    share = frame.pivot(index="step", columns="size", values="share")
    np.testing.assert_allclose(share[1.0], [1, 0.75, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(share[4.0], [1, 0.5, 0, 0, 0])
    assert (frame["n"] == 2).all()


def test_what_is_at_fault_is_read_off_the_loss_of_the_truth():
    found = {"optimiser": (0.2, 1.5), "objective": (0.2, 0.5), "identifiability": (0.2, 0.995),
             "recovered": (1.0, 1.0)}  # fmt: skip
    rows = []
    for place, (share, loss) in enumerate(found.values()):
        at = {"n_steps": 100 * 10**place, "setting": f"firings_per_feature {10**place}",
              "firings_per_feature": 10.0**place}  # fmt: skip
        for seed in range(2):
            own = {"mcs_above_0.9": share, "mmcs": share, "eval_loss": loss}
            truth = {"mcs_above_0.9": 1.0, "mmcs": 1.0, "init": TRUTH}
            rows += [row(**at, **more, world_seed=seed) for more in (own, truth)]
    _, frame = FIGURES["undertraining"](Fake(pd.DataFrame(rows)))
    own = frame[frame["init"] == "random"].sort_values("firings")
    assert own["firings"].tolist() == [1, 10, 100, 1000] and (own["n_judged"] == 2).all()
    np.testing.assert_array_equal(own[list(found)], np.eye(4))
    assert (frame.loc[frame["init"] == TRUTH, "mcs_above_0.9"] == 1).all()
