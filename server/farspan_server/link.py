"""An asyncio connection that speaks `farspan.core.link`: dial, listen, send, receive.

For the gateway and the supervisor; the worker's threads have their own in `socket_link.py`.
A protocol, not a pair of streams: what a worker says is heard within the turn of the loop that
read it, and long payloads are read into their place. Keys are passed in and never logged.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

from farspan.core import addresses, limits, link
from farspan.core.errors import AuthError, ConnectError, FarspanError, ProtocolError
from farspan_worker import tls

log = logging.getLogger(__name__)

_READ_BYTES = 2 * limits.CHUNK_BYTES  # of messages that nobody took yet: then the peer is paused
_SCRATCH_BYTES = 64 * limits.KiB  # read at once, unless a longer payload is under way
_JOINED_BYTES_MAX = 64 * limits.KiB  # sent in one system call with what stands before them

Payload = bytes | bytearray
Hearer = Callable[[link.Header, Payload], None]


class Link(asyncio.BufferedProtocol):
    """One connection: bytes while it opens, messages after that. Made by `dial` and `Listener`."""

    def __init__(self, opened: Callable[[Link], None] | None = None) -> None:
        self.purpose = link.Purpose("")
        self._on_connected = opened
        self._transport: Any = None
        self._scratch = memoryview(bytearray(_SCRATCH_BYTES))
        self._filled = 0
        self._speaks = False  # messages, not the bytes of an opening
        self._header: link.Header | None = None  # of the payload under way
        self._payload = bytearray()
        self._payload_filled = 0
        self._messages: deque[tuple[link.Header, Payload]] = deque()
        self._held_bytes = 0
        self._hearer: Hearer | None = None
        self._arrived = asyncio.Event()  # bytes, a message or the end
        self._end: BaseException | None = None
        self._writable = asyncio.Event()
        self._writable.set()

    # --- for whoever holds it --------------------------------------------------------------------
    def send(self, *parts: bytes | memoryview) -> None:
        """Queue the parts as one piece; never waits. `drain` bounds what is queued."""
        if len(parts) > 1 and len(parts[-1]) > _JOINED_BYTES_MAX:
            for part in parts:  # what the kernel takes at once is not copied
                self._transport.write(part)
        else:
            self._transport.writelines(parts)

    async def drain(self) -> None:
        """Wait until the peer has taken most of what was sent; raise OSError if it is gone."""
        await self._writable.wait()
        if self._end is not None:
            raise ConnectionResetError("the link is closed")

    async def receive(self) -> tuple[link.Header, Payload]:
        """Return the next message; raise EOFError at the end, ProtocolError at nonsense."""
        while not self._messages:
            if self._end is not None:
                raise self._end
            self._arrived.clear()
            await self._arrived.wait()
        header, payload = self._messages.popleft()
        before, self._held_bytes = self._held_bytes, self._held_bytes - _size(payload)
        if self._held_bytes <= _READ_BYTES < before:
            self._transport.resume_reading()
        return header, payload

    async def hear(self, hearer: Hearer) -> None:
        """Hand every message to `hearer` as it comes, until the link ends; raise as `receive`.

        What the hearer raises ends the link and is raised here.
        """
        while self._messages:
            hearer(*await self.receive())
        self._hearer = hearer
        while self._end is None:
            self._arrived.clear()
            await self._arrived.wait()
        raise self._end

    def close(self) -> None:
        """End the connection; a pending `receive` raises. May be called twice."""
        if self._transport is not None:
            self._transport.abort()

    # --- while it opens --------------------------------------------------------------------------
    async def read(self, count: int) -> bytes:
        """Return the next `count` bytes of an opening; raise EOFError if fewer come."""
        assert count <= _SCRATCH_BYTES and not self._speaks
        while self._filled < count:
            if self._end is not None:
                raise EOFError("the connection was closed by the other side")
            self._arrived.clear()
            await self._arrived.wait()
        data = bytes(self._scratch[:count])
        if self._filled == len(self._scratch):
            self._transport.resume_reading()
        self._shift(count)
        return data

    def write(self, data: bytes) -> None:
        """Send bytes of an opening."""
        self._transport.write(data)

    def certificate(self) -> bytes | None:
        """Return the peer's certificate, or None without TLS."""
        session = self._transport.get_extra_info("ssl_object")
        found: bytes | None = None if session is None else session.getpeercert(binary_form=True)
        return found

    def speak(self, purpose: link.Purpose) -> None:
        """Take all that follows as messages."""
        self.purpose = purpose
        self._speaks = True
        try:
            self._parse()
        except FarspanError as error:
            self._stop(error)

    # --- for asyncio -----------------------------------------------------------------------------
    def connection_made(self, transport: Any) -> None:
        self._transport = transport
        # Two chunks: the next one is read from the client while this one goes to the worker.
        transport.set_write_buffer_limits(high=2 * limits.CHUNK_BYTES)
        if self._on_connected is not None:
            self._on_connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        if self._header is not None:
            return memoryview(self._payload)[self._payload_filled :]
        return self._scratch[self._filled :]

    def buffer_updated(self, nbytes: int) -> None:
        try:
            if self._header is not None:
                self._payload_filled += nbytes
                if self._payload_filled == len(self._payload):
                    header, self._header = self._header, None
                    payload, self._payload = self._payload, bytearray()
                    self._deliver(header, payload)
                return
            self._filled += nbytes
            if self._speaks:
                self._parse()
                return
            if self._filled == len(self._scratch):
                self._transport.pause_reading()
            self._arrived.set()
        except Exception as error:  # nonsense from the peer, or a hearer's: whoever waits is told
            self._stop(error)

    def eof_received(self) -> None:
        self._stop(EOFError("the connection was closed by the other side"))

    def connection_lost(self, exc: BaseException | None) -> None:
        self._stop(exc or EOFError("the connection was closed"))

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    # --- parsing ---------------------------------------------------------------------------------
    def _parse(self) -> None:
        """Deliver the messages in the scratch buffer; the rest of a payload gets its own."""
        at, end = 0, self._filled
        while end - at >= link.HEADER_BYTES and self._end is None:
            header = link.unpack_header(self._scratch[at : at + link.HEADER_BYTES])
            at += link.HEADER_BYTES
            size = header.payload_bytes
            have = min(size, end - at)
            if have < size:
                self._payload = bytearray(size)
                self._payload[:have] = self._scratch[at:end]
                self._payload_filled, self._header = have, header
                at = end
                break
            payload = bytes(self._scratch[at : at + size])
            at += size
            self._deliver(header, payload)
        self._shift(at)

    def _shift(self, count: int) -> None:
        """Forget the first bytes of the scratch buffer."""
        rest = self._filled - count
        if rest:
            self._scratch[:rest] = bytes(self._scratch[count : self._filled])
        self._filled = rest

    def _deliver(self, header: link.Header, payload: Payload) -> None:
        if self._hearer is not None:
            self._hearer(header, payload)
            return
        self._messages.append((header, payload))
        before, self._held_bytes = self._held_bytes, self._held_bytes + _size(payload)
        if before <= _READ_BYTES < self._held_bytes:
            self._transport.pause_reading()
        self._arrived.set()

    def _stop(self, why: BaseException) -> None:
        if self._end is None:
            self._end = why
        self._arrived.set()
        self._writable.set()
        self._transport.abort()


