"""What a client remembers of its session so that a broken stream costs nothing: a state machine.

Frames are numbered here and kept until they are durable; acks give credits back; on a new stream
the frames that did not arrive are sent again, and what is told a second time is recognised. No I/O,
threads or clock: `_transport.py` has them. The gateway's side is `farspan_server/session.py`.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final

from farspan.core import limits
from farspan.core.command import Event, Failed, Value
from farspan.core.errors import ProtocolError

if TYPE_CHECKING:
    from farspan.wire import Welcome

#: Frames that ran and are not durable yet, in units of the credits: a disk may be slow for a while.
_UNDURABLE: Final = 4
#: Bytes that a frame may grow by when it is sent again under another epoch.
RESTAMP_BYTES: Final = 16


class Ledger:
    """Sequence numbers, credits, kept frames and confirmations of one session."""

    def __init__(self) -> None:
        self.sent = 0  # sequence of the last frame
        self.applied = 0  # acked: it has run and what it tells has arrived
        self.durable = 0  # it need not be sent again, whatever dies
        self.connected = False
        self._credit_frames = self._credit_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()  # not durable yet
        self._kept_bytes = 0
        self._unsent: deque[tuple[int, bytes]] = deque()  # on this stream
        self._under_way: deque[tuple[int, int]] = deque()  # sent on this stream, not run: bytes
        self._under_way_bytes = 0
        self._held: dict[int, int] = {}  # by request: values under way, and the ack before them
        self._taken: dict[int, None] = {}  # such requests whose bytes have come, the latest ones
        self._failed: dict[int, None] = {}  # commands whose failure was told, the latest ones

    def open(self, welcome: Welcome) -> None:
        """Take the credits of a session that is new, or new to this client."""
        self._credit_frames = welcome.credit_frames
        self._credit_bytes = welcome.credit_bytes - welcome.credit_frames * RESTAMP_BYTES
        self.sent = self.applied = self.durable = welcome.received
        self.connected = True

    @property
    def pending(self) -> int:
        """Frames that have not run."""
        return self.sent - self.applied

    @property
    def confirmed(self) -> int:
        """The last ack before which nothing is under way any more."""
        if not self._held:
            return self.applied
        return min(self._held.values(), default=self.applied)

    @property
    def waiting(self) -> int:
        """Frames that wait for a stream, or for room on it."""
        return len(self._unsent)

    def has_credit(self, size_bytes: int) -> bool:
        """Whether a frame of this size may be taken now."""
        if not self._unsent:
            if self.connected and not self._has_room(size_bytes):
                return False
        elif len(self._unsent) >= self._credit_frames:
            return False
        return (
            len(self._kept) < _UNDURABLE * self._credit_frames
            and self._kept_bytes + size_bytes <= _UNDURABLE * self._credit_bytes
        )

    def _has_room(self, size_bytes: int) -> bool:
        return (
            len(self._under_way) < self._credit_frames
            and self._under_way_bytes + size_bytes <= self._credit_bytes
        )

    def send(self, data: bytes) -> bool:
        """Keep a frame, encoded with number `sent` + 1; return whether it is to be sent now.

        If not, `next_unsent` gives it once the stream is there and has room.
        """
        sequence = self.sent = self.sent + 1
        size_bytes = len(data)
        self._kept.append((sequence, data))
        self._kept_bytes += size_bytes
        if self._unsent or not self.connected or not self._has_room(size_bytes):
            self._unsent.append((sequence, data))
            return False
        self._start(sequence, size_bytes)
        return True

    def _start(self, sequence: int, size_bytes: int) -> None:
        self._under_way.append((sequence, size_bytes))
        self._under_way_bytes += size_bytes

    def acked(self, applied: int, durable: int) -> bool:
        """Take an ack; 0 says nothing new. Return whether frames wait, so that some may go now."""
        if applied > self.sent or durable > self.sent:
            raise ProtocolError(f"an ack of frame {max(applied, durable)}; {self.sent} were sent")
        while self._under_way and self._under_way[0][0] <= applied:
            self._under_way_bytes -= self._under_way.popleft()[1]
        if applied > self.applied:
            self.applied = applied
        if durable > self.durable:
            self.durable = durable
        while self._kept and self._kept[0][0] <= self.durable:
            self._kept_bytes -= len(self._kept.popleft()[1])
        return bool(self._unsent)

    def broken(self) -> None:
        """Note that the stream is gone."""
        self.connected = False

    def resume(self, received: int) -> None:
        """Begin on a new stream, with what the gateway does not have.

        ProtocolError: it has lost frames that were durable, or has some that were never sent.
        """
        if not self.durable <= received <= self.sent:
            raise ProtocolError(
                f"the gateway has frames up to {received}; {self.durable} were durable and "
                f"{self.sent} were sent: this is not the session as it was"
            )
        self._under_way.clear()
        self._under_way_bytes = 0
        self._unsent = deque(each for each in self._kept if each[0] > received)
        self.connected = True

    def next_unsent(self) -> bytes | None:
        """Return the next frame to send again, as it was encoded; None: none, or not now."""
        if not self._unsent or not self.connected or not self._has_room(len(self._unsent[0][1])):
            return None
        sequence, data = self._unsent.popleft()
        self._start(sequence, len(data))
        return data

    # --- what is told ----------------------------------------------------------------------------
    def is_new(self, event: Event) -> bool:
        """Return whether an event was not told before the stream broke.

        Values are known by their requests, which whoever asked keeps, but for those whose bytes
        are on their way or have come; failures are known here.
        """
        if isinstance(event, Value):
            return event.request not in self._held and event.request not in self._taken
        if not isinstance(event, Failed):
            return True
        number = event.error.command
        if number in self._failed:
            return False
        self._failed[number] = None
        if len(self._failed) > limits.FRAMES_UNCONFIRMED_MAX:
            del self._failed[next(iter(self._failed))]
        return True

    def hold(self, value: Value) -> None:
        """Note that the bytes of a value are under way: until then nothing after is confirmed."""
        self._held.setdefault(value.request, self.applied)

    def release(self, request: int) -> None:
        """Note that the bytes have come, or that nobody wants them."""
        if self._held.pop(request, None) is not None:
            self._note_taken(request)

    def took(self, value: Value) -> None:
        """Note that the bytes of a value, which lay beside the stream, were taken at once."""
        self._note_taken(value.request)

    def _note_taken(self, request: int) -> None:
        self._taken[request] = None
        if len(self._taken) > limits.FRAMES_UNCONFIRMED_MAX:
            del self._taken[next(iter(self._taken))]
