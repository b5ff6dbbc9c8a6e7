"""Bytes on their way from workers to one client, each transfer until its Download takes it.

Bounded in bytes and in time: a client that does not fetch loses that transfer, so that it does not
hold up the worker's bulk link for others.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Final

from farspan.core import limits, link
from farspan.core.errors import BY_NAME, FarspanError, ProtocolError, ServiceError

CHUNKS_HELD_MAX: Final = 16  # per transfer, each at most CHUNK_BYTES
#: Bytes given that a transfer, and all finished ones, keep for a client whose connection breaks.
KEPT_BYTES_MAX: Final = 8 * limits.MiB
#: Seconds without progress until a transfer is given up; a worker gives a link up after CONNECT_S.
STALL_S: Final = 0.8 * limits.CONNECT_S


class _Transfer:
    def __init__(self) -> None:
        self.chunks: deque[link.Chunk] = deque()
        self.first = 0  # the number of the first of `chunks`: those before are gone
        self.given = 0  # of the next one to be given
        self.error: FarspanError | None = None
        self.changed = asyncio.Event()
        self.taker: object | None = None  # the Download that has it; a later one takes its place
        self.end = 0  # bytes that have come
        self.frame = 0  # once it is finished: the client has it when it confirms this one

    @property
    def waiting(self) -> int:
        """How many chunks wait to be given."""
        return self.first + len(self.chunks) - self.given

    @property
    def kept_bytes(self) -> int:
        """Bytes that were given and may be asked for again."""
        return sum(len(c.data) for c in itertools.islice(self.chunks, self.given - self.first))

    def forget(self) -> None:
        """Let go of what was given."""
        while self.first < self.given:
            self.chunks.popleft()
            self.first += 1


class Downloads:
    """The transfers of one session.

    patience_s: seconds that a Download waits for the next bytes; a worker may be replaced by then.
    received: the last frame of the session; without it a client that loses its connection has lost
    its session, so that nothing is kept for it. again: has workers tell anew what the client has
    not confirmed, and returns whether they will.
    """

    def __init__(
        self,
        patience_s: float = limits.CONNECT_S,
        received: Callable[[], int] | None = None,
        again: Callable[[], bool] = bool,
    ) -> None:
        self._patience_s = patience_s
        self._received = received
        self._again = again
        self._transfers: dict[int, _Transfer] = {}
        self._finished: dict[int, _Transfer] = {}  # given, as far as we know; the latest ones
        self._over_with: dict[int, None] = {}  # the latest ones that ended: a replay brings them
        self._over: FarspanError | None = None

    async def put(self, chunk: link.Chunk) -> None:
        """Hold a chunk for its Download; waits while too many are held."""
        if self._over is not None or chunk.transfer in self._over_with:
            return
        transfer = self._transfers.get(chunk.transfer)
        if transfer is not None and chunk.offset < transfer.end and not chunk.failed:
            return  # a replay: it has come, with the same bits
        if transfer is None:
            if chunk.offset:
                return  # the rest of one that was given up
            if len(self._transfers) >= limits.TRANSFERS_MAX:
                self._drop(next(iter(self._transfers)), _given_up())
            transfer = self._transfers[chunk.transfer] = _Transfer()
        transfer.chunks.append(chunk)
        transfer.end = chunk.offset + len(chunk.data)
        transfer.changed.set()
        try:
            async with asyncio.timeout(STALL_S):
                while transfer.waiting >= CHUNKS_HELD_MAX and transfer.error is None:
                    transfer.changed.clear()
                    await transfer.changed.wait()
        except TimeoutError:
            self._drop(chunk.transfer, _given_up())

    async def take(self, request: int) -> AsyncIterator[memoryview | bytes]:
        """Yield the bytes of a transfer from its first on; raise what it failed with.

        A client whose connection broke asks again, maybe before the break is known here.
        """
        if self._over is not None:
            raise self._over
        transfer, me = self._begin(request), object()
        transfer.taker, transfer.given = me, 0
        transfer.changed.set()
        done = False
        try:
            while not done:
                async with asyncio.timeout(self._patience_s):
                    while not transfer.waiting and transfer.error is None and transfer.taker is me:
                        transfer.changed.clear()
                        await transfer.changed.wait()
                if transfer.taker is not me:
                    raise ServiceError("download: a later one takes its place")
                if transfer.error is not None:
                    raise transfer.error
                chunk = transfer.chunks[transfer.given - transfer.first]
                if chunk.failed:
                    error = link.unpack_failure(chunk)
                    raise BY_NAME.get(error.kind, ServiceError)(error.message)
                yield chunk.data
                if transfer.taker is me:
                    transfer.given += 1
                    done = chunk.last
                    self._let_go(transfer)
                    transfer.changed.set()
        except TimeoutError:
            self._drop(request, _given_up())
            raise ServiceError("download: the bytes did not come") from None
        except FarspanError:
            if transfer.taker is me:
                self._drop(request, _given_up())
            raise
        finally:
            if transfer.taker is me:
                transfer.taker = None
                self._end(request, transfer, done)

    def _begin(self, request: int) -> _Transfer:
        """Return the transfer to give, whole or as it comes."""
        transfer = self._finished.pop(request, None) or self._transfers.get(request)
        if self._received is None:
            if transfer is not None and transfer.taker is not None:
                raise ProtocolError("download: this value is being fetched already")
        elif transfer.first if transfer else request in self._over_with:
            # Its first bytes are gone. A replay brings them: no snapshot is behind what the client
            # has not confirmed.
            if transfer is not None:
                self._drop(request, _given_up())
            transfer = None
            if not self._again():
                raise ServiceError("download: the bytes were lost with the connection")
        self._over_with.pop(request, None)
        transfer = self._transfers[request] = transfer or _Transfer()
        return transfer

    def _let_go(self, transfer: _Transfer) -> None:
        """Keep what was given only as long as it is not much."""
        if self._received is None or transfer.first or transfer.kept_bytes > KEPT_BYTES_MAX:
            transfer.forget()

    def _end(self, request: int, transfer: _Transfer, done: bool) -> None:
        """Note that a Download is over, by its end or by the client's."""
        if self._received is None or transfer.first or transfer.error is not None:
            self._drop(request, _given_up())
        elif done:  # though its last bytes may have been cut off
            self._finish(request, transfer)

    def _finish(self, request: int, transfer: _Transfer) -> None:
        del self._transfers[request]
        self._note_over(request)
        assert self._received is not None
        transfer.frame = self._received()
        self._finished[request] = transfer
        while sum(each.kept_bytes for each in self._finished.values()) > KEPT_BYTES_MAX:
            del self._finished[next(iter(self._finished))]

    def confirmed(self, frame: int) -> None:
        """Take that the client has all that was told before the ack of a frame."""
        for request in [r for r, each in self._finished.items() if each.frame <= frame]:
            del self._finished[request]

    def give_up(self, request: int) -> None:
        """Let go of a value that its client does not want, come or not, so that no worker waits."""
        self._finished.pop(request, None)
        self._note_over(request)
        self._drop(request, _given_up())

    def fail(self, error: FarspanError) -> None:
        """End all transfers, also those to come."""
        self._over = error
        self._finished.clear()
        for request in list(self._transfers):
            self._drop(request, error)

    def _drop(self, request: int, error: FarspanError) -> None:
        transfer = self._transfers.pop(request, None)
        if transfer is not None:
            self._note_over(request)
            transfer.error = transfer.error or error
            transfer.chunks.clear()
            transfer.first = transfer.given = 0
            transfer.changed.set()

    def _note_over(self, request: int) -> None:
        self._over_with[request] = None
        if len(self._over_with) > limits.FRAMES_UNCONFIRMED_MAX:
            del self._over_with[next(iter(self._over_with))]


def _given_up() -> FarspanError:
    return ServiceError("download: the value was not fetched in time")
