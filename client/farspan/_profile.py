"""Profiles: what one session's commands did when, on the client, in the gateway and in the workers.

While a profile is on, it stands between the session and its transport, and between ops and their
dispatch; without one nobody pays for it. `_perfetto.py` makes a trace of what was recorded here.
"""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from . import _interpose, _perfetto
from .core import command as cmd
from .core import limits
from .core.command import Acked, Event, Frame, Value
from .core.errors import FarspanError, ProgramError
from .wire.clocks import now

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from ._session import Session


@dataclass(slots=True)
class Records:
    """What the client saw; times in ns of its CLOCK_MONOTONIC, threads by the system's ids."""

    #: (thread, name, begun, ended, command number, shapes of the inputs, call site)
    ops: list[tuple[int, str, int, int, int, Any, Any]] = field(default_factory=list)
    #: (thread, sequence, begun, ended, device, commands)
    sends: list[tuple[int, int, int, int, int, int]] = field(default_factory=list)
    #: (thread, what, begun, ended, frames applied by it or 0)
    deliveries: list[tuple[int, str, int, int, int]] = field(default_factory=list)
    #: (thread that asked, request, asked, answered)
    waits: list[tuple[int, int, int, int]] = field(default_factory=list)
    threads: dict[int, str] = field(default_factory=dict)
    dropped: int = 0

    def keep(self, records: list[Any], record: tuple[Any, ...]) -> None:
        """Add a record, up to TRACE_RECORDS_MAX of a kind."""
        if len(records) < limits.TRACE_RECORDS_MAX:
            records.append(record)
        else:
            self.dropped += 1

    def thread(self) -> int:
        """Return the id of the thread that asks; its name is remembered."""
        id_ = threading.get_native_id()
        if id_ not in self.threads:
            self.threads[id_] = threading.current_thread().name
        return id_


@dataclass(slots=True)
class Elsewhere:
    """What another process noted, and what its clock showed between two moments of ours."""

    what: str  # "gateway", or the name of a device
    told: dict[str, Any]
    clocks: list[tuple[int, int, int]]  # asked, its clock, answered

    def offset(self) -> tuple[int, int]:
        """Return ns to add to its times to have ours, and by how much this may be wrong.

        0 and 0 within one boot of one machine, where CLOCK_MONOTONIC is one clock. Else the middle
        of the shortest round trip is taken for the moment of the answer (Cristian 1989).
        """
        if self.told["boot"] == _perfetto.our_boot():
            return 0, 0
        asked, theirs, answered = min(self.clocks, key=lambda c: c[2] - c[0])
        return (asked + answered) // 2 - theirs, (answered - asked) // 2


