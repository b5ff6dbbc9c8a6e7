"""farspan.profiler: the client's profiler with a schedule of steps. See autograd/profiler.py."""

from __future__ import annotations

import enum
import os
from collections.abc import Callable, Iterable
from typing import Any

from ..autograd import profiler as _profiler
from ..autograd.profiler import record_function
from ..core.errors import UnsupportedError

__all__ = [
    "ProfilerAction", "ProfilerActivity", "kineto_available", "profile", "record_function",
    "schedule", "supported_activities", "tensorboard_trace_handler",
]  # fmt: skip


class ProfilerActivity(enum.Enum):
    """What is recorded. The client's time is; `Session.profile` records the workers' too."""

    CPU = 0
    XPU = 1
    MTIA = 2
    CUDA = 3
    HPU = 4
    PrivateUse1 = 5


class ProfilerAction(enum.Enum):
    """What a profiler does in a step."""

    NONE = 0
    WARMUP = 1
    RECORD = 2
    RECORD_AND_SAVE = 3


def supported_activities() -> set[ProfilerActivity]:
    """Return what can be recorded."""
    return {ProfilerActivity.CPU}


def kineto_available() -> bool:
    """Return whether torch's native profiler library is there; it is not."""
    return False


def schedule(
    *, wait: int, warmup: int, active: int, repeat: int = 0, skip_first: int = 0,
    skip_first_wait: int = 0,
) -> Callable[[int], ProfilerAction]:  # fmt: skip
    """Return a function of a step's number: wait, warm up, record, and again.

    repeat: how many cycles; 0 for no end. skip_first: steps before the first cycle;
    skip_first_wait: not to wait in the first cycle.
    """
    assert wait >= 0 and warmup >= 0 and active > 0 and repeat >= 0 and skip_first >= 0, (
        "Invalid profiler schedule arguments"
    )

    def action(step: int) -> ProfilerAction:
        assert step >= 0
        if step < skip_first:
            return ProfilerAction.NONE
        step -= skip_first
        if skip_first_wait:
            step += wait
        cycle = wait + warmup + active
        if repeat > 0 and step >= repeat * cycle:
            return ProfilerAction.NONE
        step %= cycle
        if step < wait:
            return ProfilerAction.NONE
        if step < wait + warmup:
            return ProfilerAction.WARMUP
        return ProfilerAction.RECORD if step < cycle - 1 else ProfilerAction.RECORD_AND_SAVE

    return action


def tensorboard_trace_handler(
    dir_name: str, worker_name: str | None = None, use_gzip: bool = False
) -> Callable[[Any], None]:
    """Return an `on_trace_ready` that writes each trace into a folder."""
    if use_gzip:
        raise UnsupportedError("tensorboard_trace_handler(use_gzip=True) is not supported")

    def handle(prof: profile) -> None:
        os.makedirs(dir_name, exist_ok=True)
        name = worker_name or f"{os.uname().nodename}_{os.getpid()}"
        prof.export_chrome_trace(os.path.join(dir_name, f"{name}.{prof.step_num}.pt.trace.json"))

    return handle


_RECORDING = (ProfilerAction.RECORD, ProfilerAction.RECORD_AND_SAVE)


class profile:
    """Records the ops that the client issues: all inside, or in the steps that `schedule` says.

    ``on_trace_ready(prof)`` is called at the end of each cycle. Times are the client's.
    """

    def __init__(
        self, *, activities: Iterable[Any] | None = None,
        schedule: Callable[[int], ProfilerAction] | None = None,
        on_trace_ready: Callable[..., Any] | None = None, record_shapes: bool = False,
        profile_memory: bool = False, with_stack: bool = False, with_flops: bool = False,
        with_modules: bool = False, experimental_config: Any = None,
        execution_trace_observer: Any = None, acc_events: bool = False,
        use_cuda: bool | None = None, custom_trace_id_callback: Any = None,
        post_processing_timeout_s: float | None = None,
    ) -> None:  # fmt: skip
        self.activities = set(activities or supported_activities())
        self.schedule = schedule or (lambda _: ProfilerAction.RECORD)
        self.on_trace_ready = on_trace_ready
        self.record_shapes, self.with_stack = record_shapes, with_stack
        self.step_num = 0
        self.current_action = self.schedule(0)
        self.profiler: _profiler.profile | None = None
        self._on = False

    def start(self) -> None:
        """Begin with step 0."""
        self._follow(ProfilerAction.NONE)

    def stop(self) -> None:
        """End; what was recorded is handed over."""
        if self._on:
            self._end(save=True)

    def step(self) -> None:
        """Begin the next step."""
        before = self.current_action
        self.step_num += 1
        self.current_action = self.schedule(self.step_num)
        self._follow(before)

    def _follow(self, before: ProfilerAction) -> None:
        record = self.current_action in _RECORDING
        if self._on and (before is ProfilerAction.RECORD_AND_SAVE or not record):
            self._end(save=before is ProfilerAction.RECORD_AND_SAVE)
        if record and not self._on:
            self.profiler = _profiler.profile(
                record_shapes=self.record_shapes, with_stack=self.with_stack
            )
            self.profiler.__enter__()
            self._on = True

    def _end(self, save: bool) -> None:
        assert self.profiler is not None
        self.profiler.__exit__()
        self._on = False
        if save and self.on_trace_ready is not None:
            self.on_trace_ready(self)

    def __enter__(self) -> profile:
        self.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self.stop()

    def _recorded(self) -> _profiler.profile:
        if self.profiler is None:
            raise AssertionError("Profiler must be initialized before getting events")
        return self.profiler

    def events(self) -> Any:
        """Return all events of the last recording."""
        return self._recorded().function_events

    def key_averages(self, *args: Any, **kwargs: Any) -> Any:
        """Return the events of the last recording by name."""
        return self._recorded().key_averages(*args, **kwargs)

    def export_chrome_trace(self, path: str) -> None:
        """Write the last recording for chrome://tracing."""
        self._recorded().export_chrome_trace(path)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        self._recorded().export_stacks(path, metric)
