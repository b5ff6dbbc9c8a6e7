"""Shared memory of a session that somebody takes over, or renews, at that moment."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any, cast

import pytest
from farspan import _shared, wire
from farspan.core import link
from farspan.core.errors import CapacityError
from test_gateway import HASH, TOKEN, Cluster


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    yield made
    made.close()


def test_who_comes_back_while_another_takes_over_finds_no_memory_half_gone(
    cluster: Cluster,
) -> None:
    """Of two devices one worker has let go of its memory, the other one has not."""
    cluster.start(2)
    assert cluster.gateway is not None
    known = cluster.gateway.service
    one = cluster.connect(devices="cpu:2", timeout=20)
    one.transport.upload(5, 0, bytes(1 << 20))
    one.transport.upload(6, 1, bytes(1 << 20))
    (live,) = known.sessions
    assert live.shares
    _, second = live.links
    share, held, going = second.share, asyncio.Event(), asyncio.Event()

    async def later(channel: int, body: link.Share) -> link.Share:
        if body.over:
            held.set()
            await going.wait()
        return await share(channel, body)

    second.share = later  # type: ignore[method-assign]
    secret = one.transport._secret
    resume = wire.Resume(live.id, secret, 9, 0, 0)
    hello = wire.Hello(HASH, resume=resume, minor=wire.MINOR)
    asked = wire.ShareRequest(live.id, 1, b"")

    async def come_back() -> None:
        known.resume("anna", hello, cast(Any, SimpleNamespace(over=False, end=print)))

    async def ask() -> wire.ShareReply:
        live.features |= {wire.SHARED_MEMORY}  # as it was when this was asked
        return await known.share(live, asked)

    with ThreadPoolExecutor(1) as another:
        taking = another.submit(cluster.connect, attach=live.id, token=TOKEN, timeout=20)
        cluster.run(held.wait())
        try:
            with pytest.raises(CapacityError, match="take the session over"):
                cluster.run(come_back())
            assert "takes the session over" in cluster.run(ask()).refused
            assert not live.shares  # or its new client could not outlast a broken connection
        finally:
            cluster._loop.call_soon_threadsafe(going.set)
        assert taking.result(10).transport.session_id == live.id
    assert not live.fencing and not live.shares


def test_a_segment_that_is_renewed_as_it_is_opened_is_not_used() -> None:
    shared = _shared.Shared(lambda device, proof: wire.ShareReply(), lambda: None)

    class Renewing(dict[int, Any]):
        """What is mapped, of which one is looked up as the workers are replaced."""

        def __getitem__(self, device: int) -> Any:
            shared.renew()
            return super().__getitem__(device)

    stale = SimpleNamespace(retired=False)
    shared._segments = Renewing({0: [stale]})
    shared._open = lambda device: "on"  # type: ignore[method-assign]
    shared.ask_for(0)
    assert shared._up.get(0) is None, "the next long tensor asks again"


def test_renewing_while_another_device_is_asked_for_breaks_nothing() -> None:
    shared = _shared.Shared(lambda device, proof: wire.ShareReply(), lambda: None)

    class Slow(SimpleNamespace):
        """A segment that is retired as another device's is noted."""

        @property
        def retired(self) -> bool:
            return False

        @retired.setter
        def retired(self, value: bool) -> None:
            up[1] = None

    up: dict[int, Any] = {0: Slow()}
    shared._up = up
    shared.renew()
    assert shared._up == {}
