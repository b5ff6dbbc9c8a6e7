"""torch.fx: tracing programs into graphs is not planned; libraries find the names they test for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from ..core.errors import UnsupportedError

__all__ = [
    "Graph", "GraphModule", "Interpreter", "Node", "Proxy", "Tracer", "Transformer",
    "symbolic_trace", "wrap",
]  # fmt: skip

_F = TypeVar("_F", bound="Callable[..., Any] | str")


class _Absent:
    """A class without objects: ``isinstance(x, torch.fx.GraphModule)`` is False."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(
            f"torch.fx.{type(self).__name__}: farspan does not trace programs; call them instead"
        )


class Graph(_Absent):
    """A traced program, in torch."""


class GraphModule(_Absent):
    """A module made of a Graph, in torch."""


class Interpreter(_Absent):
    """What runs a Graph node by node, in torch."""


class Node(_Absent):
    """One step of a Graph, in torch."""


class Proxy(_Absent):
    """What a Tracer passes for a value, in torch."""


class Tracer(_Absent):
    """What makes a Graph of a module, in torch."""


class Transformer(Interpreter):
    """An Interpreter that writes a new Graph, in torch."""


def symbolic_trace(root: Any, concrete_args: Any = None) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError("torch.fx.symbolic_trace: farspan does not trace programs")


def wrap(fn_or_name: _F) -> _F:
    """Return the function: nothing is traced, so it is no leaf of anything."""
    return fn_or_name
