"""The gateway's look at memory that a worker and a client share, of a session with a journal.

What a client lays there is copied once, into the journal, before anybody acts on it: the copy is
what a replay gives. Layout and rings: `farspan.core.shared`; decision 19.
"""

from __future__ import annotations

from farspan.core import link
from farspan.core import shared as layouts
from farspan.core.buffers import POOL
from farspan.core.errors import ProtocolError
from farspan.wire.memory_file import mapped


class Window:
    """A segment, mapped here. It belongs to one client and one worker of the session.

    first: where its positions begin. channel: the session's number on that worker's links.
    """

    def __init__(self, parts: layouts.Layout, first: int, channel: int) -> None:
        self._parts = parts
        self._first = first
        self.channel = channel
        self.proved = False  # the client has it too
        self.over = False  # the worker has it no more, or is about to be told so

    @classmethod
    def open(cls, offer: link.Share, first: int, channel: int) -> Window | None:
        """Return the memory that a worker offers; None if it is not to be found here."""
        if offer.segment_bytes != layouts.SEGMENT_BYTES:
            return None
        memory = mapped(offer.pid, offer.fd)
        if memory is None:
            return None
        parts = layouts.Layout(memory)
        right = parts.magic.tobytes() == layouts.MAGIC
        if not right or layouts.digest(parts.nonce.tobytes()).hex() != offer.digest:
            return None
        return cls(parts, first, channel)

    def copied(self, position: int, nbytes: int) -> memoryview:
        """Return bytes of the ring up, which the client can change no more. Threads may use it.

        ProtocolError if they are not of this segment, or lie outside of the ring.
        """
        if not self.proved or not self._first <= position < layouts.end_of(self._first):
            raise ProtocolError("a piece in shared memory of another segment")
        found = layouts.window(self._parts.up, position, nbytes)
        copy = POOL.take(nbytes)  # fresh pages would cost more than the copy
        copy[:] = found
        return memoryview(copy)

    def took(self, position: int, nbytes: int) -> None:
        """Let the client use a place again, of which no worker was told."""
        self._parts.taken_up[0] = position + nbytes
