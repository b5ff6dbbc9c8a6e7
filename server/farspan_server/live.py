"""One session as the gateway keeps it: its machine, its client's stream, its workers' links."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import secrets
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from farspan import wire
from farspan.core import limits
from farspan.core.command import Lost, NumericsChange
from farspan.core.errors import BadValueError, ConnectError, JournalError, SessionClosedError

from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.downloads import Downloads
from farspan_server.history import Uploads

if TYPE_CHECKING:
    from farspan_server import pool as pools
    from farspan_server.bulk import Call
    from farspan_server.keeper import Keeper
    from farspan_server.passing import Passing
    from farspan_server.pool_messages import Worker
    from farspan_server.sleep import Sleeper
    from farspan_server.window import Window
    from farspan_server.workers import WorkerLink

KINDS: Final = ("cpu", "cuda")
RESUME_MINOR: Final = 5  # clients of it confirm what they were told, and may resume
PROVE_MINOR: Final = 6  # clients of it prove with each call that the session is theirs
_NOTHING: Final = wire.Down()
TAKEN: Final = "another client has taken the session over"


def _nothing() -> None:
    """Nobody writes yet."""


#: What a session survives, as Hello and Welcome say it.
DURABLE: Final = "durable"  # its workers, its client's connection, the gateway, a loss of power
SNAPSHOT_ONLY: Final = "snapshot-only"  # the same, but a loss of power takes it back to a snapshot
OFF: Final = "off"  # its client's connection
DURABILITIES: Final = (DURABLE, SNAPSHOT_ONLY, OFF)


class Stream:
    """What one connection of a client is told, in order, until it is over."""

    def __init__(self) -> None:
        self.over = False  # what waits is written, and nothing more will come
        #: Called when there is something for the client, or the stream is over.
        self.look: Callable[[], None] = _nothing
        self._events: deque[messages.EventsOut] = deque()
        self._last_words: bytes | None = None
        self._welcome: wire.Welcome | None = None
        self._line = 0
        self._devices: tuple[wire.Device, ...] = ()
        self._numerics: tuple[NumericsChange, ...] = ()
        self._durable = 0  # the last frame of which that was told
        self._late: asyncio.TimerHandle | None = None  # runs while word of it waits

    def post(
        self,
        *,
        welcome: wire.Welcome | None = None,
        line: int = 0,
        devices: tuple[wire.Device, ...] = (),
        numerics: tuple[NumericsChange, ...] = (),
        events: messages.EventsOut | None = None,
    ) -> None:
        """Queue something for the client.

        Nobody waits to hear what is durable: it rides with what comes next, or goes alone later.
        """
        self._welcome = welcome or self._welcome
        self._line = line or self._line
        self._devices = devices or self._devices
        self._numerics = numerics or self._numerics
        if events is not None:
            self._events.append(events)
            rides = not (events.data or events.applied or welcome or line or devices or numerics)
            if rides and events.durable - self._durable < limits.CREDIT_FRAMES and not self.over:
                if self._late is None:
                    loop = asyncio.get_running_loop()
                    self._late = loop.call_later(limits.DURABLE_RIDES_S, self._go_alone)
                return
        self.look()

    def _go_alone(self) -> None:
        self._late = None
        self.look()

    def end(self, kind: str = "", message: str = "") -> None:
        """End the stream behind what waits, with the reason if there is one."""
        if kind and not self.over:
            self._last_words = wire.encode_events([Lost(kind, message)])
        self.over = True
        self.look()

    def take(self) -> tuple[wire.Down, int, int] | None:
        """Return a message for the client with the count and bytes of its events, if any waits.

        Whatever waits rides together: a message costs the same whatever it holds.
        """
        down, count, size = self._take()
        return None if down == _NOTHING else (down, count, size)

    def _take(self) -> tuple[wire.Down, int, int]:
        welcome, self._welcome = self._welcome, None
        line, self._line = self._line, 0
        devices, self._devices = self._devices, ()
        numerics, self._numerics = self._numerics, ()
        events: list[bytes] = []
        count = size = applied = durable = 0
        while self._events and size + len(self._events[0].data) <= limits.FRAME_BYTES_MAX:
            each = self._events.popleft()
            if each.data:
                events.append(each.data)
                count += 1
                size += len(each.data)
            applied, durable = max(applied, each.applied), max(durable, each.durable)
        if durable:
            self._durable = durable
            if self._late is not None:
                self._late.cancel()
                self._late = None
        if not self._events and self._last_words is not None:
            events.append(self._last_words)
            self._last_words = None
        down = wire.Down(welcome, tuple(events), line, devices, applied, durable, numerics)
        return down, count, size


@dataclass(slots=True, frozen=True)
class Coming:
    """A client that wants to go on with a session, or to take it over."""

    stream: Stream
    minor: int
    secret: bytes = b""  # its own from now on; empty: it has one
    digest: str = ""


class Live:
    """A session, its client's stream and its workers' links."""

    def __init__(self, machine: sessions.Session, about: dict[str, Any], id_: str = "") -> None:
        """about: what a journal keeps of it, as `about_session` makes it."""
        self.id = id_ or secrets.token_hex(16)
        self.channel = secrets.randbits(63)  # its number on all links; never used twice
        self.about = about
        self.tenant: str = about["tenant"]
        self.durability: str = about["durability"]
        self.opened_at_s: float = about["opened_at_s"]
        self.stays: bool = about["stays"]
        self.wait_s: float = about["wait_s"]
        self.machine = machine
        self.keeper: Keeper | None = None  # of a session that is journalled
        self.links: tuple[WorkerLink, ...] = ()
        self.names = names_of(machine.kinds)
        self.memory_bytes = 0  # that each of its devices may take: its tenant's quota says
        self.features = frozenset[str]()  # those of FEATURES that its client knows too
        self.users = 0  # calls that have it in hand: it does not fall asleep
        self.slept: Sleeper | None = None  # what it was, if it woke up in this gateway
        self.left = False  # it lies on disk, for another gateway
        self.failure = ""  # why nothing can be done, of one whose journal failed
        self.fencing = 0  # who are about to take it over, and ask its workers to share nothing
        self.shares = False  # without a journal: it has memory that its client has mapped
        self.windows: dict[int, Window] = {}  # of one with a journal, by device
        self.windows_made: dict[int, int] = {}  # in this epoch, the last one's number
        self.assigned = asyncio.Event()
        # A worker that is replaced needs time until it tells the bytes again.
        self.downloads = Downloads(
            limits.LEASE_S if machine.journalled else limits.CONNECT_S,
            (lambda: machine.received) if machine.resumes else None,
            lambda: self.tell_again(),
        )
        #: Has workers tell anew what the client has not confirmed; whether they will.
        self.tell_again: Callable[[], bool] = bool
        self.stream: Stream | None = None  # of its client, if there is one
        self.coming: Coming | None = None  # while the machine decides
        self.minor = 0  # of its client
        self.digest = ""  # of the secret that proves who may resume; empty: nobody may
        self.kept: dict[str, str] = {}  # names that its client gave
        self.uploads = Uploads()
        self.uploading: dict[int, Call] = {}  # by transfer: the call that brings it
        self.written = 0  # the last ack that went to the client
        self.bytes_received = self.bytes_sent = 0  # of frames and tensors, from and to its client
        self.moving: pools.Moved | None = None  # to which workers, while it lets go of its own
        #: Whether the first command after a change of its numerics is still to come.
        self.unnamed = any(not each.command for each in self.changes)
        self.claimed_s = 0.0  # when it began to wait for workers, until it has them
        self.lost_s = 0.0  # when its workers were lost, until others have all that they had
        self.passing: Passing | None = None  # while its client profiles

    @property
    def count(self) -> tuple[int, int]:
        """Frames and commands that this gateway has had of it, before it slept too."""
        frames, commands = (self.slept.frames, self.slept.commands) if self.slept else (0, 0)
        return self.machine.frames + frames, self.machine.commands + commands

    @property
    def ended(self) -> bool:
        """Whether it has ended, or its journal failed: nothing of it goes on here."""
        return self.machine.state in (sessions.ENDED, sessions.FAILED)

    def check(self, owner: str | None = None) -> None:
        """Raise SessionClosedError if it has ended, ConnectError if it is another gateway's.

        JournalError: its journal failed. owner: who had it, of `prove`; SessionClosedError if that
        is another client by now.
        """
        if self.left:
            raise ConnectError("the gateway shuts down")
        if self.failure:
            raise JournalError(self.failure)
        if self.ended:
            raise SessionClosedError("the session has ended")
        if owner is not None and owner != self.digest:
            raise SessionClosedError(TAKEN)

    @property
    def confirms(self) -> bool:
        """Whether the client says itself what it has taken; else what is written counts."""
        return self.minor >= RESUME_MINOR

    @property
    def devices(self) -> tuple[wire.Device, ...]:
        """The devices as the client may know them; empty until they are assigned."""
        workers = [each.worker for each in self.links]
        return tuple(
            wire.Device(
                name, worker.kind, worker.host, worker.pid, worker.epoch, worker.worker,
                worker.numerics,
            )
            for name, worker in zip(self.names, workers, strict=False)
        )  # fmt: skip

    @property
    def numerics(self) -> tuple[str, ...]:
        """The keys that its workers must have, by device; (): any will do."""
        if self.about.get("allow_numerics_change") or self.about.get("numerics_once"):
            return ()
        return self.pinned

    @property
    def pinned(self) -> tuple[str, ...]:
        """The keys of its workers, by device, now or when it had some; () before the first."""
        return tuple(self.about.get("numerics", ()))

    @property
    def worker_kinds(self) -> tuple[str, ...]:
        """The kinds of its workers, by device: those of its devices unless it was moved."""
        return tuple(self.about.get("worker_kinds", ())) or self.machine.kinds

    @property
    def changes(self) -> tuple[NumericsChange, ...]:
        """What became of its numerics: the first change, and the latest ones."""
        found = self.about.get("numerics_changes", ())
        return tuple(
            NumericsChange(number, command, frame, tuple(before), tuple(after))
            for number, command, frame, before, after in found
        )

    def pin(self, workers: tuple[Worker, ...]) -> bool:
        """Note what numerics its workers have; return whether others had another one.

        JournalError.
        """
        keys = tuple(worker.numerics for worker in workers)
        before = tuple(self.about.get("numerics", ()))
        if before == keys or not all(keys):  # a worker of an older release has none
            return False
        about = {**self.about, "numerics": list(keys)}
        about["worker_kinds"] = [worker.kind for worker in workers]
        about.pop("numerics_once", None)
        if before:
            self.unnamed = True
            last = self.changes[-1].number if self.changes else 0
            change = [last + 1, 0, self.machine.base, _distinct(before), _distinct(keys)]
            kept = [*self.about.get("numerics_changes", ()), change]
            about["numerics_changes"] = kept[:1] + kept[1:][1 - limits.NUMERICS_CHANGES_MAX :]
        self._describe(about)
        return bool(before)

    def allow_once(self) -> None:
        """Let its next workers have any numerics. JournalError."""
        self._describe({**self.about, "numerics_once": True})

    def name_changes(self, command: int) -> None:
        """Note which command is the first one since its numerics changed. JournalError."""
        self.unnamed = False
        rows = [[n, c or command, *rest] for n, c, *rest in self.about["numerics_changes"]]
        self._describe({**self.about, "numerics_changes": rows})

    def _describe(self, about: dict[str, Any]) -> None:
        self.about = about
        if self.keeper is not None:
            self.keeper.history.describe(about)

    def post(self, **what: Any) -> None:
        """Queue something for the client, if there is one: see `Stream.post`."""
        if self.stream is not None:
            self.stream.post(**what)

    def is_secret(self, secret: bytes) -> bool:
        """Whether this is what the session's client was given."""
        return bool(self.digest) and hmac.compare_digest(digest_of(secret), self.digest)

    def prove(self, secret: bytes | None) -> str:
        """Return who has the session, for `check`, if a call beside the stream is its client's.

        secret: None if the call has none, as those of clients of an older release; they are heard
        while the session's client is one. SessionClosedError.
        """
        fenced = self.minor >= PROVE_MINOR and bool(self.digest)
        if not self.is_secret(secret) if secret else fenced:
            raise SessionClosedError(TAKEN)
        return self.digest

    def welcome(self, secret: bytes = b"") -> wire.Welcome:
        """Return what opens a stream of the session."""
        return wire.Welcome(
            session=self.id,
            epoch=self.machine.epoch,
            kinds=self.machine.kinds,
            lease_ms=int(self.machine.lease_s * 1000),
            features=tuple(sorted(self.features)),
            minor=min(self.minor, wire.MINOR),
            secret=secret,
            received=self.machine.received,
            durability=self.durability,
        )


