"""The gateway's floor: nobody waits for more than a slice of another tenant's time, in any turn."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Coroutine
from typing import Any

import pytest
from farspan_server.floor import SLICE_S, Floor


class Time:
    """A clock that only work advances."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


async def talk(
    floor_: Floor, clock: Time, tenant: str, works: list[float], done: list[Any]
) -> None:
    """Work for a tenant as a stream does: so many seconds at a time."""
    since_s = None
    for number, seconds in enumerate(works):
        since_s = await floor_.turn(tenant, since_s)
        clock.now_s += seconds
        done.append((tenant, number, seconds))
    await floor_.turn(tenant, since_s)


@pytest.mark.parametrize("streams", [1, 7, 40])
def test_in_no_turn_a_tenant_has_more_than_a_slice_over_all_its_streams(streams: int) -> None:
    choose = random.Random(streams)
    clock = Time()
    longest, most = 0.0, SLICE_S / 3

    async def watch(done: list[Any], total: int) -> None:
        nonlocal longest
        seen = 0
        while len(done) < total:
            await asyncio.sleep(0)
            longest = max(longest, sum(seconds for _, _, seconds in done[seen:]))
            seen = len(done)

    async def all_of() -> None:
        floor_, done = Floor(clock), list[Any]()
        works = [[choose.uniform(0, most) for _ in range(30)] for _ in range(streams)]
        streams_ = [talk(floor_, clock, "anna", each, done) for each in works]
        await asyncio.gather(watch(done, 30 * streams), *streams_)
        assert len(done) == 30 * streams
        await asyncio.sleep(0)
        assert not floor_._waiting and not floor_._spent, "nothing is left of a tenant"

    asyncio.run(all_of())
    assert 0 < longest <= SLICE_S + most


def test_who_uses_little_waits_for_nobody() -> None:
    clock = Time()

    async def all_of() -> None:
        floor_, done = Floor(clock), list[Any]()
        flood = asyncio.create_task(talk(floor_, clock, "anna", [2 * SLICE_S] * 20, done))
        await asyncio.sleep(0)
        for _ in range(20):
            before = len(done)
            since_s = await floor_.turn("bert")
            clock.now_s += SLICE_S / 10
            await floor_.turn("bert", since_s)
            assert len(done) == before, "it went on at once"
            await asyncio.sleep(0)
        await flood

    asyncio.run(all_of())


def test_streams_of_a_tenant_go_on_in_the_order_in_which_they_came() -> None:
    clock, order = Time(), list[int]()

    async def one(floor_: Floor, number: int) -> None:
        since_s = await floor_.turn("anna")
        order.append(number)
        clock.now_s += SLICE_S
        await floor_.turn("anna", since_s)

    async def all_of() -> None:
        floor_ = Floor(clock)
        await asyncio.gather(*(one(floor_, number) for number in range(20)))

    asyncio.run(all_of())
    assert order == list(range(20))


@pytest.mark.parametrize("at", range(1, 6))
def test_one_that_is_cut_off_while_it_waits_holds_nobody_up(at: int) -> None:
    clock, done = Time(), list[Any]()

    async def within(work: Coroutine[Any, Any, Any]) -> Any:
        return await asyncio.wait_for(work, 10)

    async def all_of() -> None:
        floor_ = Floor(clock)
        talks = [
            asyncio.create_task(talk(floor_, clock, "anna", [SLICE_S] * 5, done)) for _ in range(6)
        ]
        for _ in range(at):
            await asyncio.sleep(0)
        for each in talks[::2]:
            each.cancel()
        await within(asyncio.wait(talks[1::2]))  # type: ignore[arg-type]
        await asyncio.wait(talks)
        await within(floor_.turn("anna"))  # type: ignore[arg-type]

    asyncio.run(all_of())
    assert len(done) >= 15
