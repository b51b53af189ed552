"""The SAEs of one compiled program on disk: a table, arrays, and a folder of each.

done.json             what they are a result of, and how long it took
table.csv             one row an SAE
arrays.npz            by row of the table
saes/<numbers>/       an SAE, see :func:`toysae.lm.site_sae.save_site_sae`
"""

import json
from io import BytesIO
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..errors import require
from ..runs.directory import BROKEN, Directory
from ..runs.progress import say
from ..sae import SAE
from .normalise import Normalisation
from .site_sae import SiteSAE, site_sae_writers

FOLDER, DONE, TABLE, ARRAYS = "groups", "done.json", "table.csv", "arrays.npz"


def save_group(
    directory: Directory, group: str, saes: SAE, n: Normalisation, about: dict[str, Any],
    table: pd.DataFrame, arrays: dict[str, np.ndarray], done: dict[str, Any],
) -> None:  # fmt: skip
    """Writes them.

    Args:
        directory: of the training.
        group: their name.
        saes: leading axes `[1, rows]`.
        n: of their inputs.
        about: what every one of them says of itself; "site", "recipe" and "init" among it.
        table: their scores, `[rows]`; the first columns are put before it.
        arrays: by row.
        done: see above.
    """
    folder = f"{FOLDER}/{group}"
    places = [f"{folder}/saes/{name}" for name in _names(table)]
    first = {"folder": places} | {column: about[column] for column in ("site", "recipe", "init")}
    table = table.assign(**first)[[*first, *table.columns]]
    writers = {}
    for i, place in enumerate(places):
        sae: SAE = jax.tree.map(lambda leaf, i=i: leaf[0, i], saes)
        own = {**about, "seed": int(table["sae_seed"].iloc[i])}
        whole = SiteSAE(sae, jnp.asarray(n.mean), jnp.float32(n.scale), json.dumps(own))
        writers |= {f"{place}/{file}": put for file, put in site_sae_writers(whole).items()}
    held = BytesIO()
    np.savez(held, allow_pickle=False, **arrays)
    files = {
        ARRAYS: held.getvalue(),
        TABLE: table.to_csv(index=False).encode(),
        DONE: json.dumps(done, indent=1).encode(),
    }
    for name, data in files.items():
        writers[f"{folder}/{name}"] = lambda path, data=data: path.write_bytes(data)
    directory.put(writers)


def finished_groups(directory: Directory) -> set[str]:
    """The names of those that are whole; the files of others are set aside."""
    together: dict[str, list[str]] = {}
    for name in directory.files:
        if name.startswith(f"{FOLDER}/"):
            together.setdefault(name.split("/")[1], []).append(name)
    whole = set()
    for group, names in together.items():
        if f"{FOLDER}/{group}/{DONE}" in names and not any(map(directory.wrong, names)):
            whole.add(group)
        elif directory.set_aside(names):
            path = directory.path
            say(f"{path / FOLDER / group} is broken: moved to {path / BROKEN}, and trained again")
    return whole


def load_table(directory: Directory, group: str) -> pd.DataFrame:
    """One row for each of a group's SAEs.

    Raises:
        ToysaeError: no such group, or its table is not as it was written.
    """
    return pd.read_csv(BytesIO(directory.read(f"{FOLDER}/{group}/{TABLE}")))


def load_arrays(out: Path, group: str) -> dict[str, np.ndarray]:
    """The arrays of one program's SAEs, by row.

    Raises:
        ToysaeError: no such group, or they are not as they were written.
    """
    directory, name = Directory.open(out), f"{FOLDER}/{group}/{ARRAYS}"
    require(name in directory.files, f"{out} has no finished group {group}")
    with np.load(BytesIO(directory.read(name)), allow_pickle=False) as arrays:
        return dict(arrays)


def _names(table: pd.DataFrame) -> list[str]:
    """A folder's name for each SAE: the numbers in which they differ."""
    varied = [c for c in ("l1_coeff", "k", "l0_target") if c in table]

    def name(row: pd.Series) -> str:
        numbers = [f"{c.split('_')[0]}_{_short(row[c])}" for c in varied]
        return "-".join([*numbers, f"seed{row['sae_seed']:g}"])

    return [name(row) for _, row in table.iterrows()]


def _short(value: float) -> str:
    """The shortest text that is this float32 and no other."""
    return str(np.float32(value)).removesuffix(".0")
