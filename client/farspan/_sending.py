"""What leaves a session, and when: open frames become sent ones, in order and each once.

The part of `Session` between `issue`, which gathers commands, and the transport. A frame may be
held back while its run goes as it went before (`_replay.py`), or be watched while a function is
traced (`_compile.py`). Nothing here waits but the transport, for credits.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from typing import TYPE_CHECKING, Any

from ._replay import Replay
from .core import command as cmd
from .core import limits
from .core.command import Frame
from .core.errors import FarspanError, ProtocolError

if TYPE_CHECKING:
    from ._session import Transport
    from ._sites import Site

log = logging.getLogger("farspan")

#: A frame with the line that issued each command.
Sealed = tuple[Frame, list[Any]]


class Sending:
    """The sending part of a session; `_session.Session` owns what gathers."""

    transport: Transport
    _lock: threading.RLock
    _over: bool
    _open: list[Frame]
    _sites: list[list[Site | None]]
    _freed: list[deque[int]]
    _pending_bytes: list[int]

    def __init__(self, devices: int, replay: bool) -> None:
        self._sequence = 0
        #: (sequence, numbers, lines) of frames that have not run yet
        self._in_flight: deque[tuple[int, list[int], list[Any]]] = deque()
        self._ready: list[Sealed] = []  # sealed, to be sent before all that comes
        self._replays = [Replay(self, i, replay) for i in range(devices)]
        #: While a function is traced: every frame that left, with its numbers as they were issued.
        self.traced: list[tuple[Frame, list[Any], list[Any]]] | None = None
        self._calls = 0
        self._protocol = 0  # commands sent that are neither ops nor backward passes

    if TYPE_CHECKING:

        def _refuse(self) -> None: ...
        def _append_frees(self, frame: Frame, device: int) -> None: ...

    @property
    def replay(self) -> bool:
        """Whether runs of commands that repeat are sent as one Call. Results do not depend on it.

        >>> import farspan
        >>> with farspan.connect("local:") as session:
        ...     session.replay = False
        ...     session.stats()["replay"]["on"]
        False
        """
        return self._replays[0].on

    @replay.setter
    def replay(self, on: bool) -> None:
        with self._lock:
            for device, replay in enumerate(self._replays):
                self._send(device, ending=True)
                replay.switch(bool(on))

    def flush(self, device: int | None = None) -> None:
        """Send what has gathered. Does not wait for it to run."""
        with self._lock:
            for i in range(len(self._open)) if device is None else (device,):
                self._flush_device(i, late=False)

    def _flush_device(self, device: int, late: bool) -> None:
        if self._over:
            self._refuse()
        while self._freed[device]:
            self._append_frees(self._open[device], device)
            if len(self._open[device].ids) >= limits.FLUSH_IDS:
                self._send(device)
        self._send(device, ending=not late, late=late)

    def _flush_old(self) -> None:
        """Send what is open, unless the worker is behind: the flusher shall not hold the lock.

        What is held back until its run is complete has more time.
        """
        if not self.transport.ready:
            return
        try:
            with self._lock:
                for device, frame in enumerate(self._open):
                    replay = self._replays[device]
                    if replay.held and not replay.overdue():
                        continue
                    if frame.opcodes or replay.held:
                        self._flush_device(device, late=True)
        except FarspanError as error:
            log.debug("a frame could not be sent yet: %s", error)

    def _send(self, device: int, ending: bool = False, late: bool = False) -> None:
        """Hand over what is open, or let it be held; if it cannot be sent now, it is sent next.

        ending: somebody waits, so the run is over. late: it has been held too long.
        """
        frame, sites = self._open[device], self._sites[device]
        replay = self._replays[device]
        if frame.opcodes or replay.held:
            try:
                if self.traced is not None:
                    out, held = self._watch(frame, sites), []
                elif replay.on:
                    out, held = replay.take(frame, sites, ending, late)
                else:
                    out, held = [(frame, sites)], []
            except BaseException:  # Ctrl-C: all of it goes as it came
                self._settle(device, replay, [*replay.held, (frame, sites)], [])
                replay.lose()
                raise
            self._settle(device, replay, out, held)
        self._hand_over()

    def _settle(
        self, device: int, replay: Replay, out: list[Sealed], held: list[Sealed]
    ) -> None:
        """Let the open frame be sent or held. No calls within: a Ctrl-C finds all of it or none."""
        fresh = Frame(device, default_dtype=self._open[device].default_dtype)
        none: list[Any] = []
        self._ready += out
        self._open[device], self._sites[device], self._pending_bytes[device] = fresh, none, 0
        replay.held = held

    def _watch(self, frame: Frame, sites: list[Any]) -> list[Sealed]:
        """Note a frame of a function that is traced; its numbers leave as Python's own."""
        assert self.traced is not None
        tagged = frame.scalars
        frame.scalars = [x.real if isinstance(x, float) else x for x in tagged]
        self.traced.append((frame, sites, tagged))
        return [(frame, sites)]

    def _hand_over(self) -> None:
        """Give what is ready to the transport, in order; what is not taken stays."""
        while self._ready:
            frame, sites = self._ready[0]
            if not frame.opcodes:
                del self._ready[0]
                continue
            try:
                self._hand_over_one(frame, sites)
            except ProtocolError:
                if frame.sequence or len(frame) == 1 or frame.opcodes[0] == cmd.DEFINE:
                    raise
                half = len(frame) // 2  # too long for one message on the wire
                first, rest = frame.split(half)
                self._ready[:1] = [(first, sites[:half]), (rest, sites[half:])]

    def _hand_over_one(self, frame: Frame, sites: list[Any]) -> None:
        frame.sequence = self._sequence + 1
        defines = frame.opcodes[0] == cmd.DEFINE  # its numbers are not those of commands
        flight = (frame.sequence, [] if defines else frame.numbers, [] if defines else sites)
        try:
            self._in_flight.append(flight)  # before: on `local:` its events come within `send`
            self.transport.send(frame)
        finally:
            if frame.sequence:  # taken, whatever has interrupted us since: never twice
                self._sequence = frame.sequence
                del self._ready[0]
            elif self._in_flight and self._in_flight[-1] is flight:
                self._in_flight.pop()
        if min(frame.opcodes) < cmd.FIRST_OPCODE:
            self._count(frame.opcodes)

    def _count(self, opcodes: list[int]) -> None:
        self._calls += opcodes.count(cmd.CALL)

    def _replay_stats(self) -> dict[str, Any]:
        """Return what `stats` says of programs and replay."""
        total = {"on": self.replay}
        for replay in self._replays:
            for name, value in replay.stats().items():
                total[name] = total.get(name, 0) + value
        seen = total["hits"] + total["misses"]
        return {**total, "rate": round(total["hits"] / seen, 3) if seen else 0.0}
