"""What a point of an experiment may set, and the experiment at that point."""

from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from ..errors import require
from ..points import Value
from .experiment import Experiment

PLURAL = {"world": "worlds", "ratio": "ratios", "recipe": "recipes", "init": "inits",
          "size": "sizes"}  # fmt: skip
"""Dimensions that stand for a whole list of the experiment's, and that list."""

GRIDS = ("l1_coeff", "l0_coeff", "k", "l0_target")
_WORLDS = ("d_in", "l0", "probs", "firing", "magnitude")
OF_CELLS = ("firings_per_feature", "n_steps", "batch_size", "arithmetic", "lr", "lr_warmup",
            "lr_decay")  # fmt: skip
_WHOLE = ("d_in", "n_steps", "batch_size")
_NAMES = ("world", "recipe", "init", "probs", "firing", "magnitude", "arithmetic")


def experiment_at(e: Experiment, point: Mapping[str, Value]) -> tuple[Experiment, dict[str, Any]]:
    """The experiment at one of its points.

    Args:
        e: the experiment.
        point: what the point sets, see :class:`Experiment`.

    Returns:
        The experiment of that point alone, and the numbers that only recipes may read.

    Raises:
        ToysaeError: a name where a number belongs, or the reverse; two names for one thing.
    """
    require(not {"n_steps", "firings_per_feature"} <= set(point),
            "n_steps and firings_per_feature at one point: give either")  # fmt: skip
    changes: dict[str, Any] = {}
    numbers, dials = {}, dict(e.dials)
    for name, given in point.items():
        field = PLURAL.get(name, name)
        if field in (*PLURAL.values(), *GRIDS, *_WORLDS, *OF_CELLS, "l1_warmup"):
            is_name = isinstance(given, str)
            what = "a name" if name in _NAMES else "a number"
            require(is_name == (name in _NAMES), f"dimension {name} {given!r}: give {what}")
            whole = name in _WHOLE and not isinstance(given, str)
            require(not whole or given == int(given),
                    f"dimension {name} {given!r}: give a whole number")  # fmt: skip
            value = int(given) if whole else given
            changes[field] = (value,) if name in PLURAL or name in GRIDS else value
        else:
            numbers[name] = given
        if name in _WORLDS or name in numbers:
            dials[name] = changes.get(name, given)
    if "firings_per_feature" in point:
        changes["n_steps"] = None
    return replace(e, **changes, dials=dials, points=type(e.points)()), numbers


def refuse_what_points_set(e: Experiment, given: Collection[str]) -> None:
    """A field that each point sets for itself is none of the command line's.

    Args:
        e: the experiment.
        given: the fields that the command line sets.

    Raises:
        ToysaeError: the points set one of them.
    """
    for dimension in e.points.names:
        name = PLURAL.get(dimension, dimension)
        flag = name.replace("_", "-")
        require(name not in given, f"--{flag}: the points of this experiment set {dimension}, each "
                "for itself: change them in its file")  # fmt: skip
