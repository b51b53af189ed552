"""Two devices draw the very samples that one does."""

import os
import subprocess
import sys

SCRIPT = """
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
from toysae.worlds import make_world, sample

assert len(jax.devices()) == 2
rows = NamedSharding(Mesh(np.array(jax.devices()), ("batch",)), P("batch"))
for fields in ({}, {"n_features": 600, "firing": "exclusive", "magnitude": "log-normal"}):
    world = make_world("sphere", 0, d_in=16, noise=0.1, **fields)
    whole = sample(world, jax.random.key(1), 64)

    def draw(key):
        batch = world.sample(key, 64)
        return batch.x, batch.indices, batch.values

    split = jax.jit(draw, out_shardings=rows)(jax.random.key(1))
    assert len(split[0].addressable_shards) == 2
    assert split[0].addressable_shards[0].data.shape[0] == 32
    np.testing.assert_array_equal(split[1], whole.indices)
    np.testing.assert_array_equal(split[2], whole.values)
    np.testing.assert_allclose(split[0], whole.x, atol=1e-5)
"""


def test_a_draw_sharded_over_rows_is_the_same_draw():
    flags = "--xla_force_host_platform_device_count=2"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
