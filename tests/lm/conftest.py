"""SAEs made by hand on the tiny models, and their arithmetic in NumPy at float64."""

import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import pytest

from toysae.lm.models import forward, load_model
from toysae.lm.saes.site_sae import SiteSAE
from toysae.sae import SAE, Weights, make_spec

GOLDEN = Path(__file__).parent / "golden"


def model_of(name):
    return load_model(GOLDEN / name)


def tokens_of(model, n=5, seq=9, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(1, model.config.n_vocab, (n, seq)).astype(np.int32)


def made(rows, site, *, read=None, bias=0.0, mean=0.1, scale=0.5, **about):
    """A ReLU SAE whose decoder rows, and encoder rows if not others, are these."""
    W_dec = np.asarray(rows, np.float32)
    n, d = W_dec.shape
    read = W_dec if read is None else np.asarray(read, np.float32)
    enc = {"W_enc": jnp.asarray(read.T), "b_enc": jnp.full(n, bias, jnp.float32)}
    weights = Weights(jnp.asarray(W_dec), jnp.zeros(d), enc, {})
    sae = SAE(weights, {}, {}, make_spec("untied", d, n).at_inference())
    told = json.dumps({"site": site, "first": 1, **about})
    return SiteSAE(sae, jnp.full(d, mean, jnp.float32), jnp.float32(scale), told)


@dataclass(frozen=True)
class Acts:
    """A source of activations that are made by hand: of each sequence `[n, d]`."""

    by_sequence: list[np.ndarray]
    dtype = np.dtype(np.float32)

    @property
    def d(self):
        return self.by_sequence[0].shape[1]

    @property
    def counts(self):
        return np.array([len(rows) for rows in self.by_sequence])

    def read(self, sequences):
        return np.concatenate([self.by_sequence[i] for i in sequences]).astype(np.float32)


def drawn(d, site, n=12, seed=0, **how):
    rng = np.random.default_rng(seed)
    rows, read = rng.normal(size=(2, n, d))
    return made(rows, site, read=read, **how)


def acts_of(model, tokens, site, edits=()):
    """At float64, from a pass of their own."""
    return np.asarray(forward(model, tokens, [site], edits, logits=False).acts[site], np.float64)


def encoded(sae, acts):
    """z `[..., d_sae]`."""
    enc = {name: np.asarray(value, np.float64) for name, value in sae.sae.weights.enc.items()}
    x = acts - acts.mean(-1, keepdims=True) if sae.centred else acts
    x = (x - np.asarray(sae.mean, np.float64)) * float(sae.scale)
    return np.maximum(x @ enc["W_enc"] + enc["b_enc"], 0)


def written(sae):
    """`[d_sae, d]` what one unit of each latent writes."""
    return np.asarray(sae.W_dec, np.float64) / float(sae.scale)


def log_p(logits):
    logits = np.asarray(logits, np.float64)
    logits = logits - logits.max(-1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(-1, keepdims=True))


@pytest.fixture(scope="session")
def hand():
    """The functions above."""
    return SimpleNamespace(
        GOLDEN=GOLDEN, Acts=Acts, model_of=model_of, tokens_of=tokens_of, made=made, drawn=drawn,
        acts_of=acts_of, encoded=encoded, written=written, log_p=log_p,
    )  # fmt: skip
