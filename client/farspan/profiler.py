"""torch.profiler: schedules and ranges run as they do in torch; recording is refused.

A client's own time is seen by Python's profilers, a worker's by the service's metrics.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from .core.errors import UnsupportedError

__all__ = [
    "ProfilerAction", "ProfilerActivity", "kineto_available", "profile", "record_function",
    "schedule", "supported_activities", "tensorboard_trace_handler",
]  # fmt: skip

_F = TypeVar("_F", bound=Callable[..., Any])


class ProfilerActivity(enum.Enum):
    """What torch's profiler can watch."""

    CPU = 0
    XPU = 1
    CUDA = 2
    HPU = 3
    MTIA = 4
    PrivateUse1 = 5


class ProfilerAction(enum.Enum):
    """What to do in one step of a schedule."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3
    DEVICE_STOPPED = 4


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0,
    skip_first_wait: int = 0,
) -> Callable[[int], ProfilerAction]:  # fmt: skip
    """Return the action of each step: after `skip_first`, cycles of wait, warmup, active.

    repeat: cycles, 0 for no end; skip_first_wait: nonzero if the first cycle does not wait.
    """
    cycle = wait + warmup + active

    def action(step: int) -> ProfilerAction:
        step -= skip_first
        if step >= 0 and skip_first_wait:
            step += wait
        done, at = divmod(step, cycle)
        if step < 0 or (repeat and done >= repeat) or at < wait:
            return ProfilerAction.NONE
        if at < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if at < cycle - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


class profile:
    """A recording of operations, in torch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(
            "torch.profiler.profile: farspan records no operations; time the program with "
            "time.perf_counter() around .item(), or the client by Python's cProfile"
        )


def tensorboard_trace_handler(*args: Any, **kwargs: Any) -> NoReturn:
    """Raise UnsupportedError: there is no recording to write."""
    raise UnsupportedError("torch.profiler.tensorboard_trace_handler: farspan records no traces")


def kineto_available() -> bool:
    """Return False."""
    return False


def supported_activities() -> set[ProfilerActivity]:
    """Return the empty set."""
    return set()


class record_function:
    """Names a range of the program for a profiler; works as a context and as a decorator."""

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name = name
        self.args = args

    def __enter__(self) -> record_function:
        return self

    def __exit__(self, *error: object) -> None:
        """End the range."""

    def __call__(self, func: _F) -> _F:
        @functools.wraps(func)
        def ranged(*args: Any, **kwargs: Any) -> Any:
            with type(self)(self.name, self.args):
                return func(*args, **kwargs)

        return ranged  # type: ignore[return-value]
