"""Says beside each figure whether the same command still gives its numbers.

`python figures/stale.py` writes a line to figures/NAME/STALE.txt where the numbers of that folder,
its CSV and JSON files, were committed without one of the changes below, and removes it elsewhere.
It needs git and a whole clone. Numbers drawn again and not committed yet have every change.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CONTENT = "toysae/digests.py"
BEFORE = "toysae/sweeps/content.py"
"""Where FORMAT stands, and where it stood."""

CHANGES = {
    "9c2aec9": (
        "worlds of up to 256 features that fire independently take one random draw a coefficient",
        "failure_modes fista_vs_sae init_schemes label_free_signals middling_mcs recovery sae_zoo "
        "worlds_gallery",
    ),
    "08641cc": ("SAEs are compared with the next larger one of another seed", "label_free_signals"),
    "1f2e659": (
        "inits on a layer draw from what is trained on, and curves are of what is held out",
        "lm_inits",
    ),
    "FORMAT = 2": (
        "singular vectors and eigenvectors are computed in another way",
        "init_schemes interim_report lm_inits lm_smollm recovery sae_zoo worlds_gallery",
    ),
    "FORMAT = 3": (
        "hedging, FISTA's loss and what counts as diverged are measured in another way",
        "failure_modes fista_vs_sae",
    ),
    "FORMAT = 4": (
        "resampled latents start at inputs of their own, of equal activations just k are kept, and "
        "the bias is taken out before bfloat16 rounds",
        "arithmetic lm_inits lm_smollm sae_zoo",
    ),
    "3320158": ("TopK is asked for whole numbers of latents alone", "sae_zoo"),
    "1ce2739": ("the samples of a world are drawn by its own seed", "tied_vs_untied"),
    "8427028": (
        "toy models are drawn by other seeds, and the tables have other names",
        "superposition_phases",
    ),
    "FORMAT = 5": (
        "the columns l1 and group are called sparsity and cell",
        "init_schemes interim_report label_free_signals recovery sae_zoo what_is_found",
    ),
}
"""What made the same settings give other numbers, oldest first; a new one is a row here.

Its commit, or the line that it brings into CONTENT, since a commit cannot name itself; what is
different since then; and the folders whose columns it renamed, or whose numbers it moved by more
than rounding, which differs between machines too."""


def stale(root: Path = ROOT, changes: dict[str, tuple[str, str]] = CHANGES) -> dict[str, str]:
    """The line of each folder that is stale, by the folder's name.

    Raises:
        subprocess.CalledProcessError: a change names a commit that is not in the history.
    """
    rows = [(_commit(root, since), what, names) for since, (what, names) in changes.items()]
    lines = {}
    for folder in folders(root):
        drawn = _drawn(root, folder.name)
        lacks = [
            f"{what} ({_told(root, commit)})"
            for commit, what, names in rows
            if drawn and folder.name in names.split() and not _has(root, drawn, commit)
        ]
        if lacks:
            lines[folder.name] = (
                f"Drawn at commit {_told(root, drawn)}. Since then: {'; '.join(lacks)}. "
                "The same command gives other numbers or columns now."
            )
    return lines


def folders(root: Path = ROOT) -> list[Path]:
    """Those of figures."""
    return sorted(path for path in (root / "figures").iterdir() if path.is_dir())


def whole_clone(root: Path = ROOT) -> bool:
    """Whether all of this repository's history is here."""
    try:
        told = _git(root, "rev-parse", "--is-shallow-repository", "--show-toplevel").splitlines()
    except (OSError, subprocess.CalledProcessError):
        return False
    return told[0] == "false" and Path(told[1]).resolve() == root.resolve()


def _commit(root: Path, since: str) -> str:
    """The commit of a change, empty if it is not committed yet."""
    if not since.startswith("FORMAT"):
        return _git(root, "rev-parse", "--verify", f"{since}^{{commit}}")
    touched = _git(root, "log", "--reverse", "--format=%H", f"-G^{since}$", "--", CONTENT, BEFORE)
    return touched.split("\n")[0]  # the next count removes the line again


def _drawn(root: Path, name: str) -> str:
    """The newest commit of a folder's numbers, empty if there are none or others by now."""
    files = [f"figures/{name}/*.csv", f"figures/{name}/*.json"]
    changed = _git(root, "status", "--porcelain", "--", *files)
    return "" if changed else _git(root, "log", "-1", "--format=%H", "--", *files)


def _has(root: Path, drawn: str, commit: str) -> bool:
    """Whether a change was there when the numbers were drawn."""
    return bool(commit) and not _git(root, "rev-list", "-1", commit, f"^{drawn}")


def _told(root: Path, commit: str) -> str:
    return _git(root, "log", "-1", "--format=%h, %as", commit) if commit else "not committed yet"


def _git(root: Path, *arguments: str) -> str:
    command = ["git", "-C", str(root), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main() -> None:
    """Writes and removes the files."""
    if not whole_clone():
        sys.exit("figures/stale.py needs this repository's whole history: clone it, not shallowly")
    lines = stale()
    for folder in folders():
        file = folder / "STALE.txt"
        if folder.name in lines:
            file.write_text(lines[folder.name] + "\n", encoding="utf-8")
            print(f"{folder.name}: {lines[folder.name]}")
        else:
            file.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
