"""What a point of an experiment's axes may set, and the experiment at that point."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..axes import Value
from ..errors import require
from .experiment import Experiment

PLURAL = {"world": "worlds", "ratio": "ratios", "recipe": "recipes", "init": "inits",
          "size": "sizes"}  # fmt: skip
"""Axes that stand for a whole list of the experiment's, and that list."""

GRIDS = ("l1", "l0_coeff", "k", "l0_target")
_WORLDS = ("d_in", "l0", "probs", "firing", "magnitude")
OF_CELLS = ("firings_per_feature", "n_steps", "batch_size", "arithmetic", "lr", "lr_warmup",
            "lr_decay")  # fmt: skip
_WHOLE = ("d_in", "n_steps", "batch_size")
_NAMES = ("world", "recipe", "init", "probs", "firing", "magnitude", "arithmetic")


def experiment_at(e: Experiment, point: Mapping[str, Value]) -> tuple[Experiment, dict[str, Any]]:
    """The experiment at a point of its axes.

    Args:
        e: the experiment.
        point: what the point sets, see :class:`Experiment`.

    Returns:
        The experiment of that point alone, and the numbers that only recipes may read.

    Raises:
        ToysaeError: a name where a number belongs, or the reverse; two names for one thing.
    """
    require("l1_coeff" not in point, "axis l1_coeff: write l1, in the experiment's l1_convention")
    require(not {"n_steps", "firings_per_feature"} <= set(point),
            "n_steps and firings_per_feature at one point: give either")  # fmt: skip
    changes: dict[str, Any] = {}
    numbers, dials = {}, dict(e.dials)
    for name, given in point.items():
        field = PLURAL.get(name, name)
        if field in (*PLURAL.values(), *GRIDS, *_WORLDS, *OF_CELLS, "l1_warmup"):
            is_name = isinstance(given, str)
            what = "a name" if name in _NAMES else "a number"
            require(is_name == (name in _NAMES), f"axis {name} {given!r}: give {what}")
            whole = name in _WHOLE and not isinstance(given, str)
            require(not whole or given == int(given), f"axis {name} {given!r}: give a whole number")
            value = int(given) if whole else given
            changes[field] = (value,) if name in PLURAL or name in GRIDS else value
        else:
            numbers[name] = given
        if name in _WORLDS or name in numbers:
            dials[name] = changes.get(name, given)
    if "firings_per_feature" in point:
        changes["n_steps"] = None
    return replace(e, **changes, dials=dials, axes=type(e.points)()), numbers


def refuse_what_axes_set(e: Experiment, given: Collection[str]) -> None:
    """A field that the axes set point by point is none of the command line's.

    Args:
        e: the experiment.
        given: the fields that the command line sets.

    Raises:
        ToysaeError: the axes set one of them.
    """
    for axis in e.points.names:
        name = PLURAL.get(axis, axis)
        flag = name.replace("_", "-")
        require(name not in given, f"--{flag}: the axes of this experiment set {axis}, point by "
                "point: change them in its file")  # fmt: skip
