"""Memory that a session's client may map: made by the worker, sealed in size, without a name.

A memory file lives as long as somebody has it open or mapped, so nothing is left of it whoever is
killed, and /dev/shm has no part in it. What the client writes is only ever copied; the words and
places it names are checked. Layout and rings: `farspan.core.shared`; decision 12.
"""

from __future__ import annotations

import fcntl
import hmac
import logging
import mmap
import os
import secrets
import sys
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core import limits, link
from farspan.core import shared as layouts
from farspan.core.errors import ProtocolError

if TYPE_CHECKING:
    from farspan_worker.inbox import Inbox, Session

log = logging.getLogger(__name__)

SWITCH = "FARSPAN_SHARED_MEMORY"  # 0 in a worker's environment: it makes none


class Segment:
    """One session's segment on this worker. OSError if the system gives none.

    The thread that reads the bulk link takes; the one that runs frames places.
    """

    def __init__(self, first: int = 0) -> None:
        if sys.platform != "linux":
            raise OSError("memory files are Linux's")
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        self._fd = os.memfd_create(layouts.MEMORY_NAME, flags)
        try:
            os.fchmod(self._fd, 0o600)
            os.ftruncate(self._fd, layouts.SEGMENT_BYTES)
            # Nobody can cut it short, which would end with SIGBUS whoever reads it.
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
            fcntl.fcntl(self._fd, fcntl.F_ADD_SEALS, seals)
            self._parts = layouts.Layout(mmap.mmap(self._fd, layouts.SEGMENT_BYTES))
        except BaseException:
            self.close()
            raise
        self._nonce = secrets.token_bytes(layouts.NONCE_BYTES)
        self._parts.magic[:] = np.frombuffer(layouts.MAGIC, np.uint8)
        self._parts.nonce[:] = np.frombuffer(self._nonce, np.uint8)
        self._ring = layouts.Ring(limits.SHARED_DOWN_BYTES, first)
        self.first = first
        self._positions: dict[int, int] = {}  # of values not sent yet, by where they lie
        self.proved = False
        self.taken_bytes = self.placed_bytes = 0  # up and down, for an operator

    def offer(self) -> link.Share:
        """Return where a client on this host finds the memory, and how it knows that it has."""
        where = (os.getpid(), self._fd, layouts.SEGMENT_BYTES)
        return link.Share(*where, digest=layouts.digest(self._nonce).hex())

    def prove(self, proof: str) -> bool:
        """Return whether the client has read the nonce (hex); the memory cannot be opened again."""
        self.proved = self._fd >= 0 and hmac.compare_digest(proof, self._nonce.hex())
        self._parts.nonce[:] = 0
        self.close()
        return self.proved

    def close(self) -> None:
        """Close the descriptor; the memory goes with the last array on it."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    # --- up --------------------------------------------------------------------------------------
    def look(self, piece: link.Piece) -> np.ndarray[Any, Any]:
        """Return a piece's bytes where they lie; ProtocolError if that is outside of the ring.

        The client may change them meanwhile: nothing may depend on them before they are copied.
        """
        if not self.proved:
            raise ProtocolError("a piece in shared memory that has not been proved")
        if not self.first <= piece.position < layouts.end_of(self.first):
            raise ProtocolError("a piece in shared memory of another segment")
        return layouts.window(self._parts.up, piece.position, piece.nbytes)

    def took(self, piece: link.Piece) -> None:
        """Let the client use a piece's place again."""
        self._parts.taken_up[0] = piece.position + piece.nbytes
        self.taken_bytes += piece.nbytes

    # --- down ------------------------------------------------------------------------------------
    def place(self, nbytes: int) -> np.ndarray[Any, Any] | None:
        """Return room for a value in the ring down, or None if there is none now."""
        if not self.proved or not limits.INLINE_BYTES_MAX < nbytes <= limits.SHARED_DOWN_BYTES:
            return None
        try:
            self._ring.free(int(self._parts.taken_down[0]))
        except ProtocolError as error:
            log.warning("a client's word in shared memory: %s; values go by the stream", error)
            self.proved = False
            return None
        position = self._ring.place(nbytes)
        if position is None:
            return None
        found = layouts.window(self._parts.down, position, nbytes)
        self._positions[found.ctypes.data] = position
        return found

    def lay(self, data: Any) -> int | None:
        """Return the position of a value, which `place` gave room to or which is copied now.

        None if there is no room for it.
        """
        flat = np.frombuffer(data, np.uint8)
        position = self._positions.pop(flat.ctypes.data, None)
        if position is None:
            target = self.place(flat.nbytes)
            if target is None:
                return None
            target[:] = flat
            position = self._positions.pop(target.ctypes.data)
        self.placed_bytes += flat.nbytes
        return position


def answer(session: Session, asked: link.Share, lock: AbstractContextManager[Any]) -> link.Share:
    """Make the memory that a session's client may map, or use it once that has proved it.

    lock: guards the session.
    """
    segment = session.segment
    if asked.over:
        with lock:
            session.segment = session.engine.outlet = None
        if segment is not None:
            segment.close()
        return link.Share()
    if asked.proof:
        if segment is None or segment.proved or not segment.prove(asked.proof):
            return link.Share(refused="the proof is wrong")
        session.engine.outlet = segment.place
        return link.Share()
    if segment is not None and asked.first <= segment.first:
        return link.Share(refused="this session has asked before")
    if not layouts.is_first(asked.first):
        return link.Share(refused="a segment cannot begin there")
    if os.environ.get(SWITCH, "1") in ("0", ""):
        return link.Share(refused="it is switched off at the worker")
    try:
        segment = Segment(asked.first)
    except OSError as error:
        log.warning("no shared memory: %s", error)
        return link.Share(refused="the worker's system gives none")
    with lock:
        before, session.segment = session.segment, segment
        session.engine.outlet = None  # until the client has proved that it has the new one
        if session.closed:
            segment.close()
    if before is not None:
        before.close()
    return segment.offer()


def take(
    inbox: Inbox, session: Session, piece: link.Piece, lock: AbstractContextManager[Any]
) -> None:
    """Take a piece of a transfer out of the memory that is shared with the client.

    lock: guards both. ProtocolError: there is no such memory, or no such piece in it.
    """
    with lock:
        segment = session.segment
        if session.closed:
            return
        if not piece.total:
            inbox.give_up(session, piece.transfer)
            return
        if segment is None:
            raise ProtocolError("a piece in shared memory, of which there is none")
        source = segment.look(piece)
        # The rest of one that failed may come when its Put has run.
        used = piece.transfer in session.used
        assembly = None if used else inbox.assembly(session, piece)
        room = None if assembly is None else assembly.room(piece, piece.nbytes)
    if room is not None:
        room[:] = source  # may take milliseconds: not under the lock
    segment.took(piece)
    with lock:
        if assembly is not None:
            assembly.filled(piece.nbytes)
        inbox.wake(session)
