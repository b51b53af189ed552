"""Named worlds: what each promises, on samples and against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.worlds import WORLDS, make_world, sample, stack, world_card, world_fields
from toysae.worlds.catalogue import FIRINGS, PLAIN_WORLDS
from toysae.worlds.dictionaries import welch_bound
from toysae.worlds.fields import FIELDS
from toysae.worlds.plant import regular_forest
from toysae.worlds.probabilities import firing_probabilities
from toysae.worlds.registry import _typed, about_field
from toysae.worlds.world import combine, dense_acts

SMALL = {"d_in": 12, "n_features": 24, "l0": 3.0}
N_DRAWN = 2000  # everywhere, so that one program draws them
LARGE = {"synth-sae-bench-16k"}  # has tests of its own
NAMES = [name for name in WORLDS if name not in LARGE and not name.startswith(("tms", "arena"))]
INTERIM = ["interim-report", "interim-report-per-sample"]


def small(name, seed, **fields):
    """A named world at a small size, where it has sizes."""
    known = world_fields(name)
    sizes = SMALL | {"rank": 5} | ({"n_features": 12} if name == "orthogonal" else {})
    sizes = sizes if "n_features" in known else {}
    return make_world(name, seed, **{k: v for k, v in sizes.items() if k in known} | fields)


@pytest.fixture(scope="module")
def drawn():
    """Each world with 2,000 of its samples."""
    worlds = {name: small(name, 3) for name in NAMES}
    return {name: (w, sample(w, jax.random.key(5), N_DRAWN)) for name, w in worlds.items()}


@pytest.mark.parametrize("name", NAMES)
def test_x_is_the_sum_of_its_features(drawn, name):
    world, batch = drawn[name]
    acts = np.zeros((2000, world.n_features))
    rows = np.broadcast_to(np.arange(2000)[:, None], batch.indices.shape)
    np.add.at(acts, (rows, np.asarray(batch.indices)), np.asarray(batch.values, np.float64))
    np.testing.assert_allclose(np.asarray(batch.feature_acts), acts, atol=1e-6)
    x = acts @ np.asarray(world.rows, np.float64)
    x = np.maximum(x, 0) if world.rectify else x
    np.testing.assert_allclose(batch.x, x, atol=1e-5)
    assert (batch.values.min() >= 0 or name == "circles") and batch.values.max() > 0.5
    assert (world.n_features, world.d_in) == world.directions.shape
    assert world.name == name


@pytest.mark.parametrize("name", NAMES)
def test_feature_counts_are_those_of_the_dense_view(drawn, name):
    _, batch = drawn[name]
    counts = (np.asarray(batch.feature_acts) != 0).sum(0)
    np.testing.assert_array_equal(np.asarray(batch.feature_counts()), counts)
    assert counts.sum() == (batch.values != 0).sum()


@pytest.mark.parametrize("name", NAMES)
def test_directions_are_unit_rows_and_l0_is_as_asked(drawn, name):
    world, batch = drawn[name]
    np.testing.assert_allclose(np.linalg.norm(world.directions, axis=1), 1, atol=1e-5)
    l0 = (batch.values != 0).sum(1)
    if name in PLAIN_WORLDS and name != "circles":
        assert abs(l0.mean() - 3.0) < 5 * np.sqrt(3 / 2000)


@pytest.mark.parametrize("name", NAMES)
def test_same_seed_same_bits_other_seed_other_world(name):
    first, again, other = (small(name, seed) for seed in (1, 1, 2))
    for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(again), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
    assert np.abs(np.asarray(first.directions) - np.asarray(other.directions)).max() > 0.1
    one, two, three = (sample(first, jax.random.key(k), N_DRAWN).x for k in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert np.abs(np.asarray(one) - np.asarray(three)).max() > 0.1


def test_the_sparse_path_equals_the_dense_one():
    n, d, slots = 1500, 8, 5
    rng = np.random.default_rng(0)
    indices = np.stack([rng.choice(n, slots, replace=False) for _ in range(40)]).astype(np.int32)
    values = (rng.random((40, slots)) * (rng.random((40, slots)) < 0.6)).astype(np.float32)
    rows = rng.normal(size=(n, d)).astype(np.float32)
    dense = np.asarray(dense_acts(jnp.asarray(indices), jnp.asarray(values), n), np.float64)
    found = combine(jnp.asarray(indices), jnp.asarray(values), jnp.asarray(rows))
    np.testing.assert_allclose(found, dense @ rows, atol=1e-5)
    small = rows[:200]
    indices = indices % 200
    dense = np.zeros((40, 200))
    np.add.at(dense, (np.arange(40)[:, None], indices), values)
    found = combine(jnp.asarray(indices), jnp.asarray(values), jnp.asarray(small))
    np.testing.assert_allclose(found, dense @ small, atol=1e-5)


def test_a_world_of_many_features_keeps_its_promises():
    world = make_world("sphere", 0, d_in=8, n_features=1500, l0=4.0, probs="zipf")
    batch = sample(world, jax.random.key(0), 3000)
    acts = np.asarray(batch.feature_acts, np.float64)
    np.testing.assert_allclose(batch.x, acts @ np.asarray(world.directions), atol=1e-5)
    np.testing.assert_array_equal(np.asarray(batch.feature_counts()), (acts != 0).sum(0))
    assert abs((acts != 0).sum(1).mean() - 4) < 5 * np.sqrt(4 / 3000)


@pytest.mark.parametrize("n_features", [6, 24])
def test_antipodal_pairs(n_features):
    world = make_world("antipodal", 0, d_in=12, n_features=n_features, l0=2.0)
    gram = np.asarray(world.directions, np.float64) @ np.asarray(world.directions).T
    expected = np.kron(np.eye(n_features // 2), [[1, -1], [-1, 1]])
    np.testing.assert_allclose(gram, expected, atol=1e-5)


def test_antipodal_pairs_beyond_two_d_in_still_pair():
    gram = make_world("antipodal", 0, d_in=4, n_features=20, l0=2.0).directions
    gram = np.asarray(gram) @ np.asarray(gram).T
    np.testing.assert_allclose(np.diag(gram[::2, 1::2]), -1, atol=1e-5)


@pytest.mark.parametrize("rectify", [True, False])
def test_hidden_layer_targets_are_what_a_feature_alone_produces(rectify):
    world = make_world("hidden-layer", 0, rectify=rectify, **SMALL)
    for value in (0.2, 3.0):
        x = combine(jnp.arange(24, dtype=jnp.int32)[:, None], jnp.full((24, 1), value), world.rows)
        x = np.maximum(x, 0) if rectify else np.asarray(x)
        np.testing.assert_allclose(
            x / np.linalg.norm(x, axis=1, keepdims=True), world.directions, atol=1e-5
        )
    assert (np.asarray(world.directions) >= 0).all() == rectify


@pytest.mark.parametrize("spectrum", [0.0, 0.5, 1.0])
def test_hidden_layer_spectrum(spectrum):
    world = make_world("hidden-layer", 0, spectrum=spectrum, **SMALL)
    values = np.linalg.svd(np.asarray(world.generating_matrix, np.float64), compute_uv=False)
    np.testing.assert_allclose(values, np.arange(1, 13.0) ** -spectrum, rtol=1e-5)


@pytest.mark.parametrize("name", INTERIM)
def test_replication_has_no_empty_rows_and_fillers_count_one(name):
    world = make_world(name, 0, d_in=8, n_features=40, l0=1.0, decay=0.95)
    values = np.asarray(sample(world, jax.random.key(0), 4000).values)
    n_on = (values != 0).sum(1)
    assert n_on.min() == 1
    # U[0, 1) never draws a 1: those are the fillers, and each stands alone.
    filler = (values == 1).any(1)
    assert (n_on[filler] == 1).all()
    if name.endswith("per-sample"):  # about e^-1 of the rows would be empty
        assert 0.25 < filler.mean() < 0.5


def test_power_keeps_empty_rows():
    world = make_world("interim-report-power", 0, d_in=8, n_features=40, l0=1.0)
    values = np.asarray(sample(world, jax.random.key(0), 4000).values)
    assert 0.2 < ((values != 0).sum(1) == 0).mean() < 0.5
    assert (values != 1).all()


def test_interim_report_has_five_features_on_and_a_decaying_tail():
    world = make_world("interim-report-per-sample", 0, d_in=16, n_features=256, decay=0.98)
    batch = sample(world, jax.random.key(0), 8000)
    indices, values = np.asarray(batch.indices), np.asarray(batch.values)
    on = values != 0
    # 5 by the rescaling, and one filler in the rows that would be empty.
    filler = (values == 1).any(1)
    assert on.sum(1).mean() - filler.mean() == pytest.approx(5.0, abs=0.15)
    counts = np.bincount(indices[on & ~filler[:, None]], minlength=256)
    by_block = counts.reshape(8, 32).sum(1)
    np.testing.assert_allclose(by_block[1:5] / by_block[:4], 0.98**32, rtol=0.2)


def test_the_literal_replication_shares_its_draw_within_a_batch():
    fields = {"d_in": 8, "n_features": 60, "l0": 4.0, "decay": 1.0}
    shared = make_world("interim-report", 0, **fields)
    own = make_world("interim-report-per-sample", 0, **fields)

    def spread(world):
        """Variance over batches of a feature's mean rate in a batch of 2,000."""
        keys = jax.random.split(jax.random.key(1), 12)
        rates = [np.asarray(sample(world, k, 2000).feature_counts()) / 2000 for k in keys]
        return np.var(rates, axis=0).mean()

    binomial = (4 / 60) * (56 / 60) / 2000
    assert spread(own) < 2 * binomial
    assert spread(shared) > 10 * binomial


