"""Every family against the activations that Hugging Face's own models gave (golden/make.py)."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file

from toysae import ToysaeError
from toysae.checked import Fields
from toysae.lm.models import Rotary, forward, load_model, load_tokenizer, traced_forward
from toysae.lm.models.edits import Ablate, Add, Pin, Replace
from toysae.lm.models.families import FAMILIES
from toysae.lm.models.matrices import reading_matrix, writing_matrix
from toysae.lm.models.sites import SITES, Site, parse_site, width

GOLDEN = Path(__file__).parents[1] / "golden"
NAMES = ["gpt-neox", "gpt-neox-sequential", "gpt2", "llama", "llama3", "qwen2", "llama-gguf"]


def path_of(name: str) -> Path:
    gguf = GOLDEN / name / "model.gguf"
    return gguf if gguf.exists() else GOLDEN / name


@pytest.fixture(scope="module", params=NAMES)
def model(request):
    if request.param == "llama-gguf":
        pytest.importorskip("gguf")
    return load_model(path_of(request.param))


def golden(model) -> dict[str, np.ndarray]:
    folder = Path(model.name)
    return load_file((folder if folder.is_dir() else folder.parent) / "golden.safetensors")


def test_every_site_and_the_logits_are_those_of_hugging_face(model):
    """Sites are kept of the first sequence and of the first and last layer."""
    wanted = golden(model)
    sites = [name for name in wanted if name.startswith("blocks.")]
    assert len(sites) == 2 * (6 if model.config.parallel else 7)
    with jax.default_matmul_precision("highest"):
        seen = forward(model, wanted["tokens"], sites)
    for name in sites:
        np.testing.assert_allclose(seen.acts[name][:1], wanted[name], 1e-5, 3e-5, err_msg=name)
        assert seen.acts[name].shape[-1] == width(parse_site(name, model.config), model.config)
    assert seen.logits is not None
    np.testing.assert_allclose(seen.logits, wanted["logits"], atol=3e-5)
    log_p = jax.nn.log_softmax(seen.logits[:, :-1])
    loss = -jnp.take_along_axis(log_p, jnp.asarray(wanted["tokens"])[:, 1:, None], -1)[..., 0]
    np.testing.assert_allclose(loss, wanted["loss"], atol=1e-4)


@pytest.mark.parametrize("name", ["gpt-neox", "gpt2", "llama"])
def test_an_early_stop_and_a_padded_end_change_nothing(name):
    model = load_model(GOLDEN / name)
    tokens, site = golden(model)["tokens"], "blocks.1.hook_resid_post"
    whole = forward(model, tokens, [site])
    assert whole.logits is not None
    early = forward(model, np.pad(tokens[:, :9], ((0, 0), (0, 8))), [site], logits=False)
    assert early.logits is None
    np.testing.assert_allclose(early.acts[site][:, :9], whole.acts[site][:, :9], atol=1e-5)


@pytest.mark.parametrize("name", ["gpt-neox", "gpt2", "llama"])
def test_resumed_at_any_layer_all_behind_is_the_same(name):
    model = load_model(GOLDEN / name)
    tokens, n = golden(model)["tokens"], model.config.n_layers
    pre = [f"blocks.{layer}.hook_resid_pre" for layer in range(n)]
    last = f"blocks.{n - 1}.hook_resid_post"
    whole = forward(model, tokens, [*pre, last])
    for layer in range(n):
        edits = [Add(pre[layer], jnp.float32(0))]
        resume = layer, whole.acts[pre[layer]]
        acts, logits = traced_forward(model, tokens, [last], edits, resume=resume)
        np.testing.assert_allclose(acts[last], whole.acts[last], atol=2e-5)
        np.testing.assert_allclose(logits, whole.logits, atol=5e-5)
    other = np.zeros_like(tokens)  # no longer read
    _, logits = traced_forward(model, other, resume=(1, whole.acts[pre[1]]))
    np.testing.assert_allclose(logits, whole.logits, atol=5e-5)
    with pytest.raises(ToysaeError, match="a pass from layer 1 has no layer"):
        traced_forward(model, tokens, [pre[0]], resume=(1, whole.acts[pre[1]]))


@pytest.mark.parametrize("name", ["gpt-neox", "gpt2", "llama"])
def test_replacing_a_site_by_itself_changes_no_logit_and_by_another_all_behind(name):
    model = load_model(GOLDEN / name)
    tokens = golden(model)["tokens"]
    names = [n for n in SITES if not (model.config.parallel and n == "hook_resid_mid")]
    sites = [str(Site(1, n)) for n in names]
    clean = forward(model, tokens, sites)
    same = forward(model, tokens, edits=[Replace(site, clean.acts[site]) for site in sites])
    np.testing.assert_allclose(same.logits, clean.logits, atol=2e-5)
    for site in (sites[0], sites[-2]):
        later = forward(model, tokens, edits=[Replace(site, jnp.float32(0), first=5)])
        change = np.abs(np.asarray(later.logits) - np.asarray(clean.logits)).max((0, 2))
        assert change[:5].max() < 2e-5 < 1e-3 < change[5:].min()


def test_edits_do_what_they_say():
    model = load_model(GOLDEN / "llama")
    tokens, site = golden(model)["tokens"], "blocks.1.hook_resid_post"
    d = model.config.d_model
    clean = forward(model, tokens, [site], logits=False).acts[site]
    key = jax.random.key(0)
    v = jax.random.normal(key, (d,))

    def after(edit):
        return forward(model, tokens, [site], [edit], logits=False).acts[site]

    np.testing.assert_allclose(after(Add(site, v)), clean + v, atol=1e-5)
    off = jnp.arange(d) % 2 == 0
    np.testing.assert_allclose(after(Ablate(site, off)), np.where(off, 0, clean), atol=1e-5)
    pinned = after(Pin(site, v, jnp.float32(3.0)))
    unit = v / jnp.linalg.norm(v)
    np.testing.assert_allclose(pinned @ unit, 3.0, atol=1e-4)
    side = clean - (clean @ unit)[..., None] * unit
    np.testing.assert_allclose(pinned - 3.0 * unit, side, atol=1e-4)


def test_what_is_written_and_read_at_each_site_has_its_width(model):
    for name in SITES:
        if model.config.parallel and name == "hook_resid_mid":
            continue
        for layer in range(model.config.n_layers):
            site = Site(layer, name)
            for matrix in (writing_matrix(model, site), reading_matrix(model, site)):
                assert matrix.shape[0] == width(site, model.config)


def test_the_writing_matrix_spans_what_is_written():
    """mlp_out less its bias lies in the span of the columns; z in that of the values'."""
    model = load_model(GOLDEN / "llama")
    seen = forward(model, golden(model)["tokens"], ["blocks.1.attn.hook_z"], logits=False)
    z = np.asarray(seen.acts["blocks.1.attn.hook_z"]).reshape(-1, 48)
    W = np.asarray(writing_matrix(model, Site(1, "attn.hook_z")))
    weights, *_ = np.linalg.lstsq(W[:8], z[0, :8], rcond=None)
    assert W.shape == (48, 48) and weights.shape == (48,)
    # Heads of one group share their values, whatever their attention weights.
    np.testing.assert_array_equal(W[:8], W[8:16])


