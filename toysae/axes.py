"""The old name of :mod:`toysae.points`."""

from .aliases import tell_once
from .points import *  # noqa: F403

tell_once("toysae.axes", "toysae.points")