@pytest.mark.parametrize("law", ["uniform", "constant", "half-normal"])
def test_magnitudes_follow_their_law(law):
    world = make_world("sphere", 0, magnitude=law, **SMALL)
    values = np.asarray(sample(world, jax.random.key(0), 5000).values, np.float64)
    values = values[values != 0]
    mean = {"uniform": 0.5, "constant": 1.0, "half-normal": np.sqrt(2 / np.pi)}[law]
    variance = {"uniform": 1 / 12, "constant": 0.0, "half-normal": 1 - 2 / np.pi}[law]
    assert abs(values.mean() - mean) <= 5 * np.sqrt(variance / len(values)) + 1e-12
    assert values.var() == pytest.approx(variance, rel=0.05, abs=1e-12)


def test_stacked_worlds_sample_like_each_alone():
    worlds = [make_world("sphere", seed, **SMALL) for seed in (0, 1)]
    key = jax.random.key(0)
    both = jax.jit(jax.vmap(lambda w: w.sample(key, 32).x))(stack(worlds))
    for world, x in zip(worlds, both, strict=True):
        np.testing.assert_allclose(x, sample(world, key, 32).x, atol=1e-6)


@pytest.mark.parametrize("name", ["sphere", "hidden-layer", "interim-report"])
def test_card_equals_numpy(name):
    from toysae.keys import named_key, seed_key

    world = make_world(name, 2, **SMALL)
    card = world_card(world, 1100, seed=4)
    key = named_key(seed_key(4, "world"), "card")
    batches = [sample(world, jax.random.fold_in(key, i), 256) for i in range(4)]
    x = np.concatenate([b.x for b in batches]).astype(np.float64)
    acts = np.concatenate([b.feature_acts for b in batches]).astype(np.float64)
    on, values, norm = acts != 0, acts[acts != 0], np.linalg.norm(x, axis=1)
    assert (card.n_samples, card.ratio) == (1024, 2.0)
    expected = {
        "true_l0": on.sum(1).mean(), "true_l0_sd": on.sum(1).std(),
        "empty_samples": (on.sum(1) == 0).mean(), "prob_max": on.mean(0).max(),
        "prob_median": np.median(on.mean(0)), "prob_min": on.mean(0).min(),
        "magnitude_mean": values.mean(), "magnitude_sd": values.std(),
        "magnitude_max": values.max(), "norm_mean": norm.mean(), "norm_sd": norm.std(),
        "starved_features": (on.sum(0) < 10).sum(), "silent_features": (on.sum(0) == 0).sum(),
        "correlation_floor": 1 / 32, "welch_bound": welch_bound(24, 12),
    }  # fmt: skip
    enough = on.sum(0) >= 10
    phi = np.corrcoef(on[:, enough].T)[np.triu_indices(enough.sum(), 1)]
    expected["correlation_rms"] = np.sqrt((phi**2).mean())
    expected["correlation_max"] = phi[np.abs(phi).argmax()]
    expected["correlation_pairs"] = len(phi)
    cos = np.asarray(world.directions, np.float64) @ np.asarray(world.directions).T
    np.fill_diagonal(cos, -np.inf)
    expected["nearest_cosine"] = cos.max(1).mean()
    np.fill_diagonal(cos, 0)
    expected["coherence"] = np.abs(cos).max()
    for field, value in expected.items():
        assert getattr(card, field) == pytest.approx(value, rel=2e-4, abs=1e-5), field
    assert card.coherence >= card.welch_bound
    assert {"true L0", "norm of x"} <= {what for what, _ in card.rows()}


