"""A world of one session under a seeded clock: the real state machines, everything else made up.

`Ledger` (client), `Session`, `History` and `Journal` (gateway) are the production classes. Streams,
workers, the disk and time are simulated on one thread: a seed chooses what is delivered, dropped,
delayed, cut, killed or full. Every step ends with the invariants; `World(seed).run()` is a history.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from farspan import _ledger, wire
from farspan.core.command import GET, PUT, ErrorInfo, Failed, Frame, Value
from farspan.core.errors import JournalError
from farspan_server import history, journal
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from faulty_disk import FaultyDisk

WHERE = Path("session")
FAIL = 20
LEASE_S = 60.0


class Oracle:
    """What a device is after the commands that it was given, each exactly once, in order."""

    def __init__(self, state: bytes = b"") -> None:
        self.state = state

    def run(self, frame: Frame) -> list[Any]:
        events: list[Any] = []
        for k, opcode in enumerate(frame.opcodes):
            if opcode == PUT:
                payload = bytes(frame.payloads[frame.statics[k][2]])
                self.state = hashlib.sha256(self.state + payload).digest()[:8]
            elif opcode == GET:
                events.append(Value(frame.statics[k][0], 1, (8,), self.state))
            elif opcode == FAIL:
                events.append(Failed(ErrorInfo("ShapeError", "no", frame.numbers[k])))
        return events


@dataclass
class Worker:
    """A process that holds one device of the session."""

    device: int
    oracle: Oracle
    applied: int = 0
    inbox: deque[Any] = field(default_factory=deque)
    outbox: deque[Any] = field(default_factory=deque)


@dataclass
class Stream:
    """One connection of the client, both ways."""

    up: deque[Any] = field(default_factory=deque)
    down: deque[Any] = field(default_factory=deque)
    client_hears: bool = True
    gateway_hears: bool = True


class Violation(AssertionError):
    """An invariant does not hold."""


class World:
    """One client, one gateway, its workers and disk. `faults` scales how often things break."""

    def __init__(self, seed: int, steps: int = 400, faults: float = 1.0) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.steps = steps
        self.faults = faults
        self.devices = self.rng.choice((1, 1, 2, 3))
        self.disk = FaultyDisk()
        self.now = 0.0
        self.counts: dict[str, int] = {}
        # the client
        self.ledger = _ledger.Ledger()
        self.oracles = [Oracle() for _ in range(self.devices)]
        self.expected: dict[int, bytes] = {}  # values not answered yet
        self.fetching: dict[int, bytes] = {}  # values whose bytes are on their way
        self.failures: set[int] = set()  # expected and not told yet
        self.told_failures: list[int] = []
        self.number = 0
        self.request = 0
        self.stream: Stream | None = None
        self.attempt = 0
        self.epoch = 1
        self.secret = "s"
        self.lost: str | None = None
        # the gateway
        self.streams: list[Stream] = []
        self.history: history.History | None = None
        self.session: sessions.Session | None = None
        self.live: Stream | None = None
        self.coming = Stream()  # that wants to resume
        self.workers: list[Worker] = []
        self.claims = 0
        self.replaying: Any = None
        self.parts: dict[int, history.Part] = {}  # of the snapshot under way
        self.cut = 0
        self.end: messages.End | None = None

    # --- running ---------------------------------------------------------------------------------
    def run(self) -> World:
        """Run the history, heal the world, drain it and check the end."""
        self._create()
        choices = self._choices()
        for _ in range(self.steps):
            names, weights = zip(*((name, w) for name, w in choices.items() if w), strict=True)
            self._do(self.rng.choices(names, weights)[0])
        self._heal()
        return self

    def _choices(self) -> dict[str, float]:
        common = {
            "issue": 12, "client_hears": 14, "gateway_hears": 14,
            "work": 14, "from_worker": 14, "sync": 3, "grant": 6, "replay": 14, "reconnect": 8,
            "start_gateway": 4, "begin_cut": 2, "write_part": 4, "fetch": 3,
        }  # fmt: skip
        rare = {
            "kill_worker": 0.6, "cut_stream": 0.8, "half_open": 0.3, "kill_gateway": 0.3,
            "lose_power": 0.4, "jump": 0.2, "duplicate": 0.5, "fail_cut": 0.3, "sync_fails": 0.02,
            "disk_full": 0.02,
        }  # fmt: skip
        return common | {name: w * self.faults * self.rng.random() for name, w in rare.items()}

    def _do(self, name: str) -> None:
        if getattr(self, f"_{name}")() is not False:
            self.counts[name] = self.counts.get(name, 0) + 1
        self._check()

    def _check(self) -> None:
        """The invariants that hold at any moment."""
        ledger = self.ledger
        if not ledger.durable <= ledger.sent or not ledger.confirmed <= ledger.applied:
            raise Violation(f"seed {self.seed}: the client's counts are out of order")
        if self.session is not None and self.session.state != sessions.ENDED:
            if self.history is not None and self.session.received > self._journalled():
                raise Violation(f"seed {self.seed}: a frame was taken and not journalled")
        if len(set(self.told_failures)) != len(self.told_failures):
            raise Violation(f"seed {self.seed}: a failure was told twice")

    def _journalled(self) -> int:
        assert self.history is not None
        return self.history.sequence

    def _heal(self) -> None:
        """Let everything arrive, and check that nothing is missing."""
        self.disk.sync_fails, self.disk.free_bytes = False, None
        quiet = [
            "start_gateway", "reconnect", "gateway_hears", "grant", "replay", "work",
            "from_worker", "sync", "write_part", "client_hears", "fetch",
        ]  # fmt: skip
        for _ in range(20_000):
            if self._finished():
                return
            for name in quiet:
                self._do(name)
            self.now += 0.01
        raise Violation(f"seed {self.seed}: it hangs; {len(self.expected)} values are missing")

    def _finished(self) -> bool:
        if self.lost is not None:
            return True  # a typed error is an end that is allowed where the disk failed
        if self.expected or self.failures or self.fetching:
            return False
        if self.ledger.pending or self.ledger.durable < self.ledger.sent or not self.workers:
            return self.ledger.sent == 0
        for worker, oracle in zip(self.workers, self.oracles, strict=True):
            if worker.inbox or worker.oracle.state != oracle.state:
                if not worker.inbox:
                    raise Violation(f"seed {self.seed}: device {worker.device} has other bits")
                return False
        return True

    # --- the client ------------------------------------------------------------------------------
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
        for event in self.oracles[frame.device].run(frame):
            if isinstance(event, Value):
                assert event.data is not None
                self.expected[event.request] = bytes(event.data)
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
        self.attempt += 1
        known = (self.attempt, self.ledger.confirmed, self.ledger.applied)
        self.stream.up.append(("resume", known, self.secret))
        self.streams.append(self.stream)
        return True

    def _client_hears(self) -> bool:
        stream = self.stream
        if stream is None or not stream.client_hears or not stream.down:
            return False
        kind, *body = stream.down.popleft()
        if kind == "welcome":
            self.epoch, received = body
            self.ledger.resume(received)
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
        elif bytes(value.data) != expected:
            raise Violation(f"seed {self.seed}: request {value.request} has other bits")
        del self.expected[value.request]

    def _fetch(self) -> bool:
        """Fetch the bytes of a long value, if a worker has them (it may have died meanwhile)."""
        if not self.fetching or self.session is None:
            return False
        request = self.rng.choice(sorted(self.fetching))
        for worker in self.workers:
            for event in worker.outbox:
                if event[0] == "bytes" and event[1] == request:
                    if event[2] != self.fetching.pop(request):
                        raise Violation(f"seed {self.seed}: download {request} has other bits")
                    self.ledger.release(request)
                    worker.outbox.remove(event)
                    if self.stream is not None:
                        self.stream.up.append(("frames", [], self.ledger.confirmed))
                    return True
        return False

    # --- streams ---------------------------------------------------------------------------------
    def _cut_stream(self) -> bool:
        """Break the client's connection: what is under way is gone, each side hears of it later."""
        stream = self.stream
        if stream is None or not stream.client_hears:
            return False
        keep = self.rng.randrange(len(stream.up) + 1)
        while len(stream.up) > keep:
            stream.up.pop()
        keep = self.rng.randrange(len(stream.down) + 1)
        while len(stream.down) > keep:
            stream.down.pop()
        stream.up.append(("broken",))
        stream.down.append(("broken",))
        return True

    def _duplicate(self) -> bool:
        """Send frames a second time, as a client may that is not sure."""
        again = [m for m in self.stream.up if m[0] == "frames"] if self.stream else []
        if self.stream is None or not again:
            return False
        self.stream.up.append(again[-1])
        return True

    def _half_open(self) -> bool:
        """The client hears of the end, the gateway does not, or only when another stream comes."""
        if self.stream is None or not self.stream.client_hears:
            return False
        self.stream.client_hears = False
        self.ledger.broken()
        return True

    # --- the gateway -----------------------------------------------------------------------------
    def _create(self) -> None:
        kinds = ("cpu",) * self.devices
        self.history = history.History.create(self.disk, WHERE, "s", self.secret)
        self.session = sessions.Session(kinds, LEASE_S, journalled=True, syncs=True)
        self.stream = self.live = Stream()
        self.streams.append(self.stream)
        self.ledger.open(wire.Welcome("s", 1, kinds))

    def _start_gateway(self) -> bool:
        if self.session is not None:
            return False
        try:
            self.history = history.open_(self.disk, WHERE, "s")
        except journal.JournalDamagedError:
            raise  # what was durable is not as it was
        except JournalError:
            return False  # its disk fails; somebody will start it again
        past = self.history.past
        kinds = ("cpu",) * self.devices
        self.session = sessions.Session.woken(
            kinds, LEASE_S, past.epoch, past.base, dict(past.frames)
        )
        self.cut = past.number
        return True

    def _gateway_hears(self) -> bool:
        waiting = [s for s in self.streams if s.up and s.gateway_hears]
        if self.session is None or not waiting:
            return False
        stream = self.rng.choice(waiting)
        kind, *body = stream.up.popleft()
        if kind == "broken":
            stream.gateway_hears = False
            if stream is self.live:
                self.live = None
                self._give(messages.ClientGone())
        elif kind == "resume":
            self._resume(stream, *body)
        elif stream is self.live:
            frames, confirmed = body
            for data in frames:
                self._give(messages.FrameIn(wire.frame_header(data), data))
            if confirmed and self.session is not None:
                self._give(messages.Confirmed(confirmed))
        return True

    def _resume(self, stream: Stream, known: tuple[int, int, int], secret: str) -> None:
        assert self.session is not None and self.history is not None
        if secret != self.history.past.secret:
            raise Violation("the secret is another")
        if self.session.state == sessions.ENDED:
            stream.down.append(("lost", "SessionClosedError"))
            return
        self.coming = stream
        self._give(messages.Resumed(*known))

    def _give(self, given: messages.Input) -> None:
        if self.session is not None:
            self._obey(self.session.handle(given, self.now))

    def _obey(self, outputs: list[messages.Output]) -> None:
        assert self.history is not None
        try:
            for out in outputs:
                self._carry_out(out)
        except JournalError as error:
            self._give(messages.Fault("JournalError", str(error)))

    def _carry_out(self, out: messages.Output) -> None:
        assert self.history is not None
        match out:
            case messages.Append(header, data):
                self.history.frame(header.sequence, data)
            case messages.Forward(device, data):
                self.workers[device].inbox.append(("frame", data))
            case messages.EventsOut(data, applied, durable):
                if self.live is not None:
                    events = list(wire.decode_events(data)) if data else []
                    self.live.down.append(("told", events, applied, durable))
            case messages.Refuse():
                self.coming.down.append(("broken",))
                self.coming.gateway_hears = False
            case messages.Welcomed():
                self._welcome()
            case messages.Claim():
                self.claims += 1
            case messages.Replay(first, last):
                self.replaying = (self.history.replay(), first, last)
            case messages.Mark(number, sequence):
                self.history.mark(number, sequence)
                self.cut, self.parts = number, {}
            case messages.TakeCut(number):
                for worker in self.workers:
                    worker.inbox.append(("cut", number))
            case messages.Commit(number, sequence):
                parts = tuple(self.parts[d] for d in range(self.devices))
                self.history.commit(number, sequence, parts)
            case messages.Rest():
                self.workers, self.replaying, self.claims = [], None, 0
            case messages.End(kind, message):
                self._ended(kind, message)

    def _welcome(self) -> None:
        assert self.session is not None and self.history is not None
        if self.live is not None:
            self.live.down.append(("broken",))
            self.live.gateway_hears = False
        self.live = self.coming
        self.history.epoch(self.session.epoch, self.secret)
        self.live.down.append(("welcome", self.session.epoch, self.session.received))

    def _ended(self, kind: str, message: str) -> None:
        if kind != "JournalError":
            raise Violation(f"seed {self.seed}: the session ended: {kind}: {message}")
        if self.live is not None:
            self.live.down.append(("lost", kind))
        self.workers = []

    def _grant(self) -> bool:
        if self.session is None or not self.claims or self.session.state == sessions.ENDED:
            return False
        self.claims -= 1
        assert self.history is not None
        past = self.history.past
        self.workers = []
        for device in range(self.devices):
            state = self.history.part(device) if past.parts else b""
            applied, state = int.from_bytes(state[:8], "little"), state[8:]
            self.workers.append(Worker(device, Oracle(state), applied))
        self._give(messages.Assigned())
        return True

    def _replay(self) -> bool:
        if self.replaying is None or self.session is None or not self.session.room:
            return False
        records, first, last = self.replaying
        data = next(records, None)
        if data is None:
            self.replaying = None
            return False
        header = wire.frame_header(data)
        if first <= header.sequence <= last:
            self._give(messages.Again(header, data))
        return True

    def _sync(self) -> bool:
        if self.history is None or self.session is None:
            return False
        try:
            index = self.history.journal.sync()
        except JournalError as error:
            self._give(messages.Fault("JournalError", str(error)))
            return True
        sequence = self.history.synced(index)
        if sequence:
            self._give(messages.Synced(sequence))
        return True

    def _begin_cut(self) -> None:
        self._give(messages.Cut(self.cut + 1))

    def _write_part(self) -> bool:
        """Take a snapshot's part from a worker to the disk."""
        for worker in self.workers:
            for message in worker.outbox:
                if message[0] != "part":
                    continue
                worker.outbox.remove(message)
                _, number, data = message
                if number != self.cut:
                    return True  # of one that failed
                name = f"{history.PART_PREFIX}{number}-{worker.device}"
                self.disk.replace(WHERE / name, data)
                digest = hashlib.sha256(data).hexdigest()
                self.parts[worker.device] = history.Part(name, len(data), digest)
                self._give(messages.CutTaken(number, worker.device))
                return True
        return False

    def _fail_cut(self) -> None:
        """The disk, or a worker, has no room for a snapshot."""
        self.parts = {}
        for worker in self.workers:
            for message in [m for m in worker.outbox if m[0] == "part"]:
                worker.outbox.remove(message)
        self._give(messages.CutFailed(self.cut))

    # --- workers ---------------------------------------------------------------------------------
    def _work(self) -> bool:
        busy = [w for w in self.workers if w.inbox]
        if not busy:
            return False
        worker = self.rng.choice(busy)
        kind, body = worker.inbox.popleft()
        if kind == "cut":
            taken = worker.applied.to_bytes(8, "little") + worker.oracle.state
            worker.outbox.append(("part", body, taken))
            return True
        frame = wire.decode_frame(body)
        events = worker.oracle.run(frame)
        before = worker.applied
        worker.applied = frame.sequence
        for event in events:
            if isinstance(event, Value) and event.request % 5 == 0:
                worker.outbox.append(("bytes", event.request, bytes(event.data or b"")))
                event = Value(event.request, event.dtype, event.shape, None)
            if self.rng.random() < 0.3:  # a message of its own, before the frame is done
                worker.outbox.append(("events", before, [event]))
            else:
                worker.outbox.append(("later", 0, [event]))
        rest = [e for m in worker.outbox if m[0] == "later" for e in m[2]]
        for message in [m for m in worker.outbox if m[0] == "later"]:
            worker.outbox.remove(message)
        worker.outbox.append(("events", frame.sequence, rest))
        return True

    def _from_worker(self) -> bool:
        saying = [w for w in self.workers if any(m[0] == "events" for m in w.outbox)]
        if not saying or self.session is None:
            return False
        worker = self.rng.choice(saying)
        message = next(m for m in worker.outbox if m[0] == "events")
        worker.outbox.remove(message)
        _, applied, events = message
        data = wire.encode_events(events) if events else b""
        self._give(messages.EventsIn(worker.device, applied, data))
        return True

    # --- faults ----------------------------------------------------------------------------------
    def _kill_worker(self) -> bool:
        if not self.workers or self.session is None:
            return False
        self.workers = []
        asked = self.rng.random() < 0.2  # to leave them, which comes to the same
        self._give(messages.Leave() if asked else messages.Bereft("gone"))
        return True

    def _kill_gateway(self) -> bool:
        if self.session is None or self.session.state == sessions.ENDED:
            return False
        self.session = self.history = self.live = self.replaying = None
        self.workers, self.claims = [], 0
        for stream in self.streams:
            stream.gateway_hears = False
            stream.down.append(("broken",))
        self.streams = []
        return True

    def _lose_power(self) -> bool:
        """The gateway's machine stops: what was not synced may be gone."""
        if self._kill_gateway() is False:
            return False
        self.disk.lose_power(self.rng)
        return True

    def _jump(self) -> None:
        self.now += self.rng.choice((1.0, 30.0, 100.0))
        self._give(messages.Tick())

    def _sync_fails(self) -> None:
        self.disk.sync_fails = True

    def _disk_full(self) -> None:
        self.disk.free_bytes = self.rng.randrange(200)
