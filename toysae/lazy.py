"""Packages that are imported where they are first used: pandas takes about a third as long as jax,
and training needs no table."""

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