def about_session(
    tenant: str,
    kinds: tuple[str, ...],
    durability: str,
    wait_s: float,
    minor: int,
    allow_numerics_change: bool = False,
) -> dict[str, Any]:
    """Return what a journal keeps of a new session, so that another gateway can go on with it."""
    return {
        "tenant": tenant,
        "kinds": list(kinds),
        "durability": durability,
        "stays": durability != OFF and minor >= RESUME_MINOR,  # on disk, when the gateway ends
        "opened_at_s": time.time(),
        "wait_s": wait_s,
        "numerics": [],  # the keys of its workers, by device, once it has some
        "allow_numerics_change": allow_numerics_change,
        "switches": durability != OFF,  # are in its journal; of an older one loops are waited for
    }


def digest_of(secret: bytes) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret).hexdigest()


def parse_devices(text: str) -> tuple[str, ...]:
    """Return the kind of each device asked for.

    >>> parse_devices("cpu:2,cuda")
    ('cpu', 'cpu', 'cuda')
    """
    kinds: list[str] = []
    for part in text.split(","):
        kind, _, count = part.strip().partition(":")
        if kind not in KINDS or not (count or "1").isdecimal() or not int(count or "1"):
            raise BadValueError(
                f'devices: "{text[:64]}"; expected a kind and how many, as in "cpu:2" or "cuda:1"'
            )
        if len(kinds) + int(count or "1") > limits.DEVICES_PER_SESSION_MAX:
            raise BadValueError(
                f'devices: "{text[:64]}"; at most {limits.DEVICES_PER_SESSION_MAX} in a session'
            )
        kinds += [kind] * int(count or "1")
    return tuple(kinds)


def _distinct(keys: tuple[str, ...]) -> list[str]:
    return list(dict.fromkeys(keys))


def names_of(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the devices' names: the first CPU is ``cpu``, as torch calls it."""
    numbered = [(kind, kinds[:k].count(kind)) for k, kind in enumerate(kinds)]
    return tuple("cpu" if each == ("cpu", 0) else f"{each[0]}:{each[1]}" for each in numbered)
