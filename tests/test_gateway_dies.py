"""The gateway's process is killed while a client trains, and started again: not a bit differs."""

from __future__ import annotations

import json
import random
import secrets
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import farspan as torch
import numpy as np
import pytest
from test_recovery import train


class Service:
    """A worker and a gateway with a journal, as processes; the gateway can be killed."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        for name in ("key", "token"):
            path = directory / name
            path.touch(mode=0o600)
            path.write_text(secrets.token_hex(32))
        self.token = (directory / "token").read_text()
        with socket.create_server(("127.0.0.1", 0)) as free:
            self._port = free.getsockname()[1]
        self.address = f"grpc://127.0.0.1:{self._port}"
        self._processes: list[subprocess.Popen[str]] = []
        place = f"unix:{directory}/worker.sock"
        key = directory / "key"
        self._start("farspan_worker", "--listen", place, "--key-file", str(key), "--threads", "1")
        self._worker = f"{place}={key}"
        self.start_gateway()

    def start_gateway(self) -> None:
        self.gateway = self._start(
            "farspan_server", "serve", "--port", str(self._port), "--worker", self._worker,
            "--token-file", str(self._directory / "token"), "--snapshot-every", "0.3",
            "--journal", str(self._directory / "journal"),
        )  # fmt: skip

    def _start(self, *command: str) -> subprocess.Popen[str]:
        made = subprocess.Popen(
            [sys.executable, "-m", *command, "--json"], stdout=subprocess.PIPE, text=True
        )
        self._processes.append(made)
        assert made.stdout is not None
        assert json.loads(made.stdout.readline())["address"]
        return made

    def kill_gateway(self) -> None:
        self.gateway.kill()
        self.gateway.wait()

    def stop(self) -> None:
        for each in self._processes:
            each.terminate()
        for each in self._processes:
            each.wait(20)
            assert each.stdout is not None
            each.stdout.close()


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"))
    yield made
    made.stop()


@pytest.fixture(scope="module")
def undisturbed() -> list[bytes]:
    with torch.connect("local:"):
        return train(40)


def test_a_gateway_killed_while_a_client_trains_changes_no_bit(
    service: Service, undisturbed: list[bytes]
) -> None:
    def between(step: int) -> None:
        if step in (6, 25):
            service.kill_gateway()
            service.start_gateway()

    with torch.connect(service.address, token=service.token, timeout=30) as session:
        assert train(40, between) == undisturbed
        assert session.transport.epoch >= 3


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
