"""torch.compiler: asking about compilation, and leaving functions out of it."""

from __future__ import annotations

from typing import Any

from ._compile import compile

__all__ = [
    "allow_in_graph", "assume_constant_result", "compile", "cudagraph_mark_step_begin", "disable",
    "is_compiling", "is_dynamo_compiling", "is_exporting", "list_backends", "reset", "set_stance",
]  # fmt: skip


def is_compiling() -> bool:
    """Return False: every operation runs as it is issued."""
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
    """Forget what was compiled: nothing."""


cudagraph_mark_step_begin = reset


def set_stance(stance: str = "default", **kwargs: Any) -> Any:
    """Return a context in which functions run eagerly, as they do outside of it."""
    import contextlib

    return contextlib.nullcontext()


def list_backends(exclude_tags: Any = ()) -> list[str]:
    """Return the names that `compile(backend=)` knows."""
    return ["eager"]
