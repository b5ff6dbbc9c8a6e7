"""torch._dynamo.eval_frame: the class of compiled modules, which no object has."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnsupportedError

__all__ = ["OptimizedModule", "is_dynamo_supported"]


class OptimizedModule:
    """What torch.compile makes of a module in torch; here it returns the module itself."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("torch.compile returns the module itself here; nothing wraps it")


def is_dynamo_supported() -> bool:
    """Return False."""
    return False
