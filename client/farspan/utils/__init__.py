"""Namespaces below ``farspan.utils``: ``data`` (datasets, samplers, loaders), ``hooks`` and more.

What torch has here as soon as it is imported is loaded when it is first named.
"""

import importlib
from typing import Any

from farspan.utils import data, hooks

__all__ = ["data", "hooks"]

_LATER = ("_foreach_utils", "_pytree", "checkpoint", "dlpack")


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return importlib.import_module(f"farspan.utils.{name}")
    raise AttributeError(f"module 'farspan.utils' has no attribute {name!r}")
