"""The old name of :mod:`toysae.points`."""

from .aliases import note
from .points import *  # noqa: F403

note("toysae.axes", "toysae.points")
