"""Bytes on their way from workers to one client, each transfer until its Download takes it.

Bounded in bytes and in time: a client that does not fetch loses that transfer, so that it does not
hold up the worker's bulk link for others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

from farspan.core import limits, link
from farspan.core.errors import BY_NAME, FarspanError, ProtocolError, ServiceError

CHUNKS_HELD_MAX: Final = 16  # per transfer, each at most CHUNK_BYTES
#: Seconds without progress until a transfer is given up; a worker gives a link up after CONNECT_S.
STALL_S: Final = 0.8 * limits.CONNECT_S


class _Transfer:
    def __init__(self) -> None:
        self.chunks: deque[link.Chunk] = deque()
        self.error: FarspanError | None = None
        self.changed = asyncio.Event()
        self.taken = False
        self.end = 0  # bytes that have come


class Downloads:
    """The transfers of one session.

    patience_s: seconds that a Download waits for the next bytes; a worker may be replaced by then.
    """

    def __init__(self, patience_s: float = limits.CONNECT_S) -> None:
        self._patience_s = patience_s
        self._transfers: dict[int, _Transfer] = {}
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
                self._transfers.pop(next(iter(self._transfers))).error = _given_up()
            transfer = self._transfers[chunk.transfer] = _Transfer()
        transfer.chunks.append(chunk)
        transfer.end = chunk.offset + len(chunk.data)
        transfer.changed.set()
        try:
            async with asyncio.timeout(STALL_S):
                while len(transfer.chunks) >= CHUNKS_HELD_MAX and transfer.error is None:
                    transfer.changed.clear()
                    await transfer.changed.wait()
        except TimeoutError:
            self._drop(chunk.transfer, _given_up())

    async def take(self, request: int) -> AsyncIterator[memoryview | bytes]:
        """Yield the bytes of a transfer; raise what it failed with."""
        if self._over is not None:
            raise self._over
        transfer = self._transfers.setdefault(request, _Transfer())
        if transfer.taken:
            raise ProtocolError("download: this value is being fetched already")
        transfer.taken = True
        try:
            while True:
                async with asyncio.timeout(self._patience_s):
                    while not transfer.chunks and transfer.error is None:
                        transfer.changed.clear()
                        await transfer.changed.wait()
                if transfer.error is not None:
                    raise transfer.error
                chunk = transfer.chunks.popleft()
                transfer.changed.set()
                if chunk.failed:
                    error = link.unpack_failure(chunk)
                    raise BY_NAME.get(error.kind, ServiceError)(error.message)
                yield chunk.data
                if chunk.last:
                    return
        except TimeoutError:
            raise ServiceError("download: the bytes did not come") from None
        finally:
            self._drop(request, _given_up())

    def fail(self, error: FarspanError) -> None:
        """End all transfers, also those to come."""
        self._over = error
        for request in list(self._transfers):
            self._drop(request, error)

    def _drop(self, request: int, error: FarspanError) -> None:
        transfer = self._transfers.pop(request, None)
        if transfer is not None:
            self._over_with[request] = None
            if len(self._over_with) > limits.FRAMES_UNCONFIRMED_MAX:
                del self._over_with[next(iter(self._over_with))]
            transfer.error = transfer.error or error
            transfer.chunks.clear()
            transfer.changed.set()


def _given_up() -> FarspanError:
    return ServiceError("download: the value was not fetched in time")
