"""Many devices, as many as jax can make of one CPU: the same data, the same SAEs."""

import json
import os
import subprocess
import sys
from functools import cache
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from toysae.errors import ToysaeError
from toysae.training.devices import Split, layout_of, shares

SCRIPT = """
import json, pickle, re, sys
from pathlib import Path
from dataclasses import replace
import jax, jax.numpy as jnp, numpy as np
from toysae import make_world
from toysae.recovery.probe import recovery_probe
from toysae.sae import make_spec
from toysae.training.members import make_ensemble
from toysae.evaluation.scoring import score_ensemble
from toysae.training import advance, start, train_ensemble
from toysae.training.devices import Split, layout_of
from toysae.training.ensemble import spread_ensemble

class Half(Exception):
    pass

def train(n_worlds, batch, latent, recipe, file, d_sae):
    worlds = [make_world("sphere", s, d_in=16, n_features=32, l0=3.0) for s in range(n_worlds)]
    numbers = {"l1_coeff": [0.1, 0.2, 0.3]} if recipe != "batchtopk" else {"k": [2.0, 3.0, 4.0]}
    made = make_ensemble(worlds, range(n_worlds), make_spec(recipe, 16, d_sae), numbers, [7], 64)
    ensemble = replace(made, split=Split(batch, latent))
    half = Path(file) if file else None

    def on_chunk(snapshot):
        if half and not half.exists() and snapshot.step >= 30:
            half.write_bytes(pickle.dumps(jax.device_get(snapshot)))
            raise Half

    resume = pickle.loads(half.read_bytes()) if half and half.exists() else None
    trained = train_ensemble(ensemble, 60, recovery_probe, n_points=2, on_chunk=on_chunk,
                             resume=resume)
    scores = score_ensemble(ensemble, trained, 60, 256)[0]
    scores = scores[["mmcs", "l0", "ev", "mse", "true_l0", "eval_loss"]].to_numpy().tolist()
    layout, messages = layout_of(n_worlds, 3, ensemble.split), None
    if layout is not None:
        spread = spread_ensemble(ensemble, layout)
        state = start(spread, layout)
        args = (spread.once_started(), jnp.int32(1), jnp.float32(9), layout)
        program = advance.lower(state, *args).compile().as_text()
        messages = len(re.findall(r"all-reduce\\(|all-gather\\(|all-to-all\\(", program))
    rows = [np.asarray(leaf).tolist() for leaf in (trained.saes.W_dec, trained.curves["loss"])]
    return rows, trained.firings.tolist(), messages, trained.saes.W_dec.shape, scores

assert len(jax.devices()) == int(sys.argv[1])
for line in sys.stdin:
    try:
        print(json.dumps(train(*json.loads(line))), flush=True)
    except Half:
        print("null", flush=True)
"""
"""Trains what is asked for in a line of its input, with so many devices."""


@pytest.fixture(scope="module")
def train():
    """Trains with so many devices: in one process for each number of them."""
    processes = {}

    def begun(n):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(n)}
        return subprocess.Popen(
            [sys.executable, "-c", SCRIPT, str(n)], env=environment, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        )  # fmt: skip

    @cache
    def result(n_devices, n_worlds=1, batch=1, latent=1, recipe="untied", file="", d_sae=32):
        if n_devices not in processes:
            processes[n_devices] = begun(n_devices)
        asks, answers = processes[n_devices].stdin, processes[n_devices].stdout
        asks.write(json.dumps([n_worlds, batch, latent, recipe, str(file), d_sae]) + "\n")
        asks.flush()
        answer = json.loads(answers.readline())
        if answer is None:  # stopped half way
            return None
        (W_dec, loss), firings, messages, shape, scores = answer
        return SimpleNamespace(
            W_dec=np.array(W_dec), loss=np.array(loss)[..., 1:], firings=firings,
            messages=messages, shape=shape, scores=scores,
        )  # fmt: skip

    yield result
    for process in processes.values():
        process.communicate()


def assert_same(one, other):
    assert one.firings == other.firings  # the very same data
    assert one.shape == other.shape
    np.testing.assert_allclose(one.W_dec, other.W_dec, atol=1e-5)
    np.testing.assert_allclose(one.loss, other.loss, rtol=1e-5)
    np.testing.assert_allclose(one.scores, other.scores, rtol=1e-4)


def test_training_goes_on_with_another_number_of_devices(train, tmp_path):
    file = tmp_path / "half"
    assert train(2, 3, file=file) is None and file.exists()
    assert_same(train(1, 3), train(1, 3, file=file))


@pytest.mark.parametrize(
    ("n_devices", "n_worlds"),
    [(2, 3), *(pytest.param(*given, marks=pytest.mark.slow) for given in ((2, 1), (8, 3)))],
)
def test_an_ensemble_trains_the_same_on_many_devices_without_a_message(train, n_devices, n_worlds):
    # 3 members or 3 worlds on 2 devices, 3 x 3 on 8: none divides.
    spread = train(n_devices, n_worlds)
    assert spread.messages == 0
    assert_same(train(1, n_worlds), spread)


@pytest.mark.parametrize(
    ("batch", "latent", "recipe", "d_sae"),
    [
        (2, 2, "batchtopk", 32),
        (1, 2, "untied", 16),  # square: no shape says which axis the latents are
        *(pytest.param(*cut, "untied", 32, marks=pytest.mark.slow) for cut in ((2, 1), (1, 2))),
    ],
)
def test_one_sae_trains_the_same_split_over_samples_and_latents(
    train, batch, latent, recipe, d_sae
):
    split = train(batch * latent, 1, batch, latent, recipe, d_sae=d_sae)
    assert split.messages
    assert_same(train(1, 1, recipe=recipe, d_sae=d_sae), split)


@pytest.mark.parametrize(
    ("rows", "n_devices", "cut"),
    [
        ((8, 4), 8, (8, 1)),  # worlds first
        ((1, 16), 8, (1, 8)),
        ((4, 6), 8, (4, 2)),
        ((3, 3), 2, (2, 1)),  # 6 rows on the busiest
        ((3, 3), 8, (3, 2)),
        ((1, 3), 4, (1, 3)),  # a fourth device would have nothing to do
        ((1, 5), 4, (1, 3)),  # nor would it help
        ((1, 1), 4, (1, 1)),
    ],
)
def test_the_busiest_device_has_the_fewest_rows(rows, n_devices, cut):
    assert shares(*rows, n_devices) == cut


def test_one_row_or_one_device_needs_no_layout():
    assert layout_of(1, 1) is None
    assert layout_of(5, 5, devices=jax.devices()[:1]) is None


def test_a_split_over_more_devices_than_there_are_is_refused():
    with pytest.raises(ToysaeError, match=r"batch 2 x latent 3 needs 6 devices and jax sees 1"):
        layout_of(1, 1, Split(2, 3), jax.devices()[:1])
