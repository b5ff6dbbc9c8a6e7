"""torch.onnx: export is not planned."""

from __future__ import annotations

from typing import Any, NoReturn

from .core.errors import UnsupportedError

__all__ = ["export", "is_in_onnx_export"]


def is_in_onnx_export() -> bool:
    """Return False."""
    return False


def export(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError("torch.onnx.export: farspan writes weights with save(), no ONNX graphs")
