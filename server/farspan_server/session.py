"""One session as the gateway sees it: a state machine over frames, acks, workers and its client.

No I/O, clock or randomness inside: `handle(input, now) -> outputs`, and the gateway carries the
outputs out. It knows frames by their headers only. Read `pool.py` for how workers are found.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from farspan.core import limits
from farspan.core.errors import ProtocolError
from farspan.wire import FrameHeader

#: Bytes of events that may wait for a slow reader: four frames' worth of inline values and some.
EVENT_BYTES_QUEUED_MAX: Final = 64 * limits.MiB

WAITING: Final = "waiting"  # in line for workers
OPEN: Final = "open"
DETACHED: Final = "detached"  # without its client, until the lease ends
ENDED: Final = "ended"


# What every frame makes is not frozen: that costs more than all else that is done with it.


# --- inputs --------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Reserve:
    """The client wants its workers now."""


@dataclass(slots=True)
class FrameIn:
    """A frame from the client, as received."""

    header: FrameHeader
    data: bytes


@dataclass(slots=True, frozen=True)
class Assigned:
    """The session has its workers, one a device."""


@dataclass(slots=True)
class EventsIn:
    """A worker's events, unread, and the last frame whose events are all sent."""

    device: int
    applied: int
    data: bytes


@dataclass(slots=True)
class Written:
    """So many queued event lists went to the client."""

    count: int
    size_bytes: int


@dataclass(slots=True, frozen=True)
class ClientGone:
    """The stream broke without a word."""


@dataclass(slots=True, frozen=True)
class ClientClosed:
    """The client said that the session ends."""


@dataclass(slots=True, frozen=True)
class Fault:
    """The session cannot go on: a worker, its place in line, its client's bytes."""

    kind: str
    message: str


@dataclass(slots=True, frozen=True)
class Tick:
    """Time has passed."""


Input = Reserve | FrameIn | Assigned | EventsIn | Written | ClientGone | ClientClosed | Fault | Tick


# --- outputs -------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Claim:
    """Ask the pool for a worker of each kind."""


@dataclass(slots=True)
class Forward:
    """Send a frame to the worker of a device. (Here a journal will stand.)"""

    device: int
    data: bytes


@dataclass(slots=True)
class EventsOut:
    """Send events to the client; they come before the ack beside them. 0: no new ack."""

    data: bytes
    applied: int
    durable: int


@dataclass(slots=True, frozen=True)
class End:
    """Release the workers, tell the client why (if there is a why), end its stream."""

    kind: str = ""
    message: str = ""


Output = Claim | Forward | EventsOut | End


class Session:
    """Sequence, epoch, credits, acks and lease of one session.

    kinds: the kind of each device. lease_s: seconds it keeps its workers without a client.
    """

    def __init__(self, kinds: tuple[str, ...], lease_s: float) -> None:
        self.kinds = kinds
        self.epoch = 1
        self.state = OPEN
        self.frames = 0
        self.commands = 0
        self._lease_s = lease_s
        self._lease_ends: float | None = None
        self._claimed = False
        self._assigned = False
        self._received = 0  # sequence of the last frame accepted
        self._acked = 0  # sequence of the last frame acknowledged to the client
        self._applied = [0] * len(kinds)  # by device
        self._forwarded = [0] * len(kinds)  # by device
        self._in_flight: deque[tuple[int, int, int]] = deque()  # sequence, device, bytes
        self._in_flight_bytes = 0
        self._held: list[tuple[int, int, bytes]] = []  # before there are workers
        self._queued = 0
        self._queued_bytes = 0

    def handle(self, given: Input, now: float) -> list[Output]:
        """Return what follows from an input. After an End everything is ignored."""
        if self.state == ENDED:
            return []
        try:
            return self._handle(given, now)
        except ProtocolError as error:
            return self._end("ProtocolError", str(error))

    def _handle(self, given: Input, now: float) -> list[Output]:
        match given:
            case FrameIn(header, data):
                return self._frame(header, data)
            case EventsIn(device, applied, data):
                return self._events(device, applied, data)
            case Written(count, size_bytes):
                self._queued -= count
                self._queued_bytes -= size_bytes
                return []
            case Reserve():
                return self._claim()
            case Assigned():
                return self._start()
            case ClientGone():
                self.state = DETACHED
                self._lease_ends = now + self._lease_s
                return self._tick(now)
            case ClientClosed():
                return self._end("", "")
            case Fault(kind, message):
                return self._end(kind, message)
            case Tick():
                return self._tick(now)

    def _claim(self) -> list[Output]:
        if self._claimed:
            return []
        self._claimed = True
        self.state = WAITING
        return [Claim()]

    def _start(self) -> list[Output]:
        self._assigned = True
        if self.state == WAITING:
            self.state = OPEN
        held, self._held = self._held, []
        return [self._forward(*frame) for frame in held]

    def _forward(self, sequence: int, device: int, data: bytes) -> Output:
        self._forwarded[device] = sequence
        return Forward(device, data)

    def _frame(self, header: FrameHeader, data: bytes) -> list[Output]:
        if header.epoch != self.epoch:
            raise ProtocolError(f"frame of epoch {header.epoch}; the session's is {self.epoch}")
        if header.device >= len(self.kinds):
            raise ProtocolError(
                f"frame for device {header.device}; the session has {len(self.kinds)}"
            )
        if header.sequence <= self._received:
            return []  # sent again after a reconnect: it has been taken
        if header.sequence != self._received + 1:
            raise ProtocolError(f"frame {header.sequence} follows {self._received}")
        if (
            len(self._in_flight) >= limits.CREDIT_FRAMES
            or self._in_flight_bytes + len(data) > limits.CREDIT_BYTES
        ):
            raise ProtocolError("more frames or bytes in flight than the credits allow")
        self._received = header.sequence
        self.frames += 1
        self.commands += header.command_count
        self._in_flight.append((header.sequence, header.device, len(data)))
        self._in_flight_bytes += len(data)
        if self._assigned:
            return [self._forward(header.sequence, header.device, data)]
        self._held.append((header.sequence, header.device, data))
        return self._claim()

    def _events(self, device: int, applied: int, data: bytes) -> list[Output]:
        if applied > self._forwarded[device]:
            return self._end("WorkerLostError", "a worker acknowledged what it was not sent")
        self._applied[device] = max(self._applied[device], applied)
        before = self._acked
        while self._in_flight:
            sequence, owner, size_bytes = self._in_flight[0]
            if sequence > self._applied[owner]:
                break
            self._in_flight.popleft()
            self._in_flight_bytes -= size_bytes
            self._acked = sequence
        ack = self._acked if self._acked > before else 0
        if not data and not ack:
            return []
        if data:
            self._queued += 1
            self._queued_bytes += len(data)
        if self._queued > limits.EVENTS_QUEUED_MAX or self._queued_bytes > EVENT_BYTES_QUEUED_MAX:
            return self._end("SessionClosedError", "the client did not read its events")
        # Without a journal nothing survives the gateway; a client may forget what has run.
        return [EventsOut(data, ack, ack)]

    def _tick(self, now: float) -> list[Output]:
        if self._lease_ends is not None and now >= self._lease_ends:
            return self._end("SessionClosedError", "the lease ended without a client")
        return []

    def _end(self, kind: str, message: str) -> list[Output]:
        self.state = ENDED
        self._held.clear()
        self._in_flight.clear()
        return [End(kind, message)]
