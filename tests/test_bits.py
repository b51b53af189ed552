"""With jax in 64-bit mode everything is computed as without it."""

import os
import subprocess
import sys
from contextlib import redirect_stdout
from io import StringIO

import jax
import pytest

CODE = """
import jax, jax.numpy as jnp, numpy as np
import toysae
from toysae.interop.linear import topk
world = toysae.make_world("sphere", 0, d_in=8, n_features=12, l0=2.0)
l1, k = {"l1_coeff": 0.1}, {"k": 2}
for recipe, numbers in (("untied", l1), ("topk", k)):
    r = toysae.train(world, recipe, n_steps=30, batch_size=32, n_eval=512, curve_points=2,
                     quiet=True, **numbers)
    print(recipe, *(float(r.table[n].iloc[0]).hex() for n in ("mmcs", "l0")))
rng = np.random.default_rng(0)
tensors = {"W_enc": rng.normal(size=(8, 6)), "W_dec": rng.normal(size=(6, 8)),
           "b_enc": np.zeros(6), "b_dec": np.zeros(8)}
sae = topk(tensors, 4, pre_bias=True)
x = jnp.asarray(rng.normal(size=(5, 8)))
z = sae.encode(x)
print(x.dtype == (jnp.float64 if jax.config.jax_enable_x64 else jnp.float32), z.dtype)
print(np.asarray((z != 0).sum(-1)).tolist(), np.asarray(z).round(4).tolist())
from toysae.interop import score
print(float(score(sae, world, 1024).table["mmcs"].iloc[0]).hex())
"""


EVERY_RECIPE = """
import toysae
from toysae.sae import RECIPES
world = toysae.make_world("sphere", 0, d_in=8, n_features=8, l0=2.0)
for name, recipe in RECIPES.items():
    knob = recipe.knob()
    numbers = {knob: recipe.toy.get(knob, {"k": 2, "l0_target": 2.0}.get(knob, 0.1))}
    r = toysae.train(world, name, n_steps=3, batch_size=32, n_eval=64, curve_points=1, quiet=True,
                     **numbers)
    print(name, *(float(r.table[n].iloc[0]).hex() for n in ("mmcs", "l0")))
"""


@pytest.mark.parametrize("code", [CODE, pytest.param(EVERY_RECIPE, marks=pytest.mark.slow)],
                         ids=["some", "every recipe"])  # fmt: skip
def test_the_same_bits_in_64_bit_mode(code):
    env = {**os.environ, "JAX_ENABLE_X64": "1", "JAX_NUM_CPU_DEVICES": str(jax.device_count())}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    with redirect_stdout(StringIO()) as here:
        exec(code, {})
    assert here.getvalue() == done.stdout != ""
