"""torch._tensor_str: the settings of printing, for libraries that read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ._format import get_printoptions
from ._interop import show


def __getattr__(name: str) -> Any:
    if name == "PRINT_OPTS":  # as they are now
        return get_printoptions()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _tensor_str(self: Any, indent: int) -> str:
    """Return the brackets and numbers of a tensor, its lines moved in by `indent` characters."""
    import numpy as np

    from ._format import _PREFIX, format_tensor

    values = self.detach()._fetch()
    shown = replace(get_printoptions(), linewidth=get_printoptions().linewidth + len(_PREFIX))
    text = format_tensor(
        tuple(self.shape),
        self.dtype.name,
        lambda indices: values[np.ix_(*indices)] if values.ndim else values,
        default_dtype=self.dtype.name,
        options=replace(shown, linewidth=shown.linewidth - indent),
    )
    body = text[len(_PREFIX) : -1]
    return body.replace("\n" + " " * len(_PREFIX), "\n" + " " * indent)


def _str(self: Any, *, tensor_contents: Any = None) -> str:
    """Return what ``repr(tensor)`` is."""
    return show(self)
