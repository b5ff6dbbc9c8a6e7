"""torch.autograd.profiler: the older names of torch.profiler's."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnsupportedError
from ..profiler import profile, record_function

__all__ = ["EventList", "emit_itt", "emit_nvtx", "profile", "record_function"]


class EventList(list[Any]):
    """Recorded events, in torch; nothing makes one here."""


class emit_nvtx:
    """Marks for another program's profiler, in torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("torch.autograd.profiler: farspan emits no marks for profilers")


class emit_itt(emit_nvtx):
    """Marks for another program's profiler, in torch."""
