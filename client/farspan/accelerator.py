"""farspan.accelerator: the session's GPUs, by whatever name torch knows accelerators."""

from __future__ import annotations

from typing import Any

from . import _state, cuda
from ._memory import NAMES as _MEMORY
from ._memory import Memory as _Memory
from .core.dtype import Device

__all__ = [
    "current_accelerator", "current_device_idx", "current_device_index", "current_stream",
    "device_count", "is_available", "set_device_idx", "set_device_index", "synchronize", *_MEMORY,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MEMORY:
        return getattr(_Memory("cuda"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_available() -> bool:
    """Return whether the session has a GPU."""
    return cuda.is_available()


def device_count() -> int:
    """Return how many GPUs the session has."""
    return cuda.device_count()


def current_accelerator(check_available: bool = False) -> Device | None:
    """Return ``device(type="cuda")`` if the session has a GPU, else None."""
    return Device("cuda") if is_available() else None


def current_device_index() -> int:
    """Return the index of the session's first GPU. Raises DeviceError if it has none."""
    return cuda.current_device()


current_device_idx = current_device_index


def set_device_index(device: Any, /) -> None:
    """Accept the first GPU, which ``cuda`` without an index names."""
    cuda.set_device(device)


set_device_idx = set_device_index


def current_stream(device: Any = None, /) -> cuda.Stream:
    """Return the one stream of a device."""
    return cuda.current_stream(device)


def synchronize(device: Any = None, /) -> None:
    """Wait until all commands have run."""
    _state.current().synchronize()