def test_the_reading_matrix_goes_through_the_norm():
    model = load_model(GOLDEN / "gpt2")
    site = "blocks.1.hook_resid_pre"
    x = np.asarray(forward(model, golden(model)["tokens"], [site], logits=False).acts[site])
    w = model.block(1)
    R = np.asarray(reading_matrix(model, Site(1, "hook_resid_pre")))
    sd = np.sqrt(x.var(-1, keepdims=True) + model.config.norm_eps)
    normed = (x - x.mean(-1, keepdims=True)) / sd * np.asarray(w["ln1"]["w"])
    np.testing.assert_allclose(x @ R[:, :32] / sd, normed @ np.asarray(w["W_Q"]), atol=1e-4)


def test_one_program_for_every_value_of_an_edit():
    from toysae.lm.models.forward import _forward

    model = load_model(GOLDEN / "gpt2")
    tokens, site = golden(model)["tokens"], "blocks.1.hook_mlp_out"
    before = _forward._cache_size()
    for scale in (1.0, 2.0, -3.0):
        forward(model, tokens, edits=[Add(site, scale * jnp.ones(32))])
    assert _forward._cache_size() == before + 1


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("resid_post.3", ["resid_post.3", "blocks.L.hook_resid_post"]),
        ("blocks.1.hook_resid_pots", ["hook_resid_pots", "did you mean 'hook_resid_post'"]),
        ("blocks.3.hook_resid_post", ["layers 0 to 2"]),
        ("blocks.-1.hook_resid_post", ["layers 0 to 2"]),
        ("blocks.1.hook_resid_mid", ["parallel", "hook_resid_pre"]),
    ],
)
def test_sites_that_do_not_exist_are_refused(text, words):
    model = load_model(GOLDEN / "gpt-neox")
    with pytest.raises(ToysaeError) as error:
        forward(model, np.zeros((1, 4), int), [text])
    assert all(word in str(error.value) for word in words), error.value


