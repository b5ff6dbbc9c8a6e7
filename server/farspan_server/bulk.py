"""The half of the service that moves tensor bytes from clients to workers, or to the journal.

An upload may be sent again after a break, from its first byte, with the same number: what came
before is dropped. Bytes from workers to clients are `downloads.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Final

from farspan import wire
from farspan.core import limits, link
from farspan.core import shared as layouts
from farspan.core.errors import (
    FarspanError,
    JournalError,
    ProtocolError,
    ServiceError,
    WorkerLostError,
)

from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.history import Chunk
from farspan_server.live import Live
from farspan_server.whole import Whole
from farspan_server.window import Window
from farspan_server.workers import BUSY

_LOOK_S: Final = 0.005  # between looks whether a question about memory is answered
_OVER: Final = "the memory is shared no more; send the bytes themselves"


class Call:
    """One that brings an upload.

    turn: of passing a piece on, shared with the calls before it that brought the same upload.
    owner: the client whose it is.
    """

    def __init__(self, before: Call | None, owner: str | None) -> None:
        self.owner = owner
        self.turn = asyncio.Lock() if before is None else before.turn


#: Bytes of an upload: where they begin, and where in shared memory they lie, if they do.
Part = tuple[int, memoryview, tuple[Window, int] | None]


async def _ahead(source: AsyncIterator[Part]) -> AsyncIterator[Part]:
    """Yield what a source yields; the next one comes while the one before is worked on."""

    async def after() -> Part | None:
        return await anext(source, None)

    coming = asyncio.create_task(after())
    try:
        while (one := await coming) is not None:
            coming = asyncio.create_task(after())
            yield one
    finally:
        coming.cancel()


class Bulk(Whole):
    """The bulk half of `service.Service`, which owns the sessions."""

    async def workers_of(self, live: Live) -> None:
        """Return when the session has its workers; raise what ended it if it has none by then."""
        self.give(live, messages.Reserve())
        await live.assigned.wait()
        live.check()

    async def upload(
        self,
        live: Live,
        header: wire.TransferHeader,
        data: AsyncIterator[memoryview | wire.SharedPiece],
        owner: str | None = None,
    ) -> int:
        """Pass a transfer's bytes to its worker and return their number.

        owner: who sends them, of `Live.prove`: nothing more is taken once another client has the
        session. Of a session that is durable, once they survive the gateway. Raises ProtocolError,
        SessionClosedError, WorkerLostError or JournalError.
        """
        if header.device >= len(live.machine.kinds):
            raise ProtocolError(f"upload for device {header.device}, which is not there")
        if live.keeper is None or not live.confirms or not live.machine.begun:
            await self.workers_of(live)  # the first ones get no replay of what came before them
        elif live.machine.state == sessions.OPEN:
            self.give(live, messages.Reserve())  # the journal has the bytes until they are there
        if (before := live.uploading.get(header.transfer)) is not None:
            async with before.turn:  # what the journal has, its worker is still to be told
                pass
        done = live.uploads.done.get(header.transfer)
        if done is None:
            await self._take(live, header, data, owner)
        elif done != header.total_bytes:
            raise ProtocolError(
                f"upload {header.transfer} of {header.total_bytes} bytes had {done}"
            )
        if live.keeper is not None:
            await live.keeper.durable()
            live.check(owner)
        return header.total_bytes

    async def _take(
        self,
        live: Live,
        header: wire.TransferHeader,
        data: AsyncIterator[memoryview | wire.SharedPiece],
        owner: str | None,
    ) -> None:
        """Take what is new of an upload."""
        transfer, total, came = header.transfer, header.total_bytes, 0
        live.check(owner)  # it may have waited for workers
        call = live.uploading[transfer] = Call(live.uploading.get(transfer), owner)
        try:
            parts = self._parts(live, header, data)
            async with contextlib.aclosing(_ahead(parts)) as ahead:
                async for begin, view, place in ahead:
                    since_s = await self.tenancy.floor.turn(live.tenant)
                    live.bytes_received += len(view)
                    async with call.turn:  # the call before may still pass one on, or be cut off
                        await self._take_part(live, header, call, begin, view, place)
                    await self.tenancy.floor.turn(live.tenant, since_s)
                    came = begin + len(view)
            if came != total:
                raise ProtocolError(f"upload of {total} bytes: {came} came")
            live.check(owner)
            if not total and transfer not in live.uploads.done:
                await self._pass(live, header.device, link.Chunk(transfer, 0, 0, link.LAST, b""))
        except BaseException as error:  # the client has broken off, or sends what is no chunk
            if isinstance(error, OSError) and not isinstance(error, FarspanError):
                lost = f"the worker of {live.names[header.device]} is gone"
                raise WorkerLostError(lost) from None
            if live.uploading.get(transfer) is call and transfer not in live.uploads.done:
                # Its client may have thought better of it. One that sends it again begins anew.
                with contextlib.suppress(JournalError):  # of which the session hears
                    self._give_up(live, header.device, transfer)
            raise
        finally:
            if live.uploading.get(transfer) is call:
                del live.uploading[transfer]

    async def _parts(
        self,
        live: Live,
        header: wire.TransferHeader,
        data: AsyncIterator[memoryview | wire.SharedPiece],
    ) -> AsyncIterator[Part]:
        """Yield what comes with a call, and chunks of what it says lies in shared memory."""
        total, came = header.total_bytes, 0
        async for each in data:
            size = each.piece_bytes if isinstance(each, wire.SharedPiece) else len(each)
            if came + size > total or (not size and total):
                raise ProtocolError(f"upload of {total} bytes: a chunk that does not fit")
            if not isinstance(each, wire.SharedPiece):
                yield came, each, None
            else:
                async for part in self._copied(live, header, each, came):
                    yield part
            came += size

    async def _copied(
        self, live: Live, header: wire.TransferHeader, piece: wire.SharedPiece, begin: int
    ) -> AsyncIterator[Part]:
        """Yield copies of bytes that lie in shared memory, a chunk at a time, made by threads."""
        window = live.windows.get(header.device)
        if live.keeper is None or window is None:
            raise ServiceError(_OVER)
        asked = (piece.device, piece.transfer, piece.total_bytes, piece.offset)
        if asked != (header.device, header.transfer, header.total_bytes, begin):
            raise ProtocolError("a piece of another upload, or of another place in it")
        for at in range(0, piece.piece_bytes, limits.CHUNK_BYTES):
            size, position = min(limits.CHUNK_BYTES, piece.piece_bytes - at), piece.position + at
            data = await asyncio.to_thread(window.copied, position, size)
            yield begin + at, data, (window, position)

    async def _take_part(
        self,
        live: Live,
        header: wire.TransferHeader,
        call: Call,
        begin: int,
        view: memoryview,
        place: tuple[Window, int] | None,
    ) -> None:
        """Take what is new of a part. place: where it lies, for a worker that can look there."""
        transfer, total = header.transfer, header.total_bytes
        if place is not None:
            # A worker that is told of memory that it has no more ends the session. One that is
            # lost is told nothing: the journal may still have what its client laid there.
            known = live.windows.get(header.device) is place[0]
            if not known and place[0].channel == live.channel:
                raise ServiceError(_OVER)
        live.check(call.owner)
        if live.uploading.get(transfer) is not call:
            raise ProtocolError(f"upload {transfer} goes on on another connection")
        if transfer in live.uploads.done:
            return  # the call before has brought the rest
        known_bytes = live.uploads.come.get(transfer, 0)
        if known_bytes < begin:
            raise ProtocolError(f"upload {transfer} was given up meanwhile")
        came = begin + len(view)
        if came > known_bytes:
            flags = link.LAST if came == total else 0
            new = view[known_bytes - begin :]
            if place is not None:
                place = place[0], place[1] + known_bytes - begin
            chunk = link.Chunk(transfer, total, known_bytes, flags, new)
            await self._pass(live, header.device, chunk, place)

    async def _pass(
        self,
        live: Live,
        device: int,
        chunk: link.Chunk,
        place: tuple[Window, int] | None = None,
    ) -> None:
        live.check()
        data = memoryview(chunk.data)
        kept = Chunk(device, chunk.transfer, chunk.total, chunk.offset, chunk.flags, data)
        if live.keeper is None:
            await live.links[device].upload(live.channel, chunk)
            live.uploads.add(kept)
        elif chunk.offset and chunk.total > live.memory_bytes:
            # Its worker has refused the first piece: no disk need hold it.
            told = await live.keeper.pass_by(kept, place)
            live.uploads.add(kept)
            if place is not None and not told:
                place[0].took(place[1], data.nbytes)
        else:
            try:
                told = await live.keeper.send(kept, place)
                if place is not None and not told:
                    place[0].took(place[1], data.nbytes)
            except BaseException as error:  # it was cut off, and the worker may not have it
                live.uploads.take_back(kept)
                if isinstance(error, JournalError):  # which was closed, if the gateway stops
                    live.check()
                raise
        live.check()

    def _give_up(self, live: Live, device: int, transfer: int) -> None:
        """Let everybody forget what has come of an upload that will not go on."""
        live.uploads.come.pop(transfer, None)
        if live.ended or live.left:
            return
        if live.keeper is not None:
            live.keeper.give_up(device, transfer)
        elif device < len(live.links):
            live.links[device].give_up(live.channel, transfer)

    # --- shared memory ---------------------------------------------------------------------------
    async def share(
        self, live: Live, asked: wire.ShareRequest, owner: str | None = None
    ) -> wire.ShareReply:
        """Ask a session's worker for memory that its client can map; or hand it the proof.

        Of a session that is journalled this gateway maps it too, or there is none.
        """
        if wire.SHARED_MEMORY not in live.features:
            return wire.ShareReply(refused="the session was opened without it")
        await self.workers_of(live)
        live.check(owner)
        if live.fencing:  # nor may the next client be taken for one that shares memory
            return wire.ShareReply(refused="another client takes the session over")
        if asked.device >= len(live.machine.kinds):
            raise ProtocolError(f"memory of device {asked.device}, which is not there")
        if live.keeper is not None:
            reply = await self._share_journalled(live, asked)
            live.check(owner)
            return reply
        live.shares = True
        body = link.Share(proof=asked.proof.hex())
        return _reply(await live.links[asked.device].share(live.channel, body))

    async def _share_journalled(self, live: Live, asked: wire.ShareRequest) -> wire.ShareReply:
        channel, device, features = live.channel, asked.device, live.features
        if not live.links or not live.machine.caught_up:
            # What a replay tells a second time would fill the ring, and nobody would take it.
            return wire.ShareReply(refused=layouts.LATER)
        worker, first = live.links[device], 0
        if not asked.proof:
            if (older := live.windows.pop(device, None)) is not None:
                older.over = True
            live.windows_made[device] = number = live.windows_made.get(device, -1) + 1
            first = layouts.first_position(live.machine.epoch, number)
            if not first:
                return wire.ShareReply(refused="the session has had too many segments")
        answer = await worker.share(channel, link.Share(proof=asked.proof.hex(), first=first))
        if live.channel != channel or live.features is not features:  # another worker, or client
            return wire.ShareReply(refused=layouts.LATER)
        if asked.proof:
            window = live.windows.get(device)
            if window is None or window.channel != channel:
                return wire.ShareReply(refused=layouts.LATER)
            window.proved = not answer.refused
        elif not answer.refused:
            window = Window.open(answer, first, channel)
            if window is None:
                text = "the worker's memory is not to be found at the gateway, which journals"
                return wire.ShareReply(refused=text)
            live.windows[device] = window
        return _reply(answer, first)

    async def unshare(self, live: Live) -> None:
        """Let nothing go through memory that a client has mapped who is about to be fenced."""
        for window in live.windows.values():
            window.over = True
        live.windows.clear()
        live.shares = False
        live.features -= {wire.SHARED_MEMORY}
        live.fencing += 1
        channel = live.channel  # others' workers share nothing yet, and may not know theirs
        try:
            for each in live.links:
                with contextlib.suppress(OSError, TimeoutError):  # that worker is lost, or as good
                    while (await each.share(channel, link.Share(over=True))).refused == BUSY:
                        await asyncio.sleep(_LOOK_S)
        finally:
            live.fencing -= 1

    async def piece(self, live: Live, piece: wire.SharedPiece) -> None:
        """Tell a worker where the next bytes of an upload lie, of a session without a journal."""
        if piece.device >= len(live.links) or live.keeper is not None:
            raise ProtocolError(f"a piece for device {piece.device}, which is not there")
        if not live.shares:
            return  # of a client that is about to be fenced
        live.bytes_received += piece.piece_bytes
        place = (piece.transfer, piece.total_bytes, piece.offset, piece.position, piece.piece_bytes)
        with contextlib.suppress(OSError):  # the worker is gone, of which the session hears
            await live.links[piece.device].piece(live.channel, link.Piece(*place))


def _reply(answer: link.Share, first: int = 0) -> wire.ShareReply:
    where = (answer.pid, answer.fd, answer.segment_bytes, bytes.fromhex(answer.digest))
    return wire.ShareReply(*where, answer.refused[:256], first)
