"""An asyncio connection that speaks `farspan.core.link`: dial, listen, send, receive.

For the gateway and the supervisor; the worker's threads have their own in `socket_link.py`.
Keys are passed in and never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Awaitable, Callable

from farspan.core import limits, link
from farspan.core.errors import AuthError, ConnectError, FarspanError, ProtocolError
from farspan_worker import tls

log = logging.getLogger(__name__)

_READ_BYTES = 2 * limits.CHUNK_BYTES  # what a reader may hold before the peer is paused


class Link:
    """One opened connection. Made by `dial` and `accept`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, purpose: link.Purpose
    ) -> None:
        self.purpose = purpose
        self._reader = reader
        self._writer = writer
        # Two chunks: the next one is read from the client while this one goes to the worker.
        writer.transport.set_write_buffer_limits(high=2 * limits.CHUNK_BYTES)

    def send(self, *parts: bytes | memoryview) -> None:
        """Queue the parts as one piece; never waits. `drain` bounds what is queued."""
        self._writer.writelines(parts)

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was sent; raise OSError if it is gone."""
        await self._writer.drain()

    @property
    def queued_bytes(self) -> int:
        """Bytes sent that the kernel has not taken yet."""
        return self._writer.transport.get_write_buffer_size()

    async def receive(self) -> tuple[link.Header, bytes]:
        """Return the next message; raise EOFError at the end, ProtocolError at nonsense."""
        try:
            header = link.unpack_header(await self._reader.readexactly(link.HEADER_BYTES))
            return header, await self._reader.readexactly(header.payload_bytes)
        except asyncio.IncompleteReadError:
            raise EOFError("the connection was closed by the other side") from None

    def close(self) -> None:
        """End the connection; a pending `receive` raises. May be called twice."""
        self._writer.transport.abort()


async def dial(address: str, key: bytes, purpose: link.Purpose) -> Link:
    """Return an opened link to a listener; raise ConnectError or AuthError within CONNECT_S."""
    target = link.split_address(address)
    writer: asyncio.StreamWriter | None = None
    try:
        async with asyncio.timeout(limits.CONNECT_S):
            if isinstance(target, str):
                connecting = asyncio.open_unix_connection(target, limit=_READ_BYTES)
            else:
                context = tls.dialer_context() if link.is_tls(address) else None
                connecting = asyncio.open_connection(*target, limit=_READ_BYTES, ssl=context)
            reader, writer = await connecting
            binding = b""
            if (session := writer.get_extra_info("ssl_object")) is not None:
                binding = tls.binding(session.getpeercert(binary_form=True))
            dialer = link.Dialer(key, os.urandom(link.NONCE_BYTES), binding)
            writer.write(dialer.reply(await reader.readexactly(link.CHALLENGE_BYTES)))
            dialer.accept(await _read_proof(reader))
            writer.write(link.pack_purpose(purpose))
            await writer.drain()
            return Link(reader, writer, purpose)
    except BaseException as error:
        if writer is not None:
            writer.transport.abort()
        if isinstance(error, (OSError, EOFError)) and not isinstance(error, FarspanError):
            raise ConnectError(
                f"nothing answers at {address}: {str(error) or 'timeout'}"
            ) from error
        raise


class Listener:
    """Accepts connections. `address` is what others dial, once `start` has returned."""

    def __init__(self, address: str, key: bytes) -> None:
        link.check_listen(address)
        self.address = address
        self._key = key
        self._binding = b""
        self._server: asyncio.Server | None = None

    async def start(self, serve: Callable[[Link], Awaitable[None]]) -> None:
        """Listen; `serve(link)` is run for each connection that proves the key."""

        async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                opened = await accept(reader, writer, self._key, self._binding)
            except (FarspanError, OSError) as error:
                log.warning("a connection to %s was refused: %s", self.address, error)
                return
            await serve(opened)

        target = link.split_address(self.address)
        if isinstance(target, str):
            self._server = await asyncio.start_unix_server(connected, target, limit=_READ_BYTES)
            os.chmod(target, 0o600)
            return
        context = None
        if link.is_tls(self.address):
            context, self._binding = tls.listener_context()
        self._server = await asyncio.start_server(
            connected, *target, limit=_READ_BYTES, ssl=context
        )
        port = self._server.sockets[0].getsockname()[1]
        self.address = link.join_address(self.address, port)

    def close(self) -> None:
        """Stop listening; links that are open stay so."""
        if self._server is not None:
            self._server.close()


async def accept(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes, binding: bytes = b""
) -> Link:
    """Return the opened link of an accepted connection; raise AuthError, ProtocolError or OSError.

    Reads 64 bytes before it knows that the peer holds the key, within CONNECT_S.
    """
    try:
        async with asyncio.timeout(limits.CONNECT_S):
            listener = link.Listener(key, os.urandom(link.NONCE_BYTES), binding)
            writer.write(listener.challenge)
            writer.write(listener.answer(await reader.readexactly(link.REPLY_BYTES)))
            header = link.unpack_header(await reader.readexactly(link.HEADER_BYTES))
            if header.kind != link.PURPOSE:
                raise ProtocolError(f"link: the first message has kind {header.kind}, not PURPOSE")
            purpose = link.unpack_purpose(await reader.readexactly(header.payload_bytes))
            return Link(reader, writer, purpose)
    except BaseException as error:
        writer.transport.abort()
        if isinstance(error, EOFError):
            raise ConnectionResetError("the peer closed the link while it opened") from None
        raise


async def _read_proof(reader: asyncio.StreamReader) -> bytes:
    with contextlib.suppress(EOFError, ConnectionResetError):
        return await reader.readexactly(link.PROOF_BYTES)
    raise AuthError("the listener refused the key of this link")
