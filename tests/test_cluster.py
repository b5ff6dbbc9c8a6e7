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
from farspan.core import link
from farspan.core.errors import CapacityError
from farspan_server.cluster import Cluster
from farspan_server.fleet import Fleet
from farspan_server.supervisor import Supervisor
from test_supervisor import KEY, Gateway, alive

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def nodes() -> Iterator[Any]:
    """A cluster of a head without workers and two nodes, that this process drives."""
    os.environ.update(RAY_AUTH_MODE="disabled", RAY_USAGE_STATS_ENABLED="0")
    import ray
    from ray.cluster_utils import Cluster as Nodes

    memory = 80 * 2**20
    health = {
        "health_check_initial_delay_ms": 0,
        "health_check_period_ms": 500,
        "health_check_timeout_ms": 1_000,
        "health_check_failure_threshold": 3,
    }
    head = {"num_cpus": 0, "object_store_memory": memory, "_system_config": health}
    made = Nodes(initialize_head=True, head_node_args=head)
    for _ in range(2):
        made.add_node(
            num_cpus=0, num_gpus=1, resources={"farspan_cpu": 2}, object_store_memory=memory
        )
    ray.init(address=made.address, namespace="farspan", log_to_driver=False)
    yield made
    ray.shutdown()
    made.shutdown()


@contextlib.asynccontextmanager
async def running(
    path: Path, capacity: dict[str, int], spares: dict[str, int] | None = None
) -> AsyncIterator[tuple[Gateway, Cluster]]:
    gateway = Gateway(path)
    server = await asyncio.start_unix_server(gateway.serve, gateway.address[5:])
    launcher = Cluster(capacity)
    supervisor = Supervisor(Fleet(capacity, spares), launcher, gateway.address, KEY)
    task = asyncio.create_task(supervisor.run())
    try:
        yield gateway, launcher
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        server.close()


def placements() -> dict[str, set[str]]:
    """Return the nodes on which actors of ours live, by actor state."""
    from ray.util.state import list_actors

    found: dict[str, set[str]] = {}
    for actor in list_actors(filters=[("class_name", "=", "WorkerActor")]):
        found.setdefault(actor.state, set()).add(actor.node_id)
    return found


def test_workers_are_spread_over_the_nodes_and_a_killed_one_is_replaced(
    nodes: Any, tmp_path: Path
) -> None:
    async def check() -> None:
        async with running(tmp_path, {"cpu": 2}, {"cpu": 1}) as (gateway, _):
            ups = [await gateway.next(link.WorkerUp) for _ in range(2)]
            assert sorted(up.worker for up in ups) == ["cpu:0", "cpu:1"]
            os.kill(ups[0].pid, signal.SIGKILL)
            gone = await gateway.next(link.WorkerGone)
            assert (gone.worker, gone.epoch) == (ups[0].worker, ups[0].epoch)
            again = await gateway.next(link.WorkerUp)
            assert again.worker == ups[0].worker and again.epoch > ups[0].epoch
            assert alive(again.pid)

    asyncio.run(check())
