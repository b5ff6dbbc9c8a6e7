"""torch.distributed: a program that asks is told it is alone; workers are reached as devices."""

from __future__ import annotations

from typing import Any, NoReturn

from ..core.errors import UnsupportedError

__all__ = ["get_rank", "get_world_size", "init_process_group", "is_available", "is_initialized"]


def is_available() -> bool:
    """Return False: there are no process groups; one program drives all workers."""
    return False


def is_initialized() -> bool:
    """Return False."""
    return False


def get_rank(group: Any = None) -> int:
    """Raise ValueError, as torch does where no process group was made."""
    raise ValueError("Default process group has not been initialized: farspan has none")


get_world_size = get_rank


def init_process_group(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError(
        "torch.distributed: one program drives all workers of a session; ask for several with "
        'connect(devices="cpu:2") and move tensors with x.to("cpu:1")'
    )
