"""torch._dynamo, for libraries that ask about compilation; `farspan.compile` is elsewhere."""

from __future__ import annotations

from typing import Any

from ..compiler import allow_in_graph, assume_constant_result, disable, is_compiling, reset
from . import eval_frame
from .eval_frame import OptimizedModule

__all__ = [
    "OptimizedModule", "allow_in_graph", "assume_constant_result", "config", "disable",
    "eval_frame", "graph_break", "is_compiling", "mark_dynamic", "mark_static",
    "mark_static_address", "maybe_mark_dynamic", "reset",
]  # fmt: skip


class config:
    """The compiler's switches; they are kept as set, and switch nothing."""


def graph_break(msg: str = "") -> None:
    """Do nothing: there is no graph to break."""


def mark_dynamic(t: Any, *args: Any, **kwargs: Any) -> None:
    """Do nothing: other sizes are another kind of call, traced once, like this one."""


mark_static = mark_static_address = maybe_mark_dynamic = mark_dynamic
