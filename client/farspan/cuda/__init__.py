"""farspan.cuda: the GPUs of the current session; the client itself has and needs none."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from .. import _state
from ..core.dtype import Device


def _devices() -> list[Device]:
    return [d for d in _state.current().devices if d.type == "cuda"]


def is_available() -> bool:
    """Return whether the session has a GPU.

    >>> import farspan
    >>> farspan.cuda.is_available()
    False
    """
    return bool(_devices())


def device_count() -> int:
    """Return how many GPUs the session has."""
    return len(_devices())


def current_device() -> int:
    """Return the index of the session's first GPU."""
    found = _devices()
    if not found:
        from ..core.errors import DeviceError

        raise DeviceError('this session has no GPU; connect with devices="cuda:1"')
    return found[0].index or 0


def synchronize(device: Any = None) -> None:
    """Wait until all commands have run, on one device or on all."""
    session = _state.current()
    session.synchronize(None if device is None else session.index_of(Device(device)))


def manual_seed(seed: int) -> None:
    """Seed the generators of the session."""
    from .._functions import manual_seed as seed_all

    seed_all(seed)


manual_seed_all = manual_seed


def __getattr__(name: str) -> Any:
    if name == "amp":
        return import_module(f"{__name__}.amp")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
