"""Packages that are imported where they are first used, since a command that needs none waits for
none: pandas takes a tenth of what jax does, and half of what is computed has no table."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas as pd
else:

    class _Lazy:
        def __init__(self, name: str):
            self.__name__ = name

        def __getattr__(self, attribute: str):
            value = getattr(import_module(self.__name__), attribute)
            setattr(self, attribute, value)  # found at once from now on
            return value

    pd = _Lazy("pandas")

__all__ = ["pd"]
