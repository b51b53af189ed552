"""Every figure on made-up results: what its CSV says is what the table says."""

import subprocess
import sys
from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
import pytest

from toysae.errors import ToysaeError
from toysae.plotting import FIGURES, draw, rows
from toysae.plotting import style as st

D_IN, N_STEPS = 32, 20_000
ARMS = [("tied", "random"), ("tied", "orthogonal"), ("untied", "random"), ("tied", "truth")]


@dataclass
class FakeResults:
    table: pd.DataFrame
    cells: dict[str, dict[str, np.ndarray]]
    name: str = "made-up"

    def arrays(self, cell: str) -> dict[str, np.ndarray]:
        return self.cells[cell]


def fake(
    ratios=(1, 2, 8),
    sizes=(1.0,),
    seeds=3,
    l1s=(0.01, 0.03, 0.1, 0.3),
    worlds=("spikes",),
    arms=ARMS,
) -> FakeResults:
    """Results whose best L1 is 0.1 and whose recovery falls with the ratio; no training."""
    rng = np.random.default_rng(0)
    rows, cells = [], {}
    for world in worlds:
        for ratio in ratios:
            for size in sizes:
                n, name = int(ratio * D_IN), f"{world}-{ratio}-{size}"
                runs = [(a, s, l1) for a in arms for s in range(seeds) for l1 in l1s]
                steps = np.array([0, *range(100, N_STEPS + 1, 100)])
                freq = 0.2 * 0.98 ** np.arange(n) if ratio > 1 else np.full(n, 0.1)
                arrays = {k: np.zeros((len(runs), len(steps))) for k in CURVES}
                arrays |= {"mcs": np.zeros((len(runs), n)), "curve_steps": steps}
                arrays["curve_mcs_hist"] = np.zeros((len(runs), 40, len(steps)), np.int32)
                arrays["feature_freq"] = np.tile(freq, (len(runs), 1))
                arrays["firings_seen"] = arrays["feature_freq"] * N_STEPS * 256
                shape = (len(runs), n)
                arrays["feature_magnitude"] = rng.uniform(0.2, 1, shape)
                arrays["feature_nn_cos"] = rng.uniform(0.1, 0.6, shape)
                for r, ((recipe, init), seed, l1) in enumerate(runs):
                    off = abs(np.log10(l1 / 0.1))
                    good = np.exp(-off) / (1 + 0.15 * ratio * (recipe == "tied"))
                    found = rng.random(n) < good * (0.5 + freq / freq.max() / 2)
                    mcs = np.where(found, 1 - 0.05 * rng.random(n), rng.normal(0.4, 0.06, n))
                    mcs = np.where(init == "truth", 0.97, mcs)
                    arrays["mcs"][r] = mcs
                    rise = 1 - np.exp(-steps / 3000)
                    arrays["curve_mcs_hist"][r] = hists(mcs, rise)
                    arrays["curve_mmcs"][r] = 0.35 + (mcs.mean() - 0.35) * rise
                    arrays["curve_l0"][r] = 5 * 4 ** (1 - rise) * (0.1 / l1) ** 0.8
                    arrays["curve_ev"][r] = 0.9 * rise
                    arrays["curve_loss"][r] = 1 - 0.9 * rise
                    above = {f"mcs_above_{t}": (mcs > t).mean() for t in (0.8, 0.9, 0.95)}
                    shape = {"d_in": D_IN, "n_features": n, "ratio": n / D_IN, "true_l0": 5.0}
                    never = mcs.mean() < 0.6
                    rows.append(
                        {"cell": name, "row": r, "world": world, "recipe": recipe, "init": init}
                        | {"d_sae": int(size * n), "world_seed": seed, "sae_seed": 0}
                        | {"sparsity": l1, "l1_coeff": l1, "n_steps": N_STEPS, "batch_size": 256}
                        | shape
                        | above
                        | {
                            "diverged": False,
                            "mmcs": mcs.mean(),
                            "mcc": mcs.mean() - 0.02,
                            "mcc_abs": mcs.mean(),
                        }
                        | {"l0": arrays["curve_l0"][r, -1], "ev": 0.9, "mse": 0.01 * (1 + off)}
                        | {"dead_fraction": min(1, off / 2), "floor": 0.35, "mmcs_init": 0.35}
                        | {"steps_to_0.9": np.nan if never else 1000 * ratio + 300 * seed + 50 * r}
                        | {"censored_0.9": never}
                    )
                cells[name] = arrays
    return FakeResults(pd.DataFrame(rows), cells)


def hists(mcs, rise):
    """[bins, points]: each feature's MCS rises from .35 to where it ends."""
    moving = 0.35 + (mcs[:, None] - 0.35) * rise
    return np.stack([np.histogram(m.clip(0, 1), 40, (0, 1))[0] for m in moving.T], 1)


