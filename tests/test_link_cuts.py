"""The links between a gateway and a worker are cut after some of their bytes: no wrong state."""

from __future__ import annotations

import json
import os
import random
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from chaos import Service
from cuts import small
from cutting_proxy import DOWN, UP, CuttingProxy

pytestmark = pytest.mark.slow


@pytest.fixture
def behind(tmp_path: Path) -> Iterator[tuple[Service, CuttingProxy]]:
    """Yield a service whose only worker is reached through a proxy."""
    key = tmp_path / "key"
    key.touch(mode=0o600)
    key.write_text(secrets.token_hex(32))
    command = ["--listen", "127.0.0.1:0", "--key-file", str(key), "--threads", "1", "--json"]
    worker = subprocess.Popen(
        [sys.executable, "-m", "farspan_worker", *command, "--parent", str(os.getpid())],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert worker.stdout is not None
        with CuttingProxy(json.loads(worker.stdout.readline())["address"]) as proxy:
            more = ("--worker", f"{proxy.address}={key}")
            with Service(workers=0, spares=0, more=more) as service:
                yield service, proxy
    finally:
        worker.terminate()
        worker.wait(20)


def test_a_cut_link_to_a_worker_changes_nothing(behind: tuple[Service, CuttingProxy]) -> None:
    """A link is dialled anew a second later; the worker has dropped the session by then."""
    service, proxy = behind
    expected = small(service.connect(shared_memory=False), bulk=True)
    rng = random.Random(8)
    struck: list[tuple[int, int, int]] = []
    for turn in range(12):
        connection, way = turn % 2, (UP, DOWN)[turn // 2 % 2]  # 0: control, 1: bulk
        # Behind the opening, which proves the key, and before what a session takes.
        after = rng.randrange(200, 2_500 if connection == 0 else 150_000)
        plan = proxy.plan(after, way, connection, reset=turn % 3 == 0)
        before = plan.opened
        proxy.cut_all()
        began = time.monotonic()
        while plan.opened < before + 2:
            assert time.monotonic() - began < 20, "the gateway does not dial its worker again"
            time.sleep(0.01)
        again = small(service.connect(shared_memory=False), bulk=True)
        assert again == expected, (connection, way, after)
        if plan.struck:
            struck.append((connection, way, after))
    print(f"\ncut under the session: {struck}")
    assert len(struck) >= 8
