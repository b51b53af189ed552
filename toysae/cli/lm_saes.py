"""What the commands on trained SAEs share: options that say where SAEs are, and tables as files."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..lm.saes.bench import Bench

SAES = "what toysae lm train wrote, or the folder of one SAE"


@dataclass(frozen=True, kw_only=True)
class Where:
    """Where SAEs and what they belong to are.

    Attributes:
        capture: the directory of the capture, if OUT does not name it.
        site: of the capture, if neither names it.
        model: where the model is, if it has moved.
        rows: of OUT's table.csv.
    """

    capture: Path | None = None
    site: str | None = None
    model: str | None = None
    rows: tuple[int, ...] = (0,)

    def opened(self, path: str) -> "Bench":
        """The SAEs there, with their model and text."""
        from ..lm.saes.bench import open_bench

        return open_bench(Path(path), self.capture, self.site, self.model, self.rows)


def write_tables(tables: dict, out: Path | None) -> None:
    """Writes all tables to one CSV file, with the SAE's name as the first column."""
    from pandas import concat

    from ..disk import write

    if out is not None:
        whole = concat([t.assign(sae=name)[["sae", *t]] for name, t in tables.items()])
        write(out, lambda file: whole.to_csv(file, index=False))
