"""The asyncio link against itself and against the worker's blocking one."""

from __future__ import annotations

import asyncio
import contextlib

import pytest
from farspan.core import link
from farspan.core.errors import AuthError, ConnectError
from farspan_server.link import Link, accept, dial
from farspan_worker import socket_link

KEY = b"k" * link.KEY_BYTES


@contextlib.asynccontextmanager
async def echo():
    """A listener that returns every message; yields its address."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(AuthError, EOFError, OSError):
            opened = await accept(reader, writer, KEY)
            while True:
                header, payload = await opened.receive()
                opened.send(link.pack_header(header.kind, header.channel, len(payload)), payload)
                await opened.drain()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def round_trip(opened: Link) -> None:
    opened.send(link.pack(link.FRAME, 3, b"abc"))
    assert await opened.receive() == (link.Header(link.FRAME, 3, 3), b"abc")
    opened.close()


def test_messages_cross_an_opened_link() -> None:
    async def check() -> None:
        async with echo() as address:
            await round_trip(await dial(address, KEY, link.Purpose(link.CONTROL, "gw")))

    asyncio.run(check())


def test_threads_and_asyncio_open_to_each_other() -> None:
    async def check() -> None:
        async with echo() as address:
            purpose = link.Purpose(link.WATCH)
            opened = await asyncio.to_thread(socket_link.dial, address, KEY, purpose)
            opened.send(link.pack(link.STATUS))
            header, _ = await asyncio.to_thread(opened.receive)
            assert header.kind == link.STATUS
            opened.close()

    asyncio.run(check())


def test_a_wrong_key_and_a_silent_address_are_told_apart() -> None:
    async def check() -> None:
        async with echo() as address:
            with pytest.raises(AuthError):
                await dial(address, bytes(link.KEY_BYTES), link.Purpose(link.CONTROL))
        with pytest.raises(ConnectError, match="nothing answers"):
            await dial(address, KEY, link.Purpose(link.CONTROL))

    asyncio.run(check())