def _size(payload: Payload) -> int:
    return link.HEADER_BYTES + len(payload)


async def dial(address: str, key: bytes, purpose: link.Purpose) -> Link:
    """Return an opened link to a listener; raise ConnectError or AuthError within CONNECT_S."""
    target = addresses.split_address(address)
    loop = asyncio.get_running_loop()
    opened = Link()
    try:
        async with asyncio.timeout(limits.CONNECT_S):
            if isinstance(target, str):
                await loop.create_unix_connection(lambda: opened, target)
            else:
                context = tls.dialer_context() if addresses.is_tls(address) else None
                await loop.create_connection(lambda: opened, *target, ssl=context)
            certificate = opened.certificate()
            binding = b"" if certificate is None else tls.binding(certificate)
            dialer = link.Dialer(key, os.urandom(link.NONCE_BYTES), binding)
            opened.write(dialer.reply(await opened.read(link.CHALLENGE_BYTES)))
            dialer.accept(await _read_proof(opened))
            opened.write(link.pack_purpose(purpose))
            opened.speak(purpose)
            return opened
    except BaseException as error:
        opened.close()
        if isinstance(error, (OSError, EOFError)) and not isinstance(error, FarspanError):
            raise ConnectError(
                f"nothing answers at {address}: {str(error) or 'timeout'}"
            ) from error
        raise


class Listener:
    """Accepts connections. `address` is what others dial, once `start` has returned."""

    def __init__(self, address: str, key: bytes) -> None:
        addresses.check_listen(address)
        self.address = address
        self._key = key
        self._binding = b""
        self._server: asyncio.Server | None = None
        self._serving: set[asyncio.Task[None]] = set()

    async def start(self, serve: Callable[[Link], Awaitable[None]]) -> None:
        """Listen; `serve(link)` is run for each connection that proves the key."""

        async def run(opened: Link) -> None:
            try:
                await accept(opened, self._key, self._binding)
            except (FarspanError, OSError) as error:
                log.warning("a connection to %s was refused: %s", self.address, error)
                return
            await serve(opened)

        def connected(opened: Link) -> None:
            task = asyncio.create_task(run(opened))
            self._serving.add(task)
            task.add_done_callback(self._serving.discard)

        loop = asyncio.get_running_loop()
        target = addresses.split_address(self.address)
        if isinstance(target, str):
            self._server = await loop.create_unix_server(lambda: Link(connected), target)
            os.chmod(target, 0o600)
            return
        context = None
        if addresses.is_tls(self.address):
            context, self._binding = tls.listener_context()
        self._server = await loop.create_server(lambda: Link(connected), *target, ssl=context)
        port = self._server.sockets[0].getsockname()[1]
        self.address = addresses.join_address(self.address, port)

    def close(self) -> None:
        """Stop listening; links that are open stay so."""
        if self._server is not None:
            self._server.close()


async def accept(opened: Link, key: bytes, binding: bytes = b"") -> None:
    """Open an accepted connection; raise AuthError, ProtocolError or OSError.

    Reads 64 bytes before it knows that the peer holds the key, within CONNECT_S.
    """
    try:
        async with asyncio.timeout(limits.CONNECT_S):
            listener = link.Listener(key, os.urandom(link.NONCE_BYTES), binding)
            opened.write(listener.challenge)
            opened.write(listener.answer(await opened.read(link.REPLY_BYTES)))
            header = link.unpack_header(await opened.read(link.HEADER_BYTES))
            if header.kind != link.PURPOSE:
                raise ProtocolError(f"link: the first message has kind {header.kind}, not PURPOSE")
            opened.speak(link.unpack_purpose(await opened.read(header.payload_bytes)))
    except BaseException as error:
        opened.close()
        if isinstance(error, EOFError):
            raise ConnectionResetError("the peer closed the link while it opened") from None
        raise


async def _read_proof(opened: Link) -> bytes:
    with contextlib.suppress(EOFError, ConnectionResetError):
        return await opened.read(link.PROOF_BYTES)
    raise AuthError("the listener refused the key of this link")
