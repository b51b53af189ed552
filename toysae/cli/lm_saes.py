"""What the commands about trained SAEs share: where SAEs are, and tables as files."""

from dataclasses import dataclass
from pathlib import Path

SAES = "what toysae lm train wrote, or the folder of one SAE"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where SAEs and what they belong to are found.

    Attributes:
        capture: the directory of the capture, if OUT does not say it.
        site: of the capture, if neither says it.
        model: where the model is, if it has moved.
        rows: of OUT's table.csv.
    """

    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    rows: tuple[int, ...] = (0,)


def write_tables(tables: dict, out: Path | None) -> None:
    """All of them as one CSV file, the SAE's name in front."""
    from pandas import concat

    from ..disk import write

    if out is not None:
        whole = concat([t.assign(sae=name)[["sae", *t]] for name, t in tables.items()])
        write(out, lambda file: whole.to_csv(file, index=False))
