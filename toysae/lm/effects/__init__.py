"""What SAEs and their latents do in a model: losses, steering, patching, neurons.

The functions that end in `_saes` take SAEs on disk, the others models and arrays.
"""

from .changes import Change
from .downstream import Downstream, downstream
from .latents import Facts, latent_facts, logit_effects
from .neurons import Neurons, neurons
from .on_disk import downstream_saes, neurons_of_saes, patch_saes, splice_saes, steer_saes
from .pairs import PromptPairs, ioi_pairs
from .patching import patching_curve
from .splice import baselines, splice_table
from .steering import Moved, NextToken, moved_tokens, next_token_changes

__all__ = [
    "Change", "Downstream", "Facts", "Moved", "Neurons", "NextToken", "PromptPairs", "baselines",
    "downstream", "downstream_saes", "ioi_pairs", "latent_facts", "logit_effects", "moved_tokens",
    "neurons", "neurons_of_saes", "next_token_changes", "patch_saes", "patching_curve",
    "splice_saes", "splice_table", "steer_saes",
]  # fmt: skip
