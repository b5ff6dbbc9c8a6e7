"""Streams break, gateways die and come back: the client goes on, with the same bits."""

from __future__ import annotations

import random
import threading
from collections.abc import Iterator
from typing import Any

import farspan as torch
import pytest
from fake_gateway import TOKEN, FakeGateway, Proxy
from test_recovery import train


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway()
    yield made
    made.stop()


@pytest.fixture
def proxy(gateway: FakeGateway) -> Iterator[Proxy]:
    made = Proxy(gateway.port)
    yield made
    made.close()


def connect(place: Any, **options: Any) -> Any:
    return torch.connect(place.address, token=TOKEN, timeout=20, **options)


@pytest.fixture(scope="module")
def undisturbed() -> list[bytes]:
    with torch.connect("local:"):
        return train(12)


def test_a_stream_cut_between_steps_changes_no_bit(
    gateway: FakeGateway, proxy: Proxy, undisturbed: list[bytes]
) -> None:
    with connect(proxy) as session:
        found = train(12, lambda step: proxy.cut() if step % 3 == 1 else None)
        assert session.transport._attempt >= 3
    assert found == undisturbed
    assert [h.resume.attempt for h in gateway.hellos[1:] if h.resume] == sorted(
        h.resume.attempt for h in gateway.hellos[1:] if h.resume
    )


@pytest.mark.parametrize("seed", range(4))
def test_streams_cut_at_any_byte_change_no_bit(
    gateway: FakeGateway, proxy: Proxy, undisturbed: list[bytes], seed: int
) -> None:
    rng = random.Random(seed)
    with connect(proxy):
        proxy.again = lambda: rng.choice((rng.randrange(4_000), rng.randrange(20_000)))
        proxy.budget = proxy.again()
        found = train(12)
        proxy.again = proxy.budget = None
    assert found == undisturbed, f"seed {seed}"
    assert proxy.cuts >= 3


def test_a_gateway_that_dies_and_returns_changes_no_bit(
    gateway: FakeGateway, undisturbed: list[bytes]
) -> None:
    def between(step: int) -> None:
        if step in (3, 8):
            gateway.die()
            threading.Timer(0.2, gateway.live_again).start()

    with connect(gateway):
        assert train(12, between) == undisturbed
    assert sum(h.resume is not None for h in gateway.hellos) >= 2
