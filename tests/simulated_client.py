"""The client of a simulated session, and what else a simulated world is made of.

`simulator.py` has the gateway, the streams and the faults, and says what a world is.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from typing import Any

from farspan import _ledger, wire
from farspan.core.command import GET, PUT, ErrorInfo, Failed, Frame, Value
from farspan.core.errors import ProtocolError
from farspan.core.words import Switch
from farspan_server import session as sessions

FAIL = 20


class Oracle:
    """What a device is after the commands that it was given, each exactly once, in order.

    ways: by which kernels each frame has run so far, which its client cannot know; `on`, a set of
    bits, says by which the next one runs.
    """

    def __init__(self, state: bytes = b"", ways: bytes = bytes(8), on: int = 0) -> None:
        self.state, self.ways, self.on = state, ways, on

    def to_bytes(self) -> bytes:
        return self.state.ljust(8, b"\0") + self.ways + self.on.to_bytes(8, "little")

    @classmethod
    def of_bytes(cls, data: bytes) -> Oracle:
        """Return what `to_bytes` was of; of nothing: one that begins."""
        state = data[:8] if any(data[:8]) else b""
        return cls(state, data[8:16] or bytes(8), int.from_bytes(data[16:24], "little"))

    def take(self, switch: Switch) -> int:
        """Run another way from the next frame on."""
        self.on |= 1 << int(switch.plan, 16)
        return self.on

    def run(self, frame: Frame) -> list[Any]:
        events: list[Any] = []
        self.ways = hashlib.sha256(self.ways + self.on.to_bytes(8, "little")).digest()[:8]
        for k, opcode in enumerate(frame.opcodes):
            if opcode == PUT:
                payload = bytes(frame.payloads[frame.statics[k][2]])
                self.state = hashlib.sha256(self.state + payload).digest()[:8]
            elif opcode == GET:
                bits = self.state.ljust(8, b"\0") + self.ways
                events.append(Value(frame.statics[k][0], 1, (16,), bits))
            elif opcode == FAIL:
                events.append(Failed(ErrorInfo("ShapeError", "no", frame.numbers[k])))
        return events


@dataclass
class Worker:
    """A process that holds one device of the session."""

    device: int
    oracle: Oracle
    applied: int = 0
    #: By snapshot: that in whose file the memory lies that nothing is ever written to.
    homes: dict[int, int] = field(default_factory=dict)
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[Any] = field(default_factory=deque)


@dataclass
class Stream:
    """One connection of the client, both ways."""

    up: deque[Any] = field(default_factory=deque)
    down: deque[Any] = field(default_factory=deque)
    client_hears: bool = True
    gateway_hears: bool = True


def switch(rng: random.Random) -> Switch:
    """Return what a worker asks for that wants another way to run."""
    return Switch(0, f"{rng.randrange(64):032x}")


class Violation(AssertionError):
    """An invariant does not hold."""


class ClientSide:
    """The client's half of `simulator.World`."""

    seed: int
    rng: random.Random
    devices: int
    durability: str
    ledger: _ledger.Ledger
    oracles: list[Oracle]
    expected: dict[int, bytes]
    fetching: dict[int, bytes]
    ways: dict[int, bytes]
    failures: set[int]
    told_failures: list[int]
    number: int
    request: int
    stream: Stream | None
    streams: list[Stream]
    attempt: int
    epoch: int
    secret: str
    lost: str | None
    attaching: bool
    promised: int
    issued: dict[int, Frame]
    power_lost: bool
    session: sessions.Session | None
    workers: list[Worker]

    def _issue(self) -> bool:
        if self.lost or self.stream is None:
            return False
        frame = Frame(self.rng.randrange(self.devices))
        for _ in range(self.rng.randrange(1, 5)):
            self.number += 1
            kind = self.rng.choice((PUT, PUT, GET, FAIL if self.rng.random() < 0.3 else PUT))
            static: tuple[Any, ...] = ()
            if kind == PUT:
                payload = self.rng.randbytes(self.rng.randrange(1, 30))
                static = (1, (len(payload),), len(frame.payloads), 0)
                frame.payloads.append(payload)
            elif kind == GET:
                self.request += 1
                static = (self.request, 0, 0)
            frame.opcodes.append(kind)
            frame.modes.append(0)
            frame.counts.append(1)
            frame.ids.append(self.number)
            frame.statics.append(static)
            frame.scalar_counts.append(0)
            frame.numbers.append(self.number)
        frame.sequence, frame.epoch = self.ledger.sent + 1, self.epoch
        data = wire.encode_frame(frame)
        if not self.ledger.has_credit(len(data)):
            return False
        now = self.ledger.send(data)
        self.issued[frame.sequence] = frame
        for event in self.oracles[frame.device].run(frame):
            if isinstance(event, Value):
                assert event.data is not None
                self.expected[event.request] = bytes(event.data)[:8]
            else:
                self.failures.add(event.error.command)
        if now:
            self.stream.up.append(("frames", [data], self.ledger.confirmed))
        return True

    def _send_again(self) -> None:
        assert self.stream is not None
        while (data := self.ledger.next_unsent()) is not None:
            again = wire.restamp(data, self.epoch)
            self.stream.up.append(("frames", [again], self.ledger.confirmed))

    def _reconnect(self) -> bool:
        if self.lost or (self.stream is not None and self.stream.client_hears):
            return False
        self.stream = Stream()
        if self.attaching:
            for old in self.streams:  # which the new client has given up
                old.up = deque(m for m in old.up if m[0] != "attach")
            self.stream.up.append(("attach",))
            self.streams.append(self.stream)
            return True
        self.attempt += 1
        known = (self.attempt, self.ledger.confirmed, self.ledger.applied)
        self.stream.up.append(("resume", known, self.secret))
        self.streams.append(self.stream)
        return True

    def _attach(self) -> bool:
        """Let another client take the session over; the first is never heard of again."""
        if self.lost not in (None, "JournalError") or self.attaching:
            return False
        self.attaching, self.lost = True, None
        self.promised = max(self.promised, self.ledger.durable)
        if self.stream is not None:
            self.stream.client_hears = False
        self.ledger, self.attempt = _ledger.Ledger(), 0
        self.expected, self.fetching, self.failures = {}, {}, set()
        return self._reconnect()

    def _attach_after_failure(self) -> bool:
        """Let somebody come for a session whose client was told that its journal failed."""
        return self.lost == "JournalError" and self._attach()

    def _attached(self, epoch: int, received: int, secret: str) -> None:
        """Be the client now: what the first one's last frames would have done is not known."""
        if self.durability == "durable" and received < self.promised:
            raise Violation(f"seed {self.seed}: frame {self.promised} was durable; {received} came")
        self.attaching, self.epoch, self.secret = False, epoch, secret
        self.ledger.open(wire.Welcome("s", epoch, ("cpu",) * self.devices, received=received))
        self.oracles = [Oracle() for _ in range(self.devices)]
        self.issued = {k: frame for k, frame in self.issued.items() if k <= received}
        for k in range(1, received + 1):
            self.oracles[self.issued[k].device].run(self.issued[k])

    def _client_hears(self) -> bool:
        stream = self.stream
        if stream is None or not stream.client_hears or not stream.down:
            return False
        kind, *body = stream.down.popleft()
        if kind == "welcome" and self.attaching:
            self._attached(*body)
        elif kind == "welcome":
            self.epoch, received, _ = body
            try:
                self.ledger.resume(received)
            except ProtocolError:
                if not self.power_lost or self.durability == "durable":
                    raise
                self.lost = "ProtocolError"  # frames that were not synced are gone
                return True
            self._send_again()
        elif kind == "broken":
            stream.client_hears = False
            self.ledger.broken()
        elif kind == "lost":
            self.lost = body[0]
        else:
            self._told(*body)
        return True

    def _told(self, events: list[Any], applied: int, durable: int) -> None:
        for event in events:
            if not self.ledger.is_new(event):
                continue
            if isinstance(event, Value):
                self._answered(event)
            elif event.error.command not in self.failures:
                raise Violation(f"seed {self.seed}: failure {event.error.command} is told again")
            else:
                self.failures.discard(event.error.command)
                self.told_failures.append(event.error.command)
        if self.ledger.acked(applied, durable):
            self._send_again()
        if self.stream is not None and self.rng.random() < 0.5:
            self.stream.up.append(("frames", [], self.ledger.confirmed))

    def _answered(self, value: Value) -> None:
        expected = self.expected.get(value.request)
        if expected is None:
            return  # told before the stream broke
        if value.data is None:  # a long one: its bytes are fetched
            self.ledger.hold(value)
            self.fetching[value.request] = expected
        else:
            self._shown(value.request, bytes(value.data), expected)
        del self.expected[value.request]

    def _shown(self, request: int, data: bytes, expected: bytes) -> None:
        """Take that the client has seen a value: it may never be another one."""
        if data[:8] != expected:
            raise Violation(f"seed {self.seed}: request {request} has other bits")
        self.ways[request] = data[8:]

    def _fetch(self) -> bool:
        """Fetch the bytes of a long value, if a worker has them (it may have died meanwhile)."""
        if not self.fetching or self.session is None:
            return False
        request = self.rng.choice(sorted(self.fetching))
        for worker in self.workers:
            for event in worker.outbox:
                if event[0] == "bytes" and event[1] == request:
                    self._shown(request, event[2], self.fetching.pop(request))
                    self.ledger.release(request)
                    worker.outbox.remove(event)
                    if self.stream is not None:
                        self.stream.up.append(("frames", [], self.ledger.confirmed))
                    return True
        return False
