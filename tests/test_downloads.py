"""Bytes on their way to a client, when a worker dies in the middle and another one begins anew."""

from __future__ import annotations

import asyncio

import pytest
from farspan.core import limits, link
from farspan.core.command import ErrorInfo
from farspan.core.errors import OutOfMemoryError
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
