"""Memory that this process and a worker on its host have both mapped, and the proof that it is so.

The worker makes it, without a name in any file system, and says under which process and descriptor
the kernel shows it to processes of the same user. Where that does not lead to it (another host,
user or container) bytes go by the stream. Layout and rings: `core/shared.py`; decision 12.
"""

from __future__ import annotations

import logging
import mmap
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Final

import numpy as np

from farspan import wire
from farspan.core import limits
from farspan.core import shared as layouts
from farspan.core.buffers import POOL
from farspan.core.errors import FarspanError, ProtocolError, ServiceError
from farspan.wire.memory_file import mapped

log = logging.getLogger("farspan")

_ROOM_S: Final = 0.0002  # between looks whether the worker has made room
_KEPT: Final = 3  # segments of a device: what older workers had told may still come

Ask = Callable[[int, bytes], wire.ShareReply]


class Segment:
    """One segment, mapped here. Any thread may send; one thread takes."""

    def __init__(self, memory: mmap.mmap, check: Callable[[], None], first: int = 0) -> None:
        self._parts = layouts.Layout(memory)
        self._ring = layouts.Ring(limits.SHARED_UP_BYTES, first)
        self._first, self._end = first, layouts.end_of(first)
        self._check = check
        self._turn = threading.Lock()  # the worker takes pieces in the order of their places
        self.retired = False  # nothing more goes up here: who should take it may be gone

    def prove(self, digest: bytes) -> bytes:
        """Return the nonce if this is the memory that the worker means, else nothing."""
        nonce = self._parts.nonce.tobytes()
        mine = self._parts.magic.tobytes() == layouts.MAGIC and layouts.digest(nonce) == digest
        return nonce if mine else b""

    def send(
        self, view: memoryview, device: int, transfer: int, post: Callable[[wire.SharedPiece], None]
    ) -> None:
        """Lay bytes into the ring up and `post` where they are; waits for room.

        Afterwards `view` may change. ServiceError if the worker takes nothing for CONNECT_S.
        """
        total = view.nbytes
        try:
            for offset in range(0, total, limits.SHARED_PIECE_BYTES):
                with self._turn:
                    post(self._laid(view, device, transfer, offset, limits.SHARED_PIECE_BYTES))
        except BaseException:  # Ctrl-C, or no room: what has come of it is of no use
            post(wire.SharedPiece(device, transfer, 0, 0, 0, 0))
            raise

    def begin(self) -> bool:
        """Take the turn of an upload by `pieces`, if nobody has it; `end` gives it back."""
        return not self.retired and self._turn.acquire(blocking=False)

    def end(self, whole: bool) -> None:
        """Give the turn back; after an upload that broke off this segment takes no others."""
        self.retired = self.retired or not whole
        self._turn.release()

    def pieces(self, view: memoryview, device: int, transfer: int) -> Iterator[wire.SharedPiece]:
        """Lay bytes into the ring up and yield where they are; waits for room.

        The caller has the turn. ServiceError if nobody takes them, or if this is retired.
        """
        most = limits.SHARED_KEPT_BYTES
        for offset in range(0, view.nbytes, most):
            yield self._laid(view, device, transfer, offset, most)

    def _laid(
        self, view: memoryview, device: int, transfer: int, offset: int, most: int
    ) -> wire.SharedPiece:
        size = min(most, view.nbytes - offset)
        position = self._room(size)
        try:
            target = layouts.window(self._parts.up, position, size)
            target[:] = np.frombuffer(view, np.uint8)[offset : offset + size]
        except BaseException:
            self._ring.undo()
            raise
        return wire.SharedPiece(device, transfer, view.nbytes, offset, position, size)

    def _room(self, nbytes: int) -> int:
        deadline = time.monotonic() + limits.CONNECT_S
        before = -1
        while True:
            taken = int(self._parts.taken_up[0])
            self._ring.free(taken)
            position = self._ring.place(nbytes)
            if position is not None:
                return position
            self._check()
            if self.retired:
                raise ServiceError("the memory is shared no more")
            if taken != before:
                before, deadline = taken, time.monotonic() + limits.CONNECT_S
            elif time.monotonic() > deadline:
                raise ServiceError(
                    f"the worker took no bytes out of shared memory within {limits.CONNECT_S:.0f} "
                    "s; close the session, and connect with shared_memory=False if it happens again"
                )
            time.sleep(_ROOM_S)

    def holds(self, position: int) -> bool:
        """Whether a position is one of this segment."""
        return self._first <= position < self._end

    def take(self, position: int, total: int) -> memoryview:
        """Return a copy of a value's bytes; in any case the worker may use their place again."""
        held = layouts.window(self._parts.down, position, total)
        try:
            copied = POOL.take(total)
            copied[:] = held
        finally:
            self._parts.taken_down[0] = position + total
        return memoryview(copied)


