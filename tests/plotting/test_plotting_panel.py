"""The panel figure: what its points say is what the panels say."""

import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.plotting.panel import panel_figure
from toysae.plotting.style import OKABE_ITO, save
from toysae.worlds import make_world
from toysae.worlds.assemble import assemble
from toysae.worlds.independent import independent
from toysae.worlds.magnitudes import Constant
from toysae.worlds.panel import panel_of, world_panel

OF_WORLD = ["probability", "magnitude", "l0", "correlation", "coherence"]
OF_ALL = ["norm", "shape", "variance"]


@pytest.fixture(scope="module")
def world():
    return world_panel(make_world("sphere", 0, d_in=8, n_features=16, l0=2.0), 4096)


@pytest.fixture(scope="module")
def real():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(3000, 12)) * np.exp(rng.normal(size=(3000, 1)))
    x[:, 3] = 7.0  # a constant dimension has no skew
    return panel_of([x.astype(np.float32)])


def titled(fig):
    return [ax.get_title() for ax in fig.axes if ax.get_title()]


def points(frame, source, panel):
    return frame[(frame["source"] == source) & (frame["panel"] == panel)]


def test_a_world_has_eight_panels_and_real_activations_three(world, real):
    fig, frame = panel_figure({"a world": world})
    assert len(titled(fig)) == 8 and list(frame["panel"].unique()) == OF_WORLD + OF_ALL
    fig, frame = panel_figure({"a model": real})
    assert len(titled(fig)) == 3 and list(frame["panel"].unique()) == OF_ALL
    fig, frame = panel_figure({"a model": real, "a world": world})
    assert len(titled(fig)) == 8
    assert set(frame.loc[frame["source"] == "a model", "panel"]) == set(OF_ALL)
    assert [text.get_text() for text in fig.legends[0].get_texts()] == ["a model", "a world"]


def test_points_are_those_of_the_panels(world, real):
    _, frame = panel_figure({"world": world, "model": real})
    found = points(frame, "world", "probability")
    np.testing.assert_array_equal(found["x"], np.arange(1, 17))
    np.testing.assert_array_equal(found["y"], world.prob)
    found = points(frame, "world", "correlation")
    np.testing.assert_array_equal(found["y"], world.correlations)
    found = points(frame, "world", "magnitude")
    assert ((found["x_high"] - found["x"]) * found["y"]).sum() == pytest.approx(1)
    found = points(frame, "world", "l0")
    assert found["y"].sum() == pytest.approx(1)
    middle = (found["x"] + found["x_high"]) / 2
    assert (middle * found["y"]).sum() == pytest.approx(world.l0_mean)
    found = points(frame, "world", "coherence")
    assert found["y"].sum() == pytest.approx(1) and found["x_high"].max() >= world.coherence
    empty = world.l0_counts[0] / 4096
    assert points(frame, "world", "norm")["y"].sum() == pytest.approx(1 - empty)
    found = points(frame, "model", "norm")
    assert found["y"].sum() == pytest.approx(1)
    np.testing.assert_allclose(found["x_high"] / found["x"], 2**0.125)
    rms = np.hypot(real.norm_mean, real.norm_sd)
    assert found["x"].min() * rms == pytest.approx(real.norm_edges[0])
    found = points(frame, "model", "shape")
    np.testing.assert_array_equal(found["x"], np.delete(real.skew, 3))
    np.testing.assert_array_equal(found["y"], np.delete(real.kurtosis, 3))
    found = points(frame, "model", "variance")
    relative = real.eigenvalues / real.eigenvalues.mean()
    np.testing.assert_allclose(found["y"], relative[:11])  # the constant dimension has none


def test_references_stand_where_theory_says(world):
    fig, _ = panel_figure({"world": world})
    axes = {ax.get_title(): ax for ax in fig.axes}
    dotted = {
        title: [line for line in axes[title].lines if line.get_linestyle() == ":"]
        for title in ("Firing correlations", "Between features")
    }
    assert [line.get_ydata()[0] for line in dotted["Firing correlations"]] == [world.noise_edge]
    assert [line.get_xdata()[0] for line in dotted["Between features"]] == [world.welch_bound]


@pytest.mark.parametrize("together", [False, True])
def test_bins_that_no_line_reaches_are_marked(world, together):
    """Antipodal pairs: |cos| is 0 or 1, and nothing stands between."""
    pairs = world_panel(make_world("antipodal", 0, d_in=8, n_features=16, l0=2.0), 256)
    fig, _ = panel_figure({"pairs": pairs} | ({"world": world} if together else {}))
    (ax,) = (ax for ax in fig.axes if ax.get_title() == "Between features")
    marked = []
    for line in ax.lines:
        if line.get_marker() == "o" and line.get_color() == OKABE_ITO[0]:
            x, every = np.asarray(line.get_xdata()), line.get_markevery()
            marked += x[every if every is not None else slice(None)].tolist()
    np.testing.assert_allclose(sorted(marked), [0.005, 0.995])
    low, high = ax.get_xlim()
    assert low < 0 and high > 1  # whole markers


def test_long_lines_are_thinned_and_keep_their_ends():
    rng = np.random.default_rng(0)
    wide = panel_of([rng.normal(size=(900, 330)).astype(np.float32)])
    _, frame = panel_figure({"wide": wide})
    found = points(frame, "wide", "variance")
    assert len(found) <= 300 and list(found["x"].iloc[[0, -1]]) == [1, 330]


def test_degenerate_sources_are_drawn(tmp_path):
    """Nothing ever fires; a single sample; all samples equal; alone and together."""
    silent = assemble(jnp.eye(3), independent(np.zeros(3)), Constant(1.0))
    sources = {
        "silent": world_panel(silent, 256),
        "one sample": panel_of([np.ones((1, 4), np.float32)]),
        "constant": panel_of([np.full((9, 1), 2.0, np.float32)]),
        "zero": panel_of([np.zeros((9, 2), np.float32)]),
    }
    for name, some in {**{k: {k: v} for k, v in sources.items()}, "all": sources}.items():
        fig, frame = panel_figure(some)
        png, csv = save(fig, frame, tmp_path, name)
        assert png.stat().st_size > 10_000 and csv.exists()


def test_no_sources_is_refused():
    with pytest.raises(ToysaeError, match="no panels to draw"):
        panel_figure({})
