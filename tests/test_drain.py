"""Workers are drained and replaced while sessions train on them: no error, no other bit."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import chaos
import farspan as torch
import pytest
from farspan.core.errors import AuthError, BadValueError, CapacityError, WorkerLostError
from farspan_server import draining
from farspan_server.config import GatewayConfig
from farspan_server.drain import DONE
from farspan_server.drain import until as until_true
from farspan_server.operations import Operations
from farspan_server.pool_messages import Worker
from test_recovery import train


class Service:
    """`farspan up` with an operator's port."""

    def __init__(self, *options: str) -> None:
        command = ["up", "--no-ray", "--threads", "1", "--metrics-port", "0", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", *command, *options],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.token = Path(self.ready["token_file"]).read_text().strip()
        self.operator_token = Path(self.ready["operator_token_file"]).read_text().strip()
        self.operator = draining.Operator(self.ready["metrics"], self.operator_token)

    def connect(self, **more: Any) -> Any:
        return torch.connect(self.ready["address"], token=self.token, timeout=30, **more)

    def drain(self, names: list[str] | str, wait_s: float = 30.0) -> list[str]:
        said: list[str] = []
        assert draining.drain(self.operator, names, wait_s, said.append)
        return said

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(20) == 0


@pytest.fixture(scope="module")
def journalled(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    journal = tmp_path_factory.mktemp("journal")
    made = Service("--workers", "cpu:2", "--spares", "1", "--journal", str(journal))
    yield made
    made.close()


@pytest.fixture(scope="module")
def plain() -> Iterator[Service]:
    made = Service("--workers", "cpu:2", "--no-journal")
    yield made
    made.close()


def pids(service: Service) -> dict[str, int]:
    return {each["worker"]: each["pid"] for each in service.operator.workers()}


def test_a_rolling_restart_under_training_changes_no_bit(journalled: Service) -> None:
    with journalled.connect():
        expected = train(60)
    before = pids(journalled)
    pauses: list[float] = []
    drained = threading.Event()
    failures: list[BaseException] = []

    def restart() -> None:
        try:
            journalled.drain("all")
            journalled.drain("all")
        except BaseException as error:
            failures.append(error)
        drained.set()

    with journalled.connect() as session:
        thread = threading.Thread(target=restart)
        last = time.monotonic()

        def between(step: int) -> None:
            nonlocal last
            if step == 5:
                thread.start()
            if step == 55:
                assert drained.wait(60)
            pauses.append(time.monotonic() - last)
            last = time.monotonic()

        found = train(60, between)
        thread.join(60)
        (device,) = session.transport.devices
    print(f"the longest step took {max(pauses[:55]):.2f} s")
    assert not failures and found == expected
    assert device["epoch"] > 2
    after = pids(journalled)
    assert set(after) == set(before) and not set(after.values()) & set(before.values())


def test_a_session_on_two_devices_leaves_both_for_one(journalled: Service) -> None:
    with journalled.connect(devices="cpu:2") as session:
        torch.manual_seed(1)
        x = torch.rand(1000)
        y = torch.rand(1000).to("cpu:1")
        expected = (x.numpy().tobytes(), y.numpy().tobytes())
        journalled.drain(["cpu:1"])
        assert (x.numpy().tobytes(), y.numpy().tobytes()) == expected
        z = x + y.to("cpu")
        assert z.numpy().tobytes() == (x.numpy() + y.numpy()).tobytes()
        assert len({each["pid"] for each in session.transport.devices}) == 2


def test_sessions_without_a_journal_are_waited_for(plain: Service) -> None:
    drained = threading.Event()
    with plain.connect() as session:
        x = torch.ones(3)
        assert x.sum().item() == 3
        (device,) = session.transport.devices
        mine = next(w["worker"] for w in plain.operator.workers() if w["pid"] == device["pid"])
        thread = threading.Thread(target=lambda: (plain.drain([mine]), drained.set()))
        thread.start()
        state = until(lambda: state_of(plain, mine) == "leaving")
        assert state and not drained.is_set()
        assert x.sum().item() == 3  # it goes on
        with plain.connect() as other:  # which goes elsewhere
            assert torch.ones(2).sum().item() == 2
            assert other.transport.devices[0]["pid"] != device["pid"]
    thread.join(30)
    assert drained.is_set()
    assert pids(plain)[mine] != device["pid"]


def test_a_session_without_a_journal_that_stays_too_long_is_told_why(plain: Service) -> None:
    with plain.connect() as session:
        x = torch.ones(3)
        assert x.sum().item() == 3
        (device,) = session.transport.devices
        mine = next(w["worker"] for w in plain.operator.workers() if w["pid"] == device["pid"])
        plain.drain([mine], wait_s=0.1)
        with pytest.raises(WorkerLostError, match="being restarted"):
            x.sum().item()


def test_the_last_word_of_a_worker_is_not_taken_for_one_of_the_next_of_its_name() -> None:
    class Ground:
        """A service with one worker at a time, none of whose sessions are here."""

        on_leaving: Any = None
        worker = Worker("cpu:0", 1, "", b"", "cpu", "", 0, supervised=True)

        def __init__(self) -> None:
            self.drained: list[int] = []

        def find_worker(self, name: str) -> Worker:
            return self.worker

        def drain_worker(self, name: str) -> list[Any]:
            self.drained.append(self.worker.epoch)
            return []

    async def scene() -> None:
        ground: Any = Ground()
        drains = Operations(ground, GatewayConfig({}, b"", workers=()))._drains
        first, second = ground.worker, dataclasses.replace(ground.worker, epoch=2)
        ground.on_leaving(first)
        await asyncio.sleep(0)  # it is drained, and its supervisor replaces it
        ground.worker = second
        ground.on_leaving(first)
        ground.on_leaving(second)  # so early that the drain of the first has not looked again
        assert ground.drained == [1]
        assert await until_true(lambda: drains.states["cpu:0"] == DONE, 5)
        ground.on_leaving(first)
        assert ground.drained == [1]
        ground.on_leaving(second)
        ground.on_leaving(second)
        await asyncio.sleep(0)
        assert ground.drained == [1, 2]
        drains.stop()

    asyncio.run(scene())


def test_sigterm_to_a_worker_moves_its_sessions(journalled: Service) -> None:
    with journalled.connect() as session:
        torch.manual_seed(2)
        x = torch.rand(100)
        expected = x.numpy().tobytes()
        (device,) = session.transport.devices
        os.kill(device["pid"], signal.SIGTERM)
        until(lambda: session.transport.devices[0]["pid"] != device["pid"])
        assert x.numpy().tobytes() == expected
        until(lambda: not Path(f"/proc/{device['pid']}").exists())


def test_nonsense_is_refused_and_drains_nothing(plain: Service) -> None:
    with pytest.raises(BadValueError, match="no worker cpu:7"):
        plain.operator.drain(["cpu:7"], 1.0)
    with pytest.raises(BadValueError, match="send"):
        plain.operator.drain([], 1.0)
    with pytest.raises(AuthError, match="refuses"):
        draining.Operator(plain.ready["metrics"], plain.token).workers()
    with pytest.raises(BadValueError, match="expected http"):
        draining.Operator("file:///etc/passwd", "")
    assert all(each["state"] != "leaving" for each in plain.operator.workers())


def test_the_command_shows_workers_and_drains_them(plain: Service) -> None:
    environment = {
        **os.environ,
        "FARSPAN_OPERATOR": plain.ready["metrics"],
        "FARSPAN_OPERATOR_TOKEN": plain.operator_token,
    }
    before = pids(plain)

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "farspan_server", "drain", *arguments]
        return subprocess.run(command, capture_output=True, text=True, env=environment)

    shown = run()
    assert shown.returncode == 0 and str(before["cpu:0"]) in shown.stdout
    done = run("cpu:0")
    assert done.returncode == 0, done.stderr
    assert "cpu:0: done" in done.stderr and pids(plain)["cpu:0"] != before["cpu:0"]
    assert run("cpu:9").returncode == 1


# --- the gateway ---------------------------------------------------------------------------------
def test_a_gateway_that_drains_takes_no_sessions_and_ends_with_the_last(tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("a-token-for-tests-of-drains")
    command = ["serve", "--token-file", str(token), "--metrics-port", "0", "--json"]
    with WorkerByHand(tmp_path) as worker:
        gateway = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", *command, "--drain-seconds", "30",
             "--worker", f"{worker.address}={worker.key}"],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        try:
            assert gateway.stdout is not None
            ready = json.loads(gateway.stdout.readline())
            with torch.connect(ready["address"], token=token.read_text(), timeout=20):
                x = torch.ones(4)
                assert x.sum().item() == 4
                gateway.terminate()
                until(lambda: reasons(ready["metrics"]) == "the gateway drains\n")
                with pytest.raises(CapacityError, match="about to end"):
                    torch.connect(ready["address"], token=token.read_text(), timeout=5)
                assert (x + 1).sum().item() == 8
                assert gateway.poll() is None
            assert gateway.wait(10) == 0
        finally:
            gateway.kill()
            gateway.wait(10)


class WorkerByHand:
    """`farspan worker` with a key in a directory."""

    def __init__(self, directory: Path) -> None:
        self.key = directory / "worker.key"
        self.key.write_text("ab" * 32)
        self.process = subprocess.Popen(
            [sys.executable, "-m", "farspan_worker", "--json", "--key-file", str(self.key)],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        self.address = json.loads(self.process.stdout.readline())["address"]

    def __enter__(self) -> WorkerByHand:
        return self

    def __exit__(self, *_: Any) -> None:
        self.process.kill()
        self.process.wait(10)


def reasons(metrics: str) -> str:
    import urllib.error
    import urllib.request

    try:
        with urllib.request.urlopen(f"{metrics}/readyz", timeout=5) as answer:
            return str(answer.read().decode())
    except urllib.error.HTTPError as error:
        return error.read().decode()


def state_of(service: Service, name: str) -> str:
    return next(w["state"] for w in service.operator.workers() if w["worker"] == name)


def until(true: Callable[[], bool], seconds: float = 30.0) -> bool:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return True


def test_a_supervisor_that_is_told_to_end_lets_sessions_leave_and_the_next_one_has_them() -> None:
    with chaos.Service(workers=1, spares=0) as service:
        with service.connect():
            expected = train(30)
        ended: list[int] = []
        with service.connect() as session:

            def between(step: int) -> None:
                if step == 5:
                    service.supervising.terminate()
                    ended.append(service.supervising.wait(60))
                    service.supervise(1)

            found = train(30, between)
        assert found == expected and ended == [0]
        assert re.search(r"worker cpu:\d drains; it has 1 session", service.log())
        assert "the workers have been drained; 0 are left" in service.log()
        assert f"session {session.id}: lost worker" not in service.log()


def test_a_supervisor_waits_for_sessions_without_a_journal_unless_it_is_told_twice() -> None:
    with chaos.Service(workers=1, spares=0, journal=False) as service:
        with service.connect() as session:
            x = torch.ones(3)
            assert x.sum().item() == 3
            service.supervising.terminate()
            chaos.wait_until(lambda: "cpu:0 drains; it has 1 session" in service.log())
            assert x.sum().item() == 3 and service.supervising.poll() is None
            service.supervising.terminate()
            assert service.supervising.wait(20) == 0
            with pytest.raises(WorkerLostError):
                x.sum().item()
        assert session.id
