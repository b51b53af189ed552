"""The SAEs of one compiled program on disk: a table, arrays, and a folder of each.

done.json             written last: what they are a result of, and how long it took
table.csv             one row an SAE
arrays.npz            by row of the table
saes/<numbers>/       an SAE, see :func:`toysae.lm.site_sae.save_site_sae`
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from ..disk import write, write_bytes
from ..errors import ToysaeError
from ..sae import SAE
from .normalise import Normalisation
from .site_sae import SiteSAE, save_site_sae


def save_group(
    folder: Path, saes: SAE, n: Normalisation, about: dict[str, Any], table: pd.DataFrame,
    arrays: dict[str, np.ndarray], done: dict[str, Any],
) -> None:  # fmt: skip
    """Writes them.

    Args:
        folder: `groups/<name>` of what is trained.
        saes: leading axes `[1, rows]`.
        n: of their inputs.
        about: what every one of them says of itself; "site", "recipe" and "init" among it.
        table: their scores, `[rows]`; the first columns are put before it.
        arrays: by row.
        done: see above.
    """
    names = _names(table)
    first = {"folder": [str(Path("groups") / folder.name / "saes" / name) for name in names]}
    first |= {column: about[column] for column in ("site", "recipe", "init")}
    table = table.assign(**first)[[*first, *table.columns]]
    for i, name in enumerate(names):
        sae: SAE = jax.tree.map(lambda leaf, i=i: leaf[0, i], saes)
        own = {**about, "seed": int(table["sae_seed"].iloc[i])}
        whole = SiteSAE(sae, jnp.asarray(n.mean), jnp.float32(n.scale), json.dumps(own))
        save_site_sae(whole, folder / "saes" / name)
    write(folder / "arrays.npz", lambda path: _save_arrays(path, arrays))
    write(folder / "table.csv", lambda path: table.to_csv(path, index=False))
    write_bytes(folder / "done.json", json.dumps(done, indent=1).encode())


def load_arrays(out: Path, group: str) -> dict[str, np.ndarray]:
    """The arrays of one program's SAEs, by row.

    Raises:
        ToysaeError: no such group.
    """
    file = out / "groups" / group / "arrays.npz"
    if not file.exists():
        raise ToysaeError(f"{out} has no finished group {group}")
    with np.load(file) as arrays:
        return dict(arrays)


def _save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)  # pyright: ignore[reportArgumentType]


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
