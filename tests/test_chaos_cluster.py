"""A Ray cluster loses a node's raylet, then its GCS, under programs in training."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from typing import Any

import pytest
from chaos import Chaos, Outcome, Service, worker_of
from test_cluster import MEMORY, nodes, raylet_of

pytestmark = pytest.mark.slow

__all__ = ["nodes"]


@pytest.fixture(scope="module")
def chaos(nodes: Any) -> Iterator[Chaos]:
    """A service whose workers are actors on two nodes of a cluster that this test started."""
    with Service(workers=2, spares=0, ray=nodes.address) as service:
        yield Chaos(service)


def struck(chaos: Chaos, part: str, mode: str, strike: Any, seed: int) -> Outcome:
    found = chaos.under(part, "mlp", mode, random.Random(seed), strike=strike)
    print(f"\n{found}")
    assert found.phase and found.same and not found.error and not found.twice_or_lost
    return found


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_killed_raylet_takes_its_workers_and_no_byte(chaos: Chaos, nodes: Any, mode: str) -> None:
    def kill(session: Any) -> None:
        os.kill(raylet_of(worker_of(session)), signal.SIGKILL)

    struck(chaos, "raylet", mode, kill, 1)
    nodes.add_node(num_cpus=0, num_gpus=1, resources={"farspan_cpu": 2}, object_store_memory=MEMORY)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_killed_gcs_is_not_noticed(chaos: Chaos, nodes: Any, mode: str) -> None:
    """Last in this file: without its GCS a cluster starts no worker any more."""

    def kill(session: Any) -> None:
        for each in nodes.head_node.all_processes.get("gcs_server", []):
            if each.process.poll() is None:
                os.kill(each.process.pid, signal.SIGKILL)

    struck(chaos, "GCS", mode, kill, 2)
