"""The supervisor with plain child processes: workers are announced, die and are replaced."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

from farspan.core import limits, link
from farspan_server.fleet import Fleet
from farspan_server.link import Link, Listener, dial
from farspan_server.processes import Processes
from farspan_server.supervisor import Supervisor

KEY = b"s" * link.KEY_BYTES
WAIT_S = 30.0


class Gateway:
    """The gateway's ear: everything the supervisor says, in order."""

    def __init__(self, path: Path) -> None:
        self.address = f"unix:{path}/sup.sock"
        self.heard: asyncio.Queue[link.Fleet] = asyncio.Queue()
        self.link: Link | None = None

    async def serve(self, opened: Link) -> None:
        self.link = opened
        with contextlib.suppress(EOFError, OSError):
            while True:
                _, payload = await self.link.receive()
                self.heard.put_nowait(link.unpack_fleet(payload))

    async def next(self, kind: type) -> link.Fleet:
        async with asyncio.timeout(WAIT_S):
            while not isinstance(message := await self.heard.get(), kind):
                pass
            return message


@contextlib.asynccontextmanager
async def running(path: Path, cpus: int = 1, spares: int = 0) -> AsyncIterator[Gateway]:
    gateway = Gateway(path)
    server = Listener(gateway.address, KEY)
    await server.start(gateway.serve)
    launcher = Processes(f"unix:{path}/w{{process}}.sock")
    supervisor = Supervisor(Fleet({"cpu": cpus}, {"cpu": spares}), launcher, gateway.address, KEY)
    task = asyncio.create_task(supervisor.run())
    try:
        yield gateway
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_workers_are_announced_and_answer_and_end_with_the_supervisor(tmp_path: Path) -> None:
    async def check() -> list[int]:
        async with running(tmp_path, cpus=2) as gateway:
            ups = [await gateway.next(link.WorkerUp) for _ in range(2)]
            assert sorted(up.worker for up in ups) == ["cpu:0", "cpu:1"]
            for up in ups:
                watch = await dial(up.address, bytes.fromhex(up.key), link.Purpose(link.WATCH))
                watch.send(link.pack(link.STATUS))
                header, payload = await watch.receive()
                while header.kind != link.STATUS:
                    header, payload = await watch.receive()
                assert link.unpack_json(payload)["pid"] == up.pid
                watch.close()
            return [up.pid for up in ups]

    assert not any(alive(pid) for pid in asyncio.run(check()))


def test_a_killed_worker_is_replaced_under_a_new_epoch_and_key(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as gateway:
            first = await gateway.next(link.WorkerUp)
            os.kill(first.pid, signal.SIGKILL)
            gone = await gateway.next(link.WorkerGone)
            second = await gateway.next(link.WorkerUp)
            assert (gone.worker, gone.epoch) == (first.worker, first.epoch)
            assert "SIGKILL" in gone.reason
            assert second.worker == first.worker and second.epoch > first.epoch
            assert second.key != first.key

    asyncio.run(check())


def test_the_gateway_may_retire_a_worker(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path, spares=1) as gateway:
            first = await gateway.next(link.WorkerUp)
            assert gateway.link is not None
            retire = link.Retire(first.worker, first.epoch, "its tenant left")
            gateway.link.send(link.pack_fleet(retire))
            gone = await gateway.next(link.WorkerGone)
            assert gone.reason == "its tenant left"
            assert (await gateway.next(link.WorkerUp)).worker == first.worker
            assert not alive(first.pid)

    asyncio.run(check())


def test_a_frozen_worker_is_replaced(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(limits, "SILENT_S", 2.0)

    async def check() -> None:
        async with running(tmp_path) as gateway:
            first = await gateway.next(link.WorkerUp)
            os.kill(first.pid, signal.SIGSTOP)
            gone = await gateway.next(link.WorkerGone)
            assert "no heartbeat" in gone.reason
            assert (await gateway.next(link.WorkerUp)).epoch > first.epoch
            assert not alive(first.pid)

    asyncio.run(check())


def test_a_gateway_that_comes_back_hears_of_the_same_workers(tmp_path: Path) -> None:
    async def check() -> None:
        async with running(tmp_path) as gateway:
            first = await gateway.next(link.WorkerUp)
            assert gateway.link is not None
            gateway.link.close()
            assert await gateway.next(link.WorkerUp) == first
            assert await gateway.next(link.Synced) == link.Synced({"cpu": 1})

    asyncio.run(check())
