"""torch.serialization: saving and loading; nothing but data is ever read."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, TypeAlias

from ._io import load, save
from .core.dtype import Device as device
from .types import FileLike

MAP_LOCATION: TypeAlias = (
    Callable[[Any, str], Any] | device | str | dict[str, str] | None
)  #: what `load` takes for `map_location`

__all__ = ["MAP_LOCATION", "FileLike", "add_safe_globals", "clear_safe_globals", "get_safe_globals",
           "load", "safe_globals", "save"]  # fmt: skip


def add_safe_globals(safe_globals: list[Callable[..., Any]]) -> None:
    """Accept torch's list of classes; files with objects of classes are refused all the same."""


def get_safe_globals() -> list[Any]:
    """Return the empty list: no file may name a class."""
    return []


def clear_safe_globals() -> None:
    """Forget the classes that files may name: there are none."""


def safe_globals(safe_globals: list[Callable[..., Any]]) -> Any:
    """Return a context in which nothing changes: files hold data only."""
    return nullcontext()
