"""Events that went to a session's client and that it has not confirmed: it may want them again.

Part of the machine of `session.py`: no I/O, no clock. An event list is covered by the first ack
that can follow it; a client that confirms this ack has taken it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Final

from farspan.core import limits

#: Bytes of events that may wait for a slow reader: four frames' worth of inline values and some.
EVENT_BYTES_QUEUED_MAX: Final = 64 * limits.MiB


class Unconfirmed:
    """Event lists in the order in which they were told, with the frame whose ack covers each."""

    def __init__(self) -> None:
        self.nbytes = 0
        self._lists: deque[tuple[int, bytes]] = deque()

    def __len__(self) -> int:
        return len(self._lists)

    def __iter__(self) -> Iterator[bytes]:
        return (data for _, data in self._lists)

    @property
    def too_many(self) -> bool:
        """Whether the client has left so much unread that its session must end."""
        return len(self._lists) > limits.EVENTS_QUEUED_MAX or self.nbytes > EVENT_BYTES_QUEUED_MAX

    def add(self, covered: int, data: bytes) -> None:
        """Remember a list until the ack of frame `covered` is confirmed."""
        self._lists.append((covered, data))
        self.nbytes += len(data)

    def drop(self) -> None:
        """Forget the oldest list."""
        self.nbytes -= len(self._lists.popleft()[1])

    def settle(self, sequence: int) -> None:
        """Forget what the acks up to a frame's cover."""
        while self._lists and self._lists[0][0] <= sequence:
            self.drop()

    def clear(self) -> None:
        """Forget all of them: nobody will ask again."""
        self._lists.clear()
        self.nbytes = 0
