"""Oracle curves of results: the scores that their worlds allow at each L0."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from io import BytesIO

from ..checked import Fields
from ..digests import canonical, digest
from ..errors import ToysaeError, require
from ..evaluation.ceilings import ceilings
from ..lazy import pd
from ..runs.results import Results
from ..runs.worlds import world_of

ORACLES = ("truth-fista", "truth-omp", "truth-encoder")
_SAMPLES = 16_384
_STEPS = 10_000


def oracle_curves(results: Results, methods: Sequence[str] = ORACLES) -> pd.DataFrame:
    """Scores oracles on the first world seed of every world that SAEs were trained on. They are
    computed once and kept with the results.

    The encoder is trained for as many steps as the SAEs of that world, but at most 10,000.

    Args:
        results: of SAEs trained on worlds.
        methods: of :data:`toysae.evaluation.oracles.METHODS`.

    Returns:
        The table of :func:`toysae.evaluation.ceilings.ceilings`, after the columns `world`,
        `setting` (as in the table of the results; the rows of a world are repeated for each),
        `n_features` and `d_in`.

    Raises:
        ToysaeError: there are no results.
    """
    table = results.table
    require(len(table) > 0, f"{results.path} holds no results")
    worlds = _worlds(results, table)
    name = f"ceilings-{digest(canonical(worlds))[:8]}.csv"
    curves = _cached(results, name)
    missing = [method for method in methods if method not in set(curves["method"])]
    if missing:
        new = [_curves_of(world, missing) for world in worlds.values()]
        joined = pd.concat([curves, *new] if len(curves) else new, ignore_index=True)
        text = joined.to_csv(index=False).encode()
        with suppress(ToysaeError):  # it can be computed again
            results.directory.write({name: text})
        curves = pd.read_csv(BytesIO(text))
    return curves[curves["method"].isin(methods)].reset_index(drop=True)


def _worlds(results: Results, table: pd.DataFrame) -> dict[str, dict]:
    """The data of each world, the most steps and samples of its SAEs, and their settings."""
    worlds: dict[str, dict] = {}
    settings = table["setting"] if "setting" in table else pd.Series("-", table.index)
    for (_, setting), rows in table.groupby(["cell", settings], sort=False):
        manifest = results.manifest(int(rows.index[0]))
        data = manifest.object("data").value
        world = worlds.setdefault(canonical(data), {"data": data, "n_steps": 1, "settings": []})
        world["n_steps"] = max(world["n_steps"], manifest.integer("n_steps"))
        world["n_eval"] = manifest.object("measure").integer("n_eval", _SAMPLES)
        if setting not in world["settings"]:
            world["settings"].append(setting)
    return worlds


def _curves_of(described: dict, methods: Sequence[str]) -> pd.DataFrame:
    """The curves of one of :func:`_worlds`."""
    data = Fields(described["data"], "data")
    world = world_of(data, 0)
    table = ceilings(world, n_samples=min(described["n_eval"], _SAMPLES), methods=methods,
                     n_steps=min(described["n_steps"], _STEPS))  # fmt: skip
    frames = []
    for setting in described["settings"]:
        head = {"world": data.text("world"), "setting": setting,
                "n_features": len(world.target), "d_in": world.d_in}  # fmt: skip
        frames.append(pd.concat([pd.DataFrame(head, index=table.index), table], axis=1))
    return pd.concat(frames, ignore_index=True)


def _cached(results: Results, name: str) -> pd.DataFrame:
    """The curves that are kept in a file; none if it is damaged or missing."""
    directory = results.directory
    if name in directory.files:
        with suppress(ToysaeError):  # it is computed again
            return pd.read_csv(BytesIO(directory.read(name)))
    return pd.DataFrame({"method": []})
