"""What a run would do, and what it takes, without doing it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp

from .. import hosts
from ..bits import in_32_bits
from ..disk import free_bytes, size
from ..lazy import pd
from ..training import advance, start
from ..training.devices import layout_of
from ..training.ensemble import Ensemble, spread_ensemble
from ..training.flops import step_flops
from ..training.memory import bytes_needed, device_bytes
from .blocks import Block, blocks_of, check_cells
from .cell import Cell
from .directory import Directory
from .mark import check_ours
from .options import DEFAULTS, Options
from .space import disk_bytes
from .store import checked_blocks, find, finished_keys

_TRIAL_S = 1.0


@dataclass(frozen=True)
class Plan:
    """What is left of a run.

    Attributes:
        table: one row for each block, in the order they run: `cell`, `SAEs`, `d_sae`, `n_steps`,
            the `memory` that it takes, the `TFLOP` of its matrix products and about how many
            `seconds`.
        lines: two sentences on the whole run.
    """

    table: pd.DataFrame
    lines: list[str]


@in_32_bits
def plan(cells: Sequence[Cell], out: str | Path, options: Options = DEFAULTS) -> Plan:
    """Counts what a run would train, and times about a second of its most expensive block.

    Nothing is written. The seconds are those of training at the FLOP rate of the trial: compiling
    and scoring come on top, and small SAEs run at lower rates than large ones.

    Raises:
        ToysaeError: whatever a run refuses before training, except a full disk.
    """
    check_cells(cells, options.split)
    path = Path(out)
    asked = {key for cell in cells for key in cell.keys.reshape(-1).tolist()}
    done = hosts.on_first(lambda: _finished(path, options.keep_weights))
    blocks = blocks_of(cells, done, split=options.split)
    ensembles = [block.ensemble() for block in blocks]
    flops = [
        step_flops(ensemble) * block.cell.n_steps
        for ensemble, block in zip(ensembles, blocks, strict=True)
    ]
    rate = _flop_rate(ensembles[flops.index(max(flops))]) if blocks else float("nan")
    rows = [_row(*each, rate) for each in zip(blocks, ensembles, flops, strict=True)]
    disk = size(disk_bytes(blocks, options.keep_weights))
    devices = jax.devices()
    if blocks:
        work = (
            f"{len(asked & done)} of {len(asked)} SAEs are finished in {path}; {len(blocks)} "
            f"{'block is' if len(blocks) == 1 else 'blocks are'} left: "
            f"{sum(flops) / 1e12:,.1f} TFLOP, about {_duration(sum(flops) / rate)}"
        )
    else:
        work = f"all {len(asked)} SAEs are finished in {path}" if asked else "no SAEs to train"
    machine = (
        f"{len(devices)} x {devices[0].device_kind}, {size(device_bytes())} of memory; "
        f"{disk} on disk, {size(free_bytes(path))} free"
    )
    return Plan(pd.DataFrame(rows), [work, machine])


def _finished(path: Path, with_weights: bool) -> set[str]:
    """The keys of the SAEs that a run would not train again."""
    check_ours(path)
    if not path.exists() or not any(path.iterdir()):
        return set()
    undamaged, _ = checked_blocks(Directory.open(path))
    return finished_keys(find(undamaged), with_weights)


def _row(block: Block, ensemble: Ensemble, flops: int, rate: float) -> dict[str, object]:
    return {
        "cell": block.cell.name,
        "SAEs": block.keys.size,
        "d_sae": ensemble.spec.d_sae,
        "n_steps": block.cell.n_steps,
        "memory": size(bytes_needed(ensemble)),
        "TFLOP": f"{flops / 1e12:,.2f}",
        "seconds": f"{flops / rate:,.0f}",
    }


def _flop_rate(ensemble: Ensemble) -> float:
    """FLOP/s of an ensemble's steps with their sampling, timed for about a second."""
    per_step, total = step_flops(ensemble), jnp.float32(1e6)
    layout = layout_of(len(ensemble.world_seeds), len(ensemble.sae_seeds), ensemble.split)
    ensemble = spread_ensemble(ensemble, layout)
    state, ensemble = start(ensemble, layout), ensemble.once_started()

    def train(state, until: int):
        begun = time.perf_counter()
        state = advance(state, ensemble, jnp.int32(until), total, layout)
        state.loss.block_until_ready()
        return state, time.perf_counter() - begun

    state, _ = train(state, 1)  # compiles
    state, took = train(state, 4)
    n_steps = max(int(_TRIAL_S / (took / 3)), 1)
    _, took = train(state, 4 + n_steps)
    return n_steps * per_step / took


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:,.0f} s"
    return f"{seconds / 60:,.0f} min" if seconds < 7200 else f"{seconds / 3600:,.1f} h"
