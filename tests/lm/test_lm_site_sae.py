"""SAEs of a site: their normalisation in the weights, and files."""

import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from toysae import ToysaeError
from toysae.interop import from_saelens
from toysae.lm.saes.site_sae import SiteSAE, export_site_sae, fold, load_site_sae, save_site_sae
from toysae.sae import SAE, InitData, finished, init_params, init_stats, make_spec
from toysae.sae.activations import AbsTopK
from toysae.sae.decoders import Normalised, UnitNorm
from toysae.sae.encoders import TiedGain
from toysae.sae.jumprelu import JumpReLU
from toysae.sae.penalties import Sum

GOLDEN = Path(__file__).parents[1] / "golden" / "saelens" / "standard"
D, S = 6, 10
SITE = "blocks.3.hook_resid_post"
ABOUT = {"site": SITE, "model": "some/model", "weights": "0" * 64, "first": 2, "seed": 4}
RNG = np.random.default_rng(0)
MEAN = (30 * RNG.normal(size=D)).astype(np.float32)
X = (MEAN + 8 * RNG.normal(size=(300, D))).astype(np.float32)

KINDS = {
    "tied": {"recipe": "tied"},
    "gain": {"encoder": TiedGain()},
    "untied": {"recipe": "untied"},
    "post": {"decoder": UnitNorm("post")},
    "none": {"decoder": Normalised("none")},
    "topk": {"recipe": "topk"},
    "abstopk": {"activation": AbsTopK(), "penalty": Sum()},
    "batchtopk": {"recipe": "batchtopk"},
    "jumprelu": {"activation": JumpReLU(), "penalty": Sum()},
    "gated": {"recipe": "gated"},
}


def make_sae(recipe="untied", **axes) -> SAE:
    """A random SAE with no parameter at zero."""
    rng = np.random.default_rng(1)
    spec = make_spec(recipe, D, S, **axes)
    x, truth = rng.normal(size=(64, D)), rng.normal(size=(12, D))
    data = InitData(*(jnp.asarray(a, jnp.float32) for a in (x, truth.T, truth)))
    h = {n: jnp.float32(hyper.default or 0.2) for n, hyper in spec.hypers().items()}
    h |= {"k": jnp.float32(3)} if "k" in h else {}
    params = init_params(spec, jax.random.key(0), data, h)
    params = jax.tree.map(lambda a: a + 0.3 * rng.normal(size=a.shape).astype(np.float32), params)
    run = init_stats(spec)
    run |= {"threshold": jnp.array([0.15, 0.5])} if "threshold" in run else {}
    return finished(spec, params, run, h)


def of_site(sae, about=ABOUT) -> SiteSAE:
    return SiteSAE(sae, jnp.asarray(MEAN), jnp.float32(0.125), json.dumps(about))


def same_function(one, *others, rel=1e-5):
    """Of activations as they are; the same latents fire."""
    x, z = jnp.asarray(X), one.encode(jnp.asarray(X))
    x_hat, scale = one.decode(z), float(jnp.abs(z).max())
    for other in others:
        found = np.asarray(other.encode(x))
        np.testing.assert_allclose(found, z, atol=rel * scale)
        assert ((np.asarray(z) != 0) == (found != 0)).mean() > 0.999
        largest = float(jnp.abs(x_hat).max())
        np.testing.assert_allclose(other.decode(z), x_hat, atol=rel * largest)
    on = np.asarray(z) != 0
    assert 0.05 < on.mean() < 0.95
    # Without the normalisation it would be another.
    assert float(jnp.abs(one.sae.encode(x) - z).max()) > 1


def test_it_reads_and_gives_activations_as_they_are():
    sae = make_sae()
    x = (X.astype(np.float64) - MEAN) / 8
    b = np.asarray(sae.weights.b_dec, np.float64)
    W_enc, b_enc = (np.asarray(sae.weights.enc[n], np.float64) for n in ("W_enc", "b_enc"))
    z = np.maximum((x - b) @ W_enc + b_enc, 0)
    whole = of_site(sae)
    np.testing.assert_allclose(whole.encode(jnp.asarray(X)), z, atol=1e-5)
    x_hat = 8 * (z @ np.asarray(sae.W_dec, np.float64) + b) + MEAN
    np.testing.assert_allclose(whole.decode(jnp.asarray(z, jnp.float32)), x_hat, 1e-5, 1e-4)
    assert whole.encode(jnp.asarray(X, jnp.bfloat16)).dtype == jnp.float32
    assert (whole.site, whole.centred, whole.info) == (SITE, False, ABOUT)


