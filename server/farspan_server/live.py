"""One session as the gateway keeps it: its machine, its client's queue, its workers' links."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from farspan import wire
from farspan.core import limits
from farspan.core.errors import BadValueError

from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.downloads import Downloads

if TYPE_CHECKING:
    from farspan_server.keeper import Keeper
    from farspan_server.passing import Passing
    from farspan_server.workers import WorkerLink

KINDS: Final = ("cpu", "cuda")
_NOTHING: Final = wire.Down()


def _nothing() -> None:
    """Nobody writes yet."""


class Live:
    """A session, its client's queue and its workers' links."""

    def __init__(
        self, tenant: str, kinds: tuple[str, ...], wait_s: float, lease_s: float, journalled: bool
    ) -> None:
        self.id = secrets.token_hex(16)
        self.channel = secrets.randbits(63)  # its number on all links; never used twice
        self.tenant = tenant
        self.wait_s = wait_s
        self.opened_at_s = time.time()
        self.machine = sessions.Session(kinds, lease_s, journalled)
        self.keeper: Keeper | None = None  # of a session that is journalled
        self.links: tuple[WorkerLink, ...] = ()
        self.names = names_of(kinds)
        self.memory_bytes = 0  # that each of its devices may take, once they are claimed
        self.features = frozenset[str]()  # those of FEATURES that its client knows too
        self.assigned = asyncio.Event()
        # A worker that is replaced needs time until it tells the bytes again.
        self.downloads = Downloads(limits.LEASE_S if journalled else limits.CONNECT_S)
        self.written = 0  # the last ack that went to the client
        self.passing: Passing | None = None  # while its client profiles
        self._events: deque[messages.EventsOut] = deque()
        self._last_words: bytes | None = None
        self._welcome: wire.Welcome | None = None
        self._line = 0
        self._tell_devices = False
        #: Called when there is something for the client, or the session has ended.
        self.look: Callable[[], None] = _nothing

    @property
    def ended(self) -> bool:
        return self.machine.state == sessions.ENDED

    @property
    def devices(self) -> tuple[wire.Device, ...]:
        """The devices as the client may know them; empty until they are assigned."""
        workers = [each.worker for each in self.links]
        return tuple(
            wire.Device(name, worker.kind, worker.host, worker.pid, worker.epoch)
            for name, worker in zip(self.names, workers, strict=False)
        )

    def post(
        self,
        *,
        welcome: wire.Welcome | None = None,
        line: int = 0,
        devices: bool = False,
        events: messages.EventsOut | None = None,
        last_words: bytes | None = None,
    ) -> None:
        """Queue something for the client."""
        self._welcome = welcome or self._welcome
        self._line = line or self._line
        self._tell_devices |= devices
        if events is not None:
            self._events.append(events)
        if last_words is not None:
            self._last_words = last_words
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
        devices = self.devices if self._tell_devices else ()
        self._tell_devices = False
        events: list[bytes] = []
        count = size = applied = durable = 0
        while self._events and size + len(self._events[0].data) <= limits.FRAME_BYTES_MAX:
            each = self._events.popleft()
            if each.data:
                events.append(each.data)
                count += 1
                size += len(each.data)
            applied, durable = max(applied, each.applied), max(durable, each.durable)
        if not self._events and self._last_words is not None:
            events.append(self._last_words)
            self._last_words = None
        return wire.Down(welcome, tuple(events), line, devices, applied, durable), count, size


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


def names_of(kinds: tuple[str, ...]) -> tuple[str, ...]:
    """Return the devices' names: the first CPU is ``cpu``, as torch calls it."""
    numbered = [(kind, kinds[:k].count(kind)) for k, kind in enumerate(kinds)]
    return tuple("cpu" if each == ("cpu", 0) else f"{each[0]}:{each[1]}" for each in numbered)
