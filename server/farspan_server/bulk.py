"""The half of the service that moves tensor bytes from clients to workers, or to the journal.

An upload may be sent again after a break, from its first byte, with the same number: what came
before is dropped. Bytes from workers to clients are `downloads.py`'s.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

from farspan import wire
from farspan.core import link
from farspan.core.errors import JournalError, ProtocolError, WorkerLostError

from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.config import GatewayConfig
from farspan_server.history import Chunk
from farspan_server.live import Live


class Call:
    """One that brings an upload.

    turn: of passing a piece on, shared with the calls before it that brought the same upload.
    owner: the client whose it is.
    """

    def __init__(self, before: Call | None, owner: str | None) -> None:
        self.owner = owner
        self.turn = asyncio.Lock() if before is None else before.turn


class Bulk:
    """The bulk half of `service.Service`, which owns the sessions."""

    config: GatewayConfig

    if TYPE_CHECKING:

        def give(self, live: Live, given: messages.Input) -> None: ...

    async def workers_of(self, live: Live) -> None:
        """Return when the session has its workers; raise what ended it if it has none by then."""
        self.give(live, messages.Reserve())
        await live.assigned.wait()
        live.check()

    async def upload(
        self,
        live: Live,
        header: wire.TransferHeader,
        data: AsyncIterator[Any],
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
        self, live: Live, header: wire.TransferHeader, data: AsyncIterator[Any], owner: str | None
    ) -> None:
        """Take what is new of an upload."""
        transfer, total, came = header.transfer, header.total_bytes, 0
        live.check(owner)  # it may have waited for workers
        call = live.uploading[transfer] = Call(live.uploading.get(transfer), owner)
        try:
            async for view in data:
                begin, came = came, came + len(view)
                live.bytes_received += len(view)
                if came > total or (not len(view) and total):
                    raise ProtocolError(f"upload of {total} bytes: a chunk that does not fit")
                async with call.turn:  # the call before may still pass a piece on, or be cut off
                    await self._take_piece(live, header, call, begin, view)
            if came != total:
                raise ProtocolError(f"upload of {total} bytes: {came} came")
            live.check(owner)
            if not total and transfer not in live.uploads.done:
                await self._pass(live, header.device, link.Chunk(transfer, 0, 0, link.LAST, b""))
        except OSError:
            raise WorkerLostError(f"the worker of {live.names[header.device]} is gone") from None
        except BaseException:  # the client has broken off, or sends what is no chunk
            if live.uploading.get(transfer) is call and transfer not in live.uploads.done:
                # Its client may have thought better of it. One that sends it again begins anew.
                with contextlib.suppress(JournalError):  # of which the session hears
                    self._give_up(live, header.device, transfer)
            raise
        finally:
            if live.uploading.get(transfer) is call:
                del live.uploading[transfer]

    async def _take_piece(
        self, live: Live, header: wire.TransferHeader, call: Call, begin: int, view: memoryview
    ) -> None:
        transfer, total = header.transfer, header.total_bytes
        live.check(call.owner)
        if live.uploading.get(transfer) is not call:
            raise ProtocolError(f"upload {transfer} goes on on another connection")
        if transfer in live.uploads.done:
            return  # the call before has brought the rest
        known = live.uploads.come.get(transfer, 0)
        if known < begin:
            raise ProtocolError(f"upload {transfer} was given up meanwhile")
        came = begin + len(view)
        if came > known:
            flags = link.LAST if came == total else 0
            chunk = link.Chunk(transfer, total, known, flags, view[known - begin :])
            await self._pass(live, header.device, chunk)

    async def _pass(self, live: Live, device: int, chunk: link.Chunk) -> None:
        live.check()
        data = memoryview(chunk.data)
        kept = Chunk(device, chunk.transfer, chunk.total, chunk.offset, chunk.flags, data)
        if live.keeper is None:
            await live.links[device].upload(live.channel, chunk)
            live.uploads.add(kept)
        elif chunk.offset and chunk.total > live.memory_bytes:
            live.uploads.add(kept)  # its worker has refused the first piece: no disk need hold it
        else:
            try:
                await live.keeper.send(kept)
            except BaseException:  # the call was cut off, and the worker may not have it
                live.uploads.take_back(kept)
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
    async def share(self, live: Live, asked: wire.ShareRequest) -> wire.ShareReply:
        """Ask a session's worker for memory that its client can map; or hand it the proof."""
        if wire.SHARED_MEMORY not in live.features:
            return wire.ShareReply(refused="the session was opened without it")
        await self.workers_of(live)
        if asked.device >= len(live.links):
            raise ProtocolError(f"memory of device {asked.device}, which is not there")
        live.shares = True
        body = link.Share(proof=asked.proof.hex())
        answer = await live.links[asked.device].share(live.channel, body)
        where = (answer.pid, answer.fd, answer.segment_bytes, bytes.fromhex(answer.digest))
        return wire.ShareReply(*where, answer.refused[:256])

    async def piece(self, live: Live, piece: wire.SharedPiece) -> None:
        """Tell a worker where the next bytes of an upload lie.

        A session that is journalled would read the bytes here, before it passes the piece on.
        """
        if piece.device >= len(live.links):
            raise ProtocolError(f"a piece for device {piece.device}, which is not there")
        live.bytes_received += piece.piece_bytes
        place = (piece.transfer, piece.total_bytes, piece.offset, piece.position, piece.piece_bytes)
        with contextlib.suppress(OSError):  # the worker is gone, of which the session hears
            await live.links[piece.device].piece(live.channel, link.Piece(*place))