class Shared:
    """The segments of a session, one a device; asked for when a long tensor travels first.

    ask(device, proof): one round trip to the gateway. check(): raises when the session is over.
    """

    def __init__(self, ask: Ask, check: Callable[[], None]) -> None:
        self._ask, self._check = ask, check
        self._lock = threading.Lock()
        #: All that are mapped, by device, the latest last: workers may use them.
        self._segments: dict[int, list[Segment]] = {}
        self._up: dict[int, Segment | None] = {}  # what was asked for; None: by the stream
        self.state = layouts.UNASKED

    def renew(self) -> None:
        """Ask again at the next long tensor: workers were replaced, or an upload broke off."""
        up, self._up = self._up, {}  # never waits: whoever asks just now puts it into the old one
        for segment in list(up.values()):
            if segment is not None:
                segment.retired = True

    def refuse(self, why: str) -> None:
        """Let all bytes go by the stream."""
        self._ask = lambda device, proof: wire.ShareReply(refused=why)
        self.state = why

    @property
    def may(self) -> bool:
        """Whether there is shared memory, or nobody has asked for it yet."""
        return self.state in ("on", layouts.UNASKED, layouts.LATER)

    def segment(self, device: int, nbytes: int) -> Segment | None:
        """Return the segment for an upload, or None; asks for one at the first, and waits."""
        if nbytes <= limits.INLINE_BYTES_MAX:
            return None
        self.ask_for(device)
        return self._up.get(device)

    def ask_for(self, device: int) -> None:
        """Ask for a segment if nobody has asked before. Waits."""
        if device in self._up:
            return
        with self._lock:
            up = self._up
            if device in up:
                return
            try:
                self.state = self._open(device)
            except FarspanError as error:  # an end of the session is told by what comes next
                self.state = f"the gateway did not answer: {error}"
            if self.state != layouts.LATER:
                up[device] = self._segments[device][-1] if self.state == "on" else None
        if self.state not in ("on", layouts.LATER):
            log.info("device %d: no shared memory: %s", device, self.state)

    def _open(self, device: int) -> str:
        """Return "on" if the device has a segment now, or why not."""
        if sys.platform != "linux":
            return "this system is no Linux"
        reply = self._ask(device, b"")
        if reply.refused:
            return reply.refused
        if reply.segment_bytes != layouts.SEGMENT_BYTES:
            return "the worker's segment has another size"
        if not layouts.is_first(reply.first_position):
            return "the worker's segment begins nowhere"
        memory = mapped(reply.pid, reply.fd)
        if memory is None:
            return "the worker's memory is not to be found here: another host, user or container"
        segment = Segment(memory, self._check, reply.first_position)
        proof = segment.prove(reply.digest)
        if not proof:
            return "the worker's memory is not to be found here: another process has its number"
        # Before the worker hears the proof: from then on values may come this way.
        self._segments[device] = [*self._segments.get(device, ())[1 - _KEPT :], segment]
        return self._ask(device, proof).refused or "on"

    def take(self, device: int, position: int, total: int) -> memoryview:
        """Return a copy of a value's bytes; ProtocolError if they cannot be here."""
        for segment in self._segments.get(device, ()):
            if segment.holds(position):
                return segment.take(position, total)
        raise ProtocolError("a value in shared memory that this client has not mapped")

    def close(self) -> None:
        """Forget all segments. Memory is unmapped when the last array on it is gone."""
        self._ask = _over
        self._segments.clear()
        self._up.clear()


def _over(device: int, proof: bytes) -> wire.ShareReply:
    return wire.ShareReply(refused="the session is over")
