"""What client and worker agree on about memory that both have mapped: layout, ring, proof.

Pure: who makes, opens and maps a segment is `_shared.py` (client) and `shared.py` (worker). A word
in the segment is written by one side and read by the other, which believes nothing of it.

    0       MAGIC, nonce (32)        the proof: only who can map the segment knows the nonce
    4096    taken_up (u64)           the worker writes it: it has copied all up to this position
    8192    taken_down (u64)         the client writes it, of what the worker has placed
    12288   ring up, then ring down  bytes on their way, at most once in each direction

A position counts all bytes that a ring has ever held, so that it never comes twice. A session that
is journalled has one segment after the other; each begins where none before it has been.
"""

from __future__ import annotations

import hashlib
from collections import deque
from typing import Any, Final

import numpy as np

from farspan.core import limits
from farspan.core.errors import ProtocolError

MAGIC: Final = b"farspan shared 1"
NONCE_BYTES: Final = 32
_PAGE: Final = 4096
_ALIGN: Final = 64  # bytes; a cache line, and more than any dtype asks for
SEGMENT_BYTES: Final = 3 * _PAGE + limits.SHARED_UP_BYTES + limits.SHARED_DOWN_BYTES
MEMORY_NAME: Final = "farspan"  # of the memory file, as /proc shows it

POSITION_END: Final = 2**62  # 146 years at a GB/s; a word holds more, so that no sum overflows

#: Positions of one of several segments; 17 TB, then bytes go by the stream.
_SEGMENT_POSITIONS: Final = 2**44
_PER_EPOCH: Final = 16  # segments of a device, between two streams of the session

#: Why there is no segment, in words that `stats()` shows.
UNASKED: Final = "no long tensor has travelled yet"
LATER: Final = "later"  # of a gateway: not now, as the session is just being restored


def first_position(epoch: int, number: int) -> int:
    """Return where a session's segment begins, the `number`th of a device in this epoch; 0: none.

    Epochs are never used twice, whichever gateway and client the session has.
    """
    first = (epoch * _PER_EPOCH + number) * _SEGMENT_POSITIONS
    return first if 0 <= number < _PER_EPOCH and first < POSITION_END else 0


def is_first(position: int) -> bool:
    """Whether a segment may begin there."""
    return position % _SEGMENT_POSITIONS == 0 and 0 <= position < POSITION_END


def end_of(first: int) -> int:
    """Return where the positions of a segment end that begins at `first`; 0 begins the only one."""
    return first + _SEGMENT_POSITIONS if first else POSITION_END


def digest(nonce: bytes) -> bytes:
    """Return what the worker tells of the nonce, so that a client knows it has the right memory."""
    return hashlib.sha256(MAGIC + nonce).digest()


class Ring:
    """Where bytes go in one direction: places them in order, takes places back in order.

    >>> ring = Ring(256)
    >>> ring.place(100), ring.place(100), ring.place(100)
    (0, 128, None)
    >>> ring.free(228)
    >>> ring.place(100)
    256
    """

    def __init__(self, size_bytes: int, first: int = 0) -> None:
        self.size_bytes = size_bytes
        self._ends: deque[int] = deque()  # of what is placed and not taken, oldest first
        self._head = self._tail = first
        self._end = end_of(first)

    def place(self, nbytes: int) -> int | None:
        """Return the position of so many bytes in one piece, or None if there is no room now."""
        if not self._ends:  # begin anew: the same pages again are in the caches, and mapped
            self._head = self._tail = -(-self._head // self.size_bytes) * self.size_bytes
        begin = -(-self._head // _ALIGN) * _ALIGN
        if begin % self.size_bytes + nbytes > self.size_bytes:
            begin = -(-begin // self.size_bytes) * self.size_bytes  # no piece wraps around
        if begin + nbytes - self._tail > self.size_bytes or begin + nbytes > self._end:
            return None
        self._head = begin + nbytes
        self._ends.append(self._head)
        return begin

    def free(self, taken: int) -> None:
        """Note that all up to a position has been taken.

        Raises ProtocolError, and changes nothing, for a position that has not been reached.
        """
        if taken > self._head:
            raise ProtocolError("shared memory: more was taken than was placed")
        while self._ends and self._ends[0] <= taken:
            self._tail = self._ends.popleft()

    def undo(self) -> None:
        """Forget the last place: nobody was told of it."""
        self._head = self._ends.pop()


class Layout:
    """The parts of a mapped segment, as numpy arrays on `memory`."""

    def __init__(self, memory: Any) -> None:
        whole = np.frombuffer(memory, np.uint8)
        self.nonce = whole[len(MAGIC) : len(MAGIC) + NONCE_BYTES]
        self.magic = whole[: len(MAGIC)]
        # One aligned store each, so that the other side reads the old value or the new one.
        self.taken_up = whole[_PAGE : _PAGE + 8].view(np.uint64)
        self.taken_down = whole[2 * _PAGE : 2 * _PAGE + 8].view(np.uint64)
        self.up = whole[3 * _PAGE : 3 * _PAGE + limits.SHARED_UP_BYTES]
        self.down = whole[3 * _PAGE + limits.SHARED_UP_BYTES : SEGMENT_BYTES]


def window(ring: np.ndarray[Any, Any], position: int, nbytes: int) -> np.ndarray[Any, Any]:
    """Return the bytes at a position; ProtocolError if they would reach outside of the ring.

    The other side may change them at any time: copy first, and judge the copy.
    """
    at = position % ring.nbytes
    if not 0 <= position < POSITION_END or nbytes < 0 or at + nbytes > ring.nbytes:
        raise ProtocolError(f"shared memory: {nbytes} bytes at {at} of a ring of {ring.nbytes}")
    return ring[at : at + nbytes]
