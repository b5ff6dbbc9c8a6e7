"""The gateway's process is killed while a client trains, and started again: not a bit differs."""

from __future__ import annotations

import random
import secrets
import threading
import time
from collections.abc import Iterator

import farspan as torch
import numpy as np
import pytest
from restarting import Service
from test_recovery import train


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), "--snapshot-every", "0.3")
    yield made
    made.close()


@pytest.fixture(scope="module")
def undisturbed() -> list[bytes]:
    with torch.connect("local:"):
        return train(40)


def test_a_gateway_killed_at_any_moment_changes_no_bit(
    service: Service, undisturbed: list[bytes]
) -> None:
    seed = secrets.randbits(32)
    rng = random.Random(seed)
    kills = 0

    def kill() -> None:
        nonlocal kills
        for _ in range(2):
            time.sleep(rng.uniform(0.05, 0.3))
            service.kill_gateway()
            service.start_gateway()
            kills += 1

    thread = threading.Thread(target=kill)
    with torch.connect(service.address, token=service.token, timeout=30):
        big = torch.tensor(np.arange(500_000, dtype="float32"))  # an upload, then a download
        thread.start()
        found = train(40, lambda step: time.sleep(0.02))
        same = bool((big * 2).numpy()[-1] == 999_998)
        thread.join()
        assert (big + 1).numpy().sum() == np.arange(1, 500_001, dtype="float32").sum()
    assert found == undisturbed and same, f"seed {seed}"
    assert kills == 2
