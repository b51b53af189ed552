"""`toysae bench`: times presets, each in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from ..disk import write
from ..errors import require, unknown
from ..lazy import pd
from ..plotting import save
from ..runs.provenance import provenance
from .against import COMPARED, UNCACHED, WORKER, require_saelens, time_against
from .protocol import Child
from .scaling import workers_figure
from .time_to_mcc import RACES, race
from .timers import PRESET_KINDS, TIMERS, WORKERS_PRESET
from .training import time_preset, time_recipe

PEERS = ("sae-lens",)


@dataclass(frozen=True)
class BenchOptions:
    """What to time.

    Attributes:
        preset: names of presets, at least one; all of plain training by default. "gpu" stands for
            those that need a GPU and the "check" that no arithmetic costs recovery on it,
            "interim-grid" for 153 SAEs, "worlds" for all of sampling,
            "recipes" for every recipe compared with the plain SAE at two sizes, "scoring" for its
            cost compared with training, "lm" for capturing a language model's activations, "engine"
            for what keeping results on disk costs, opening 5,000 SAEs, and several workers,
            "compile" for what a run of a small experiment spends before it trains;
            "time-to-mcc" times whole processes until the features are found.
        against: "sae-lens" trains one standard SAE of the same shape with SAELens' own trainer,
            in turns with ours, and prints ratios; needs the peers extra.
        arithmetic: of the large products where SAEs train: "float32" times dense ones here,
            "sparse" begins after 500 dense steps; --against times them all.
        seconds: about how long each round of timing lasts.
        rounds: rounds; the median is reported.
        out: a JSON file for the numbers, also those of every round, with their provenance.
        figures: a folder for the figure of "engine-workers", and the table behind it.
    """

    preset: tuple[str, ...] = ("training",)
    against: str | None = None
    arithmetic: Literal["float32", "dense", "sparse", "bfloat16", "fused"] = "float32"
    seconds: float = 2.0
    rounds: int = 5
    out: Path | None = None
    figures: Path | None = None


def bench(options: BenchOptions) -> list[pd.DataFrame]:
    """Times the presets, each in a process of its own.

    Returns:
        A table for each set of columns.

    Raises:
        ToysaeError: an unknown preset or peer, a preset for which the peer has no SAE, a peer that
            is not installed, a number that is not positive, or a child that failed.
    """
    names = _checked(options)
    rows = []
    for name in names:
        for row in _rows(name, options):
            rows.append(row)
            _tell(row)
    rounds = [row.pop("rounds", None) for row in rows]
    imports = {f"import_{name}s": import_seconds(code) for name, code in IMPORTS.items()}
    print(f"import toysae: {imports['import_s']:.2f} s", file=sys.stderr)
    if options.out is not None:
        record = {"rows": rows, "rounds": rounds, **imports, **provenance()}
        if options.against:
            record["versions"] |= {name: version(name) for name in ("sae-lens", "torch")}
        record["command"] = " ".join(["toysae", *sys.argv[1:]])
        options.out.parent.mkdir(parents=True, exist_ok=True)
        write(options.out, lambda p: p.write_text(json.dumps(record, indent=1) + "\n"))
    if options.figures is not None:
        drawn = next(
            raw for row, raw in zip(rows, rounds, strict=True) if row["preset"] == WORKERS_PRESET
        )
        save(*workers_figure(drawn), options.figures, "workers")
    by_columns: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in rows:
        by_columns.setdefault(tuple(row), []).append(row)
    return [pd.DataFrame(alike) for alike in by_columns.values()]


def _tell(row: dict[str, Any]) -> None:
    """Prints a row as soon as it is measured: whatever comes later, it has been seen."""
    shown = {name: f"{v:.4g}" if isinstance(v, float) else v for name, v in row.items()}
    words = [f"{name} {value}" for name, value in shown.items() if name not in ("rounds", "preset")]
    print(f"{row['preset']}: {', '.join(words)}", file=sys.stderr, flush=True)


def _checked(options: BenchOptions) -> list[str]:
    """The presets to time, in order."""
    require(options.seconds > 0, f"seconds {options.seconds} must be more than 0")
    require(options.preset, "preset is empty: name at least one")
    require(options.rounds >= 1, f"rounds {options.rounds} must be at least 1")
    kinds = {kind: list(presets) for kind, (presets, _) in PRESET_KINDS.items()}
    known = {*TIMERS, *RACES}
    if options.against is not None:
        if options.against not in PEERS:
            raise unknown("peer", options.against, PEERS)
        known = {*COMPARED, *RACES}
        kinds = {kind: [n for n in names if n in known] for kind, names in kinds.items()}
    if options.against is None:
        kinds["gpu"] += kinds["check"]
    names = [n for one in options.preset for n in kinds.get(one) or [one]]
    for name in names:
        require(
            name in known or name not in (*PRESET_KINDS, *TIMERS),
            f"preset {name!r} has no SAE that SAELens trains too: --against compares "
            f"{', '.join([*COMPARED, *RACES])}",
        )
        if name not in known:
            raise unknown("preset", name, dict.fromkeys([*known, *kinds]))
    require(
        options.figures is None or WORKERS_PRESET in names,
        f"--figures draws {WORKERS_PRESET} alone: give --preset {WORKERS_PRESET}, or leave it out",
    )
    if options.against is not None:
        require_saelens()
    return names


def _rows(name: str, o: BenchOptions) -> Iterator[dict[str, Any]]:
    """The rows of a preset."""
    if name in RACES:
        yield from race(name, o.rounds, o.against is not None)
    elif o.against is not None:
        yield time_against(name, o.seconds, o.rounds)
    else:
        with Child(WORKER, UNCACHED) as child:
            request: dict[str, Any] = {"name": name, "seconds": o.seconds, "rounds": o.rounds}
            if TIMERS[name] in (time_preset, time_recipe):
                request["arithmetic"] = o.arithmetic
            yield child.ask("time", **request)


IMPORTS = {"": "import toysae", "train_": "from toysae import make_world, train"}


def import_seconds(code: str) -> float:
    """How long an import takes in a new process, in seconds."""
    timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"
    return float(
        subprocess.run([sys.executable, "-P", "-c", timed], capture_output=True, check=True).stdout
    )
