"""Who comes to a session, lists or moves it while it sleeps, wakes or is taken over."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from pathlib import Path
from typing import Any

import pytest
from farspan import wire
from farspan.core.errors import CapacityError, ConnectError
from farspan_server import moving
from farspan_server.live import Stream
from farspan_server.shelf import Damaged
from test_gateway import HASH, put
from test_sleeping import (
    awake,
    clustered,
    fallen_asleep,
    states,
    taken_over,
    vanish,
    woken,
)


def test_a_session_does_not_fall_asleep_under_who_takes_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path, lease_s=30.0) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = vanish(cluster).transport.session_id
        cluster.until(lambda: states(cluster) == ["detached"])
        unshare = service.unshare

        async def slowly(live: Any) -> None:
            await unshare(live)
            live.machine._lease_ends = 0.0  # the worker takes its time, and the lease is over
            while live.machine.state != "asleep":
                service._tick(live)
                await asyncio.sleep(0.01)
            service._tick(live)

        monkeypatch.setattr(service, "unshare", slowly)
        taken_over(cluster, session)
        assert awake(cluster) == [session] and not service.asleep


def test_who_had_a_session_hears_of_it_when_who_takes_it_over_gives_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path, lease_s=30.0) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        first = cluster.connect(devices="cpu", durability="off", reconnect_s=0)
        first.transport.send(put(1, b"abc"))
        first.synchronize()
        live = service._sessions[first.transport.session_id]

        async def given_up() -> None:
            live.shares = True  # the client has mapped memory of its worker
            hello = wire.Hello(table_hash=HASH, attach=live.id)
            coming = asyncio.create_task(service.attach("anna", hello, Stream()))
            await asyncio.sleep(0)
            assert not live.shares  # what it says of its memory is not heard
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming

        async def never(*_: Any) -> None:
            await asyncio.Event().wait()

        with monkeypatch.context() as patch:
            patch.setattr(live.links[0], "share", never)
            cluster.run(given_up())
        assert "taken the session over" in first.lost().message
        taken_over(cluster, live.id)


def test_no_more_sessions_are_awake_than_may_be_when_several_wake_at_once(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        known = [vanish(cluster).transport.session_id for _ in range(3)]
        cluster.until(lambda: states(cluster) == ["asleep"] * 3)
    with clustered(tmp_path, lease_s=30.0, sessions_max=2) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service

        async def wake_all() -> list[Any]:
            wakes = (service.wake("anna", each) for each in known)
            return await asyncio.gather(*wakes, return_exceptions=True)

        *others, last = cluster.run(wake_all())
        assert others == [None, None] and isinstance(last, CapacityError)
        cluster.until(lambda: service.asleep == 3)  # nobody came: they sleep on
        assert cluster.run(service.wake("anna", known[2])) is None


def test_a_gateway_keeps_its_directory_until_it_has_read_what_it_began_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = fallen_asleep(cluster)
        shelf, begun, go_on = service._shelf, threading.Event(), threading.Event()
        assert shelf is not None
        read = shelf.open

        def slowly(name: str) -> Any:
            begun.set()
            go_on.wait(20)
            return read(name)

        monkeypatch.setattr(shelf, "open", slowly)

        async def stop() -> None:
            waking = asyncio.create_task(service.wake("anna", session))
            await asyncio.to_thread(begun.wait, 10)
            stopping = asyncio.create_task(service.stop())
            done, _ = await asyncio.wait({stopping}, timeout=0.3)
            go_on.set()
            await asyncio.gather(waking, stopping, return_exceptions=True)
            assert not done, "another gateway could write where this one reads and repairs"

        cluster.run(stop())
    with clustered(tmp_path) as cluster:
        taken_over(cluster, session)


def test_a_list_is_given_while_a_session_is_found_to_be_damaged(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        assert service._shelf is not None
        damaged = service._shelf.damaged

        class Tenant(str):
            """While the list looks at it, a thread sets another session aside."""

            __hash__ = str.__hash__

            def __eq__(self, other: object) -> bool:
                damaged["b" * 32] = Damaged("b" * 32, "bert", 0.0)
                return str.__eq__(self, other)

        damaged["a" * 32] = Damaged("a" * 32, Tenant("anna"), 0.0)
        told = service.sessions_of("anna", (-1.0, ""))
        assert [each.session for each in told.sessions] == ["a" * 32]
        damaged.clear()


def test_a_move_says_what_became_of_a_session_that_its_gateway_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service, moves = cluster.gateway.service, cluster.gateway._moves
        client = cluster.connect(devices="cpu", reconnect_s=0)
        client.transport.send(put(1, b"abc"))
        client.synchronize()
        live = service._sessions[client.transport.session_id]

        async def shut_down(*_: Any) -> None:
            service._leave(live)

        monkeypatch.setattr(moving, "cut", shut_down)
        monkeypatch.setattr(moves, "_check", lambda moved: None)
        with pytest.raises(ConnectError, match="shuts down"):  # it has not ended
            cluster.run(moves.move(live, "", False))


def test_what_a_move_allows_a_sleeper_survives_when_it_is_answered(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        moves = cluster.gateway._moves
        session = fallen_asleep(cluster)
        with woken(cluster, session) as live:
            cluster.run(moves.move(live, "", True))
            journal = live.keeper.history.journal
            assert live.about["numerics_once"] and journal.durable == journal.last


def test_a_gateway_that_stops_removes_no_sleeper_half(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = fallen_asleep(cluster)
        cluster.run(service.stop())
        with pytest.raises(ConnectError, match="shuts down"):  # the next one will do it
            cluster.run(service.close("anna", session))
        assert service.asleep == 1
