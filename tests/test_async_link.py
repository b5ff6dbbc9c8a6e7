"""The asyncio link against itself and against the worker's blocking one."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

import pytest
from farspan.core import addresses, link
from farspan.core.errors import AuthError, BadValueError, ConnectError
from farspan_server.link import Link, Listener, dial
from farspan_worker import socket_link, tls

KEY = b"k" * link.KEY_BYTES


@contextlib.asynccontextmanager
async def echo(address: str):
    """A listener that returns every message; yields its address."""

    async def serve(opened: Link) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                header, payload = await opened.receive()
                opened.send(link.pack_header(header.kind, header.channel, len(payload)), payload)
                await opened.drain()

    listener = Listener(address, KEY)
    await listener.start(serve)
    try:
        yield listener.address
    finally:
        listener.close()


async def round_trip(opened: Link) -> None:
    opened.send(link.pack(link.FRAME, 3, b"abc"))
    assert await opened.receive() == (link.Header(link.FRAME, 3, 3), b"abc")
    opened.close()


@pytest.fixture(params=["127.0.0.1:0", "tls:127.0.0.1:0", "unix:{}/e.sock"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp_path)


def test_messages_cross_an_opened_link(address: str) -> None:
    async def check() -> None:
        async with echo(address) as actual:
            await round_trip(await dial(actual, KEY, link.Purpose(link.CONTROL, "gw")))

    asyncio.run(check())


def test_threads_and_asyncio_open_to_each_other(address: str) -> None:
    async def check() -> None:
        async with echo(address) as actual:
            purpose = link.Purpose(link.WATCH)
            opened = await asyncio.to_thread(socket_link.dial, actual, KEY, purpose)
            opened.send(link.pack(link.STATUS))
            header, _ = await asyncio.to_thread(opened.receive)
            assert header.kind == link.STATUS
            opened.close()

    asyncio.run(check())


def test_a_wrong_key_and_a_silent_address_are_told_apart(address: str) -> None:
    async def check() -> None:
        async with echo(address) as actual:
            with pytest.raises(AuthError):
                await dial(actual, bytes(link.KEY_BYTES), link.Purpose(link.CONTROL))
            with pytest.raises(AuthError):
                wrong = bytes(link.KEY_BYTES), link.Purpose(link.CONTROL)
                await asyncio.to_thread(socket_link.dial, actual, *wrong)
        with pytest.raises(ConnectError, match="nothing answers"):
            await dial(actual, KEY, link.Purpose(link.CONTROL))

    asyncio.run(check())


def test_who_stands_between_two_sides_of_tls_is_refused() -> None:
    """A relay with a certificate of its own passes every byte on, and still fails."""

    async def check() -> None:
        async with echo("tls:127.0.0.1:0") as actual:
            host, port = addresses.split_address(actual)

            async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
                onward = await asyncio.open_connection(host, port, ssl=tls.dialer_context())
                await asyncio.gather(copy(reader, onward[1]), copy(onward[0], writer))

            context, _ = tls.listener_context()
            middle = await asyncio.start_server(relay, "127.0.0.1", 0, ssl=context)
            between = f"tls:127.0.0.1:{middle.sockets[0].getsockname()[1]}"
            with pytest.raises(AuthError):
                await dial(between, KEY, link.Purpose(link.CONTROL))
            with pytest.raises(AuthError):
                purpose = link.Purpose(link.CONTROL)
                await asyncio.to_thread(socket_link.dial, between, KEY, purpose)
            middle.close()

    asyncio.run(check())


async def copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await source.read(65_536):
            target.write(data)
    target.close()


def test_a_plain_listener_that_others_can_reach_is_refused() -> None:
    for exposed in ("0.0.0.0:0", "[::]:0", "10.0.0.1:70", "example.org:70"):
        with pytest.raises(BadValueError, match="write tls:"):
            Listener(exposed, KEY)
        with pytest.raises(BadValueError, match="write tls:"):
            socket_link.Listener(exposed)


def test_threads_read_and_write_one_tls_link_at_once() -> None:
    async def check() -> None:
        async with echo("tls:127.0.0.1:0") as actual:
            purpose = link.Purpose(link.CONTROL)
            opened = await asyncio.to_thread(socket_link.dial, actual, KEY, purpose)
            sizes = [(k * 7919) % 60_000 for k in range(200)]

            def write(part: list[int]) -> None:
                for size in part:
                    opened.send(
                        link.pack_header(link.FRAME, size, size), bytes([size % 251]) * size
                    )

            def read() -> list[int]:
                seen = []
                for _ in sizes:
                    header, payload = opened.receive()
                    assert payload == bytes([header.channel % 251]) * header.channel
                    seen.append(header.channel)
                return seen

            reading = asyncio.to_thread(read)
            writers = [asyncio.to_thread(write, sizes[k::4]) for k in range(4)]
            seen, *_ = await asyncio.gather(reading, *writers)
            assert sorted(seen) == sorted(sizes)
            opened.close()

    asyncio.run(check())
