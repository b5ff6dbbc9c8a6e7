"""torch.distributed: a program that asks is told it is alone; workers are reached as devices.

The names of process groups exist, so that libraries import; using them is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Any, NoReturn

from ..core.errors import UnsupportedError

__all__ = [
    "ProcessGroup", "ReduceOp", "all_gather", "all_gather_into_tensor", "all_gather_object",
    "all_reduce", "all_to_all", "all_to_all_single", "barrier", "broadcast",
    "broadcast_object_list", "destroy_process_group", "gather", "get_backend", "get_rank",
    "get_world_size", "group", "init_process_group", "irecv", "is_available", "is_initialized",
    "isend", "new_group", "recv", "reduce", "reduce_scatter", "reduce_scatter_tensor", "scatter",
    "send",
]  # fmt: skip


def is_available() -> bool:
    """Return False: there are no process groups; one program drives all workers."""
    return False


def is_initialized() -> bool:
    """Return False."""
    return False


def is_torchelastic_launched() -> bool:
    """Return False: no launcher of process groups started this program."""
    return False


def _alone(name: str) -> Callable[..., NoReturn]:
    def alone(*args: Any, **kwargs: Any) -> NoReturn:
        raise ValueError(
            f"Default process group has not been initialized: {name}() needs one, farspan has none"
        )

    alone.__name__ = alone.__qualname__ = name
    alone.__doc__ = "Raise ValueError, as torch does where no process group was made."
    return alone


get_rank, get_world_size, get_backend, barrier = map(
    _alone, ("get_rank", "get_world_size", "get_backend", "barrier")
)
all_gather, all_gather_into_tensor, all_gather_object, gather = map(
    _alone, ("all_gather", "all_gather_into_tensor", "all_gather_object", "gather")
)
all_reduce, reduce, reduce_scatter, reduce_scatter_tensor = map(
    _alone, ("all_reduce", "reduce", "reduce_scatter", "reduce_scatter_tensor")
)
all_to_all, all_to_all_single, broadcast, broadcast_object_list, scatter = map(
    _alone, ("all_to_all", "all_to_all_single", "broadcast", "broadcast_object_list", "scatter")
)
send, recv, isend, irecv, new_group, destroy_process_group = map(
    _alone, ("send", "recv", "isend", "irecv", "new_group", "destroy_process_group")
)


def init_process_group(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UnsupportedError."""
    raise UnsupportedError(
        "torch.distributed: one program drives all workers of a session; ask for several with "
        'connect(devices="cpu:2") and move tensors with x.to("cpu:1")'
    )


class ProcessGroup:
    """Processes that compute together, in torch; nothing is one here."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        init_process_group()


class group:
    """Where torch keeps its groups; there is none."""

    WORLD: ProcessGroup | None = None


class ReduceOp(enum.Enum):
    """How a reduction between processes combines, in torch."""

    SUM = 0
    AVG = 1
    PRODUCT = 2
    MIN = 3
    MAX = 4
    BAND = 5
    BOR = 6
    BXOR = 7
    PREMUL_SUM = 8
