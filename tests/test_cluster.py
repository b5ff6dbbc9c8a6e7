"""Workers as Ray actors on clusters of two and three nodes, with made-up GPUs for placement."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from farspan.core import limits, link
from farspan.core.errors import CapacityError
from farspan_server import cluster
from farspan_server.cluster import Cluster
from farspan_server.fleet import Fleet
from farspan_server.link import Listener
from farspan_server.supervisor import Supervisor
from test_supervisor import KEY, Gateway, alive

pytestmark = pytest.mark.slow

MEMORY = 80 * 2**20  # bytes of a node's object store: Ray's least, and we do not use it


@contextlib.contextmanager
def made_nodes() -> Iterator[Any]:
    """A cluster of a head without workers and two nodes, which ends with this."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    from ray.cluster_utils import Cluster as Nodes

    health = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 1_000,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 0, "object_store_memory": MEMORY, "_system_config": health}
    made = Nodes(initialize_head=True, head_node_args=head)
    try:
        for _ in range(2):
            add_node(made)
        yield made
    finally:
        made.shutdown()


def add_node(nodes: Any) -> None:
    """Give a cluster a node with room for two workers."""
    nodes.add_node(num_cpus=0, num_gpus=1, resources={"farspan_cpu": 2}, object_store_memory=MEMORY)


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    with made_nodes() as made:
        yield made


@contextlib.asynccontextmanager
async def running(
    nodes: Any, path: Path, capacity: dict[str, int], spares: dict[str, int] | None = None
) -> AsyncIterator[tuple[Gateway, Cluster]]:
    gateway = Gateway(path)
    server = Listener(gateway.address, KEY)
    await server.start(gateway.serve)
    cluster.join(nodes.address, None)
    launcher = Cluster(capacity)
    supervisor = Supervisor(Fleet(capacity, spares), launcher, gateway.address, KEY)
    task = asyncio.create_task(supervisor.run())
    try:
        yield gateway, launcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()


def raylet_of(pid: int) -> int:
    """Return the raylet that started this worker: one a node. (Ray's own listing of actors needs
    its dashboard, which the bare package does not have.)"""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2]
    return int(after_name.split()[1])


def test_workers_are_spread_over_the_nodes_and_a_killed_one_is_replaced(
    nodes: Any, tmp_path: Path
) -> None:
    async def check() -> None:
        async with running(nodes, tmp_path, {"cpu": 2}, {"cpu": 1}) as (gateway, _):
            ups = [await gateway.next(link.WorkerUp) for _ in range(2)]
            assert sorted(up.worker for up in ups) == ["cpu:0", "cpu:1"]
            os.kill(ups[0].pid, signal.SIGKILL)
            gone = await gateway.next(link.WorkerGone)
            assert (gone.worker, gone.epoch) == (ups[0].worker, ups[0].epoch)
            again = await gateway.next(link.WorkerUp)
            assert again.worker == ups[0].worker and again.epoch > ups[1].epoch
            assert alive(again.pid)

    asyncio.run(check())


def test_a_gpu_worker_takes_a_gpu_of_its_node(nodes: Any, tmp_path: Path) -> None:
    async def check() -> None:
        async with running(nodes, tmp_path, {"cpu": 2, "cuda": 2}) as (gateway, launcher):
            ups = [await gateway.next(link.WorkerUp) for _ in range(4)]
            gpus = [up for up in ups if up.kind == "cuda"]
            assert sorted(up.worker for up in gpus) == ["cuda:0", "cuda:1"]
            assert len({raylet_of(up.pid) for up in gpus}) == 2  # each node has one
            assert len({raylet_of(up.pid) for up in ups if up.kind == "cpu"}) == 2  # spread
            with pytest.raises(CapacityError):
                await launcher.start(99, "cuda", KEY)

    asyncio.run(check())


def test_a_frozen_actor_is_killed(nodes: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "SILENT_S", 2.0)

    async def check() -> None:
        async with running(nodes, tmp_path, {"cpu": 1}) as (gateway, _):
            first = await gateway.next(link.WorkerUp)
            os.kill(first.pid, signal.SIGSTOP)
            assert "no heartbeat" in (await gateway.next(link.WorkerGone)).reason
            assert (await gateway.next(link.WorkerUp)).epoch > first.epoch
            await ended(first.pid)

    asyncio.run(check())


def test_a_lost_node_is_survived_on_another(nodes: Any, tmp_path: Path) -> None:
    third = nodes.add_node(num_cpus=0, resources={"farspan_cpu": 1}, object_store_memory=MEMORY)

    async def check() -> None:
        async with running(nodes, tmp_path, {"cpu": 5}) as (gateway, _):
            ups = [await gateway.next(link.WorkerUp) for _ in range(5)]
            raylet = third.all_processes["raylet"][0].process.pid
            (lost,) = [up for up in ups if raylet_of(up.pid) == raylet]
            await asyncio.to_thread(nodes.remove_node, third, allow_graceful=False)
            gone = await gateway.next(link.WorkerGone)
            assert gone.worker == lost.worker
            # Ray sets signal handlers here, which only the main thread may.
            nodes.add_node(num_cpus=0, resources={"farspan_cpu": 1}, object_store_memory=MEMORY)
            again = await gateway.next(link.WorkerUp)
            assert again.worker == lost.worker and again.epoch > lost.epoch

    asyncio.run(check())


async def ended(pid: int) -> None:
    """Wait until no process has this pid."""
    async with asyncio.timeout(10):
        while alive(pid):
            await asyncio.sleep(0.05)