CURVES = ("curve_mmcs", "curve_l0", "curve_ev", "curve_loss")


@pytest.fixture(scope="module")
def results() -> FakeResults:
    return fake()


@pytest.fixture(scope="module")
def few() -> FakeResults:
    """With less to draw."""
    return fake(ratios=(1, 2), seeds=2, l1s=(0.03, 0.1), arms=ARMS[::2])


@pytest.mark.parametrize("name", FIGURES)
def test_draws_and_saves(name, few, tmp_path):
    before = dict(matplotlib.rcParams)
    png, csv = draw(few, [name], tmp_path)
    assert png.read_bytes().startswith(b"\x89PNG") and len(pd.read_csv(csv))
    assert {p.name for p in tmp_path.iterdir()} == {f"{name}.png", f"{name}.csv"}
    assert dict(matplotlib.rcParams) == before


@pytest.mark.rotation(5)
@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize(
    "case", ["one seed", "all diverged", "one arm diverged", "nan", "two worlds"]
)
def test_sparse_results_are_drawn(name, case, tmp_path):
    few = {"arms": ARMS[-2:], "l1s": (0.1, 0.3), "seeds": 1 if case == "one seed" else 2}
    res = fake(ratios=(1,), worlds=("spikes", "tree")[: 1 + (case == "two worlds")], **few)
    gone = pd.Series(case == "all diverged", index=res.table.index)
    if case == "one arm diverged":
        gone = res.table["recipe"] == "untied"
    res.table["diverged"] = gone
    scores = ["mmcs", "mcc", "mcc_abs", "l0", "ev", "mse", "mcs_above_0.9", "steps_to_0.9"]
    res.table.loc[gone, scores] = np.nan
    for arrays in res.cells.values():
        if case == "all diverged":
            arrays["mcs"][:] = np.nan
            arrays["curve_mcs_hist"][:] = 0
        if case == "nan":
            arrays["mcs"][::3, 2:] = np.nan
            arrays["curve_ev"][:] = np.nan
    if case == "nan":
        res.table.loc[::3, ["mmcs", "l0", "mse"]] = np.nan
        res.table["floor"] = np.nan
    fig, frame = FIGURES[name](res)
    st.save(fig, frame, tmp_path, name)
    assert len(frame.columns) and (len(frame) or case == "all diverged")