@pytest.mark.parametrize(
    ("name", "fields", "message"),
    [
        ("spere", {}, "did you mean 'sphere'"),
        ("sphere", {"n_feature": 3}, "did you mean 'n_features'"),
        ("sphere", {"d_in": 0}, "d_in 0"),
        ("sphere", {"n_features": -1}, "n_features -1"),
        ("sphere", {"n_features": 2.5}, "n_features 2.5"),
        ("sphere", {"n_features": 4, "l0": 5.0}, "l0 5.0"),
        ("interim-report", {"n_features": 4, "l0": 5.0}, "l0 5.0"),
        ("interim-report-power", {"n_features": 4, "l0": 0.0}, "l0 0.0"),
        ("antipodal", {"n_features": 7, "l0": 2.0}, "n_features 7 must be even"),
        ("hidden-layer", {"spectrum": -1.0}, "spectrum -1.0"),
        ("sphere", {"magnitude": "uniforn"}, "did you mean 'uniform'"),
        ("sphere", {"probs": "zipff"}, "did you mean 'zipf'"),
        ("sphere", {"firing": "exclusiv"}, "did you mean 'exclusive'"),
        ("sphere", {"group_size": 4}, "group_size is not read by firing 'independent'"),
        ("sphere", {"firing": "pairs", "group_size": 4}, "which reads co_occurrence"),
        ("sphere", {"firing": "exclusive", "group_size": 64}, "total probability 2.5, over 1"),
        ("sphere", {"firing": "exactly-k", "l0": 2.5}, "l0 2.5 must be a whole number"),
        ("sphere", {"firing": "forest", "n_roots": 90}, "have 360 nodes"),
        ("sphere", {"firing": "copula", "copula_rank": 500}, "rank"),
        ("sphere", {"firing": "compositional", "n_values": 5}, "multiple of"),
        ("sphere", {"firing": "bursts", "persistence": 1.0}, "persistence 1.0"),
        ("sphere", {"asymmetry": -0.1}, "asymmetry -0.1"),
        ("sphere", {"noise": -1.0}, "noise_sd -1.0"),
        ("sphere", {"magnitude": "log-normal", "magnitude_spread": -1.0}, "magnitude_spread -1.0"),
        ("orthogonal", {"n_features": 65}, "n_features 65 orthogonal"),
        ("clusters", {"cosine": 1.5}, "cosine 1.5"),
        ("privileged", {"basis_noise": 0.0, "n_features": 200}, "repeat beyond"),
        ("pairs", {"rho": 2.0}, "rho 2.0"),
        ("low-rank", {"rank": 65}, "rank 65"),
        ("absorption", {"p_child": 0.5}, "p_child 0.5"),
        ("exclusive-pair", {"p_first": 0.9, "p_second": 0.5}, "have probability 1.4"),
        ("exclusive-pair", {"p_both": 0.1}, "p_both 0.1 is over p_first or p_second"),
        ("matryoshka-tree", {"p_child_given_parent": 0.4}, "exclude each other"),
        ("hedging", {"p_parent": 1.5}, "p_parent 1.5"),
        ("sphere", {"firing": "exclusive", "group_size": 4.5}, "group_size 4.5 must be a whole"),
        ("sphere", {"firing": "exclusive", "group_size": "4"}, "group_size '4' must be a whole"),
        ("sphere", {"d_in": True}, "d_in True must be a whole number"),
        ("sphere", {"d_in": None}, "d_in None must be a whole number"),
        ("sphere", {"n_features": np.inf}, "n_features inf must be a whole number"),
        ("sphere", {"bias": np.nan}, "bias nan must be a finite number"),
        ("sphere", {"l0": "5"}, "l0 '5' must be a finite number"),
        ("sphere", {"noise": 1e300}, "noise 1e.300 must be a finite number of at most 3.4e38"),
        ("sphere", {"asymmetry": 100}, "asymmetry 100.0 makes features too large for float32"),
        ("sphere", {"asymmetry": 1e30}, "asymmetry 1e.30 makes features too large for float32"),
        ("sphere", {"rectify": 0.5}, "rectify 0.5 must be True or False"),
        ("sphere", {"firing": 3}, "firing 3 must be a name"),
        ("tms-5-2", {"n_steps": 10.5}, "n_steps 10.5 must be a whole number"),
    ],
)
def test_impossible_worlds_are_refused(name, fields, message):
    with pytest.raises(ToysaeError, match=message):
        make_world(name, 0, **fields)


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"firing": "exclusive", "group_size": 4.0}, {"firing": "exclusive", "group_size": 4}),
        ({"firing": "exclusive", "group_size": None}, {"firing": "exclusive"}),
        ({"d_in": 6.0, "l0": 2}, {"d_in": 6, "l0": 2.0}),
        ({"d_in": np.int64(6), "l0": np.float32(2)}, {"d_in": 6, "l0": 2.0}),
        ({"rectify": 1.0}, {"rectify": True}),
        ({"rectify": np.True_}, {"rectify": True}),
    ],
)
def test_a_field_takes_any_number_that_is_of_its_type(given, meant):
    """A grid and the command line know numbers only as floats."""
    one, two = (make_world("sphere", 0, **(SMALL | fields)) for fields in (given, meant))
    assert jax.tree.structure(one) == jax.tree.structure(two)
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_every_field_declares_a_type_that_its_default_is_of():
    for name in WORLDS:
        for field, (kind, default) in WORLDS[name].fields.items():
            assert type(_typed(field, kind, default)) is type(default), (name, field)


