"""toysae export: writes an SAE of a run as a file of ours or in SAELens' format."""

import os
from dataclasses import dataclass
from pathlib import Path

from ..errors import require, unknown
from .options import positional, read_options
from .show import OUT

_USAGE = """usage: toysae export SAE OUT [--row N] [--format saelens|toysae]

SAE: the directory of a run, of which --row N of table.csv is taken; or an SAE file or folder.
OUT: the folder to write; with --format toysae the file of an SAE trained on worlds."""
FORMATS = ("saelens", "toysae")


@dataclass(frozen=True)
class ExportOptions:
    """Options of `toysae export`.

    Attributes:
        row: of the table of a run.
        format: "saelens", or "toysae" for a file of ours.
    """

    row: int = 0
    format: str = "saelens"


def export(args: list[str]) -> None:
    """Writes an SAE in another format."""
    from ..interop import load_any, to_saelens
    from ..lm.saes.site_sae import export_site_sae as export_site
    from ..lm.saes.site_sae import is_of_site, load_site_sae, save_site_sae
    from ..runs.mark import is_marked
    from ..runs.results import Results
    from ..sae import save_sae

    path, rest = positional(args, "the directory of a run, or an SAE file or folder")
    if not path:
        OUT.print(_USAGE, markup=False, highlight=False)
        return
    out, rest = positional(rest, "the folder to write")
    o = read_options(ExportOptions, rest, "toysae export SAE OUT")
    if o.format not in FORMATS:
        raise unknown("format", o.format, FORMATS)
    _check_new(Path(out))
    if is_of_site(Path(path)):
        sae = load_site_sae(path, row=o.row)
        written = export_site(sae, out) if o.format == "saelens" else save_site_sae(sae, out)
    else:
        run = Results.load(path) if is_marked(Path(path)) else None
        plain = load_any(path) if run is None else run.sae(o.row)
        written = to_saelens(plain, out) if o.format == "saelens" else save_sae(plain, out)
    row = f", row {o.row} of {path}" if is_marked(Path(path)) else ""
    OUT.print(f"wrote {written}{row}", highlight=False, soft_wrap=True)


def _check_new(out: Path) -> None:
    """Refuses to write over files or among them.

    Raises:
        ToysaeError: there is a file, or a folder that is not empty.
    """
    taken = any(out.iterdir()) if out.is_dir() else os.path.lexists(out)
    require(not taken, f"{out} is there already: name a new folder or file")
