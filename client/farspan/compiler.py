"""torch.compiler: asking about compilation, and leaving functions out of it."""

from __future__ import annotations

from typing import Any

from ._compile import BACKENDS, compile
from ._compile import stance as _stance

__all__ = [
    "allow_in_graph", "assume_constant_result", "compile", "cudagraph_mark_step_begin", "disable",
    "is_compiling", "is_dynamo_compiling", "is_exporting", "list_backends", "reset", "set_stance",
]  # fmt: skip


def is_compiling() -> bool:
    """Return False: a function is traced by running it, with all that it does in Python."""
    return False


is_dynamo_compiling = is_exporting = is_compiling


def disable(fn: Any = None, recursive: bool = True, *, reason: str | None = None) -> Any:
    """Return the function, which runs eagerly in any case; works as a decorator with arguments."""
    return fn if fn is not None else lambda f: f


def allow_in_graph(fn: Any) -> Any:
    """Return the function."""
    return fn


assume_constant_result = allow_in_graph


def reset() -> None:
    """Forget what was compiled: each function is traced anew at its next call."""
    _stance.resets += 1


def cudagraph_mark_step_begin() -> None:
    """Do nothing: what a step made is never overwritten by the next one."""


class set_stance:
    """Let compiled functions run as programs (``"default"``) or as they are (``"force_eager"``).

    From now on, or within a ``with``. Other stances are taken for ``"default"``.
    """

    def __init__(self, stance: str = "default", **kwargs: Any) -> None:
        self._before = _stance.eager
        _stance.eager = stance == "force_eager"

    def __enter__(self) -> None:
        return None

    def __exit__(self, *exc: object) -> None:
        _stance.eager = self._before


def list_backends(exclude_tags: Any = ()) -> list[str]:
    """Return the names that `compile(backend=)` knows."""
    return list(BACKENDS[:2])
