"""The effects of SAEs on disk: replacing activations, neurons, steering, later layers and patching.

The functions below take SAEs as :func:`.open_bench` opens them, with their model and text.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from ...errors import require
from ...lazy import pd
from ..capture.stream import spread_sequences
from ..models.load import load_tokenizer
from ..saes.bench import Bench, sample_rows
from ..saes.firing import checked_latents
from ..saes.site_sae import load_site_sae
from .changes import Change
from .downstream import Downstream, downstream
from .neurons import Neurons, neurons
from .pairs import ioi_pairs
from .patching import patching_curve
from .splice import splice_table
from .steering import Moved, moved_tokens


def splice_saes(
    bench: Bench, n_sequences: int = 64, batch_size: int = 8, ranks: Sequence[int] = (16, 64, 256),
    on_batch: Callable[[int, int], object] = lambda done, total: None,
) -> pd.DataFrame:  # fmt: skip
    """:func:`.splice_table` of SAEs on disk, on text held out from their training."""
    require(n_sequences >= 1, f"n_sequences {n_sequences} must be at least 1")
    return splice_table(
        bench.model, bench.corpus, bench.held_out[:n_sequences], bench.saes, sample_rows(bench),
        batch_size=batch_size, ranks=ranks, on_batch=on_batch,
    )  # fmt: skip


def steer_saes(
    bench: Bench, latent: int, change: Change, n_sequences: int = 32, batch_size: int = 8,
    n: int = 10,
) -> dict[str, tuple[pd.DataFrame, Moved]]:  # fmt: skip
    """:func:`.moved_tokens` of SAEs on disk, on text held out from training.

    Returns:
        By the SAE's name: a table of `up`, `up_delta_log_p`, `down`, `down_delta_log_p`, the tokens
        as text with their mean changes in nats; and what `moved_tokens` returned.

    Raises:
        ToysaeError: a latent that an SAE does not have.
    """
    require(n_sequences >= 1, f"n_sequences {n_sequences} must be at least 1")
    require(n >= 1, f"n {n} must be at least 1")
    for sae in bench.saes.values():
        checked_latents([latent], sae.sae.spec.d_sae)
    tokenizer = load_tokenizer(bench.model.name)
    some = bench.held_out[:n_sequences]
    by_sae = {}
    for name, sae in bench.saes.items():
        moved = moved_tokens(
            bench.model, sae, latent, bench.corpus.tokens[some], change, n,
            lengths=bench.corpus.lengths[some], n_vocab=tokenizer.n_vocab, batch_size=batch_size,
        )  # fmt: skip
        table = pd.DataFrame({
            "up": [repr(tokenizer.decode([i])) for i, _ in moved.up],
            "up_delta_log_p": [value for _, value in moved.up],
            "down": [repr(tokenizer.decode([i])) for i, _ in moved.down],
            "down_delta_log_p": [value for _, value in moved.down],
        })  # fmt: skip
        by_sae[name] = table, moved
    return by_sae


def patch_saes(
    bench: Bench, n_pairs: int = 32, batch_size: int = 8, seed: int = 0, names: Sequence[str] = (),
    signed: bool = True,
) -> dict[str, pd.DataFrame]:  # fmt: skip
    """:func:`.patching_curve` of SAEs on disk, and of the principal axes of what they were trained
    on, with the pairs of :func:`.ioi_pairs`.

    Raises:
        ToysaeError: see :func:`.ioi_pairs`.
    """
    own = {"names": names} if names else {}
    pairs = ioi_pairs(
        load_tokenizer(bench.model.name), n_pairs, seed, bos=bench.corpus.layout.bos, **own
    )
    x = np.asarray(sample_rows(bench), np.float64)
    axes = np.linalg.eigh(np.cov(x.T))[1].T.astype(np.float32)
    how = {"signed": signed, "batch_size": batch_size}
    return {
        name: patching_curve(bench.model, sae, pairs, axes, **how)
        for name, sae in bench.saes.items()
    }


def neurons_of_saes(
    bench: Bench, n_tokens: int | None = 100_000, seed: int = 0
) -> dict[str, Neurons]:
    """:func:`.neurons.neurons` of SAEs on disk, on tokens spread evenly over the text."""
    some = spread_sequences(bench.source.counts, n_tokens)
    return {name: neurons(sae, bench.source, some, seed=seed) for name, sae in bench.saes.items()}


def downstream_saes(
    bench: Bench, later: Path, latents: Sequence[int], change: Change,
    later_site: str | None = None, later_row: int = 0, n_sequences: int = 32, batch_size: int = 8,
) -> dict[str, Downstream]:  # fmt: skip
    """:func:`.downstream.downstream` of SAEs on disk on the SAE of a later site in folder `later`
    (row `later_row`, if that is a run), on text held out from training.

    Raises:
        ToysaeError: see :func:`.downstream.downstream`.
    """
    require(n_sequences >= 1, f"n_sequences {n_sequences} must be at least 1")
    later_sae = load_site_sae(later, later_site, later_row)
    some = bench.held_out[:n_sequences]
    how = {"lengths": bench.corpus.lengths[some], "batch_size": batch_size}
    return {
        name: downstream(
            bench.model, sae, later_sae, latents, bench.corpus.tokens[some], change, **how
        )
        for name, sae in bench.saes.items()
    }
