"""The gateway is stopped, or dies, under durable sessions; see also test_gateway_dies.py."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import farspan as torch
import numpy as np
import pytest
from restarting import Service


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), "--snapshot-every", "0.3")
    yield made
    log = made.close()
    assert "Traceback" not in log and made.token not in log


def test_a_gateway_that_is_stopped_leaves_the_session_to_the_next(service: Service) -> None:
    with torch.connect(service.address, token=service.token, timeout=30) as session:
        torch.manual_seed(3)
        x = torch.rand(1000)
        expected = float(x.sum())
        service.kill_gateway(signal.SIGTERM)
        assert session.transport.session_id in os.listdir(service.journal)
        service.start_gateway()
        assert float(x.sum()) == expected


def test_long_tensors_survive_the_gateway_on_their_way(service: Service) -> None:
    values = np.random.default_rng(1).standard_normal(2_000_000)
    with torch.connect(service.address, token=service.token, timeout=30):
        kept = [torch.tensor(values)]
        service.restart_gateway()
        for k in range(3):
            kept.append(torch.tensor(values + k))
        total = sum(kept[1:], kept[0])
        service.restart_gateway()
        found = total.numpy()
        assert (found == sum((values + k for k in range(3)), values)).all()
        assert (kept[3].numpy() == values + 2).all()


def test_nothing_of_a_session_is_readable_by_others(service: Service, tmp_path: Path) -> None:
    with torch.connect(service.address, token=service.token, timeout=30) as session:
        torch.ones(3).sum().item()
        place = service.journal / session.transport.session_id
        assert service.journal.stat().st_mode & 0o077 == 0
        assert all(each.stat().st_mode & 0o077 == 0 for each in [place, *place.iterdir()])
