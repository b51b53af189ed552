"""Ceilings and floors: what a perfect dictionary, a perfect encoder or chance scores on a world.

A score says something when compared with these. None is a bound: the truth can have the larger
loss, and training from the truth can end elsewhere.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from hashlib import sha256
from importlib.metadata import version
from io import StringIO
from math import nan
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from ..bits import in_32_bits
from ..checked import integer, number
from ..digests import FORMAT, add_arrays
from ..disk import cache_dir, write
from ..errors import ToysaeError, require, unknown
from ..lazy import pd
from ..machine import check_bytes
from ..own_code import own_code
from ..recovery import linear_probes, mcs, random_floor
from ..recovery.intervals import require_columns
from ..training.state import keys_of
from ..worlds import World
from .oracles import METHODS, Method, Setting, fit_samples
from .score import Matched, match_dictionary, score_sae

PROBES = "linear-probes"
MOST_PAIRS = 2**24
"""Features x latents beyond which methods with codes or training are left out unless asked for."""

SCORES = (
    "mmcs", "mcs_above_0.9", "mcc", "l0", "true_l0", "ev", "mse", "f1", "precision", "recall",
    "auroc", "r2",
)  # fmt: skip
COLUMNS = ("method", "kind", "number", "value", "d_sae", "n_eval", *SCORES)
_TEXT = ("method", "kind", "number")


@in_32_bits
def ceilings(
    world: World,
    d_sae: int | None = None,
    n_samples: int = 65_536,
    seed: int = 0,
    cache: bool = True,
    methods: Sequence[str] | None = None,
    l1_coeff: Sequence[float] | None = None,
    n_steps: int = 3_000,
) -> pd.DataFrame:
    """Ceilings and floors of every score on a world, from its truth and from chance.

    They are kept on disk, in one file for each world and set of arguments
    (:func:`toysae.disk.cache_dir`). A file that is damaged or of another version is not used.

    Args:
        world: one world. Under a bias (without a rectifier) the truth's methods subtract it.
        d_sae: latents of the floors, of "truth-trained" and of "top-M-by-frequency"; as many as
            features if not given. The other ceilings hold the whole truth.
        n_samples: samples to score on, rounded up to whole batches of 1,024; methods with FISTA or
            OMP codes use an eighth (but at least as many as features). `n_eval` says how many.
        seed: of the samples, of random directions and of training.
        cache: look for an earlier result, and keep this one.
        methods: rows of :data:`~toysae.evaluation.oracles.METHODS`, or "linear-probes". If not
            given, all that apply; beyond `MOST_PAIRS` features x latents, dictionaries are then
            scored without codes, and methods that train or hold the whole truth are left out, with
            a warning.
        l1_coeff: the grid of L1 coefficients; if not given, one in units of the world's magnitudes.
        n_steps: training steps of 256 samples each.

    Returns:
        One row for each method and its number: `method`, `kind` ("ceiling" or "floor"), the
        number's name and `value` (`l1_coeff`, `k`, `threshold`; the target of a probe), `d_sae`,
        `n_eval`, and the scores `mmcs`, `mcs_above_0.9`, `mcc`, `l0`, `true_l0`, `ev`, `mse`,
        `f1`, `precision`, `recall`, `auroc`, `r2`, as :func:`toysae.evaluation.score.score_sae`
        defines them: means over features of each one's best latent. NaN if a method has no such
        score, or its SAE diverged.

    Raises:
        ToysaeError: stacked worlds, an unknown method or one that does not apply to the world, a
            number out of range.
    """
    require(world.directions.ndim == 2, f"directions {world.directions.shape} are of several "
            "worlds: give one")  # fmt: skip
    d_sae = world.target.shape[0] if d_sae is None else d_sae
    for name, value in (("d_sae", d_sae), ("n_samples", n_samples), ("n_steps", n_steps)):
        integer(name, value, 1)
    needed = 16 * d_sae * (world.d_in + world.n_features)
    check_bytes(f"a dictionary of {d_sae:,} latents", needed, "give a smaller d_sae")
    grid = None if l1_coeff is None else tuple(float(value) for value in l1_coeff)
    good = grid is None or (grid and min(grid) >= 0)
    require(good, f"l1_coeff {grid} must be numbers of at least 0")
    chosen = _chosen(world, d_sae, tuple(methods) if methods is not None else None)
    setting = Setting(world, d_sae, grid, fit_samples(d_sae), n_steps, seed)
    if not cache:
        return _read(_computed(setting, n_samples, chosen))
    arguments = (d_sae, n_samples, seed, tuple(chosen.items()), grid, n_steps)
    file = cache_dir() / "ceilings" / f"{_digest(world, arguments)}.csv"
    text = _cached(file)
    if text is None:
        text = _computed(setting, n_samples, chosen)
        file.parent.mkdir(parents=True, exist_ok=True)
        write(file, lambda path: path.write_text(f"{_seal(text)}\n{text}"))
    return _read(text)


def _chosen(world: World, d_sae: int, asked: tuple[str, ...] | None) -> dict[str, bool]:
    """The methods to run, and for each whether its codes are computed."""
    known = [name for name in METHODS if METHODS[name].kind == "ceiling"]
    known += [PROBES, *(name for name in METHODS if name not in known)]
    for name in asked or ():
        if name not in known:
            raise unknown("method", name, known)
    refused = {name: reason for name in known if (reason := _refusal(name, world, d_sae))}
    if asked is not None:
        require(asked, f"methods is empty: give some of {', '.join(known)}")
        for name in asked:
            if name in refused:
                raise ToysaeError(f"method {name!r} {refused[name]}")
        return dict.fromkeys(asked, True)
    n = len(world.target)
    chosen = {}
    for name in known:
        rows = n if name == PROBES else METHODS[name].rows(n, d_sae)  # one probe a feature
        large = n * rows > MOST_PAIRS
        is_scored = not large or (rows < n and not METHODS[name].trained)
        if name not in refused and is_scored:
            chosen[name] = not large
    left_out = [name for name in known if name not in chosen and name not in refused]
    uncoded = [name for name, coded in chosen.items() if not coded]
    if left_out or uncoded:
        warnings.warn(
            f"{n:,} features x {d_sae:,} latents: left out {', '.join(left_out) or 'nothing'}; "
            f"directions alone of {', '.join(uncoded) or 'nothing'}. Name them in methods to run "
            "all",
            stacklevel=3,
        )
    return chosen


def _refusal(name: str, world: World, d_sae: int) -> str:
    """Why a method does not apply; "" if it does."""
    needs = "firing" if name == PROBES else METHODS[name].needs
    n, known = len(world.target), world.truth is None
    if needs and not known:
        return (
            f"needs to know when a feature is on: world {world.name!r} is scored against other "
            "directions than fire in it"
        )
    if needs == "fewer" and d_sae >= n:
        return f"needs fewer latents than features: give d_sae below {n}, not {d_sae}"
    return ""


def _computed(s: Setting, n_samples: int, chosen: dict[str, bool]) -> str:
    """The table of the chosen methods, as CSV."""
    rows: list[dict] = []
    for name, coded in chosen.items():
        if name == PROBES:
            rows += _probe_rows(s.world, n_samples, s.seed)
            continue
        head = {"method": name, "kind": METHODS[name].kind}
        rows += [head | row for row in _rows(s, name, METHODS[name], coded, n_samples)]
    return pd.DataFrame(rows, columns=pd.Index(COLUMNS)).to_csv(index=False)


def _rows(s: Setting, name: str, method: Method, coded: bool, n_samples: int) -> Iterator[dict]:
    """The rows of one method, one for each of its numbers."""
    n = len(s.world.target)
    costly = name != "truth-threshold" and not method.trained
    n_eval = max(n_samples // 8, min(n_samples, n)) if costly else n_samples
    floor = {"mmcs": random_floor(s.world.d_in, s.d_sae)} if name == "random" else {}
    matched: Matched | None = None
    for name_of_number, value, sae in method.points(s):
        if sae is None:
            yield {"number": name_of_number, "value": value, "d_sae": method.rows(n, s.d_sae)}
            continue
        if not coded:
            yield {"d_sae": len(sae.W_dec), **_directions(sae.W_dec, s.world), **floor}
            return
        if matched is None or method.moves:
            matched = match_dictionary(sae.W_dec, s.world.target)
        row = score_sae(sae, s.world, n_eval, s.seed, matched, modes=False).table.iloc[0]
        scores = {name: row[name] for name in ("d_sae", "n_eval", *SCORES)}
        yield {"number": name_of_number, "value": value, **scores, **floor}


def _directions(W_dec: jax.Array, world: World) -> dict[str, float]:
    """The scores of a large dictionary without its codes, 1,024 features at a time."""
    blocks = [mcs(world.target[i : i + 1024], W_dec) for i in range(0, len(world.target), 1024)]
    cos = np.concatenate([np.asarray(block) for block in blocks])
    return {"mmcs": float(cos.mean()), "mcs_above_0.9": float((cos > 0.9).mean())}


def _probe_rows(world: World, n_samples: int, seed: int) -> list[dict]:
    """The rows of the linear probes, one for each of their targets."""
    fit, score = (keys_of(jnp.array([seed], jnp.int32), k)[0] for k in ("ceilings", "evaluation"))
    probes = linear_probes(world, fit, score, max(n_samples, fit_samples(1)), n_samples)
    head = {"method": PROBES, "kind": "ceiling", "n_eval": -(-n_samples // 1024) * 1024}
    return [
        {**head, "number": target, "value": nan, **scores.mean().to_dict()}
        for target, scores in probes.items()
    ]


def at_l0(table: pd.DataFrame, l0: float) -> pd.DataFrame:
    """The row of each method whose L0 is nearest to `l0`, by ratio.

    Args:
        table: of :func:`ceilings`.
        l0: mean active latents.

    Returns:
        One row for each method, with the table's index: its first if it has no positive L0.
    """
    require_columns(table, ["method", "l0"])
    l0 = number("l0", l0, above=0)
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = np.abs(np.log(table["l0"].to_numpy(float) / l0))
    distance = pd.Series(np.where(np.isfinite(distance), distance, np.inf), index=table.index)
    nearest = distance.groupby(table["method"], sort=False).idxmin()
    return table.loc[nearest]


def _digest(world: World, arguments: tuple) -> str:
    """The digest of everything that decides a table of ceilings."""
    leaves, tree = jax.tree.flatten(world)
    code = own_code(world)
    settings = (str(tree), arguments, version("toysae"), FORMAT, *([code] if code else []))
    content = sha256(repr(settings).encode())
    add_arrays(content, map(np.asarray, leaves))
    return content.hexdigest()


def _seal(text: str) -> str:
    return f"# sha256 of what follows: {sha256(text.encode()).hexdigest()}"


def _cached(file: Path) -> str | None:
    """The text of a cached table; None if the file is damaged or missing."""
    try:
        seal, _, text = file.read_text().partition("\n")
    except (OSError, UnicodeDecodeError):
        return None
    return text if seal == _seal(text) else None


def _read(text: str) -> pd.DataFrame:
    """The table of a text, also of a new one, so that cached results are exactly the same."""
    table = pd.read_csv(StringIO(text))
    texts = {name: table[name].astype(object).fillna("").astype(str) for name in _TEXT}
    return table.assign(**texts)