class Profile:
    """What happened in a session while it was profiled. Made by `Session.profile`.

    events: of the trace event format (Chrome, Perfetto), once the profile has ended.
    clocks: for each other process, (ns added to its times, by how much they may be wrong).
    """

    def __init__(self, session: Session, path: str | os.PathLike[str] | None = None) -> None:
        self._session = session
        self._path = path
        self._records = Records()
        self._elsewhere: list[Elsewhere] = []
        self._watched: _Watched | None = None
        self.events: list[dict[str, Any]] = []
        self.clocks: dict[str, tuple[int, int]] = {}
        self.notes: list[str] = []

    def __enter__(self) -> Profile:
        session = self._session
        if isinstance(session.transport, _Watched):
            raise ProgramError(f"session {session.id} is being profiled; one profile at a time")
        session.synchronize()
        self._elsewhere = self._ask_all(cmd.GET_TRACE, begin=True)
        with session._lock:
            self._watched = _Watched(session.transport, self._records, session._deliver)
            session.transport = self._watched  # type: ignore[assignment]
        _interpose.add(_interpose.PROFILER, self._issue)
        return self

    def __exit__(self, kind: type[BaseException] | None, *exc: object) -> None:
        session, watched = self._session, self._watched
        assert watched is not None
        _interpose.remove(_interpose.PROFILER, self._issue)
        try:
            session.synchronize()
        except FarspanError:
            if kind is None:
                raise
        finally:
            with session._lock:
                session.transport = watched.transport
                watched.transport.set_sink(session._deliver)
            self._watched = None
            self._finish()

    def _finish(self) -> None:
        """Gather what the others noted, and write the file if there is to be one."""
        before = {e.what: e for e in self._elsewhere}
        try:
            self._elsewhere = self._ask_all(cmd.GET_TRACE_END, begin=False)
        except FarspanError as error:  # the session is lost: what the client saw is left
            self._elsewhere = []
            self.notes.append(f"the workers' records are missing: {error}")
        for each in self._elsewhere:
            if each.what in before:
                each.clocks += before[each.what].clocks
            self.clocks[each.what] = each.offset()
            if self.clocks[each.what][1]:
                self.notes.append(
                    f"{each.what}: on another machine; its clock was estimated from round trips, "
                    f"to within {self.clocks[each.what][1] / 1000:.0f} us"
                )
            if each.told.get("dropped"):
                self.notes.append(f"{each.what}: {each.told['dropped']} records were too many")
        if self._records.dropped:
            self.notes.append(f"client: {self._records.dropped} records were too many")
        self.events = _perfetto.events(self._records, self._elsewhere, self.clocks)
        if self._path is not None:
            self.save(self._path)

    def _ask_all(self, kind: int, begin: bool) -> list[Elsewhere]:
        """Begin or end the noting everywhere; return what was noted so far. Waits."""
        session, found = self._session, []
        trace = getattr(session.transport, "trace", None)
        if trace is not None:
            try:
                asked = now()
                told = trace(begin)
                found.append(Elsewhere("gateway", told, [(asked, told["now_ns"], now())]))
            except FarspanError as error:
                self.notes.append(f"the gateway's records are missing: {error}")
        for index, device in enumerate(session.devices):
            asked = now()
            answer = session._ask(index, (), kind).data
            told = json.loads(bytes(answer or b"{}"))
            found.append(Elsewhere(str(device), told, [(asked, told["now_ns"], now())]))
        return found

    def _issue(self, call: Any, op: Any, tensors: Any, static: Any, scalars: Any, form: int) -> Any:
        """Record an op on its way through dispatch; a handler of `_interpose`."""
        session, records = self._session, self._records
        before, begun = session.last_number, now()
        try:
            return call(op, tensors, static, scalars, form)
        finally:
            number = session.last_number
            shapes = [list(t._spec.shape) for t in tensors]
            issued = number != before  # else by another session, or not at all
            site = session.last_site if issued else None
            record = (records.thread(), op.name, begun, now(), number * issued, shapes, site)
            records.keep(records.ops, record)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the trace as JSON, for https://ui.perfetto.dev or chrome://tracing."""
        about = {"session": self._session.id, "notes": self.notes, "clocks_ns": self.clocks}
        body = {"traceEvents": self.events, "displayTimeUnit": "ns", "otherData": about}
        with open(path, "w") as file:
            json.dump(body, file, separators=(",", ":"))

    def moments(self) -> dict[int, dict[str, int]]:
        """Return for each frame, by sequence, when it was where: ns of the client's clock."""
        return _perfetto.moments(self._records, self._elsewhere, self.clocks)

    def phases(self) -> dict[str, list[float]]:
        """Return for each phase of a frame's way its microseconds, one a frame, where known."""
        return _perfetto.phases(self.moments())

    def kernels(self) -> dict[str, tuple[int, float]]:
        """Return for each command or step of a program that ran: how often, and us in all.

        Steps of a program or a backward pass are counted beside the command they are part of.
        """
        found: dict[str, tuple[int, float]] = {}
        for each in self._elsewhere:
            told = each.told
            for name, begun, ended in (
                *((name, begun, ended) for name, _, begun, ended in told.get("commands", ())),
                *((f"  {name}", begun, ended) for name, begun, ended in told.get("steps", ())),
            ):
                count, total_us = found.get(name, (0, 0.0))
                found[name] = count + 1, total_us + (ended - begun) / 1000
        return dict(sorted(found.items(), key=lambda entry: -entry[1][1]))

    def table(self) -> str:
        """Return the phases of a frame's way as text: how many, median and 90th of 100, in us."""
        return _perfetto.table(self.phases())


class _Watched:
    """A transport that records what passes; everything else is the transport's own."""

    def __init__(self, transport: Any, records: Records, sink: Callable[[Event], None]) -> None:
        self.transport = transport
        self._records = records
        self._asked: dict[int, tuple[int, int]] = {}  # request -> thread, when
        self._sink = sink
        transport.set_sink(self._deliver)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.transport, name)

    def send(self, frame: Frame) -> Any:
        """Send a frame; record when, and who waits for an answer to it."""
        records, begun = self._records, now()
        thread = records.thread()
        for opcode, static in zip(frame.opcodes, frame.statics, strict=True):
            if opcode == cmd.GET and static[1] != cmd.GET_SEND:
                self._asked[static[0]] = (thread, begun)
        try:
            return self.transport.send(frame)
        finally:
            ended = now()
            if frame.sequence:
                records.keep(
                    records.sends,
                    (thread, frame.sequence, begun, ended, frame.device, len(frame)),
                )

    def _deliver(self, event: Event) -> None:
        records, begun = self._records, now()
        self._sink(event)
        ended, applied = now(), 0
        name = type(event).__name__.lower()
        if isinstance(event, Acked):
            applied = event.applied
        elif isinstance(event, Value):
            thread, asked = self._asked.pop(event.request, (0, 0))
            if thread:
                records.keep(records.waits, (thread, event.request, asked, begun))
        records.keep(records.deliveries, (records.thread(), name, begun, ended, applied))
