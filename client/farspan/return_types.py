"""farspan.return_types: the classes of several results with names, by the function's name."""

from __future__ import annotations

from typing import Any

from .core.call import return_type
from .core.op import table


def __getattr__(name: str) -> Any:
    """Return the class of what the function of this name returns."""
    base = name.removesuffix("_out")
    for op in table().values():
        if op.base == base and op.schema.return_names:
            return return_type(op)
    raise AttributeError(f"module 'farspan.return_types' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({op.base for op in table().values() if op.schema.return_names})