def test_older_names_of_the_rotary_settings_mean_the_same():
    read = lambda h: FAMILIES["llama"][0](Fields(h, "config.json"))  # noqa: E731
    config = json.loads((GOLDEN / "llama3" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    old = {**config, "rope_theta": theta, "rope_scaling": {"type": rope.pop("rope_type"), **rope}}
    assert read(old) == load_model(GOLDEN / "llama3").config
    read = lambda h: FAMILIES["gpt_neox"][0](Fields(h, "config.json"))  # noqa: E731
    config = json.loads((GOLDEN / "gpt-neox" / "config.json").read_text())
    rope = config.pop("rope_parameters")
    share = rope["partial_rotary_factor"]
    old = {**config, "rotary_pct": share, "rotary_emb_base": rope["rope_theta"]}
    assert read(old) == load_model(GOLDEN / "gpt-neox").config


def test_llama3s_long_wavelengths_are_stretched_and_short_ones_kept():
    plain = Rotary(16, 2e4)
    scaled = Rotary(16, 2e4, 8.0, "llama3", 1.0, 4.0, 32)
    ratio = plain.frequencies() / scaled.frequencies()
    assert ratio[0] == 1 and ratio[-1] == 8 and ((ratio > 1) & (ratio < 8)).any()


def test_a_window_shortens_the_context():
    read = lambda h: FAMILIES["mistral"][0](Fields(h, "config.json"))  # noqa: E731
    config = json.loads((GOLDEN / "llama" / "config.json").read_text())
    assert read({**config, "sliding_window": 32}).n_ctx == 32
    assert read({**config, "sliding_window": 32, "use_sliding_window": False}).n_ctx == 64


def bad(tmp_path, **changes):
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (GOLDEN / "llama").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_type": "mamba"}, ["'mamba'", "gpt_neox"]),
        ({"hidden_act": "swosh"}, ["'swosh'", "silu"]),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, ["'yarn'", "llama3"]),
        ({"num_hidden_layers": 4}, ["layers.3", "lack"]),
        ({"vocab_size": 999}, ["W_E", "999"]),
        ({"num_key_value_heads": 3}, ["W_K"]),
    ],
)
def test_configs_that_do_not_fit_are_refused(tmp_path, changes, words):
    with pytest.raises(ToysaeError) as error:
        load_model(bad(tmp_path, **changes))
    assert all(word in str(error.value) for word in words), error.value


def test_files_that_are_missing_or_damaged_are_named(tmp_path, monkeypatch):
    with pytest.raises(ToysaeError, match="there is no ./nowhere"):
        load_model("./nowhere")
    folder = bad(tmp_path)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    with pytest.raises(ToysaeError, match="truncated or damaged"):
        load_model(folder)
    weights.unlink()
    with pytest.raises(ToysaeError, match="no model\\*.safetensors"):
        load_model(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ToysaeError, match="not a tokenizer"):
        load_tokenizer(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(ToysaeError, match="not JSON"):
        load_model(folder)
    (folder / "model.gguf").write_bytes(b"GGUF" + bytes(50))
    with pytest.raises(ToysaeError, match="GGUF"):
        load_model(folder / "model.gguf")


def test_without_a_network_the_hub_is_refused_with_a_remedy(monkeypatch):
    hub = pytest.importorskip("huggingface_hub")

    def no_network(*args, **kwargs):
        raise ConnectionError("Name or service not known")

    monkeypatch.setattr(hub, "snapshot_download", no_network)
    with pytest.raises(ToysaeError, match="check the name.*local folder.*toysae lm sample"):
        load_model("EleutherAI/pythia-70m")


def test_sequences_longer_than_the_context_are_refused():
    with pytest.raises(ToysaeError, match="65 tokens are longer than the model's 64"):
        forward(load_model(GOLDEN / "gpt2"), np.zeros((1, 65), int))


def test_the_tokenizer_in_a_gguf_file_is_the_one_in_json():
    pytest.importorskip("gguf")
    ours = load_tokenizer(GOLDEN / "llama-gguf" / "model.gguf")
    theirs = load_tokenizer(GOLDEN / "llama")
    texts = ["def f(x):\n    return x + 1984", "naïve café — ∑", ""]
    assert ours.encode(texts) == theirs.encode(texts)
    assert [ours.decode(ids) for ids in ours.encode(texts)] == texts
    assert ours.end == theirs.end == 0
    with pytest.raises(ToysaeError, match="ids up to 319, tiny only 300"):
        ours.check(300, "tiny")


def gguf_header(*parts: bytes, n_tensors: int = 0, n_fields: int = 1) -> bytes:
    counts = n_tensors.to_bytes(8, "little") + n_fields.to_bytes(8, "little")
    return b"GGUF" + (3).to_bytes(4, "little") + counts + b"".join(parts)


def little(value: int, n_bytes: int = 8) -> bytes:
    return value.to_bytes(n_bytes, "little")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        (gguf_header(little(1), b"a", little(9, 4), little(8, 4), little(10**12)),
         "1,000,000,000,000 texts"),
        (gguf_header(little(1), b"a", little(9, 4), little(6, 4), little(10**12)),
         "4,000,000,000,000 bytes where 0 are left"),
        (gguf_header(little(10**15), b"a"), "1,000,000,000,000,000 bytes"),
        (gguf_header(little(1), b"a", little(77, 4)), "a value of type 77"),
        (gguf_header(n_fields=2**60), "number of fields"),
        (gguf_header(little(1), b"t", little(2, 4), little(10**6), little(10**6), bytes(12),
                     n_tensors=1, n_fields=0), "a tensor of 1,000,000,000,000 values"),
        (b"GGUF" + bytes(40), "version 2 or 3"),
        (b"GG", "not a GGUF file"),
    ],
)  # fmt: skip
def test_a_gguf_file_that_tells_of_more_than_it_holds_is_refused(tmp_path, header, words):
    file = tmp_path / "model.gguf"
    file.write_bytes(header)
    with pytest.raises(ToysaeError, match=words):
        load_model(file)
