"""From records to a trace: events of the trace event format, which Perfetto and Chrome show.

One row a thread of each process, one arrow a frame: client, gateway, worker, and back. What is in
the air or waits is an asynchronous range, as several may be at once. Times become microseconds.
"""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ._sites import describe_site
from .wire.clocks import boot as our_boot

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._profile import Elsewhere, Records

__all__ = ["events", "our_boot", "phases", "table"]

_GATEWAY_ROW = 1  # the gateway is one thread of asyncio; its row has a number of our own

#: The phases of a frame's way, between two of its moments.
PHASES = (
    ("client: encode and hand over", "sealed", "sent"),
    ("wire: client to gateway", "sent", "gateway"),
    ("gateway: forward", "gateway", "forwarded"),
    ("wire: to a worker that may be busy", "forwarded", "received"),
    ("worker: queue", "received", "begun"),
    ("worker: run", "begun", "ended"),
    ("wire: worker to gateway", "ended", "answered"),
    ("gateway: answer", "answered", "written"),
    ("wire: gateway to client", "written", "delivered"),
    ("whole way", "sealed", "delivered"),
)


def moments(
    records: Records, elsewhere: list[Elsewhere], clocks: dict[str, tuple[int, int]]
) -> dict[int, dict[str, int]]:
    """Return when each frame was where, by its sequence: ns of the client's clock."""
    found: dict[int, dict[str, int]] = {}
    for _, sequence, begun, ended, *_ in records.sends:
        found[sequence] = {"sealed": begun, "sent": ended}
    for each in elsewhere:
        offset = clocks[each.what][0]
        if each.what == "gateway":
            for sequence, received, forwarded in each.told["frames"]:
                if sequence in found:
                    found[sequence]["gateway"] = received + offset
                    if forwarded:
                        found[sequence]["forwarded"] = forwarded + offset
            told = [(applied, heard + offset, written) for applied, heard, written in
                    each.told["answers"]]  # fmt: skip
            _first_at(found, "answered", ((a, heard) for a, heard, _ in told))
            _first_at(found, "written", ((a, w + offset) for a, _, w in told if w))
            continue
        for sequence, received, begun, ended, _ in each.told["frames"]:
            if sequence in found:
                if received:
                    found[sequence]["received"] = received + offset
                found[sequence].update(begun=begun + offset, ended=ended + offset)
    delivered = ((d[4], d[2]) for d in records.deliveries if d[4])
    _first_at(found, "delivered", delivered)
    return found


def _first_at(found: dict[int, dict[str, int]], name: str, said: Iterable[tuple[int, int]]) -> None:
    """Give each frame the first moment at which all frames up to it or beyond were done."""
    waiting = sorted(found)
    for applied, at in said:
        while waiting and waiting[0] <= applied:
            found[waiting.pop(0)][name] = at


def phases(when: dict[int, dict[str, int]]) -> dict[str, list[float]]:
    """Return for each phase its microseconds, one a frame of which both ends are known.

    0 where the next phase began before the call had returned that ends this one.
    """
    return {
        name: [
            max(of[end] - of[begin], 0) / 1000 for of in when.values() if begin in of and end in of
        ]
        for name, begin, end in PHASES
    }


