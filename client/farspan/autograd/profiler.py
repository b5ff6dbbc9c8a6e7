"""Profiling on the client: how long each op took to issue, and what was between the marks.

An op returns when its command is written, not when it has run, so these are the client's costs: of
Python, of metadata, of waits. `Session.profile` also shows the wire and the workers' kernels.
"""

from __future__ import annotations

import functools
import json
import os
import threading
import time
from typing import Any

from .. import _interpose
from .._sites import call_site, describe_site
from ..core.errors import UnsupportedError

__all__ = ["EventList", "FunctionEvent", "profile", "record_function"]


class FunctionEvent:
    """One op or marked region: its name, when it began and ended (microseconds), what was in it."""

    def __init__(self, id_: int, name: str, thread: int, start: float) -> None:
        self.id, self.name, self.key, self.thread = id_, name, name, thread
        self.start, self.end = start, start
        self.cpu_children: list[FunctionEvent] = []
        self.cpu_parent: FunctionEvent | None = None
        self.input_shapes: list[Any] = []
        self.stack: list[str] = []
        self.is_user_annotation = False
        self.count = 1

    @property
    def cpu_time_total(self) -> float:
        """Microseconds from begin to end."""
        return self.end - self.start

    cpu_time = cpu_time_total

    @property
    def self_cpu_time_total(self) -> float:
        """Microseconds without those of what was in it."""
        return self.cpu_time_total - sum(c.cpu_time_total for c in self.cpu_children)

    def __repr__(self) -> str:
        return (
            f"<FunctionEvent id={self.id} name={self.name} cpu_time={_time(self.cpu_time)} "
            f"start_us={self.start:.3f} end_us={self.end:.3f} "
            f"cpu_children={[c.id for c in self.cpu_children]} thread={self.thread}>"
        )


class FunctionEventAvg:
    """All events of one name."""

    def __init__(self, key: str) -> None:
        self.key = key
        self.count = 0
        self.cpu_time_total = self.self_cpu_time_total = 0.0
        self.input_shapes: Any = None
        self.stack: list[str] = []

    def add(self, event: Any) -> FunctionEventAvg:
        self.count += event.count
        self.cpu_time_total += event.cpu_time_total
        self.self_cpu_time_total += event.self_cpu_time_total
        return self

    @property
    def cpu_time(self) -> float:
        """Microseconds of one call, on average."""
        return self.cpu_time_total / self.count if self.count else 0.0

    def __repr__(self) -> str:
        return (
            f"<FunctionEventAvg key={self.key} self_cpu_time={_time(self.self_cpu_time_total)} "
            f"cpu_time={_time(self.cpu_time)}>"
        )


def _time(us: float) -> str:
    if us >= 1e6:
        return f"{us / 1e6:.3f}s"
    return f"{us / 1e3:.3f}ms" if us >= 1e3 else f"{us:.3f}us"


