"""torch._tensor_str: the settings of printing, for libraries that read them."""

from __future__ import annotations

from typing import Any

from ._format import get_printoptions
from ._interop import show


def __getattr__(name: str) -> Any:
    if name == "PRINT_OPTS":  # as they are now
        return get_printoptions()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _str(self: Any, *, tensor_contents: Any = None) -> str:
    """Return what ``repr(tensor)`` is."""
    return show(self)
