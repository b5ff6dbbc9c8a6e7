"""farspan.cpu: what torch.cpu tells device-agnostic programs; streams and events mean nothing."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from types import MappingProxyType
from typing import Any

from .. import _state
from .._memory import NAMES as _MEMORY
from .._memory import Memory as _Memory
from ..core.dtype import Device
from . import amp as amp

__all__ = [
    "Event", "Stream", "StreamContext", "current_device", "current_stream", "device_count",
    "get_capabilities", "is_available", "is_initialized", "set_device", "stream", "synchronize",
    *_MEMORY,
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name in _MEMORY:
        return getattr(_Memory("cpu"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def is_available() -> bool:
    """Return True."""
    return True


def is_initialized() -> bool:
    """Return True."""
    return True


def device_count() -> int:
    """Return 1, as torch does however many processors there are."""
    return 1


def current_device() -> str:
    """Return "cpu"."""
    return "cpu"


def set_device(device: Any) -> None:
    """Do nothing: operations run where their tensors are."""


def synchronize(device: Any = None) -> None:
    """Wait until all commands have run, on one CPU device or on all of the session."""
    session = _state.current()
    session.synchronize(None if device is None else session.index_of(Device(device)))


def get_capabilities() -> Mapping[str, Any]:
    """Return nothing: the processors are the workers', which may differ."""
    return MappingProxyType({})


class Stream:
    """Commands of one device run in the order they were issued; there is one stream."""

    def __init__(self, priority: int = -1) -> None:
        pass

    def wait_stream(self, stream: Stream) -> None:
        """Do nothing."""

    def record_event(self) -> None:
        """Do nothing."""

    def wait_event(self, event: Event) -> None:
        """Do nothing."""


class Event:
    """A point in the one stream; always reached, since what comes after it waits anyway."""

    def query(self) -> bool:
        """Return True."""
        return True

    def record(self, stream: Stream | None = None) -> None:
        """Do nothing."""

    def synchronize(self) -> None:
        """Do nothing."""

    def wait(self, stream: Stream | None = None) -> None:
        """Do nothing."""


_current = [Stream()]


def current_stream(device: Any = None) -> Stream:
    """Return the stream that a StreamContext has set."""
    return _current[-1]


class StreamContext(AbstractContextManager[None]):
    """Makes a stream the current one, which changes nothing else."""

    def __init__(self, stream: Stream | None) -> None:
        self.stream = stream

    def __enter__(self) -> None:
        if self.stream is not None:
            _current.append(self.stream)

    def __exit__(self, *exc: object) -> None:
        if self.stream is not None:
            _current.pop()


def stream(stream: Stream | None) -> AbstractContextManager[None]:
    """Return a context in which the stream is current."""
    return StreamContext(stream)
