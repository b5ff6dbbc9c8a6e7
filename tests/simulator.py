"""A world of one session under a seeded clock: the real state machines, everything else made up.

`Ledger` (client), `Session`, `History` and `Journal` (gateway) are the production classes. Streams,
workers, the disk and time are simulated on one thread: a seed chooses what is delivered, dropped,
delayed, cut, killed or full. Every step ends with the invariants; `World(seed).run()` is a history.
"""

from __future__ import annotations

import hashlib
import random
from collections import deque
from dataclasses import replace
from pathlib import Path
from typing import Any

from farspan import _ledger, wire
from farspan.core.command import Frame, Value
from farspan.core.errors import JournalError, SessionClosedError
from farspan_server import history, journal, live
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from faulty_disk import FaultyDisk
from simulated_client import ClientSide, Oracle, Stream, Violation, Worker, switch

WHERE = Path("session")
_ON_DISK = (  # what does not happen to a session without a journal, or ends it
    "sync", "start_gateway", "begin_cut", "write_part", "kill_worker", "kill_gateway", "lose_power",
    "jump", "fail_cut", "sync_fails", "disk_full", "disk_works", "replay",
)  # fmt: skip
LEASE_S = 60.0
OVER = (sessions.ENDED, sessions.FAILED)
FROZEN = b"what is never written"
SAID = ("events", "ready")  # on a worker's control link