def test_a_card_needs_a_batch():
    with pytest.raises(ToysaeError, match="n_samples 100"):
        world_card(make_world("sphere", **SMALL), 100)


def test_world_fields_are_those_of_the_builder():
    assert world_fields("sphere")["l0"] == 5.0
    with pytest.raises(ToysaeError, match="unknown world"):
        world_fields("torus")


@pytest.mark.rotation(3)
@pytest.mark.parametrize("name", NAMES)
def test_a_longer_draw_begins_with_the_shorter_one(drawn, name):
    world, long = drawn[name]
    short = sample(world, jax.random.key(5), 64)
    np.testing.assert_array_equal(long.indices[:64], short.indices)
    np.testing.assert_array_equal(long.values[:64], short.values)
    np.testing.assert_allclose(long.x[:64], short.x, atol=1e-6)


@pytest.mark.parametrize("firing", FIRINGS)
def test_every_way_of_firing_keeps_the_marginals(firing):
    fields = {"n_features": 32, "d_in": 8, "l0": 4.0, "firing": firing}
    probs = "uniform" if firing == "compositional" else "geometric"
    if firing == "forest":  # a geometric tail leaves no room for four exclusive children
        fields["siblings_exclude"] = False
    world = make_world("sphere", 0, probs=probs, decay=0.97, **fields)
    n = 40_000
    batch = sample(world, jax.random.key(2), n)
    counts = np.asarray(batch.feature_counts(), np.float64)
    expected = firing_probabilities(probs, 32, 4.0, decay=0.97)
    # Rows of a burst are correlated: their effective number is n (1 - r) / (1 + r).
    effective = n / 3 if firing == "bursts" else n
    sd = np.sqrt(expected * (1 - expected) / effective)
    # The forest's compensation is exact, its float32 tables are not.
    assert np.abs(counts / n - expected).max() < (5 * sd + 2e-4).max()


