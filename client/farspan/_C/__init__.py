"""What libraries ask of torch's C++ module by its private names, answered by farspan's own.

Nothing of C++ is here; a name that is not listed does not exist.
"""

from __future__ import annotations

from typing import Any

from .. import Generator
from .._functions import get_default_device
from .._tensor import TensorMeta as _TensorMeta
from ..core.errors import LinalgError as _LinAlgError
from ..nn.module import _parse_to

__all__ = ["Generator", "_LinAlgError", "_TensorMeta"]


class _nn:
    """The private functions below nn."""

    _parse_to = staticmethod(_parse_to)


def _get_default_device() -> str:
    """Return the kind of device that factories make tensors on: "cpu"."""
    return str(get_default_device().type)


def _disabled_torch_function_impl(
    func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
) -> Any:
    """Return func(*args, **kwargs): the ``__torch_function__`` of a class that has none."""
    return func(*args, **(kwargs or {}))


def _log_api_usage_once(event: str) -> None:
    """Record nothing: no usage is reported."""


def _get_tracing_state() -> None:
    """Return None: nothing is traced."""
