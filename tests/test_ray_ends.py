"""Workers and a supervisor on Ray that are told to end while a program trains.

A cluster of this test's own. What is told is a process, by its id.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import farspan as torch
import pytest
from chaos import Service, wait_until
from test_cluster import nodes
from test_recovery import train
from test_supervisor import alive

pytestmark = pytest.mark.slow

__all__ = ["nodes"]

STEPS = 40


@pytest.fixture(scope="module")
def service(nodes: Any) -> Iterator[Service]:
    """A service whose workers are actors of a supervisor that drives the cluster."""
    with Service(workers=2, spares=1, ray=nodes.address) as made:
        yield made


@pytest.fixture(scope="module")
def expected() -> list[bytes]:
    with torch.connect("local:"):
        return train(STEPS)


def trained(service: Service, at: Callable[[Any], None]) -> tuple[list[bytes], Any]:
    """Train, and call `at` with the session within the fifth step; return results and devices."""
    with torch.connect(service.address, token=service.token, timeout=120) as session:

        def between(step: int) -> None:
            if step == 5:
                at(session)

        return train(STEPS, between), session.transport.devices


def test_sigterm_of_a_worker_of_ray_under_training_changes_no_bit(
    service: Service, expected: list[bytes]
) -> None:
    told: list[int] = []

    def end(session: Any) -> None:
        (device,) = session.transport.devices
        told.append(device["pid"])
        os.kill(device["pid"], signal.SIGTERM)

    found, (device,) = trained(service, end)
    assert found == expected
    wait_until(lambda: not alive(told[0]))
    with torch.connect(service.address, token=service.token, timeout=120) as session:
        assert torch.ones(2).sum().item() == 2
        assert session.transport.devices[0]["pid"] not in told and device["pid"] > 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_end_of_a_supervisor_on_ray_under_training_changes_no_bit(
    service: Service, expected: list[bytes], number: signal.Signals
) -> None:
    """Of this thread, which starts the next one: the kernel ends children with their thread."""
    told: list[int] = []

    def end(session: Any) -> None:
        (device,) = session.transport.devices
        told.append(device["pid"])
        before = service.supervising
        before.send_signal(number)
        before.wait(60)
        wait_until(lambda: not alive(told[0]))  # Ray ends the actors of a driver that has gone
        service.supervise(2)

    found, (device,) = trained(service, end)
    assert found == expected
    assert device["pid"] not in told