def test_stacked_worlds_of_every_dial_have_one_shape():
    fields = dict(SMALL, probs="zipf", asymmetry=0.7, noise=0.1, bias=0.5, rectify=True)
    both = stack([make_world("sphere", seed, **fields) for seed in (0, 1)])
    assert both.directions.shape == (2, 24, 12) and both.bias.shape == (2, 12)


def test_noise_and_bias_and_rectifier():
    plain = make_world("sphere", 0, **SMALL)
    key = jax.random.key(0)
    biased = make_world("sphere", 0, bias=0.5, **SMALL)
    assert np.linalg.norm(biased.bias) == pytest.approx(0.5, rel=1e-5)
    shift = np.asarray(sample(biased, key, 50).x - sample(plain, key, 50).x)
    np.testing.assert_allclose(shift, np.tile(biased.bias, (50, 1)), atol=1e-6)
    noisy = make_world("sphere", 0, noise=0.1, **SMALL)
    noise = np.asarray(sample(noisy, key, 5000).x - sample(plain, key, 5000).x)
    assert noise.std() == pytest.approx(0.1, rel=0.02)
    assert abs(np.corrcoef(noise.T)[np.triu_indices(12, 1)]).max() < 0.08
    cut = make_world("sphere", 0, rectify=True, bias=0.5, **SMALL)
    np.testing.assert_allclose(
        sample(cut, key, 50).x, np.maximum(sample(biased, key, 50).x, 0), atol=1e-6
    )
    assert (np.asarray(cut.directions) >= 0).all()


