"""What one training step costs, counted from shapes."""

from .presets import Preset

_FLOAT = 4  # bytes


def preset_step_flops(p: Preset) -> int:
    """FLOPs of the five products of a step, each of 2 * batch * d_in * d_sae for each SAE (encode,
    decode, the gradients of both weights and of z), and of nothing else."""
    return 10 * p.batch_size * p.d_in * p.d_sae * p.n_members


def step_bytes(p: Preset, n_params: int) -> int:
    """Bytes that a step must move if nothing stays in a cache from one use to the next. For each
    SAE, in numbers of 4 bytes:

    - 8 for each parameter: Adam reads it, its gradient and both moments, and writes them;
    - 3 * d_in * d_sae: the weights that encode, decode and the gradient of z read;
    - 5 * batch * d_sae: z written, read by decode and by a weight's gradient; its own gradient
      written and read;
    - 6 * batch * d_in: x read by encode, loss and a weight's gradient; x_hat - x written and read
      by two gradients.

    Args:
        p: the ensemble.
        n_params: of all its members.
    """
    weights, latents, inputs = (
        p.d_in * p.d_sae, p.batch_size * p.d_sae, p.batch_size * p.d_in
    )  # fmt: skip
    return _FLOAT * (8 * n_params + p.n_members * (3 * weights + 5 * latents + 6 * inputs))