class EventList(list[Any]):
    """Events, or their averages by name; prints as a table."""

    @property
    def self_cpu_time_total(self) -> float:
        return float(sum(e.self_cpu_time_total for e in self))

    def key_averages(
        self, group_by_input_shapes: bool = False, group_by_stack_n: int = 0, **kwargs: Any
    ) -> EventList:
        """Return one entry a name (and shapes, and innermost lines), with sums."""
        found: dict[Any, FunctionEventAvg] = {}
        for event in self:
            key: tuple[Any, ...] = (event.key,)
            if group_by_input_shapes:
                key += (str(event.input_shapes),)
            if group_by_stack_n:
                key += tuple(event.stack[:group_by_stack_n])
            entry = found.get(key)
            if entry is None:
                entry = found[key] = FunctionEventAvg(event.key)
                entry.input_shapes, entry.stack = event.input_shapes, event.stack
            entry.add(event)
        return EventList(found.values())

    def total_average(self) -> FunctionEventAvg:
        total = FunctionEventAvg("Total")
        for event in self:
            total.add(event)
        return total

    def table(
        self, sort_by: str | None = None, row_limit: int = 100, max_src_column_width: int = 75,
        max_name_column_width: int = 55, header: str | None = None,
        top_level_events_only: bool = False, **kwargs: Any,
    ) -> str:  # fmt: skip
        """Return the events as text, sorted by an attribute such as ``cpu_time_total``."""
        rows = sorted(self, key=lambda e: -getattr(e, sort_by)) if sort_by else list(self)
        if top_level_events_only:
            rows = [e for e in rows if getattr(e, "cpu_parent", None) is None]
        whole = self.self_cpu_time_total or 1.0
        titles = ["Name", "Self CPU %", "Self CPU", "CPU total %", "CPU total", "CPU time avg",
                  "# of Calls"]  # fmt: skip
        cells = [
            [
                e.key[:max_name_column_width],
                f"{100 * e.self_cpu_time_total / whole:.2f}%", _time(e.self_cpu_time_total),
                f"{100 * e.cpu_time_total / whole:.2f}%", _time(e.cpu_time_total),
                _time(e.cpu_time), str(e.count),
            ]
            for e in rows[:row_limit]
        ]  # fmt: skip
        widths = [max(12, *[len(row[i]) for row in (titles, *cells)]) for i in range(len(titles))]
        line = "  ".join("-" * w for w in widths)
        body = ["  ".join(c.rjust(w) for c, w in zip(row, widths, strict=True)) for row in cells]
        head = "  ".join(t.rjust(w) for t, w in zip(titles, widths, strict=True))
        lines = [*([header] if header else []), line, head, line, *body, line,
                 f"Self CPU time total: {_time(self.self_cpu_time_total)}", ""]  # fmt: skip
        return "\n".join(lines)

    def __str__(self) -> str:
        return self.table()

    def export_chrome_trace(self, path: str) -> None:
        """Write the events for chrome://tracing. `Session.profile` shows the workers as well."""
        pid = os.getpid()
        events: list[dict[str, Any]] = [
            {"name": "process_name", "ph": "M", "pid": pid, "tid": 0, "args": {"name": "client"}}
        ]
        for e in sorted(self, key=lambda e: e.start):
            cat = "user_annotation" if e.is_user_annotation else "op"
            args = {"shapes": e.input_shapes, "stack": e.stack}
            events.append(
                {"name": e.name, "cat": cat, "ph": "X", "ts": e.start, "dur": e.cpu_time_total,
                 "pid": pid, "tid": e.thread, "args": {k: v for k, v in args.items() if v}}
            )  # fmt: skip
        with open(path, "w") as file:
            json.dump({"traceEvents": events}, file)


class _Recorder:
    """Collects events while a profiler is on. One at a time, of all threads."""

    def __init__(self, shapes: bool, stacks: bool) -> None:
        self.events = EventList()
        self.shapes, self.stacks = shapes, stacks
        self.open: dict[int, list[FunctionEvent]] = {}
        self.begin = time.perf_counter()

    def enter(self, name: str) -> FunctionEvent:
        thread = threading.get_ident()
        stack = self.open.setdefault(thread, [])
        now = (time.perf_counter() - self.begin) * 1e6
        event = FunctionEvent(len(self.events) + 1, name, thread, now)
        if stack:
            event.cpu_parent = stack[-1]
            stack[-1].cpu_children.append(event)
        stack.append(event)
        self.events.append(event)
        return event

    def leave(self, event: FunctionEvent) -> None:
        event.end = (time.perf_counter() - self.begin) * 1e6
        stack = self.open.get(event.thread, [])
        if event in stack:
            del stack[stack.index(event) :]


_recorder: _Recorder | None = None


