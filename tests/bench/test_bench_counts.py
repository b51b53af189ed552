"""What a step costs: worked by hand, and by XLA's own count."""

import jax
import jax.numpy as jnp
import pytest

from toysae.bench.counts import preset_step_flops, step_bytes
from toysae.bench.presets import BENCH_PRESETS, GPU_PRESETS, GRID_PRESETS, Preset, preset_ensemble
from toysae.training import start


def n_params(p: Preset) -> int:
    shapes = jax.eval_shape(start, preset_ensemble(p))
    return sum(leaf.size for leaf in jax.tree.leaves(shapes.members.params))


def test_hand_worked():
    p = Preset("untied", 2, 5, 3, 2, 4)
    assert preset_step_flops(p) == 2 * 5 * (2 * 4 * 2 * 3) == 480
    # a member has 2 x 3 weights twice, 3 and 2 biases
    assert n_params(p) == 2 * (6 + 6 + 3 + 2) == 34
    adam, weights, latents, inputs = 8 * 34, 2 * 3 * 6, 2 * 5 * 12, 2 * 6 * 8
    assert step_bytes(p, 34) == 4 * (adam + weights + latents + inputs) == 2096


@pytest.mark.parametrize(("recipe", "matrices"), [("untied", 2), ("tied", 1)])
def test_a_tied_encoder_has_one_matrix_to_move(recipe, matrices):
    p = Preset(recipe, 64, 128, 256, 1)
    assert n_params(p) == pytest.approx(matrices * 64 * 256, rel=0.05)


def test_flops_are_those_that_xla_counts():
    p = Preset("untied", 256, 512, 1024, 1, 512)

    def loss(weights, x):
        z = jax.nn.relu(x @ weights[0])
        return jnp.sum((z @ weights[1] - x) ** 2) + z.sum()

    shapes = [jnp.zeros((p.d_in, p.d_sae)), jnp.zeros((p.d_sae, p.d_in))]
    lowered = jax.jit(jax.grad(loss)).lower(shapes, jnp.zeros((p.batch_size, p.d_in)))
    cost = lowered.cost_analysis()
    assert cost is not None
    assert preset_step_flops(p) == pytest.approx(cost["flops"], rel=0.01)


def test_the_presets_are_what_they_are_called():
    assert BENCH_PRESETS["large"].shape == "d 768 / 1536 features / 4096 latents"
    assert BENCH_PRESETS["medium-1024"].batch_size == GPU_PRESETS["synth-16k"].batch_size == 1024
    assert GPU_PRESETS["small-512"].n_members == 512
    assert sum(p.n_members for p in GRID_PRESETS.values()) == 153
    assert [p.d_sae for p in GRID_PRESETS.values()] == [512 * 2**i // 8 for i in range(9)]
    assert preset_step_flops(BENCH_PRESETS["large"]) == 10 * 1024 * 768 * 4096
