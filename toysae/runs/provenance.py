"""What stands beside numbers: versions, commit, device and time."""

import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def provenance() -> dict[str, Any]:
    """All of it, as JSON holds it."""
    names = ("toysae", "jax", "jaxlib", "flax", "optax", "numpy")
    device = jax.devices()[0]
    return {
        "versions": {name: version(name) for name in names},
        "commit": _commit(),
        "python": platform.python_version(),
        "backend": jax.default_backend(),
        "device": f"{len(jax.devices())} x {device.device_kind}",
        "cpu_cores": os.cpu_count(),
        "written": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit of the checkout that this code runs from, if it does run from one."""
    root = Path(__file__).parents[2]
    if not (root / "pyproject.toml").exists():
        return None
    command = ["git", "-C", str(root), "describe", "--always", "--dirty"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None