def test_asymmetry_breaks_norms_frequencies_and_magnitudes():
    even = make_world("sphere", 0, magnitude="constant", **SMALL)
    odd = make_world("sphere", 0, magnitude="constant", asymmetry=0.5, **SMALL)
    logs = np.log(np.linalg.norm(odd.rows, axis=1))
    from scipy import stats

    quantiles = 0.5 * stats.norm.ppf((np.arange(24) + 0.5) / 24)
    np.testing.assert_allclose(np.sort(logs), quantiles, atol=1e-5)
    np.testing.assert_allclose(odd.directions, even.directions, atol=1e-6)
    batch = sample(odd, jax.random.key(0), 40_000)
    rates = np.sort(np.log(np.asarray(batch.feature_counts()) / 40_000))
    np.testing.assert_allclose(np.diff(rates)[5:-5], np.diff(quantiles)[5:-5], atol=0.06)
    values = np.asarray(batch.values)[np.asarray(batch.values) != 0]
    assert len(np.unique(values.round(5))) == 24
    assert np.asarray(batch.feature_counts()).sum() / 40_000 == pytest.approx(3.0, rel=0.02)


@pytest.mark.parametrize("firing", FIRINGS)
def test_every_way_of_firing_goes_with_its_own_defaults(firing):
    world = make_world("sphere", 0, firing=firing)
    assert float(sample(world, jax.random.key(0), 4096).feature_counts().sum()) / 4096 > 4


def test_children_that_do_not_fit_are_made_to():
    """Nine children of p .04 each under parents of p .04: they come to fill nine tenths of it."""
    world = make_world("sphere", 0, firing="forest", l0=5.0, n_features=128)
    on = np.asarray(sample(world, jax.random.key(1), 100_000).feature_acts != 0)
    assert on.sum(1).mean() == pytest.approx(5.0, rel=0.02)
    parents = regular_forest(4, 3, 1)
    for child in range(4, 16):
        assert not (on[:, child] & ~on[:, parents[child]]).any()
    assert on[:, 4:16].sum() / on[:, :4].sum() == pytest.approx(0.9, abs=0.03)


def test_every_field_of_every_world_is_told():
    fields = {field for name in WORLDS for field in world_fields(name)}
    assert sorted(fields - set(FIELDS)) == [] and sorted(set(FIELDS) - fields) == []
    assert about_field("copula_rank").endswith("read by firing copula: 25 if not given")


def test_a_card_is_one_screen_and_keeps_its_digits_at_a_large_bias():
    near, far = (world_card(make_world("sphere", bias=b, **SMALL), 4096) for b in (0.0, 1e3))
    lines = repr(near).split("\n")
    assert 10 < len(lines) < 25 and lines[0] == "world                        sphere"
    x = np.asarray(sample(make_world("sphere", bias=1e3, **SMALL), jax.random.key(3), 20_000).x)
    norms = np.linalg.norm(x.astype(np.float64), axis=1)
    assert far.norm_sd == pytest.approx(norms.std(), rel=0.05) and far.norm_sd < 1
    assert far.magnitude_sd == pytest.approx(near.magnitude_sd, rel=1e-6)
