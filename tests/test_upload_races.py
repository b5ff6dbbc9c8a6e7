"""Uploads that a journal keeps while threads write: what comes meanwhile loses nothing."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from farspan import wire
from farspan.core import limits, link
from farspan.core.command import ErrorInfo
from farspan.core.errors import ConnectError, SessionClosedError
from farspan_server.history import Chunk
from farspan_server.live import Live
from farspan_server.window import Window
from farspan_worker import shared
from farspan_worker.inbox import Inbox
from farspan_worker.shared import Segment
from test_gateway import PUT, TOKEN, U8, Bytes, Client, Cluster, frame, get, put

LONG = bytes(range(250)) * 1000  # that a thread writes, and that may go through shared memory


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


class Held:
    """A session's journal whose threads have written a piece, and come back at `go`."""

    def __init__(self, live: Live) -> None:
        assert live.keeper is not None
        self.write, self.go, self.has = live.keeper.history.chunk, threading.Event(), 0
        live.keeper.history.chunk = self  # type: ignore[method-assign,assignment]

    def __call__(self, chunk: Chunk) -> int:
        index = self.write(chunk)
        self.has += 1
        assert chunk.flags == 255 or self.go.wait(10)
        return index


def begun(cluster: Cluster, journals: Path, **config: Any) -> tuple[Client, Live]:
    """Return a client and its session, which has a worker and has run a frame."""
    cluster.start(1, journals=journals, **config)
    client = cluster.connect(devices="cpu", timeout=20)
    client.transport.send(frame())
    client.synchronize()
    assert cluster.gateway is not None
    (live,) = cluster.gateway.service.sessions
    return client, live


def got(client: Client, total: int, transfer: int = 5) -> bytes:
    """Return the bytes of an upload as its worker has them."""
    client.transport.send(frame((PUT, [transfer], (U8, (total,), -1, transfer))))
    client.transport.send(get(transfer, 9))
    return bytes(client.value(9).data)


def test_an_upload_sent_again_while_the_first_call_is_cut_off_is_answered_when_it_is_there(
    cluster: Cluster, tmp_path: Path
) -> None:
    """All of it is in the journal, but who gives it to the worker is about to be cut off."""
    client, live = begun(cluster, tmp_path)
    assert cluster.gateway is not None
    service = cluster.gateway.service
    header = wire.TransferHeader(live.id, 0, 5, len(LONG))

    async def pieces() -> AsyncIterator[memoryview]:
        yield memoryview(LONG)

    async def race() -> None:
        held = Held(live)
        first = asyncio.create_task(service.upload(live, header, pieces()))
        while not held.has:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(service.upload(live, header, pieces()))
        await asyncio.sleep(0.05)
        first.cancel()
        held.go.set()
        await asyncio.wait([first])
        assert await second == len(LONG)

    cluster.run(race())
    assert got(client, len(LONG)) == LONG


def test_an_upload_under_which_the_gateway_stops_is_to_be_sent_again(
    cluster: Cluster, tmp_path: Path
) -> None:
    """A journal that is closed has not failed: the next gateway goes on with it."""
    _, live = begun(cluster, tmp_path)
    assert cluster.gateway is not None
    service = cluster.gateway.service

    async def pieces() -> AsyncIterator[memoryview]:
        for _ in range(3):
            yield memoryview(LONG)

    async def stop() -> None:
        keeper = live.keeper
        assert keeper is not None
        async with keeper._turns[0]:  # others' pieces are before it
            header = wire.TransferHeader(live.id, 0, 5, 3 * len(LONG))
            sending = asyncio.create_task(service.upload(live, header, pieces()))
            await asyncio.sleep(0.05)
            service._leave(live)
            while not keeper.history.journal.failed:
                await asyncio.sleep(0.001)
        with pytest.raises(ConnectError, match="shuts down"):
            await sending

    cluster.run(stop())


@pytest.mark.parametrize("by", ["takeover", "renewal"])
def test_a_piece_that_is_written_while_its_memory_goes_reaches_the_worker_as_bytes(
    cluster: Cluster, tmp_path: Path, by: str
) -> None:
    """The worker would end the session that tells it of memory that it has no more."""
    client, live = begun(cluster, tmp_path)
    client.transport.upload(4, 0, LONG)
    assert client.transport.stats()["bulk"]["shared_up"] == len(LONG)
    held = Held(live)
    with ThreadPoolExecutor(2) as others:
        sending = others.submit(client.transport.upload, 5, 0, LONG)
        cluster.until(lambda: held.has > 0)
        before = live.windows[0]
        if by == "takeover":
            after = others.submit(cluster.connect, attach=live.id, token=TOKEN, timeout=20)
            cluster.until(lambda: not live.windows)
        else:
            assert cluster.gateway is not None
            ask = wire.ShareRequest(live.id, 0, b"")
            assert not cluster.run(cluster.gateway.service.share(live, ask)).refused
        cluster.until(lambda: live.windows.get(0) is not before and not live.fencing)
        held.go.set()
        if by == "takeover":
            with pytest.raises(SessionClosedError):  # it is another client's now
                sending.result(20)
            client = after.result(20)
        else:
            sending.result(20)
    client.transport.send(put(1, b"here"))
    client.transport.send(get(1, 8))
    assert client.value(8).data == b"here"
    assert got(client, len(LONG)) == LONG


def test_memory_of_a_refused_upload_is_given_back_by_the_worker_in_its_turn(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or what lies before it, and is not read yet, would be written over."""
    client, _ = begun(cluster, tmp_path, memory_bytes_max=2 * limits.MiB)
    took: list[int] = []
    monkeypatch.setattr(Window, "took", lambda self, position, nbytes: took.append(position))
    total = limits.SHARED_UP_BYTES + 5 * limits.MiB
    client.transport.upload(5, 0, memoryview(bytes(total)))
    assert client.transport.stats()["bulk"]["shared_up"] == total
    assert not took
    client.transport.upload(6, 0, LONG)
    assert got(client, len(LONG), 6) == LONG


def test_the_rest_of_a_refused_upload_may_come_when_its_put_has_run() -> None:
    """Frames come by another connection: its session must not end for that."""
    inbox, lock = Inbox(lambda session: None), threading.Lock()
    session = inbox.open(1, link.Open("s", "anna", 0, (), 1000), Bytes(), None)
    session.segment = segment = Segment()
    segment.proved = True
    try:
        shared.take(inbox, session, link.Piece(5, 4000, 0, 0, 2000), lock)
        inbox.frame(session, frame((PUT, [1], (U8, (4000,), -1, 5))))
        taken = inbox.take(session)
        assert taken is not None and isinstance(taken.transfers[5], ErrorInfo)
        shared.take(inbox, session, link.Piece(5, 4000, 2000, 2048, 2000), lock)
        assert segment.taken_bytes == 4000 and not session.transfers
    finally:
        segment.close()
