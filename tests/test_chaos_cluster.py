"""A Ray cluster loses a node's raylet, then its GCS, under programs in training."""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator
from typing import Any

import pytest
from chaos import Chaos, Outcome, Service
from test_cluster import add_node, nodes

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
    struck(chaos, "raylet", mode, functools.partial(chaos.service.kill, "raylet"), 1)
    add_node(nodes)


@pytest.mark.parametrize("part", ["raylet", "GCS"])
def test_a_part_of_a_cluster_that_freezes_is_waited_for(chaos: Chaos, part: str) -> None:
    struck(chaos, part, "eager", functools.partial(chaos.service.freeze, part), 3)


@pytest.mark.parametrize("mode", ["eager", "compiled"])
def test_a_killed_gcs_is_not_noticed(chaos: Chaos, mode: str) -> None:
    """Last in this file: without its GCS a cluster starts no worker any more."""
    died: list[int] = []

    def kill(session: Any) -> None:
        died.extend(chaos.service.victims("GCS", session))
        chaos.service.kill("GCS", session)

    struck(chaos, "GCS", mode, kill, 2)
    assert died or mode == "compiled"  # it dies once
