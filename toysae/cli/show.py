"""Tables on the terminal."""

from rich.console import Console
from rich.table import Table

OUT = Console()


def print_frame(frame, title: str) -> None:
    """A DataFrame as a table on the terminal; columns that never vary go into the title."""
    constant = [c for c in frame.columns if len(frame) > 1 and frame[c].nunique() == 1]
    shown = [c for c in frame.columns if c not in constant]
    fixed = ", ".join(f"{c} {frame[c].iloc[0]}" for c in constant if str(frame[c].iloc[0]))
    table = Table(title=title, caption=fixed or None)
    for column in shown:
        table.add_column(str(column), no_wrap=True)
    for row in frame[shown].itertuples(index=False):
        table.add_row(*(f"{v:.4g}" if isinstance(v, float) else str(v) for v in row))
    wide = Console(width=None if OUT.is_terminal else 160)
    wide.print(table)
