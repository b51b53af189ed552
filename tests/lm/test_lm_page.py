"""The page of an SAE: what a browser makes of it, and the command that writes it."""

import json
from html.parser import HTMLParser
from importlib import import_module
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from tokenizers import Tokenizer as Inner
from tokenizers import decoders, models

from toysae.cli import main
from toysae.lm.capture.shards import read_manifest
from toysae.lm.cards.contexts import Contexts, Example
from toysae.lm.cards.page import render, token_texts, visible
from toysae.lm.effects.latents import Facts
from toysae.lm.models import load_tokenizer
from toysae.lm.models.tokenizer import Tokenizer
from toysae.lm.saes.site_sae import SiteSAE, load_site_sae, save_site_sae
from toysae.runs.directory import Directory
from toysae.runs.ledger import open_run
from toysae.runs.store import save_block
from toysae.sae import SAE, Weights, make_spec
from toysae.sae.files import as_json

GOLDEN = Path(__file__).parent / "golden"
SITE = "blocks.1.hook_resid_post"
HOSTILE = '<script>alert("&amp;")</script>\n<img src=x onerror=y>'


class Seen(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.attributes, self.text, self.ids = set(), [], "", set()
        self.open = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.attributes += attrs
        self.ids |= {value for name, value in attrs if name == "id"}
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(GOLDEN / "gpt2")


def write_run(path, saes, table, capture, n_held_out):
    """A directory as `toysae lm train` leaves it, of SAEs that were made elsewhere."""
    directory, info = Directory.claim(path), saes[0].info
    keys = [str(i) for i in range(len(saes))]
    columns = {"site": info["site"], "recipe": info["recipe"], "init": "recipe"}
    rows = {"cell": "untied-recipe-32", "columns": columns, "labels": {}, "keys": keys}
    open_run(directory, {}, {}, [rows])
    data = {
        "kind": "activations",
        "weights": None,
        "centred": False,
        "capture": str(capture),
        "n_held_out": n_held_out,
        **{name: info[name] for name in ("site", "model", "first")},
    }
    manifest = {
        "spec": as_json(saes[0].sae.spec, "spec"), "code": {}, "hypers": {}, "data": data,
        "n_steps": 1, "batch_size": 1,
    }  # fmt: skip
    arrays = {
        "mean": np.stack([sae.mean for sae in saes]),
        "scale": np.stack([sae.scale for sae in saes]), "curve_steps": np.zeros(1),
    }  # fmt: skip
    held = [sae.sae.weights for sae in saes]
    weights = {
        "W_dec": np.stack([w.W_dec for w in held]), "b_dec": np.stack([w.b_dec for w in held]),
        **{name: np.stack([w.enc[name] for w in held]) for name in ("W_enc", "b_enc")},
    }  # fmt: skip
    save_block(directory, "untied-recipe-32", keys, table, arrays, weights, manifest)


def drawn(seed, about):
    rng = np.random.default_rng(seed)
    W = rng.normal(size=(32, 32)).astype(np.float32)
    enc = {"W_enc": jnp.asarray(W.T), "b_enc": jnp.zeros(32)}
    weights = Weights(jnp.asarray(W), jnp.zeros(32), enc, {})
    sae = SAE(weights, {}, {}, make_spec("untied", 32, 32).at_inference())
    return SiteSAE(sae, jnp.zeros(32), jnp.float32(1), json.dumps(about))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """(capture, SAEs): two of them and one that diverged, as `toysae lm train` leaves them."""
    folder = tmp_path_factory.mktemp("pages")
    words = "the cat sat on the mat, and <script>alert(1)</script> came & went\n"
    (folder / "text.txt").write_text(words * 150)
    main(["lm", "capture", str(GOLDEN / "gpt2"), "--site", SITE, "--text",
          str(folder / "text.txt"), "--tokens", "3000", "--n-ctx", "32", "--out",
          str(folder / "cap"), "--quiet"])  # fmt: skip
    manifest = read_manifest(folder / "cap" / SITE)
    about = {"site": SITE, "model": manifest.model, "first": 1, "recipe": "untied"}
    saes = [drawn(seed, about) for seed in range(3)]
    table = pd.DataFrame({
        "sae_seed": range(3), "diverged": [False, False, True], "fvu": 0.25, "l0": 16.0,
        "dead_fraction": 0.125,
    })  # fmt: skip
    write_run(folder / "saes", saes, table, folder / "cap" / SITE, n_held_out=500)
    return folder / "cap", folder / "saes"


def page_of(tokenizer, text):
    """Of one latent with one example, at the middle of a text."""
    ids = np.array(tokenizer.encode([text])[0])
    middle = len(ids) // 2
    z = np.zeros(len(ids))
    z[[middle, 0]] = 2.0, 1.0
    example = Example(3, middle, 0, z, 0, ids, 0)
    facts = Facts(5, 1, 0.5, None, -np.inf, None, ((int(ids[0]), 1.5),), ((int(ids[1]), -1.5),))
    histogram = np.array([1, 0, 1])
    contexts = Contexts(5, 2, 0.1, 2.0, histogram, np.array([0, 1, 0, 0, 1]), (example,))
    return render(text, {text: text}, [facts], [contexts], tokenizer)


def test_hostile_text_stays_text(tokenizer):
    html = page_of(tokenizer, HOSTILE)
    seen = Seen(html)
    assert not seen.open
    assert not seen.tags & {"script", "img", "link", "iframe"}
    assert not {name for name, _ in seen.attributes} & {"onerror", "src"}
    assert HOSTILE in seen.text  # in the header as it is
    assert HOSTILE.replace("\n", "↵") in seen.text  # in the context


def test_nothing_is_loaded_from_elsewhere(tokenizer):
    html = page_of(tokenizer, "a plain text")
    assert not any(word in html for word in ("http", "src=", "url(", "@import", "$"))
    links = [value for name, value in Seen(html).attributes if name == "href"]
    assert links and all(link.startswith("#") for link in links)


def test_links_lead_to_sections(tokenizer):
    seen = Seen(page_of(tokenizer, "a plain text"))
    links = {value for name, value in seen.attributes if name == "href"}
    assert {link[1:] for link in links} <= seen.ids


def test_the_token_is_marked_and_shaded(tokenizer):
    ids = tokenizer.encode(["a plain text"])[0]
    own = token_texts(tokenizer, ids)[len(ids) // 2]
    html = page_of(tokenizer, "a plain text")
    assert f'<b class="it" style="--a:1.00" title="2">{visible(own)}</b>' in html
    assert '<span style="--a:0.50" title="1">' in html


@pytest.mark.parametrize("text", ["a naïve one", "Hello wörld", "日本 🙂 x", "a\n\n  b\t", HOSTILE])
def test_pieces_of_tokens_add_up_to_the_text(tokenizer, text):
    ids = tokenizer.encode([text])[0]
    found = token_texts(tokenizer, ids)
    assert len(found) == len(ids)
    assert "".join(found) == tokenizer.decode(ids) == text
    assert ("" in found) == (not text.isascii())  # characters that are spread over several tokens


def test_pieces_keep_the_space_that_a_decoder_drops_at_the_start():
    inner = Inner(models.WordLevel({"▁the": 0, "▁cat": 1, "s": 2}, unk_token="s"))
    inner.decoder = decoders.Metaspace()
    assert Tokenizer(inner, None).decode([1]) == "cat"
    assert token_texts(Tokenizer(inner, None), [0, 1, 2]) == ["the", " cat", "s"]


def test_what_cannot_be_seen_is_shown():
    assert visible("a\nb\tc\r") == "a↵b⇥c␍"
    assert visible("\x00\u202e\u200b") == "\ufffd" * 3
    assert visible("\u3000 é日🙂") == "\u3000 é日🙂"


def test_the_command_writes_a_page_of_each_sae(trained, tmp_path):
    capture, saes = trained
    file = tmp_path / "new" / "page.html"
    page = ["lm", "page", str(saes), "--quiet", "--n-latents", "5"]
    main([*page, "--out", str(file)])
    seen = Seen(file.read_text())
    assert len([i for i in seen.ids if i.startswith("latent-")]) == 5
    for words in (SITE, "untied", "FVU held out0.25", "3,000 tokens", "promotes", "interval 1/5"):
        assert words in seen.text
    assert "script" not in seen.tags
    main([*page, "--rows", "0", "1", "--n-tokens", "500"])
    assert len(list((saes / "pages").glob("*.html"))) == 2
    one = save_site_sae(load_site_sae(saes, row=1), tmp_path / "seed1")
    main(["lm", "page", str(one), "--capture", str(capture), "--latents", "3", "17", "--quiet",
          "--out", str(file)])  # fmt: skip
    seen = Seen(file.read_text())
    assert {"latent-3", "latent-17"} <= seen.ids
    assert "FVU" not in seen.text


def test_a_latent_that_never_fires_has_a_section_too(tokenizer):
    facts = Facts(0, 0, 0.0, None, -np.inf, None)
    contexts = Contexts(0, 0, 0.0, 0.0, np.zeros(4, int), np.zeros(5, int), ())
    seen = Seen(render("t", {}, [facts], [contexts], tokenizer))
    assert "never fires" in seen.text
    assert "promotes" not in seen.text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--latents", "32"], ["latent 32", "0..31"]),
        (["--rows", "3"], ["row 3", "0..2"]),
        (["--rows", "2"], ["no SAE in rows [2]", "diverged"]),
        (["--rows", "-1"], ["row -1"]),
        (["--n-latents", "0"], ["n_latents 0"]),
        (["--n-tokens", "many"], ["'many'"]),
        (["--out", "."], ["is a folder"]),
        (["--rows", "0", "1", "--out", "x.html"], ["2 SAEs", "--out"]),
        (["--capture", "nowhere"], ["nowhere", "no captured site"]),
        (["--latent", "3"], ["--latent", "--latents"]),
    ],
)
def test_bad_input_is_one_line(trained, capsys, monkeypatch, args, words):
    monkeypatch.setattr(
        import_module("toysae.lm.cards.pages"), "latent_firing", None
    )  # nothing runs
    with pytest.raises(SystemExit) as stop:
        main(["lm", "page", str(trained[1]), *args])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error


def test_a_lone_sae_needs_a_capture(trained, capsys, tmp_path):
    one = save_site_sae(load_site_sae(trained[1]), tmp_path / "seed0")
    with pytest.raises(SystemExit):
        main(["lm", "page", str(one)])
    assert "--capture" in capsys.readouterr().err