class World(ClientSide):
    """One client, one gateway, its workers and disk. `faults` scales how often things break."""

    def __init__(self, seed: int, steps: int = 400, faults: float = 1.0) -> None:
        self.seed = seed
        self.rng = random.Random(seed)
        self.steps = steps
        self.faults = faults
        self.devices = self.rng.choice((1, 1, 2, 3))
        #: What the session survives: "off" has no journal, so that its gateway may not die.
        self.durability = self.rng.choice(("durable",) * 6 + ("snapshot-only", "off"))
        self.disk = FaultyDisk()
        self.now = 0.0
        self.counts: dict[str, int] = {}
        # the client
        self.ledger = _ledger.Ledger()
        self.oracles = [Oracle() for _ in range(self.devices)]
        self.expected: dict[int, bytes] = {}  # values not answered yet
        self.fetching: dict[int, bytes] = {}  # values whose bytes are on their way
        self.ways: dict[int, bytes] = {}  # by which kernels what clients were shown was computed
        self.failures: set[int] = set()  # expected and not told yet
        self.told_failures: list[int] = []
        self.number = 0
        self.request = 0
        self.stream: Stream | None = None
        self.attempt = 0
        self.epoch = 1
        self.secret = "s"
        self.lost: str | None = None
        self.attaching = False  # a client that has not been welcomed takes the place of the first
        self.promised = 0  # frames that clients before were told are durable
        self.issued: dict[int, Frame] = {}
        self.power_lost = False
        # the gateway
        self.streams: list[Stream] = []
        self.history: history.History | None = None
        self.session: sessions.Session | None = None
        self.live: Stream | None = None
        self.coming = Stream()  # that wants to resume
        self.coming_secret = ""  # of one that attaches
        self.workers: list[Worker] = []
        self.claims = 0
        self.replaying: Any = None
        self.parts: dict[int, history.Part] = {}  # of the snapshot under way
        self.cut = 0
        self.doubtful = False  # a sync has failed, which is noted beside the files
        #: What proves whose a call beside the stream is; its machine is never asked.
        self.owner = live.Live(
            sessions.Session(("cpu",), LEASE_S), live.about_session("t", ("cpu",), "off", 0.0, 6)
        )
        self.owner.minor = live.PROVE_MINOR
        self.calls: list[tuple[str, str | None]] = []  # under way: whose, and whom it was proved to

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
            "attach_after_failure": 1,
        }  # fmt: skip
        rare = {
            "kill_worker": 0.6, "cut_stream": 0.8, "half_open": 0.3, "kill_gateway": 0.3,
            "lose_power": 0.4, "jump": 0.2, "duplicate": 0.5, "fail_cut": 0.3, "sync_fails": 0.1,
            "disk_full": 0.05, "disk_works": 0.5, "attach": 0.15, "call": 0.5, "answer_call": 1,
        }  # fmt: skip
        if self.durability == "off":
            for name in _ON_DISK:
                common.pop(name, None)
                rare.pop(name, None)
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
        if self.session is not None and self.session.state not in OVER:
            if self.history is not None and self.session.received > self._journalled():
                raise Violation(f"seed {self.seed}: a frame was taken and not journalled")
        if len(set(self.told_failures)) != len(self.told_failures):
            raise Violation(f"seed {self.seed}: a failure was told twice")

    def _journalled(self) -> int:
        assert self.history is not None
        return self.history.sequence

    def _heal(self) -> None:
        """Let everything arrive, and check that nothing is missing."""
        self._disk_works()
        self._attach_after_failure()
        quiet = [
            "start_gateway", "reconnect", "gateway_hears", "grant", "replay", "work",
            "from_worker", "sync", "write_part", "client_hears", "fetch",
        ]  # fmt: skip
        if self.durability == "off":
            quiet = [name for name in quiet if name not in _ON_DISK]
        for _ in range(20_000):
            if self._finished():
                return
            for name in quiet:
                self._do(name)
            self._attach_after_failure()
            self.now += 0.01
        raise Violation(f"seed {self.seed}: it hangs; {len(self.expected)} values are missing")

    def _finished(self) -> bool:
        if self.lost is not None:
            return True  # a typed error is an end that is allowed where the disk failed
        if self.attaching or self.expected or self.failures or self.fetching:
            return False
        if self.ledger.pending or self.ledger.durable < self.ledger.sent or not self.workers:
            return self.ledger.sent == 0
        if self.session is None or self.session._held or not self.session._forwarding:
            return False  # a client that took it over waits for nothing, but the workers replay
        for worker, oracle in zip(self.workers, self.oracles, strict=True):
            if worker.inbox or worker.oracle.state != oracle.state:
                if not worker.inbox:
                    raise Violation(f"seed {self.seed}: device {worker.device} has other bits")
                return False
        return True

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
        self.volatile_secret = self.secret
        journalled = self.durability != "off"
        if journalled:
            self.history = history.History.create(self.disk, WHERE, "s", self.secret)
        self.session = sessions.Session(
            kinds, LEASE_S, journalled, self.durability == "durable", journalled, resumes=True
        )
        self.stream = self.live = Stream()
        self.streams.append(self.stream)
        self.ledger.open(wire.Welcome("s", 1, kinds))

    def _start_gateway(self) -> bool:
        if self.session is not None:
            return False
        return self._open()

    def _open(self) -> bool:
        """Let the session be as it lies on disk, if the disk works."""
        try:
            if self.doubtful:  # as shelf.py does it
                history.open_(self.disk, WHERE, "s", doubtful=True).journal.close()
                self.doubtful = False
                self.power_lost |= self.durability != "durable"  # it comes to the same
            self.history = history.open_(self.disk, WHERE, "s")
        except journal.JournalDamagedError:
            raise  # what was durable is not as it was
        except journal.JournalBusyError as error:
            self.doubtful |= error.doubtful
            return False  # its disk fails; somebody will try again
        past = self.history.past
        kinds = ("cpu",) * self.devices
        self.session = sessions.Session.woken(
            kinds, LEASE_S, past.epoch, past.base, dict(past.frames), self.durability == "durable",
            past.switches,
        )  # fmt: skip
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
        elif kind == "attach":
            self._take_over(stream)
        elif stream is self.live:
            frames, confirmed = body
            for data in frames:
                self._give(messages.FrameIn(wire.frame_header(data), data))
            if confirmed and self.session is not None:
                self._give(messages.Confirmed(confirmed))
        return True

    def _mended(self, stream: Stream) -> bool:
        """Return whether the session can be gone on with; else its client may come again."""
        assert self.session is not None
        if self.session.state != sessions.FAILED or self._open():
            return True
        stream.down.append(("broken",))
        stream.gateway_hears = False
        return False

    def _resume(self, stream: Stream, known: tuple[int, int, int], secret: str) -> None:
        if not self._mended(stream):
            return
        assert self.session is not None
        if secret != self.known_secret:
            if stream is self.stream and not self.power_lost:
                raise Violation("the secret is another")
            self._refuse(stream)
            return
        if self.session.state == sessions.ENDED:
            stream.down.append(("lost", "SessionClosedError"))
            return
        self.coming, self.coming_secret = stream, ""
        self._give(messages.Resumed(*known))

    @property
    def known_secret(self) -> str:
        return self.history.past.secret if self.history is not None else self.volatile_secret

    def _refuse(self, stream: Stream) -> None:
        forgot = self.power_lost and self.durability != "durable"
        stream.down.append(("lost", "SessionClosedError") if forgot else ("broken",))
        stream.gateway_hears = False

    def _take_over(self, stream: Stream) -> None:
        """Let a new client have the session, and hear of it when what it has is durable."""
        if not self._mended(stream):
            return
        assert self.session is not None
        if self.session.state == sessions.ENDED:
            stream.down.append(("lost", "SessionClosedError"))
            return
        self.coming, self.coming_secret = stream, f"{self.known_secret}+"
        self._give(messages.Attached())
        if self.history is not None and self.session.state not in OVER:
            self._sync()
        if self.session.state == sessions.FAILED:  # a journal that nobody reads has its secret
            stream.down = deque(m for m in stream.down if m[0] != "welcome")

    def _give(self, given: messages.Input) -> None:
        if self.session is not None:
            self._obey(self.session.handle(given, self.now))

    def _obey(self, outputs: list[messages.Output]) -> None:
        try:
            for out in outputs:
                self._carry_out(out)
        except JournalError as error:
            self._give(messages.JournalFailed(str(error)))

    def _carry_out(self, out: messages.Output) -> None:
        match out:
            case messages.Forward(device, data):
                self.workers[device].inbox.append(("frame", data))
            case messages.Do(device, switched):
                self.workers[device].inbox.append(("switch", switched))
            case messages.EventsOut(data, applied, durable):
                if self.live is not None:
                    events = list(wire.decode_events(data)) if data else []
                    self.live.down.append(("told", events, applied, durable))
                    assert self.session is not None
                    self.session.handle(messages.Written(1 if data else 0), self.now)
            case messages.Refuse():
                self._refuse(self.coming)
            case messages.Welcomed():
                self._welcome()
            case messages.Claim():
                self.claims += 1
            case messages.Rest():
                self.workers, self.replaying, self.claims = [], None, 0
            case messages.SetAside():
                self._set_aside()
            case messages.End(kind, message):
                self._ended(kind, message)
            case _:
                self._keep(out)

    def _keep(self, out: messages.Output) -> None:
        """Carry out what has to do with the journal."""
        assert self.history is not None
        match out:
            case messages.Append(header, data):
                self.history.frame(header.sequence, data)
            case messages.Note(sequence, device, switched):
                self.history.switch(history.Placed(sequence, device, switched))
            case messages.Replay(first, last):
                self.replaying = (self.history.replay(), first, last)
            case messages.Mark(number, sequence):
                self.history.mark(number, sequence)
                self.cut, self.parts = number, {}
            case messages.TakeCut(number):
                base = self.history.past.number
                for worker in self.workers:
                    worker.inbox.append(("cut", (number, base)))
            case messages.Commit(number, sequence):
                parts = tuple(self.parts[d] for d in range(self.devices))
                self.history.commit(number, sequence, parts)
                if self.durability == "snapshot-only":
                    self._sync()

    def _welcome(self) -> None:
        assert self.session is not None
        if self.live is not None:
            self.live.down.append(("broken",))
            self.live.gateway_hears = False
        self.live = self.coming
        secret = self.coming_secret or self.known_secret
        if self.history is not None:
            self.history.epoch(self.session.epoch, secret)
        self.volatile_secret = secret
        self.live.down.append(("welcome", self.session.epoch, self.session.received, secret))

    def _set_aside(self) -> None:
        """Let the session lie on disk as its journal failed, and tell its client."""
        assert self.history is not None
        self.doubtful |= self.history.journal.doubtful
        self.history.journal.close()
        if self.live is not None:
            self.live.down.append(("lost", "JournalError"))
            self.live.gateway_hears = False
        self.live = self.replaying = None
        self.workers, self.claims = [], 0

    def _ended(self, kind: str, message: str) -> None:
        raise Violation(f"seed {self.seed}: the session ended: {kind}: {message}")

    def _grant(self) -> bool:
        if self.session is None or not self.claims or self.session.state in OVER:
            return False
        self.claims -= 1
        self.workers = []
        for device in range(self.devices):
            stored = self.history is not None and bool(self.history.past.parts)
            state = self.history.part(device) if self.history is not None and stored else b""
            applied, frozen = int.from_bytes(state[:8], "little"), state[-len(FROZEN) :]
            homes = {}
            if stored:
                if frozen != FROZEN:
                    raise Violation(f"seed {self.seed}: a snapshot without an older one's memory")
                past = self.history.past
                homes[past.number] = int(past.parts[device].files[-1].name.split("-")[1])
            self.workers.append(Worker(device, Oracle.of_bytes(state[8:32]), applied, homes))
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
        if self.history is None or self.session is None or self.session.state in OVER:
            return False
        try:
            index = self.history.journal.sync()
        except JournalError as error:
            self._give(messages.JournalFailed(str(error)))
            return True
        sequence, noted = self.history.synced(index), self.history.noted
        if sequence:
            self._give(messages.Synced(sequence))
        self._give(messages.Noted(noted))
        return True

    def _begin_cut(self) -> bool:
        if self.replaying is not None:  # as `Keeper.look` has it: a commit removes what is read
            return False
        self._give(messages.Cut(self.cut + 1))
        return True

    def _write_part(self) -> bool:
        """Take a snapshot's part from a worker to the disk."""
        for worker in self.workers:
            for message in worker.outbox:
                if message[0] != "part":
                    continue
                worker.outbox.remove(message)
                _, number, data, home = message
                if number != self.cut:
                    return True  # of one that failed
                name = history.part_name(number, worker.device)
                try:
                    self.disk.replace(WHERE / name, data)
                except OSError:
                    self._fail_cut()
                    return True
                digest = hashlib.sha256(data).hexdigest()
                older: tuple[history.Part, ...] = ()
                if home != number:
                    files = self.history.past.parts[worker.device].files
                    wanted = history.part_name(home, worker.device)
                    older = tuple(replace(f, older=()) for f in files if f.name == wanted)
                    assert older, "a file that the last snapshot does not have"
                self.parts[worker.device] = history.Part(name, len(data), digest, older)
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
            number, base = body
            taken = worker.applied.to_bytes(8, "little") + worker.oracle.to_bytes()
            home = worker.homes.get(base, number) if number % 4 else number
            if home == number:
                taken += FROZEN
            worker.homes = {n: h for n, h in worker.homes.items() if n == base} | {number: home}
            worker.outbox.append(("part", number, taken, home))
            return True
        if kind == "switch":
            return bool(worker.oracle.take(body))
        frame = wire.decode_frame(body)
        events = worker.oracle.run(frame)
        before = worker.applied
        worker.applied = frame.sequence
        if self.rng.random() < 0.1:
            worker.outbox.append(("ready", switch(self.rng)))
        for event in events:
            if isinstance(event, Value):
                ways = bytes(event.data or b"")[8:]
                if self.ways.get(event.request, ways) != ways:
                    raise Violation(f"seed {self.seed}: value {event.request} was shown otherwise")
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
        saying = [w for w in self.workers if any(m[0] in SAID for m in w.outbox)]
        if not saying or self.session is None:
            return False
        worker = self.rng.choice(saying)
        message = next(m for m in worker.outbox if m[0] in SAID)
        worker.outbox.remove(message)
        if message[0] == "ready":
            self._give(messages.Ready(worker.device, message[1]))
            return True
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
        self.power_lost = True
        return True

    def _jump(self) -> None:
        self.now += self.rng.choice((1.0, 30.0, 100.0))
        self._give(messages.Tick())

    def _sync_fails(self) -> None:
        self.disk.sync_fails = True

    def _disk_full(self) -> None:
        self.disk.free_bytes = self.rng.randrange(200)

    def _disk_works(self) -> None:
        self.disk.sync_fails, self.disk.free_bytes = False, None

    # --- calls beside the stream -----------------------------------------------------------------
    def _call(self) -> bool:
        """Let a client, or one that had the session before, ask for a name."""
        if not self.secret.startswith("s"):
            return False
        secret = self.rng.choice([self.secret, self.secret[:-1] or self.secret])
        self.calls.append((secret, None))
        return True

    def _answer_call(self) -> bool:
        """Take a call that has come, or do what one asks that was found good before."""
        if not self.calls or self.session is None or self.session.state in OVER:
            return False
        secret, proved = self.calls.pop(self.rng.randrange(len(self.calls)))
        self.owner.digest = live.digest_of(self.known_secret.encode())
        try:
            if proved is None:  # what it needs may be still to come, and another client, too
                self.calls.append((secret, self.owner.prove(secret.encode())))
                return True
            self.owner.check(proved)
        except SessionClosedError:
            return True
        if secret != self.known_secret:
            raise Violation(f"seed {self.seed}: a call of a client was heard that has nothing here")
        if self.history is not None:
            try:
                self.history.keep("name", secret)
            except JournalError as error:
                self._give(messages.JournalFailed(str(error)))
        return True
