"""Timeline: when each command of a session ran here, while its client profiles.

It stands between a loop and what the loop runs over, so that the engine knows nothing of it. Times
are of CLOCK_MONOTONIC, in ns; they are told, never decided by.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

from farspan.core import command as cmd
from farspan.core import limits, tape
from farspan.core.names import backward_name
from farspan.core.op import op_at
from farspan.wire.clocks import now, told

_NAMES = {
    cmd.FREE: "free", cmd.GET: "get", cmd.PUT: "put", cmd.BACKWARD: "backward", cmd.LINK: "link",
    cmd.GROW: "grow", cmd.DEFINE: "define", cmd.CALL: "call",
    cmd.UNDEFINE: "undefine",
}  # fmt: skip


class Timeline:
    """The commands of a session and what ran within them, up to TRACE_RECORDS_MAX of each."""

    def __init__(self) -> None:
        #: (sequence, received, begun, ended, thread); received is 0 where nobody said.
        self.frames: list[tuple[int, int, int, int, int]] = []
        self.commands: list[tuple[str, int, int, int]] = []  # name, number, begun, ended
        self.steps: list[tuple[str, int, int]] = []  # of programs and of backward passes
        self.dropped = 0
        self._received: dict[int, int] = {}

    def received(self, sequence: int) -> None:
        """Note that a frame has come and waits for its turn."""
        self._received[sequence] = now()

    def running(self, sequence: int, rows: Iterator[Any]) -> Iterator[Any]:
        """Yield a frame's rows (opcode, ..., static, ..., number); each ran until the next."""
        begun, bodies = now(), 0
        try:
            for row in rows:
                if bodies:  # of a program that is being defined: nothing runs
                    bodies -= 1
                    yield row
                    continue
                if row[0] == cmd.DEFINE:
                    bodies = row[3][1] if len(row[3]) > 1 else 0
                at = now()
                yield row
                self._keep(self.commands, (_name(row[0], row[3]), row[5], at, now()))
        finally:
            received = self._received.pop(sequence, 0)
            thread = threading.get_native_id()
            self._keep(self.frames, (sequence, received, begun, now(), thread))

    def stepping(self, steps: Sequence[Any]) -> Steps:
        """Return an iterator over a plan's (function, arguments); each ran until the next."""
        return Steps(self, steps)

    def watching(self, watch: tape.Watch) -> tape.Watch:
        """Return a watch of a backward pass that also notes when each node's formulas ran."""
        return _Watch(self, watch)

    def ran(self, name: str, begun: int) -> None:
        """Note something that ran within a command, from `begun` until now."""
        self._keep(self.steps, (name, begun, now()))

    def _keep(self, records: list[Any], record: tuple[Any, ...]) -> None:
        if len(records) < limits.TRACE_RECORDS_MAX:
            records.append(record)
        else:
            self.dropped += 1

    def to_json(self) -> str:
        """Return all of it as JSON, with this process's clock, boot and id."""
        return told(
            frames=self.frames, commands=self.commands, steps=self.steps, dropped=self.dropped
        )


class Steps:
    """An iterator over (function, arguments) that knows how many are left, as a list's does."""

    def __init__(self, timeline: Timeline, steps: Sequence[Any]) -> None:
        self._timeline, self._steps = timeline, iter(steps)
        self._name, self._begun = "", 0

    def __iter__(self) -> Steps:
        return self

    def __next__(self) -> Any:
        if self._begun:
            self._timeline.ran(self._name, self._begun)
            self._begun = 0
        function, args = step = next(self._steps)
        self._name, self._begun = _step_name(function, args), now()
        return step

    def __length_hint__(self) -> int:
        return self._steps.__length_hint__()  # type: ignore[attr-defined, no-any-return]


class _Watch(tape.Watch):
    def __init__(self, timeline: Timeline, inner: tape.Watch) -> None:
        self._timeline = timeline
        self.arrived = inner.arrived  # type: ignore[method-assign]
        self._run = inner.run

    def run(self, node: tape.Node, gradients: list[Any], unpack: Any) -> Any:
        begun = now()
        pairs = list(self._run(node, gradients, unpack))
        self._timeline.ran(backward_name(node), begun)
        return pairs


def _name(opcode: int, static: Any) -> str:
    if opcode >= cmd.FIRST_OPCODE:
        return op_at(opcode).name
    name = _NAMES.get(opcode, f"command {opcode}")
    return f"{name} program {static[0]}" if opcode in (cmd.DEFINE, cmd.CALL) and static else name


def _step_name(function: Any, args: Sequence[Any]) -> str:
    for each in (function, *args[:1]):  # a plan or a kernel that knows its op, or has a name
        op = getattr(each, "op", None)
        if op is not None and hasattr(op, "name"):
            return str(op.name)
        name = getattr(each, "title", None)
        if type(name) is str:
            return name
    return str(getattr(function, "__name__", type(function).__name__)).strip("_")
