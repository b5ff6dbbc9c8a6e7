"""Sessions without a client: they sleep, are listed, taken over and closed, and end in time."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import shutil
import threading
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import farspan
import pytest
from click.testing import CliRunner
from farspan import wire
from farspan.core import limits
from farspan.core.command import Lost
from farspan.core.errors import BadValueError, CapacityError, ConnectError, JournalError
from farspan.core.op import table_hash
from farspan_server import pool as pools
from farspan_server import service, status
from farspan_server.cli import main
from farspan_server.journal import WATERMARK
from farspan_server.live import Stream
from farspan_server.shelf import Shelf
from farspan_worker.engine import Engine
from farspan_worker.server import Worker
from test_gateway import HASH, KEY, OTHER, PUT, TOKEN, U8, Client, Cluster, frame, get, put


@contextlib.contextmanager
def clustered(directory: Path, **config: Any) -> Iterator[Cluster]:
    cluster = Cluster()
    try:
        yield cluster.start(1, journals=directory, **{"lease_s": 0.3, **config})
    finally:
        cluster.close()


def vanish(cluster: Cluster) -> Client:
    """Return a client that has put a tensor, and has gone without a word."""
    client = cluster.connect(devices="cpu", reconnect_s=0)
    client.transport.send(put(1, b"abc"))
    client.synchronize()
    client.transport._stream.cancel()
    client.lost()
    return client


def states(cluster: Cluster) -> list[str]:
    assert cluster.gateway is not None
    known = cluster.gateway.service
    return [live.machine.state for live in known.sessions] + ["asleep"] * known.asleep


def fallen_asleep(cluster: Cluster) -> str:
    """Return a session that nobody uses, once it is asleep."""
    session = vanish(cluster).transport.session_id
    cluster.until(lambda: states(cluster) == ["asleep"])
    return session


def taken_over(cluster: Cluster, session: str) -> Client:
    """Return another client of a session, which finds there what the one that vanished has put."""
    client = cluster.connect(attach=session)
    client.transport.send(get(1, 9))
    assert client.value(9).data == b"abc"
    return client


@contextlib.contextmanager
def woken(cluster: Cluster, session: str) -> Iterator[Any]:
    """A session that slept, which stays awake within."""
    assert cluster.gateway is not None
    here = cluster.gateway.service.here("anna", session)
    yield cluster.run(here.__aenter__())
    cluster.run(here.__aexit__(None, None, None))


def asked(cluster: Cluster, *command: str, token: str = TOKEN) -> Any:
    environment = {"FARSPAN_ADDRESS": cluster.address, "FARSPAN_TOKEN": token}
    return CliRunner().invoke(main, ["sessions", *command], env=environment)


def test_a_session_whose_lease_is_over_sleeps_and_is_taken_over(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        first = vanish(cluster)
        cluster.until(lambda: states(cluster) == ["asleep"])
        cluster.until(lambda: cluster.workers[0].counts()["sessions"] == 0)
        taken_over(cluster, first.transport.session_id)
        assert states(cluster) == ["open"]


def test_sleeping_sessions_are_listed_shown_and_closed(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
        (listed,) = json.loads(asked(cluster, "list", "--json").output)
        assert listed["session"] == session and listed["state"] == "asleep"
        assert session in asked(cluster, "list").output
        assert asked(cluster, "list", token=OTHER).output == "no session\n"
        assert "kept: nothing" in asked(cluster, "show", session).output
        assert asked(cluster, "close", session, token=OTHER).exit_code == 1
        assert asked(cluster, "close", session).exit_code == 0
        cluster.until(lambda: not os.listdir(tmp_path))
        assert "no such session" in asked(cluster, "show", session).output


def test_a_sleeping_session_ends_with_its_retention(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RETENTION_LOOK_S", 0.0)
    with clustered(tmp_path, retention_s=0.5) as cluster:
        vanish(cluster)
        cluster.until(lambda: states(cluster) == ["asleep"])
        cluster.until(lambda: not states(cluster) and not os.listdir(tmp_path))


def test_the_sleepers_used_longest_ago_go_when_they_take_too_much(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RETENTION_LOOK_S", 0.0)
    journals, audit = tmp_path / "journals", tmp_path / "audit"
    config = {"retention_bytes": 1_500_000, "audit": audit, "snapshot_every_s": 600.0}
    with clustered(journals, **config) as cluster:
        used = cluster.connect(devices="cpu", reconnect_s=0)
        used.transport.send(put(1, bytes(60_000)))
        used.synchronize()
        slept: list[str] = []
        for _ in range(4):
            client = cluster.connect(devices="cpu", reconnect_s=0)
            for number in range(1, 11):
                client.transport.send(put(number, bytes(60_000)))
            client.synchronize()
            client.transport._stream.cancel()
            client.lost()
            session = client.transport.session_id
            cluster.until(lambda known=session: known not in awake(cluster))
            slept.append(session)
        cluster.until(lambda: len(os.listdir(journals)) == 3)
        used.transport.send(put(2, b"abc"))
        used.synchronize()  # a session that is used never goes
        known = json.loads(asked(cluster, "list", "--json").output)
        assert [each["session"] for each in known] == [used.transport.session_id, *slept[2:]]
        ends = [json.loads(line) for line in audit.read_text().splitlines()]
        gone = [each["session"] for each in ends if each.get("kind") == "RetentionBytes"]
        assert gone == slept[:2]


def awake(cluster: Cluster) -> list[str]:
    assert cluster.gateway is not None
    return [live.id for live in cluster.gateway.service.sessions]


def test_all_sessions_are_listed_however_many_pages_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SESSIONS_PER_PAGE_MAX", 2)
    with clustered(tmp_path) as cluster:
        opened = [cluster.connect().transport.session_id for _ in range(5)]
        listed = json.loads(asked(cluster, "list", "--json").output)
        assert [each["session"] for each in listed] == opened
        assert asked(cluster, "list").output.count("\n") == 6
        asking = wire.ListRequest()
        pages = []
        for _ in range(3):
            answer = status.ask(cluster.address, TOKEN, "List", asking)
            page = wire.decode(wire.ListReply, answer)
            pages.append((len(page.sessions), page.more))
            last = page.sessions[-1]
            asking = wire.ListRequest(last.session, last.opened_at_s)
        assert pages == [(2, True), (2, True), (1, False)]


def test_a_damaged_session_is_set_aside_and_said_to_be(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
    (tmp_path / session / WATERMARK).write_bytes(bytes(32))
    with clustered(tmp_path) as cluster:
        (listed,) = json.loads(asked(cluster, "list", "--json").output)
        assert listed["session"] == session and listed["state"] == "damaged"
        assert asked(cluster, "list", token=OTHER).output == "no session\n"
        with pytest.raises(JournalError, match="set aside"):
            cluster.connect(attach=session)
        assert (tmp_path / f"damaged-{session}" / WATERMARK).exists()
        assert asked(cluster, "close", session).exit_code == 0
        assert not os.listdir(tmp_path)


def test_a_session_that_once_lost_a_worker_sleeps_on_when_there_is_none(tmp_path: Path) -> None:
    with contextlib.closing(Cluster()) as cluster:
        cluster.start(2, journals=tmp_path, lease_s=0.3)
        client = cluster.connect(devices="cpu", reconnect_s=0, timeout=0.2)
        client.transport.send(put(1, b"abc"))
        client.synchronize()
        (live,) = cluster.gateway.service.sessions  # type: ignore[union-attr]
        (address,) = (each.worker.address for each in live.links)
        next(w for w in cluster.workers if w.address == address).close()
        cluster.until(lambda: bool(live.links) and live.links[0].worker.address != address)
        client.transport._stream.cancel()
        client.lost()
        cluster.until(lambda: states(cluster) == ["asleep"])
        for worker in cluster.workers:
            worker.close()
        cluster.until(lambda: not cluster.gateway.service.workers)  # type: ignore[union-attr]
        second = cluster.connect(attach=live.id, reconnect_s=0)
        assert second.lost().kind == "CapacityError"
        cluster.until(lambda: states(cluster) == ["asleep"])
        assert os.listdir(tmp_path) == [live.id]


def test_a_session_that_wakes_while_the_line_is_full_sleeps_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
        with monkeypatch.context() as full:
            full.setattr(pools, "LINE_MAX", 0)
            lost = cluster.connect(attach=session, reconnect_s=0).lost()
            assert lost.kind == "CapacityError" and "too many sessions wait" in lost.message
            cluster.until(lambda: states(cluster) == ["asleep"])
        taken_over(cluster, session)


def test_an_upload_wakes_nobody_and_is_there_for_who_comes(tmp_path: Path) -> None:
    async def pieces() -> AsyncIterator[memoryview]:
        yield memoryview(b"xyz")

    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
    with clustered(tmp_path) as cluster:  # another gateway, where it had no workers yet
        assert cluster.gateway is not None
        header = wire.TransferHeader(session, 0, 5, 3)
        with woken(cluster, session) as live:
            assert cluster.run(cluster.gateway.service.upload(live, header, pieces())) == 3
            assert states(cluster) == ["asleep"] and not live.links
        cluster.until(lambda: not cluster.gateway.service.sessions)  # type: ignore[union-attr]
        client = cluster.connect(attach=session)
        client.transport.send(frame((PUT, [2], (U8, (3,), -1, 5))))
        client.transport.send(get(2, 9))
        assert client.value(9).data == b"xyz"


def test_a_client_that_goes_while_it_takes_over_is_gone(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = fallen_asleep(cluster)

        async def never() -> None:
            await asyncio.Event().wait()

        async def leave() -> None:
            live.keeper.durable = never
            hello = wire.Hello(table_hash=HASH, attach=live.id)
            coming = asyncio.create_task(service.attach("anna", hello, Stream()))
            await asyncio.sleep(0)
            assert live.machine.state == "open"
            coming.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await coming

        with woken(cluster, session) as live:
            cluster.run(leave())
        cluster.until(lambda: states(cluster) == ["asleep"])


def test_what_the_journal_could_not_read_again_is_not_written(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = vanish(cluster).transport.session_id
        (live,) = service.sessions
        longest = "\x01" * limits.KEPT_BODY_BYTES_MAX  # each of them is six bytes of JSON
        cluster.run(service.keep(live, wire.KeepRequest(session, 0, "longest", longest)))
        with pytest.raises(BadValueError, match="at most"):
            cluster.run(service.keep(live, wire.KeepRequest(session, 0, "more", longest + "x")))
        assert live.keeper is not None
        with pytest.raises(JournalError, match="too long"):
            live.keeper.history.keep("more", 3 * longest)
        assert list(live.kept) == ["longest"]
    with clustered(tmp_path) as cluster:
        with woken(cluster, session) as live:
            assert live.kept == {"longest": longest}


def test_a_gateway_that_dies_while_it_removes_a_session_leaves_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)

        def some(directory: Path, **_: Any) -> None:
            with contextlib.suppress(FileNotFoundError):
                os.remove(directory / WATERMARK)

        with monkeypatch.context() as dying:
            dying.setattr(shutil, "rmtree", some)
            assert asked(cluster, "close", session).exit_code == 0
            cluster.until(lambda: not list(tmp_path.glob(f"*/{WATERMARK}")))
    with clustered(tmp_path) as cluster:
        assert asked(cluster, "list").output == "no session\n"
        assert not os.listdir(tmp_path)


def test_a_session_that_turns_out_to_be_damaged_when_it_wakes_is_set_aside(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
        (segment, *_) = sorted((tmp_path / session).glob("*.journal"))
        data = bytearray(segment.read_bytes())
        data[-1] ^= 1
        segment.write_bytes(data)
        with pytest.raises(JournalError, match="damaged"):
            cluster.connect(attach=session)
        cluster.until(lambda: os.listdir(tmp_path) == [f"damaged-{session}"])
        cluster.until(lambda: asked(cluster, "close", session).exit_code == 0)
        assert not os.listdir(tmp_path)


def test_a_sleeper_takes_no_file_and_another_gateway_leaves_it_as_it_is(tmp_path: Path) -> None:
    def opened() -> list[str]:
        links = [f"/proc/self/fd/{number}" for number in os.listdir("/proc/self/fd")]
        there = [os.readlink(each) for each in links if os.path.islink(each)]
        return [each for each in there if each.startswith(f"{tmp_path}/")]

    def written() -> dict[str, tuple[int, int]]:
        files = [f for f in tmp_path.glob("*/*") if f.is_file()]
        return {f.name: (f.stat().st_size, f.stat().st_mtime_ns) for f in files}

    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
        cluster.until(lambda: cluster.gateway.service.asleep == 1 and not opened())  # type: ignore[union-attr]
        (listed,) = json.loads(asked(cluster, "list", "--json").output)
        assert listed["commands"] == 1, "what it did before it slept still counts"
    before = written()
    with clustered(tmp_path) as cluster:
        assert asked(cluster, "show", session).exit_code == 0
        cluster.until(lambda: cluster.gateway.service.asleep == 1)  # type: ignore[union-attr]
        assert written() == before and not opened()


def test_two_who_come_at_once_wake_one_session_and_another_tenant_none(tmp_path: Path) -> None:
    with clustered(tmp_path, sessions_max=2) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        one, other = (vanish(cluster).transport.session_id for _ in range(2))
        cluster.until(lambda: service.asleep == 2)

        async def come() -> None:
            await service.wake("bert", one)
            await service.wake("anna", "no such session")
            assert service.asleep == 2
            async with service.here("anna", one) as live:
                assert service.find("anna", one) is live and service.asleep == 1
                both = [service.wake("anna", other), service.wake("anna", other)]
                await asyncio.gather(*both)
                assert {each.id for each in service.sessions} == {one, other}

        cluster.run(come())
        cluster.until(lambda: service.asleep == 2)
        service.config = dataclasses.replace(service.config, sessions_max=0)
        with pytest.raises(CapacityError, match="stays on disk"):
            cluster.run(service.wake("anna", one))
        service.config = dataclasses.replace(service.config, sessions_max=2)
        cluster.connect(attach=one)


def test_who_comes_finds_a_session_that_the_clock_put_to_sleep_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        session = fallen_asleep(cluster)
        wake, times = service._wake, 0

        async def interrupted(sleeper: Any) -> None:
            nonlocal times
            await wake(sleeper)
            times += 1
            if times == 1:  # the clock comes, and again, before whoever waits is told
                live = service._sessions[session]
                service._tick(live)
                service._tick(live)

        monkeypatch.setattr(service, "_wake", interrupted)
        taken_over(cluster, session)
        assert times == 2


def test_a_journal_is_judged_when_its_session_wakes_in_another_gateway(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        session = fallen_asleep(cluster)
    segment = min((tmp_path / session).glob("*.journal"))
    data = bytearray(segment.read_bytes())
    data[-1] ^= 1
    segment.write_bytes(data)
    with clustered(tmp_path) as cluster:
        assert states(cluster) == ["asleep"], "nobody has looked so far"
        assert "set aside" in asked(cluster, "show", session).output
        (listed,) = json.loads(asked(cluster, "list", "--json").output)
        assert listed["session"] == session and listed["state"] == "damaged"
        assert cluster.gateway is not None
        assert not cluster.gateway.tenancy.names("anna"), "nor does it count against its tenant"


def test_sleepers_beyond_the_room_for_them_go_the_oldest_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "_RETENTION_LOOK_S", 0.0)
    with clustered(tmp_path, lease_s=30.0) as cluster:
        assert cluster.gateway is not None
        known = cluster.gateway.service
        old = vanish(cluster).transport.session_id
        young = vanish(cluster).transport.session_id
        for each in (old, young):
            cluster.until(lambda each=each: known._sessions[each].stream is None)
            known._sessions[each].machine._lease_ends = 0.0
            cluster.until(lambda each=each: each in known._sleepers)
        assert known.tenancy.disk.held(old) > 100
        room = known.tenancy.disk.held(young) + 1
        known.config = dataclasses.replace(known.config, retention_bytes=room)
        cluster.until(lambda: os.listdir(tmp_path) == [young])


def test_the_sleeper_that_was_used_last_stays_however_large_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(service, "_RETENTION_LOOK_S", 0.0)
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        known = cluster.gateway.service
        old = vanish(cluster).transport.session_id
        cluster.until(lambda: known.asleep == 1)
        young = vanish(cluster).transport.session_id
        cluster.until(lambda: known.asleep == 2)
        assert known.tenancy.disk.held(young) > 1
        known.config = dataclasses.replace(known.config, retention_bytes=1)
        cluster.until(lambda: os.listdir(tmp_path) == [young])
        cluster.until(lambda: f"session {young} takes" in caplog.text)
        looks: list[int] = []
        look = known._let_go_of_old
        monkeypatch.setattr(known, "_let_go_of_old", lambda: (look(), looks.append(1)))
        cluster.until(lambda: len(looks) > 1)
        assert os.listdir(tmp_path) == [young] and caplog.text.count("takes") == 1
        assert cluster.connect(attach=young).transport.session_id != old


def test_sessions_that_are_being_made_count_among_those_that_may_be(tmp_path: Path) -> None:
    with clustered(tmp_path, sessions_max=1) as cluster:
        assert cluster.gateway is not None
        known = cluster.gateway.service
        create, held, going = known._create, asyncio.Event(), asyncio.Event()

        async def slowly(live: Any) -> Any:
            if not held.is_set():
                held.set()
                await going.wait()
            return await create(live)

        known._create = slowly  # type: ignore[method-assign]
        with ThreadPoolExecutor(1) as another:
            first = another.submit(cluster.connect, devices="cpu")
            cluster.run(held.wait())
            try:
                with pytest.raises(CapacityError, match="1 sessions"):
                    cluster.connect(devices="cpu")
            finally:
                cluster._loop.call_soon_threadsafe(going.set)
            assert first.result(10).transport.session_id in awake(cluster)
        assert known._opening == 0


def test_a_move_whose_destination_has_gone_waits_as_long_as_others(tmp_path: Path) -> None:
    with clustered(tmp_path) as cluster:
        assert cluster.gateway is not None
        cluster.connect(devices="cpu")
        (live,) = cluster.gateway.service.sessions
        claim = pools.Claimed(live.id, live.tenant, live.worker_kinds, 0.0)
        live.moving = pools.Moved(claim, ("cpu:9",))
        *_, moved = cluster.gateway.tenancy.claim(live, 99.0)
        live.moving = None
        assert moved == pools.Moved(dataclasses.replace(claim, deadline=99.0), ("cpu:9",))


def test_two_gateways_cannot_share_a_directory(tmp_path: Path) -> None:
    with clustered(tmp_path):
        other = Cluster()
        try:
            with pytest.raises(JournalError, match="another gateway"):
                other.start(1, journals=tmp_path)
        finally:
            other.close()


def test_what_a_gateway_of_an_older_release_left_is_reported(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "gateway-old").mkdir()
    with clustered(tmp_path):
        assert "gateway-*" in caplog.text
    assert (tmp_path / "gateway-old").exists()


def test_what_a_session_survives_is_its_clients_choice(tmp_path: Path) -> None:
    with clustered(tmp_path, durability="off") as cluster:
        client = cluster.connect(devices="cpu")
        client.transport.send(put(1, b"abc"))
        client.synchronize()
        assert not os.listdir(tmp_path)
        with pytest.raises(BadValueError, match="durability"):
            cluster.connect(durability="for ever")
        kept = cluster.connect(durability="snapshot-only")
        kept.transport.send(put(1, b"abc"))
        kept.synchronize()
        assert os.listdir(tmp_path) == [kept.transport.session_id]
        kept.transport._lose(Lost("SessionClosedError", "the test lets it be"))
    with clustered(tmp_path) as cluster:
        assert states(cluster) == ["asleep"]
        taken_over(cluster, kept.transport.session_id)
    with contextlib.closing(Cluster().start(1)) as cluster:
        with pytest.raises(BadValueError, match="keeps no journals"):
            cluster.connect(durability="durable")


def test_of_a_client_that_goes_while_its_session_is_made_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    making, go_on = threading.Event(), threading.Event()
    create = Shelf.create

    def slow(*given: Any) -> Any:
        making.set()
        assert go_on.wait(10)
        return create(*given)

    monkeypatch.setattr(Shelf, "create", slow)
    with clustered(tmp_path) as cluster:
        dialled = threading.Thread(target=lambda: _fails(cluster))
        dialled.start()
        assert making.wait(10)
        dialled.join(10)
        go_on.set()
        cluster.until(lambda: not os.listdir(tmp_path) and not states(cluster))


def _fails(cluster: Cluster) -> None:
    with pytest.raises(ConnectError):
        cluster.connect(timeout=0.3)


class Computing(Cluster):
    """A cluster whose workers compute."""

    def worker(self) -> tuple[Worker, str]:
        worker = Worker(KEY, lambda name, most: Engine(name, most))
        self.workers.append(worker)
        return worker, worker.listen("127.0.0.1:0")


def test_a_session_that_sleeps_is_in_its_snapshot_and_nothing_is_replayed(tmp_path: Path) -> None:
    cluster = Computing()
    with contextlib.closing(cluster):
        cluster.start(
            1, journals=tmp_path, lease_s=0.3, snapshot_every_s=600.0, table_hash=table_hash()
        )
        name, expected = "", 0.0
        for turn in range(3):
            ran = cluster.workers[0].counts()["frames"]
            if name:
                session = farspan.attach(name, cluster.address, token=TOKEN)
                x = session.kept["x"]
            else:
                session = farspan.connect(cluster.address, token=TOKEN)
                x = farspan.zeros(10)
            assert cluster.gateway is not None
            (live,) = cluster.gateway.service.sessions
            before = live.machine.base
            assert x.sum().item() == expected
            for _ in range(5):
                x.add_(turn)
                expected = x.sum().item()
            session.keep("x", x)
            name = session.detach()
            cluster.until(lambda: states(cluster) == ["asleep"])
            assert live.machine.base == live.machine.received
            new = live.machine.received - before
            assert cluster.workers[0].counts()["frames"] - ran == new, "a frame has run twice"
