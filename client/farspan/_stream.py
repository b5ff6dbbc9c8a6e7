"""The control stream of a session: messages both ways over one gRPC call, without a thread of ours.

gRPC's public face takes messages from a thread that iterates and gives them to one that waits, and
wakes both for everything that happens to the call: half of a client's time in a read. Here the
thread that sends gives its message to gRPC's core, and what comes is taken on gRPC's own thread.
That is the core as grpcio's own modules use it; where it is not as known, the public face serves.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import grpc

from farspan import wire
from farspan._signals import Uninterrupted
from farspan.core import limits

log = logging.getLogger("farspan")

Item = wire.Up | bytes | wire.SharedPiece  # a message, or a frame or piece that may share one


class Stream:
    """One call of a stream-stream method. Any thread may use it.

    take(message) gets what comes, one at a time, on a thread of gRPC; it may not raise or wait for
    other messages. ended(call) follows the last of them. confirms() is what a message with frames
    tells beside them: the last ack before which all was taken, or 0.
    """

    def __init__(
        self,
        method: Callable[..., Any],
        metadata: Any,
        take: Callable[[bytes], None],
        ended: Callable[[grpc.Call], None],
        confirms: Callable[[], int] = int,
    ) -> None:
        self._take = take
        self._confirms = confirms
        self._ended = ended
        self._over = threading.Event()
        self._finishing, self._to_finish = threading.Lock(), 2
        self._waiting: deque[Item | None] = deque()  # None: nothing follows
        self._turn = threading.Lock()  # held while a message is with gRPC
        self._requests: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._call = method(self._iterate(), metadata=metadata, wait_for_ready=False)
        self._core = _core_of(self._call)
        if self._core is not None:
            self._call.add_done_callback(lambda _: self._finish())
            with Uninterrupted():
                receives = self._core.receive(self._received)
            if not receives:
                self._finish()
        else:
            threading.Thread(target=self._read, name="farspan-reader", daemon=True).start()

    # --- for the transport -----------------------------------------------------------------------
    def put(self, item: Item | None) -> None:
        """Send a message or frame, or (None) the end of them; after what is under way. No wait."""
        with Uninterrupted():
            self.put_uninterrupted(item)

    def put_uninterrupted(self, item: Item | None) -> None:
        """Do what `put` does; the caller holds a Ctrl-C back.

        Inside of gRPC's core it would leave locks taken.
        """
        self._waiting.append(item)
        self._push()

    def cancel(self) -> None:
        """End the call now."""
        self._requests.put(None)
        self._call.cancel()

    def wait(self, timeout_s: float) -> bool:
        """Wait until `ended` has returned; return whether it has."""
        return self._over.wait(timeout_s)

    # --- sending ---------------------------------------------------------------------------------
    def _push(self) -> None:
        while self._waiting and self._turn.acquire(blocking=False):
            begun = False
            try:
                # Once more: since the first look another thread may have had a turn, and sent all.
                begun = bool(self._waiting) and self._send_next()
            finally:
                if not begun:
                    self._turn.release()
            if begun:
                return  # `_sent` gives the turn back

    def _send_next(self) -> bool:
        """Give gRPC the next message; what waits rides together. False if the call is over.

        Pieces may pass frames: a frame waits for the transfers that it names.
        """
        item = self._waiting.popleft()
        if item is None:
            self._requests.put(None)
            return True  # the turn is never given back
        if isinstance(item, wire.Up):
            return self._give(wire.encode(item))
        frames: list[bytes] = []
        pieces: list[wire.SharedPiece] = []
        size = 0
        while True:
            if isinstance(item, bytes) and size + len(item) <= limits.FRAME_BYTES_MAX:
                frames.append(item)
                size += len(item)
            elif isinstance(item, wire.SharedPiece) and len(pieces) < limits.SHARED_PIECES_MAX:
                pieces.append(item)
            else:
                self._waiting.appendleft(item)
                break
            if not self._waiting:
                break
            item = self._waiting.popleft()
        up = wire.Up(frames=tuple(frames), pieces=tuple(pieces), confirmed=self._confirms())
        return self._give(wire.encode(up))

    def _give(self, message: bytes) -> bool:
        if self._core is None:
            self._requests.put(message)
            return True
        return self._core.send(message, self._sent)

    def _sent(self) -> None:
        self._turn.release()
        self._push()

    def _iterate(self) -> Iterator[bytes]:
        """Yield messages to the public face, on a thread of gRPC's, and the end of them."""
        while (message := self._requests.get()) is not None:
            yield message
            self._sent()  # asked for the next: this one has left

    # --- receiving -------------------------------------------------------------------------------
    def _received(self, message: bytes | None) -> None:
        if message is not None:
            self._take(message)
        if message is None or not self._core.receive(self._received):
            self._finish()

    def _read(self) -> None:
        """Take messages from the public face."""
        try:
            for message in self._call:
                self._take(message)
        except grpc.RpcError:
            pass  # the call knows
        self._end()

    def _finish(self) -> None:
        """Note that one of both has come, the last message or the status; both are the end."""
        with self._finishing:
            self._to_finish -= 1
            over = self._to_finish == 0
        if over:
            self._end()

    def _end(self) -> None:
        try:
            self._ended(self._call)
        finally:
            self._requests.put(None)
            self._over.set()


class _Core:
    """What of gRPC's core a stream needs, as grpcio's own `_channel.py` uses it.

    `due` is what the call still waits for: gRPC's thread stays until nothing is, and a handler that
    empties it says so by returning True. Operations return False once the call is over.
    """

    def __init__(self, call: Any, cygrpc: Any) -> None:
        self._operate = call._call.operate
        self._state = call._state
        self._message = cygrpc.SendMessageOperation
        self._receive = (cygrpc.ReceiveMessageOperation(0),)
        self._sending = cygrpc.OperationType.send_message
        self._receiving = cygrpc.OperationType.receive_message
        self._state.due, self._state.code, self._state.condition  # noqa: B018 - they are there

    def send(self, message: bytes, sent: Callable[[], None]) -> bool:
        """Begin to send; `sent()` is called when gRPC can take the next message."""

        def handle(_: Any) -> bool:
            self._state.due.discard(self._sending)
            sent()
            return not self._state.due

        return self._begin(self._sending, (self._message(message, 0),), handle)

    def receive(self, received: Callable[[bytes | None], None]) -> bool:
        """Have `received` called with the next message, or with None at the end."""

        def handle(event: Any) -> bool:
            self._state.due.discard(self._receiving)
            received(event.batch_operations[0].message())
            return not self._state.due

        return self._begin(self._receiving, self._receive, handle)

    def _begin(self, kind: Any, operations: Any, handle: Callable[[Any], bool]) -> bool:
        with self._state.condition:
            if self._state.code is not None:
                return False
            self._state.due.add(kind)
            if self._operate(operations, handle):
                return True
            self._state.due.discard(kind)
            return False


def _core_of(call: Any) -> _Core | None:
    """Return the way to gRPC's core, or None where it is not the one we know."""
    try:
        from grpc._cython import cygrpc

        return _Core(call, cygrpc)
    except (ImportError, AttributeError, TypeError) as error:
        log.debug("gRPC's core is not as known, its public face serves: %s", error)
        return None
