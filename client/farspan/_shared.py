"""Memory that this process and a worker on its host have both mapped, and the proof that it is so.

The worker makes it, without a name in any file system, and says under which process and descriptor
the kernel shows it to processes of the same user. Where that does not lead to it (another host,
user or container) bytes go by the stream. Layout and rings: `core/shared.py`; decision 12.
"""

from __future__ import annotations

import logging
import mmap
import os
import stat
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from farspan import wire
from farspan.core import limits
from farspan.core import shared as layouts
from farspan.core.buffers import POOL
from farspan.core.errors import FarspanError, ProtocolError, ServiceError

log = logging.getLogger("farspan")

_ROOM_S: Final = 0.0002  # between looks whether the worker has made room
#: Of a memory file that nobody can cut short or lengthen: `F_SEAL_SEAL | SHRINK | GROW`.
_SEALS: Final = 0x1 | 0x2 | 0x4
_F_GET_SEALS: Final = 1034  # from linux/fcntl.h; Python knows it since 3.8 on Linux only

Ask = Callable[[int, bytes], wire.ShareReply]


class Segment:
    """One segment, mapped here. Any thread may send; one thread takes."""

    def __init__(self, memory: mmap.mmap, check: Callable[[], None]) -> None:
        self._parts = layouts.Layout(memory)
        self._ring = layouts.Ring(limits.SHARED_UP_BYTES)
        self._check = check
        self._turn = threading.Lock()  # the worker takes pieces in the order of their places

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
        source = np.frombuffer(view, np.uint8)
        try:
            for offset in range(0, total, limits.SHARED_PIECE_BYTES):
                size = min(limits.SHARED_PIECE_BYTES, total - offset)
                with self._turn:
                    position = self._room(size)
                    try:
                        target = layouts.window(self._parts.up, position, size)
                        target[:] = source[offset : offset + size]
                    except BaseException:
                        self._ring.undo()
                        raise
                    post(wire.SharedPiece(device, transfer, total, offset, position, size))
        except BaseException:  # Ctrl-C, or no room: what has come of it is of no use
            post(wire.SharedPiece(device, transfer, 0, 0, 0, 0))
            raise

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
            if taken != before:
                before, deadline = taken, time.monotonic() + limits.CONNECT_S
            elif time.monotonic() > deadline:
                raise ServiceError(
                    f"the worker took no bytes out of shared memory within {limits.CONNECT_S:.0f} "
                    "s; close the session, and connect with shared_memory=False if it happens again"
                )
            time.sleep(_ROOM_S)

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
        self._segments: dict[int, Segment] = {}  # all that are mapped: the worker may use them
        self._up: dict[int, Segment | None] = {}  # what was asked for; None: by the stream
        self.state = layouts.UNASKED

    def refuse(self, why: str) -> None:
        """Let all bytes go by the stream."""
        self._ask = lambda device, proof: wire.ShareReply(refused=why)
        self.state = why

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
            if device in self._up:
                return
            try:
                self.state = self._open(device)
            except FarspanError as error:  # an end of the session is told by what comes next
                self.state = f"the gateway did not answer: {error}"
            self._up[device] = self._segments.get(device) if self.state == "on" else None
        if self.state != "on":
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
        memory = _mapped(reply.pid, reply.fd)
        if memory is None:
            return "the worker's memory is not to be found here: another host, user or container"
        segment = Segment(memory, self._check)
        proof = segment.prove(reply.digest)
        if not proof:
            return "the worker's memory is not to be found here: another process has its number"
        # Before the worker hears the proof: from then on values may come this way.
        self._segments[device] = segment
        return self._ask(device, proof).refused or "on"

    def take(self, device: int, position: int, total: int) -> memoryview:
        """Return a copy of a value's bytes; ProtocolError if they cannot be here."""
        segment = self._segments.get(device)
        if segment is None:
            raise ProtocolError("a value in shared memory that this client has not mapped")
        return segment.take(position, total)

    def close(self) -> None:
        """Forget all segments. Memory is unmapped when the last array on it is gone."""
        self._ask = _over
        self._segments.clear()
        self._up.clear()


def _over(device: int, proof: bytes) -> wire.ShareReply:
    return wire.ShareReply(refused="the session is over")


def _mapped(pid: int, fd: int) -> mmap.mmap | None:
    """Return the memory file of another process, mapped; None if there is none, or it is no such.

    Whatever a gateway names, nothing is opened but memory files of our name, sealed in size.
    """
    import fcntl  # not on Windows

    path = f"/proc/{pid}/fd/{fd}"
    try:
        if not os.readlink(path).startswith(f"/memfd:{layouts.MEMORY_NAME} "):
            return None
        opened = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found: Any = os.fstat(opened)
        if not stat.S_ISREG(found.st_mode) or found.st_size != layouts.SEGMENT_BYTES:
            return None
        if found.st_uid != os.geteuid() or fcntl.fcntl(opened, _F_GET_SEALS) & _SEALS != _SEALS:
            return None
        return mmap.mmap(opened, layouts.SEGMENT_BYTES)
    except OSError:
        return None
    finally:
        os.close(opened)
