"""torch.serialization: saving and loading; nothing but data is ever read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

from ._io import load, save
from .types import FileLike

__all__ = ["FileLike", "add_safe_globals", "load", "safe_globals", "save"]


def add_safe_globals(safe_globals: list[Callable[..., Any]]) -> None:
    """Accept torch's list of classes; files with objects of classes are refused all the same."""


def safe_globals(safe_globals: list[Callable[..., Any]]) -> Any:
    """Return a context in which nothing changes: files hold data only."""
    return nullcontext()
