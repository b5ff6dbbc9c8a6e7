"""An asyncio connection that speaks `farspan.core.link`: dial, accept, send, receive.

For the gateway and the supervisor; the worker's threads have their own in `socket_link.py`.
Keys are passed in and never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import os

from farspan.core import limits, link
from farspan.core.errors import AuthError, ConnectError, FarspanError, ProtocolError

_READ_BYTES = 2 * limits.CHUNK_BYTES  # what a reader may hold before the peer is paused


class Link:
    """One opened connection. Made by `dial` and `accept`."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, purpose: link.Purpose
    ) -> None:
        self.purpose = purpose
        self._reader = reader
        self._writer = writer

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
                connecting = asyncio.open_connection(*target, limit=_READ_BYTES)
            reader, writer = await connecting
            dialer = link.Dialer(key, os.urandom(link.NONCE_BYTES))
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


async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: bytes) -> Link:
    """Return the opened link of an accepted connection; raise AuthError, ProtocolError or OSError.

    Reads 64 bytes before it knows that the peer holds the key, within CONNECT_S.
    """
    try:
        async with asyncio.timeout(limits.CONNECT_S):
            listener = link.Listener(key, os.urandom(link.NONCE_BYTES))
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