@pytest.mark.parametrize("kind", KINDS)
def test_folded_or_exported_it_is_the_same_function(kind, tmp_path):
    whole = of_site(make_sae(**KINDS[kind]))
    folder = export_site_sae(whole, tmp_path / "sae")
    same_function(whole, fold(whole), from_saelens(folder))
    metadata = json.loads((folder / "cfg.json").read_text())["metadata"]
    told = {name: metadata[name] for name in ("hook_name", "hook_layer", "model_name")}
    assert told == {"hook_name": SITE, "hook_layer": 3, "model_name": "some/model"}
    again = load_site_sae(folder)
    assert again.site == SITE and not np.asarray(again.mean).any() and again.scale == 1


@pytest.mark.parametrize("recipe", ["mlp", "lista", "fista", "omp"])
def test_what_is_no_affine_map_is_not_folded(recipe, tmp_path):
    whole = of_site(make_sae(recipe))
    with pytest.raises(ToysaeError, match="has no SAELens counterpart .*keep it with save_sae"):
        fold(whole)
    with pytest.raises(ToysaeError, match="this SAE cannot be exported: .* has no SAELens"):
        export_site_sae(whole, tmp_path / "sae")
    assert not (tmp_path / "sae").exists()


def test_an_sae_of_no_layer_is_not_exported(tmp_path):
    for site in ("x", "hook_embed", "blocks.hook"):
        with pytest.raises(ToysaeError, match=f"cannot be exported: site '{site}' names no layer"):
            export_site_sae(of_site(make_sae(), {**ABOUT, "site": site}), tmp_path / "sae")


# Files


@pytest.mark.parametrize("kind", ["tied", "batchtopk", "gated", "fista"])
def test_saved_and_read_it_has_the_same_bits(kind, tmp_path):
    whole = of_site(make_sae(**KINDS.get(kind, {"recipe": kind})), {**ABOUT, "centred": True})
    again = load_site_sae(save_site_sae(whole, tmp_path / "new" / "sae"))
    leaves, wanted = jax.tree.leaves(again), jax.tree.leaves(whole)
    assert len(leaves) == len(wanted) > 4
    for leaf, want in zip(leaves, wanted, strict=True):
        assert np.asarray(leaf).tobytes() == np.asarray(want).tobytes()
        assert np.asarray(leaf).dtype == np.asarray(want).dtype
    assert again.sae.spec == whole.sae.spec and again.info == whole.info and again.centred


@pytest.fixture
def saved(tmp_path):
    return save_site_sae(of_site(make_sae()), tmp_path / "sae")


@pytest.mark.parametrize("name", ["sae.safetensors", "site.safetensors"])
@pytest.mark.parametrize("length", [0, 5, 60, -4])
def test_short_files_are_refused(saved, name, length):
    file = saved / name
    file.write_bytes(file.read_bytes()[:length])
    with pytest.raises(ToysaeError, match=f"{file} is truncated or not an SAE file"):
        load_site_sae(saved)


def test_files_that_do_not_belong_together_are_refused(saved, tmp_path):
    other = of_site(make_sae()).replace(mean=jnp.zeros(D + 1))
    save_site_sae(other, tmp_path / "other")
    shutil.copy(tmp_path / "other" / "site.safetensors", saved)
    with pytest.raises(ToysaeError, match="site.safetensors does not fit the SAE beside it"):
        load_site_sae(saved)
    shutil.copy(saved / "sae.safetensors", saved / "site.safetensors")
    with pytest.raises(ToysaeError, match="site.safetensors is not an SAE file"):
        load_site_sae(saved)
    save_site_sae(of_site(make_sae()), saved)
    (saved / "sae.safetensors").unlink()
    with pytest.raises(ToysaeError, match="there is no SAE file .*sae.safetensors"):
        load_site_sae(saved)


def test_a_folder_of_saelens_is_read_with_the_site_that_it_names(tmp_path):
    whole = load_site_sae(GOLDEN)
    assert (whole.site, whole.info["model"], whole.centred) == (
        "blocks.0.hook_resid_post", "toy", False,
    )  # fmt: skip
    x = jnp.asarray(RNG.normal(size=(50, 6)), jnp.float32)
    plain = from_saelens(GOLDEN)
    np.testing.assert_array_equal(whole.encode(x), plain.encode(x))
    np.testing.assert_allclose(whole.decode(plain.encode(x)), plain(x).x_hat, atol=1e-6)
    assert load_site_sae(GOLDEN, SITE).site == SITE
    nameless = Path(shutil.copytree(GOLDEN, tmp_path / "sae")) / "cfg.json"
    config = json.loads(nameless.read_text())
    del config["metadata"]["hook_name"]
    nameless.write_text(json.dumps(config))
    with pytest.raises(ToysaeError, match="does not say which site it is of: .* --site"):
        load_site_sae(nameless.parent)
    assert load_site_sae(nameless.parent, SITE).site == SITE
    # In early versions it stood beside the sizes.
    nameless.write_text(json.dumps({**config, "hook_name": SITE}))
    assert load_site_sae(nameless.parent).site == SITE


def test_what_is_no_sae_is_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ToysaeError, match="there is no .*cfg.json"):
            load_site_sae(folder)