def table(found: dict[str, list[float]]) -> str:
    """Return phases as text."""
    lines = [f"{'phase of a frame':36}{'frames':>8}{'median us':>12}{'90 % us':>12}"]
    for name, times in found.items():
        if times:
            ordered = sorted(times)
            high = ordered[min(len(ordered) - 1, len(ordered) * 9 // 10)]
            middle = statistics.median(ordered)
            lines.append(f"{name:36}{len(times):8}{middle:12.1f}{high:12.1f}")
    return "\n".join(lines)


# --------------------------------------------------------------------------------------- events --
class _Trace:
    """Collects events; times are ns of the client's clock, counted from its first."""

    def __init__(self, origin: int) -> None:
        self.origin = origin
        self.events: list[dict[str, Any]] = []
        self._rows: set[tuple[int, int]] = set()

    def at(self, ns: int) -> float:
        return (ns - self.origin) / 1000

    def process(self, pid: int, name: str, place: int) -> None:
        """Name a process and say where it stands."""
        for what, args in (
            ("process_name", {"name": name}), ("process_sort_index", {"sort_index": place}),
        ):  # fmt: skip
            self.events.append({"name": what, "ph": "M", "pid": pid, "tid": 0, "args": args})

    def row(self, pid: int, tid: int, name: str) -> None:
        """Name a thread, once."""
        if (pid, tid) not in self._rows:
            self._rows.add((pid, tid))
            self.events.append(
                {"name": "thread_name", "ph": "M", "pid": pid, "tid": tid, "args": {"name": name}}
            )

    def slice(
        self, pid: int, tid: int, name: str, cat: str, begun: int, ended: int, **args: Any
    ) -> None:
        """Add a complete event."""
        self.events.append(
            {"name": name, "cat": cat, "ph": "X", "pid": pid, "tid": tid, "ts": self.at(begun),
             "dur": max(ended - begun, 0) / 1000, "args": args}
        )  # fmt: skip

    def range(self, pid: int, name: str, cat: str, id_: int, begun: int, ended: int) -> None:
        """Add an asynchronous range, which may overlap others; empty if its end was noted first.

        A message may be read, even answered, before the call that sent it has returned: it ends
        when it was read, lest it overlap the range of the answer, which has the same id.
        """
        for ph, at in (("b", min(begun, ended)), ("e", ended)):
            self.events.append(
                {"name": name, "cat": cat, "ph": ph, "id": id_, "pid": pid, "tid": 0,
                 "ts": self.at(at), "args": {}}
            )  # fmt: skip

    def arrow(self, id_: int, points: list[tuple[int, int, int]]) -> None:
        """Add a flow through points (pid, tid, when), each inside of a slice there."""
        for k, (pid, tid, at) in enumerate(points):
            ph = "s" if k == 0 else "f" if k == len(points) - 1 else "t"
            event = {"name": "frame", "cat": "frame", "ph": ph, "id": id_, "pid": pid, "tid": tid,
                     "ts": self.at(at)}  # fmt: skip
            self.events.append(event | ({"bp": "e"} if ph == "f" else {}))


def events(
    records: Records, elsewhere: list[Elsewhere], clocks: dict[str, tuple[int, int]]
) -> list[dict[str, Any]]:
    """Return the trace's events: names first, then by time."""
    when = moments(records, elsewhere, clocks)
    starts = [each[2] for each in (*records.ops, *records.sends)]
    trace = _Trace(min(starts, default=0))
    client = os.getpid()
    trace.process(client, "client", 0)
    arrows: dict[int, list[tuple[int, int, int]]] = defaultdict(list)
    _add_client(trace, client, records, when, arrows)
    pids = {client}
    ops = {number: (shapes, site) for *_, number, shapes, site in records.ops}
    for place, each in enumerate(elsewhere, 1):
        pid, offset = each.told["pid"], clocks[each.what][0]
        while pid in pids and each.told["boot"] != our_boot():
            pid += 1 << 22  # Linux's pids are below: another machine may have the same
        if pid not in pids:
            pids.add(pid)
            title = each.what if each.what == "gateway" else f"worker of {each.what}"
            trace.process(pid, title, place)
        if each.what == "gateway":
            _add_gateway(trace, pid, each, offset, when, arrows)
        else:
            _add_worker(trace, pid, each, offset, ops, when, arrows)
    _add_back(trace, client, records, when, arrows)
    for sequence, points in arrows.items():
        if len(points) > 1:
            trace.arrow(sequence, points)
    return sorted(trace.events, key=lambda e: (e["ph"] != "M", e.get("ts", 0.0)))


def _add_client(trace: _Trace, pid: int, records: Records, when: Any, arrows: Any) -> None:
    for tid, name in records.threads.items():
        trace.row(pid, tid, name)
    for tid, name, begun, ended, number, shapes, site in records.ops:
        args: dict[str, Any] = {"shapes": shapes}
        if site is not None:
            args |= {"command": number, "line": describe_site(site)}
        trace.slice(pid, tid, name, "op", begun, ended, **args)
    for tid, sequence, begun, ended, device, count in records.sends:
        title = f"send frame {sequence}"
        trace.slice(pid, tid, title, "send", begun, ended, device=device, commands=count)
        arrows[sequence].append((pid, tid, begun))
    sent = {(tid, begun): ended for tid, _, begun, ended, *_ in records.sends}
    for tid, request, asked, answered in records.waits:
        begun = sent.get((tid, asked), asked)
        if answered > begun:  # on `local:` the answer comes while the frame is handed over
            trace.slice(pid, tid, "wait for a value", "wait", begun, answered, request=request)


def _add_gateway(
    trace: _Trace, pid: int, each: Elsewhere, offset: int, when: Any, arrows: Any
) -> None:
    trace.row(pid, _GATEWAY_ROW, "asyncio")
    for sequence, received, forwarded in each.told["frames"]:
        if sequence not in when or not forwarded:
            continue
        begun, ended = received + offset, forwarded + offset
        trace.slice(pid, _GATEWAY_ROW, f"forward frame {sequence}", "gateway", begun, ended)
        trace.range(pid, f"frame {sequence} up", "wire", sequence, when[sequence]["sent"], begun)
        arrows[sequence].append((pid, _GATEWAY_ROW, begun))
    for k, (applied, heard, written) in enumerate(each.told["answers"]):
        if written and applied in when:
            begun, ended = heard + offset, written + offset
            trace.range(pid, f"answer to frame {applied}", "answer", k, begun, ended)


def _add_worker(
    trace: _Trace, pid: int, each: Elsewhere, offset: int, ops: Any, when: Any, arrows: Any
) -> None:
    title = f"engine of {each.what}"
    spans = []
    for sequence, received, begun, ended, tid in each.told["frames"]:
        if sequence not in when:
            continue
        begun, ended = begun + offset, ended + offset
        trace.row(pid, tid, title)
        trace.slice(pid, tid, f"frame {sequence}", "frame", begun, ended)
        arrows[sequence].append((pid, tid, begun))
        spans.append((begun, ended, tid))
        if received:
            queued = received + offset
            trace.range(pid, f"frame {sequence} waits", "queue", sequence, queued, begun)
    spans.sort()
    for name, number, begun, ended in each.told["commands"]:
        shapes, site = ops.get(number, (None, None))
        args: dict[str, Any] = {"command": number}
        if shapes is not None:
            args["shapes"] = shapes
        if site is not None:
            args["line"] = describe_site(site)
        _add_within(trace, pid, spans, name, "kernel", begun + offset, ended + offset, args)
    for name, begun, ended in each.told["steps"]:
        _add_within(trace, pid, spans, name, "step", begun + offset, ended + offset, {})


def _add_within(
    trace: _Trace, pid: int, spans: Any, name: str, cat: str, begun: int, ended: int, args: Any
) -> None:
    """Add a slice to the row of the frame that it ran in; what ran in none of ours is left out."""
    from bisect import bisect_right

    at = bisect_right(spans, (begun, float("inf"))) - 1
    if at >= 0 and spans[at][0] <= begun and ended <= spans[at][1]:
        trace.slice(pid, spans[at][2], name, cat, begun, ended, **args)


def _add_back(trace: _Trace, pid: int, records: Records, when: Any, arrows: Any) -> None:
    """Add what the client was told, and the end of each frame's arrow."""
    ends: dict[int, list[int]] = defaultdict(list)
    for sequence, of in when.items():
        if "delivered" in of:
            ends[of["delivered"]].append(sequence)
    for tid, name, begun, ended, applied in records.deliveries:
        title = f"frames to {applied} have run" if applied else name
        trace.slice(pid, tid, title, "deliver", begun, ended)
        for sequence in ends.get(begun, ()) if applied else ():
            arrows[sequence].append((pid, tid, begun))
            of = when[sequence]
            if "written" in of:
                trace.range(
                    pid, f"frame {sequence} done, down", "wire", sequence, of["written"], begun
                )