def test_histogram_shares_are_those_of_the_arrays(results):
    _, frame = FIGURES["mcs_histograms"](results)
    for (recipe, init), ratio in [(a, r) for a in ARMS for r in (1, 2, 8)]:
        t = results.table[results.table.sparsity == 0.1]
        picked = t[(t.recipe == recipe) & (t.init == init) & (t.ratio == ratio)]
        mcs = results.cells[f"spikes-{ratio}-1.0"]["mcs"][picked["row"]]
        part = frame[(frame.recipe == recipe) & (frame.init == init) & (frame.ratio == ratio)]
        best = part[part.line == "best"]
        assert np.isclose(best["share"].sum(), 1)
        assert np.isclose(best.loc[best["low"] > 0.899, "share"].sum(), (mcs > 0.9).mean())
        assert set(best["half"]) == ({"all"} if ratio == 1 else {"frequent half", "rarest half"})
        assert set(part.loc[part.line == "other sparsity", "sparsity"]) == {0.01, 0.03, 0.3}
        if ratio > 1:
            rare = best[(best["half"] == "rarest half") & (best["low"] > 0.899)]
            half = mcs[:, mcs.shape[1] // 2 :]
            assert np.isclose(rare["share"].sum(), (half > 0.9).sum() / mcs.size)


def test_ratio_figure_is_the_mean_and_students_interval(results):
    _, frame = FIGURES["mmcs_by_ratio"](results)
    assert len(frame) == len(ARMS) * 3
    for row in frame.itertuples():
        t = results.table
        t = t[(t.recipe == row.recipe) & (t.init == row.init) & (t.ratio == row.ratio)]
        mmcs = t.loc[t.sparsity == 0.1, "mmcs"].to_numpy()
        assert np.isclose(row.mmcs, mmcs.mean())
        assert np.isclose(row.mmcs_half_width, 4.302653 * mmcs.std(ddof=1) / np.sqrt(3))
        l0 = t.loc[t.sparsity == 0.1, "l0"] / 5
        assert np.isclose(row.l0_ratio, np.exp(np.log(l0).mean()))


def test_heat_map_counts_diverged_runs():
    res = fake(ratios=(1,), sizes=(1.0, 2.0), seeds=2)
    res.table.loc[res.table.sparsity == 0.3, "diverged"] = True
    _, frame = FIGURES["sparsity_by_size"](res)
    gone = frame[frame.sparsity == 0.3]
    assert (gone["n"] == 0).all() and (gone["n_diverged"] == 2).all() and gone["mmcs"].isna().all()
    assert np.allclose(frame.loc[frame.sparsity == 0.01, "dead_fraction"], 0.5)


def test_arms_of_one_sweep_look_different():
    arms = [(r, i) for r in ("tied", "untied") for i in ("random", "orthogonal", "svd")]
    looks = [st.arm_style(*arm) for arm in arms]
    assert len({look["color"] for look in looks}) == len({look["marker"] for look in looks}) == 6
    assert st.arm_style("tied", "truth")["linestyle"] == "--"
    assert all(look["linestyle"] not in ("--", ":") for look in looks)


def test_unknown_figure_is_refused_before_drawing(results, tmp_path):
    with pytest.raises(ToysaeError, match="did you mean 'mmcs_by_ratio'"):
        draw(results, ["sparsity_by_size", "mmcs_by_ratios"], tmp_path)
    assert not list(tmp_path.iterdir())


def test_results_of_a_study_are_refused_before_drawing(few, tmp_path):
    study = FakeResults(few.table.drop(columns="world").assign(arm="a"), {})
    with pytest.raises(ToysaeError, match="no column 'world', .* a study draws its own"):
        draw(study, "mcs_histograms", tmp_path)
    assert not list(tmp_path.iterdir())


def test_pyplot_is_not_loaded():
    code = "import sys, toysae.plotting; assert 'matplotlib.pyplot' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_zoo_shows_the_point_nearest_the_true_l0_not_the_best(results):
    # Each seed's point is the one that the other seeds find nearest, whatever its mcc.
    res = fake(ratios=(1,), arms=ARMS[-2:], l1s=(0.1, 0.3), seeds=3)
    res.table["true_l0"] = 4.0
    near = res.table["sparsity"] == 0.3
    res.table["l0"], res.table["mcc"] = np.where(near, 4.4, 2.0), np.where(near, 0.2, 0.9)
    _, frame = FIGURES["scores_by_recipe"](res)
    np.testing.assert_allclose(frame["mcc"].astype(float), 0.2)
    np.testing.assert_allclose(frame["l0_ratio"].astype(float), 1.1)
    _, frame = FIGURES["recovery_by_l0"](res)
    np.testing.assert_allclose(sorted(set(frame["mcc"].astype(float))), [0.2, 0.9])


def test_zoo_histograms_hold_every_feature_once(results):
    _, frame = FIGURES["mcs_by_recipe"](results)
    np.testing.assert_allclose(frame.groupby(["case", "arm"])["share"].sum(), 1)


@pytest.mark.parametrize(
    "name", ["scores_by_recipe", "recovery_by_l0", "mcs_by_recipe", "frontier"]
)
def test_no_panel_pools_what_the_axes_set(name):
    res = fake(ratios=(1,), seeds=2, l1s=(0.1, 0.3))
    res.table["setting"] = np.where(res.table["sparsity"] == 0.3, "l0 4", "l0 8")
    _, frame = FIGURES[name](res)
    assert sorted(set(frame["case"])) == ["spikes, ratio 1, l0 4", "spikes, ratio 1, l0 8"]


def test_frontier_points_are_means_over_seeds_beside_the_oracles(monkeypatch):
    res = fake(ratios=(1, 2), seeds=3)
    table = pd.DataFrame(
        {
            "world": "spikes", "setting": "-", "n_features": [D_IN, D_IN, 5 * D_IN], "d_in": D_IN,
            "method": "truth-fista", "value": [0.1, 0.2, 0.1], "l0": [4.0, 2.0, 1.0],
            "ev": [0.9, 0.8, 0.1], "mmcs": 1.0, "mcs_above_0.9": 1.0,
        }
    )  # fmt: skip

    without = FIGURES["frontier"](res)[1]
    monkeypatch.setattr("toysae.plotting.frontier.oracle_rows", lambda results: table)
    _, frame = FIGURES["frontier"](res)
    oracle = frame[frame["init"] == "oracle"]
    assert list(oracle["case"]) == ["spikes, ratio 1"] * 2 and list(oracle["ev"]) == [0.9, 0.8]
    one = res.table[(res.table["recipe"] == "untied") & (res.table["ratio"] == 2)]
    one = one[(one["sparsity"] == 0.1) & (one["init"] == "random")]
    keys = {"case": "spikes, ratio 2", "recipe": "untied", "init": "random", "sparsity": 0.1}
    point = frame[(frame[list(keys)] == list(keys.values())).all(axis=1)].iloc[0]
    for score in ("mmcs", "mcs_above_0.9", "l0"):
        assert np.isclose(point[score], one[score].mean())
    assert np.isclose(point["mmcs_half_width"], 4.302653 * one["mmcs"].std(ddof=1) / np.sqrt(3))
    pd.testing.assert_frame_equal(frame[frame["init"] != "oracle"], without, check_dtype=False)


def surface_results(vary: bool):
    """One arm whose features are found by a known surface: frequency and cosine, not magnitude."""
    res = fake(ratios=(8,), seeds=4, l1s=(0.1,), arms=ARMS[2:3])
    rng = np.random.default_rng(1)
    (arrays,) = res.cells.values()
    shape = arrays["mcs"].shape
    arrays["feature_freq"] = 10.0 ** rng.uniform(-4, -1, shape)
    arrays["feature_magnitude"] = 10.0 ** (rng.uniform(-1, 0, shape) * vary)
    arrays["feature_nn_cos"] = rng.uniform(0.1, 0.6, shape)
    margin = 3 * (np.log10(arrays["feature_freq"]) + 2.5) - 8 * (arrays["feature_nn_cos"] - 0.35)
    found = rng.random(shape) < 1 / (1 + np.exp(-margin))
    arrays["mcs"] = np.where(found, 0.95, 0.5)
    return res


@pytest.mark.parametrize("vary", [True, False])
def test_the_surface_finds_what_decides(vary):
    res = surface_results(vary)
    fig, frame = FIGURES["recovery_surface"](res)
    by_term = frame.set_index("term")
    assert len(frame) == 3 + vary and (frame["n_worlds"] == 4).all()
    assert not frame["separated"].any()
    true = {"log10 frequency": 3, "nearest neighbour's cosine": -8, "log10 magnitude": 0}
    for term, slope in list(true.items())[: 2 + vary]:
        row = by_term.loc[term]
        # 1,024 features: a standard error of about 0.13 per standard deviation of a term.
        assert row["coefficient"] == pytest.approx(slope * row["sd"], abs=0.5), term
        assert 0 < row["half_width"] < 2
    panels = [ax for ax in fig.axes if ax.collections and ax.get_xscale() == "log"]
    assert len(panels) == (3 if vary else 1)
    drawn = sum(len(ax.collections[0].get_offsets()) for ax in panels)
    assert drawn == frame["n"].iloc[0] == res.cells["spikes-8-1.0"]["mcs"].size


def test_a_surface_needs_its_arrays():
    res = surface_results(True)
    for arrays in res.cells.values():
        del arrays["feature_nn_cos"]
    with pytest.raises(ToysaeError, match="no feature_nn_cos: .*--fresh"):
        FIGURES["recovery_surface"](res)


def test_histograms_over_training_are_those_of_the_arrays(results):
    _, frame = FIGURES["mcs_over_training"](results)
    t = results.table
    chosen = t[(t["recipe"] == "tied") & (t["init"] == "random") & (t["ratio"] == 2)]
    arrays = results.arrays(chosen["cell"].iloc[0])
    picked = chosen.loc[chosen["sparsity"] == 0.1, "row"].to_numpy()
    here = frame[(frame["recipe"] == "tied") & (frame["init"] == "random") & (frame["ratio"] == 2)]
    steps = sorted(here["step"].unique())
    assert steps[0] == 0 and steps[-1] == N_STEPS and 8 <= len(steps) <= 10
    np.testing.assert_allclose(here.groupby("step")["share"].sum(), 1)
    for step in (0, steps[5], N_STEPS):
        at = np.flatnonzero(arrays["curve_steps"] == step)[0]
        counts = arrays["curve_mcs_hist"][picked, :, at].sum(0)
        part = here[here["step"] == step]
        full = np.flatnonzero(counts)
        np.testing.assert_allclose(part["low"], full / 40)
        np.testing.assert_allclose(part["share"], counts[full] / counts.sum())
    assert len(here[here["step"] == 0]) == 1  # all features at .35


def test_a_ceiling_held_at_the_truth_is_told_from_one_that_may_leave():
    assert st.arm_label("tied", "at-truth") == "tied, held at the truth (ceiling)"
    held, free = st.arm_style("tied", "at-truth"), st.arm_style("tied", "truth")
    assert held["linestyle"] == free["linestyle"] == "--" and held["marker"] != free["marker"]
    arms = [("tied", "at-truth"), ("tied", "truth"), ("tied", "zeros"), ("a", "truth")]
    table = pd.DataFrame(arms, columns=["recipe", "init"])
    assert rows.arms(table) == [arms[3], arms[2], arms[0], arms[1]]