def _timed(call: Any, op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
    recorder = _recorder
    if recorder is None:
        return call(op, tensors, static, scalars, form)
    event = recorder.enter(f"{op.schema.namespace}::{op.base}{'_' if form == 1 else ''}")
    if recorder.shapes:
        event.input_shapes = [list(t._spec.shape) for t in tensors]
    if recorder.stacks:
        event.stack = [describe_site(call_site())]
    try:
        return call(op, tensors, static, scalars, form)
    finally:
        recorder.leave(event)


class record_function:
    """Marks a region in the profile: a context, or a decorator."""

    def __init__(self, name: str, args: str | None = None) -> None:
        self.name, self.args = name, args
        self._event: FunctionEvent | None = None

    def __enter__(self) -> record_function:
        if _recorder is not None:
            self._event = _recorder.enter(self.name)
            self._event.is_user_annotation = True
        return self

    def __exit__(self, *exc: object) -> None:
        if _recorder is not None and self._event is not None:
            _recorder.leave(self._event)
        self._event = None

    def __call__(self, function: Any) -> Any:
        @functools.wraps(function)
        def inside(*args: Any, **kwargs: Any) -> Any:
            with record_function(self.name, self.args):
                return function(*args, **kwargs)

        return inside


class profile:
    """Records the ops issued inside; ``print(prof.key_averages().table())`` shows them.

    record_shapes: keep the inputs' shapes. with_stack: keep the line that issued each op. Times are
    of the client: see this file's beginning.
    """

    def __init__(
        self, enabled: bool = True, *, use_cuda: bool = False, use_device: Any = None,
        record_shapes: bool = False, with_flops: bool = False, profile_memory: bool = False,
        with_stack: bool = False, with_modules: bool = False, use_kineto: bool = False,
        use_cpu: bool = True, experimental_config: Any = None, acc_events: bool = False,
        custom_trace_id_callback: Any = None, post_processing_timeout_s: float | None = None,
        activity_filters: Any = None,
    ) -> None:  # fmt: skip
        self.enabled, self.record_shapes, self.with_stack = enabled, record_shapes, with_stack
        self._recorder: _Recorder | None = None

    def __enter__(self) -> profile | None:
        global _recorder
        if not self.enabled:
            return None
        if _recorder is not None:
            raise RuntimeError("Profiler is already enabled on this thread")
        _recorder = self._recorder = _Recorder(self.record_shapes, self.with_stack)
        _interpose.add(_interpose.PROFILER, _timed)
        return self

    def __exit__(self, *exc: object) -> None:
        global _recorder
        if self.enabled and self._recorder is not None:
            _recorder = None
            _interpose.remove(_interpose.PROFILER, _timed)

    @property
    def function_events(self) -> EventList:
        """All events, in order of their begin."""
        if self._recorder is None:
            raise RuntimeError("Profiler didn't finish running")
        return self._recorder.events

    def key_averages(self, *args: Any, **kwargs: Any) -> EventList:
        """Return the events by name."""
        return self.function_events.key_averages(*args, **kwargs)

    def total_average(self) -> FunctionEventAvg:
        return self.function_events.total_average()

    def table(self, *args: Any, **kwargs: Any) -> str:
        return self.function_events.table(*args, **kwargs)

    @property
    def self_cpu_time_total(self) -> float:
        return self.function_events.self_cpu_time_total

    def export_chrome_trace(self, path: str) -> None:
        self.function_events.export_chrome_trace(path)

    def export_stacks(self, path: str, metric: str = "self_cpu_time_total") -> None:
        """Write ``line value`` for each event, for flame graphs. Needs with_stack."""
        with open(path, "w") as file:
            for e in self.function_events:
                if e.stack:
                    file.write(f"{e.stack[0].replace(' ', '_')} {int(e.self_cpu_time_total)}\n")

    def __str__(self) -> str:
        return str(self.function_events)


def _refuse(name: str, what: str) -> Any:
    class Refused:
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            raise UnsupportedError(f"{name} is not supported: it belongs to {what}")

    Refused.__name__ = name
    return Refused


emit_nvtx = _refuse("emit_nvtx", "NVIDIA's profiler of one process; ops run in workers")
emit_itt = _refuse("emit_itt", "Intel's profiler of one process; ops run in workers")
