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


class Ledger:
    """Sequence numbers, credits, kept frames and confirmations of one session."""

    def __init__(self) -> None:
        self.sent = 0  # sequence of the last frame
        self.applied = 0  # acked: it has run and what it tells has arrived
        self.durable = 0  # it need not be sent again, whatever dies
        self._credit_frames = self._credit_bytes = 0
        self._kept: deque[tuple[int, bytes]] = deque()  # not durable yet
        self._kept_bytes = 0
        self._sizes: deque[int] = deque()  # of frames that have not run
        self._in_flight_bytes = 0
        self._held: dict[int, int] = {}  # by request: values under way, and the ack before them
        self._failed: set[int] = set()  # commands whose failure was told since the last ack

    def open(self, welcome: Welcome) -> None:
        """Take the credits of a new session."""
        self._credit_frames, self._credit_bytes = welcome.credit_frames, welcome.credit_bytes

    @property
    def pending(self) -> int:
        """Frames that have not run."""
        return self.sent - self.applied

    @property
    def confirmed(self) -> int:
        """The last ack before which nothing is under way any more."""
        return min(self._held.values(), default=self.applied)

    def has_credit(self, size_bytes: int) -> bool:
        """Whether a frame of this size may be sent now."""
        return (
            self.pending < self._credit_frames
            and self._in_flight_bytes + size_bytes <= self._credit_bytes
            and len(self._kept) < _UNDURABLE * self._credit_frames
            and self._kept_bytes + size_bytes <= _UNDURABLE * self._credit_bytes
        )

    def send(self, data: bytes) -> int:
        """Keep a frame that is being sent; return its number, which it was encoded with."""
        self.sent += 1
        self._kept.append((self.sent, data))
        self._kept_bytes += len(data)
        self._sizes.append(len(data))
        self._in_flight_bytes += len(data)
        return self.sent

    def acked(self, applied: int, durable: int) -> bool:
        """Take an ack; 0 says nothing new. Return whether more may be sent than before."""
        if max(applied, durable) > self.sent:
            raise ProtocolError(f"an ack of frame {max(applied, durable)}; {self.sent} were sent")
        before = self.applied, self.durable
        while self.applied < applied:
            self.applied += 1
            self._in_flight_bytes -= self._sizes.popleft()
        self.durable = max(self.durable, durable)
        while self._kept and self._kept[0][0] <= self.durable:
            self._kept_bytes -= len(self._kept.popleft()[1])
        if self.applied > before[0]:
            self._failed.clear()
        return before != (self.applied, self.durable)

    def resend(self, received: int) -> list[tuple[int, bytes]]:
        """Return the frames that the gateway does not have, on a new stream.

        ProtocolError: it has lost some that were durable, or has some that were never sent.
        """
        if not self.durable <= received <= self.sent:
            raise ProtocolError(
                f"the gateway has frames up to {received}; {self.durable} were durable and "
                f"{self.sent} were sent: this is not the session as it was"
            )
        return [each for each in self._kept if each[0] > received]

    # --- what is told ----------------------------------------------------------------------------
    def is_new(self, event: Event) -> bool:
        """Return whether an event was not told before the stream broke.

        Values are known by their requests, which whoever asked keeps; failures here.
        """
        if not isinstance(event, Failed):
            return True
        number = event.error.command
        if number in self._failed:
            return False
        if len(self._failed) < limits.FRAMES_UNCONFIRMED_MAX:
            self._failed.add(number)
        return True

    def hold(self, value: Value) -> None:
        """Note that the bytes of a value are under way: until then nothing after is confirmed."""
        self._held.setdefault(value.request, self.applied)

    def release(self, request: int) -> None:
        """Note that the bytes have come, or that nobody wants them."""
        self._held.pop(request, None)
