"""torch.compile, as far as values go: the same results, operation by operation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .core.errors import ArgumentError


def compile(
    model: Callable[..., Any] | None = None,
    *,
    fullgraph: bool = False,
    dynamic: bool | None = None,
    backend: str | Callable[..., Any] = "inductor",
    mode: str | None = None,
    options: dict[str, Any] | None = None,
    disable: bool = False,
    **kwargs: Any,
) -> Any:
    """Return the function or module itself, which runs eagerly.

    A compiled function gives in torch what the function gives, sooner. Here nothing is sooner
    yet: operations go out one by one, batched on the wire. Without ``model`` it is a decorator.
    Raises RuntimeError if mode and options are both given, TypeError for no callable.
    """
    if mode is not None and options is not None:
        raise RuntimeError(
            "Either mode or options can be specified, but both can't be specified at the same time."
        )
    if model is None:
        return compile
    if not callable(model):
        raise ArgumentError(f"compile() takes a function or a module, not {type(model).__name__}")
    return model
