"""Bytes on their way to a client, when a worker dies in the middle and another one begins anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from farspan.core import limits, link
from farspan.core.command import ErrorInfo
from farspan.core.errors import OutOfMemoryError, ServiceError
from farspan_server import downloads as downloads_module
from farspan_server.downloads import Downloads

DATA = bytes(range(256)) * 4096 * 3  # three chunks


async def taken(downloads: Downloads, request: int) -> bytes:
    return b"".join([bytes(data) async for data in downloads.take(request)])


def test_a_replay_goes_on_where_the_first_worker_stopped() -> None:
    async def run() -> None:
        downloads = Downloads(limits.LEASE_S)
        first, second, third = link.chunks(5, DATA)
        reader = asyncio.create_task(taken(downloads, 5))
        await downloads.put(first)
        await asyncio.sleep(0)
        assert 5 in downloads._transfers
        for chunk in (first, second, third):  # from the next worker
            await downloads.put(chunk)
        assert await reader == DATA
        assert not downloads._transfers
        for chunk in (first, second, third):  # and from the one after it
            await downloads.put(chunk)
        assert not downloads._transfers

    asyncio.run(run())


def test_a_transfer_that_fails_in_the_middle_says_so() -> None:
    async def run() -> None:
        downloads = Downloads()
        first, *_ = link.chunks(5, DATA)
        await downloads.put(first)
        message = link.pack_failure(1, 5, ErrorInfo("OutOfMemoryError", "no room", 3))
        await downloads.put(link.unpack_chunk(message[link.HEADER_BYTES :]))
        with pytest.raises(OutOfMemoryError, match="no room"):
            await taken(downloads, 5)

    asyncio.run(run())


async def begun(downloads: Downloads, request: int) -> AsyncGenerator[Any, None]:
    """Return a Download that has given its first chunk, and waits."""
    reader = downloads.take(request)
    assert await anext(reader)
    return reader


def test_a_download_whose_connection_broke_begins_again() -> None:
    async def run() -> None:
        downloads = Downloads(1.0, lambda: 7)
        first, second, third = link.chunks(5, DATA)
        await downloads.put(first)
        await downloads.put(second)
        broken = await begun(downloads, 5)
        await downloads.put(third)
        assert await taken(downloads, 5) == DATA  # before the break is known
        with pytest.raises(ServiceError, match="a later one"):
            await anext(broken)
        assert await taken(downloads, 5) == DATA  # whose end was cut off
        downloads.confirmed(6)
        assert await taken(downloads, 5) == DATA
        downloads.confirmed(7)
        assert not downloads._finished and not downloads._transfers

    asyncio.run(run())


def test_a_long_download_that_broke_is_told_again_by_its_worker() -> None:
    chunk = bytes(limits.CHUNK_BYTES)
    count = downloads_module.KEPT_BYTES_MAX // len(chunk) + 4
    chunks = list(link.chunks(5, chunk * count))

    async def run() -> None:
        asked = []
        downloads = Downloads(5.0, lambda: 7, lambda: asked.append(1) or True)

        async def put_all() -> None:
            for each in chunks:
                await downloads.put(each)

        putting = asyncio.create_task(put_all())
        reader = downloads.take(5)
        for _ in range(count - 1):
            await anext(reader)
        assert len(downloads._transfers[5].chunks) <= downloads_module.CHUNKS_HELD_MAX
        await reader.aclose()  # type: ignore[attr-defined]
        await putting
        again = asyncio.create_task(taken(downloads, 5))
        while not asked:
            await asyncio.sleep(0)
        await put_all()
        assert await again == chunk * count
        downloads._again = bool
        with pytest.raises(ServiceError, match="lost with the connection"):
            await taken(downloads, 5)

    asyncio.run(run())


@pytest.mark.parametrize("resumes", [True, False])
def test_a_value_that_its_client_gives_up_keeps_no_worker_waiting(resumes: bool) -> None:
    async def run() -> None:
        downloads = Downloads(5.0, (lambda: 7) if resumes else None)
        chunks = list(link.chunks(5, bytes(1024) * 1024 * (downloads_module.CHUNKS_HELD_MAX + 4)))

        async def tell() -> None:
            for chunk in chunks:
                await downloads.put(chunk)

        told = asyncio.create_task(tell())
        await asyncio.sleep(0.01)
        assert not told.done()  # too many are held
        downloads.give_up(5)
        await asyncio.wait_for(told, 1.0)
        await tell()  # a replay
        assert not downloads._transfers
        downloads.give_up(6)  # before it came
        await downloads.put(link.Chunk(6, 4, 0, link.LAST, b"abcd"))
        assert not downloads._transfers

    asyncio.run(run())
