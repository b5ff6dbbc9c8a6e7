"""A session moves to other workers while it is used; its client hears where bits may differ.

Real processes: a gateway, and workers by hand of two numerics keys.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import subprocess
import sys
import threading
import time
import warnings
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
import pytest
from chaos import Sent, Service, wait_until
from click.testing import CliRunner
from fake_cupy import FakeCupy
from farspan.core import limits
from farspan.core.command import Changed, NumericsChange
from farspan.core.errors import BadValueError, CapacityError
from farspan.core.op import table_hash
from farspan_server.cli import main
from farspan_server.config import StaticWorker
from farspan_worker import numerics
from farspan_worker.engine import Engine
from farspan_worker.server import Worker
from test_gateway import KEY, TOKEN, Cluster
from test_recovery import train

#: What makes a worker compute other bits than one without it, or at least say so.
_OTHER = ("--cpu-level", "v3") if "v4" in numerics.facts()["level"] else ("--threads", "2")


class Workers:
    """Workers by hand, and the options that tell a gateway of them. The last one is unlike."""

    def __init__(self, directory: Path, count: int) -> None:
        self._key = directory / "worker.key"
        self._key.write_text(secrets.token_hex(32))
        self._directory = directory
        self._running: dict[int, subprocess.Popen[str]] = {}
        self._starts = [0] * count
        self.options = tuple(
            part for k in range(count) for part in ("--worker", f"{self._at(k)}={self._key}")
        )

    def _at(self, number: int) -> str:
        return f"unix:{self._directory}/w{number}.sock"

    def start(self, *numbers: int, options: tuple[str, ...] = ()) -> None:
        """Start workers `static-number`; returns when they listen."""
        threads = () if "--threads" in options else ("--threads", "1")
        for number in numbers:
            self._starts[number] += 1
            (self._directory / f"w{number}.sock").unlink(missing_ok=True)
            command = [sys.executable, "-m", "farspan_worker", "--listen", self._at(number)]
            self._running[number] = subprocess.Popen(
                [*command, "--key-file", str(self._key), "--json", *threads, *options],
                stdout=subprocess.PIPE,
                text=True,
            )
        for number in numbers:
            said = self._running[number].stdout
            assert said is not None and said.readline()

    def have_joined(self, service: Service) -> bool:
        """Whether the gateway has found each of them as often as it was started."""
        log = service.log()
        return all(log.count(f"static-{k} joined") >= n for k, n in enumerate(self._starts))

    def kill(self, number: int) -> None:
        made = self._running.pop(number)
        made.kill()
        made.wait(20)

    def close(self) -> None:
        for each in self._running.values():
            each.kill()
            each.wait(20)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workers]:
    made = Workers(tmp_path_factory.mktemp("w"), 3)
    yield made
    made.close()


@pytest.fixture(scope="module")
def service(workers: Workers) -> Iterator[Service]:
    """Two workers alike, then one that computes other bits."""
    workers.start(0, 1)
    with Service(workers=0, more=workers.options) as made:
        with made.connect(devices="cpu:2"):
            pass  # both are reached
        workers.start(2, options=_OTHER)
        wait_until(lambda: "static-2 joined" in made.log(), what="the third worker")
        yield made


def where(session: Any) -> str:
    return str(session.describe()["devices"][0]["worker"])


def twin(session: Any) -> str:
    return "static-1" if where(session) == "static-0" else "static-0"


def firsts(session: Any) -> dict[int, int]:
    """Return, filled as frames are sent, the first command of each that has one."""
    found: dict[int, int] = {}
    transport = session.transport
    send = transport.send

    def noting(frame: Any) -> Any:
        numbers = [n for n in frame.numbers if n]
        sent = send(frame)
        if numbers:
            found[frame.sequence] = numbers[0]
        return sent

    transport.send = noting
    return found


def first_after(frames: dict[int, int], frame: int) -> int:
    return frames[min(each for each in frames if each > frame)]


@pytest.mark.parametrize("replay", [True, False])
def test_a_session_that_moves_while_it_trains_has_the_same_bits(
    service: Service, replay: bool
) -> None:
    with service.connect(replay=replay):
        expected = train(40)
    moved: list[str] = []
    failures: list[BaseException] = []
    with service.connect(replay=replay) as session:
        sent = Sent(session)

        def go() -> None:
            try:
                for _ in range(3):
                    to = twin(session)
                    (device,) = session.transport.move(to, False)
                    moved.append(device["worker"])
                    assert device["worker"] == to
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=go)

        def between(step: int) -> None:
            if step == 3:
                thread.start()
            if step == 39:
                thread.join(60)

        found = train(40, between)
        assert not failures and len(moved) == 3
        assert found == expected
        if not replay:  # of a Define's body a worker counts nothing
            session.synchronize()
            (counted,) = session.worker_stats()
            assert counted["commands"] == sent.commands
        assert session.describe()["numerics"]["changes"] == []


def test_a_refused_move_leaves_the_session_where_it_is(service: Service) -> None:
    with service.connect() as session:
        x = torch.arange(100.0)
        before = x.numpy().tobytes()
        here = session.describe()["devices"]
        with pytest.raises(CapacityError, match=r"no worker static-7 .* the gateway has"):
            session.move("static-7")
        with pytest.raises(CapacityError, match=r"other bits.* allow_numerics_change"):
            session.move("static-2")
        with pytest.raises(CapacityError, match="1 device"):
            session.move("static-0,static-1")
        with pytest.raises(BadValueError, match="allow_numerics_change"):
            session.move("cuda")
        with pytest.raises(CapacityError, match="beside its own the gateway has 0 cuda"):
            session.move("cuda", allow_numerics_change=True)
        assert session.move(where(session)) == here  # asked again after an answer was lost
        assert session.describe()["devices"] == here
        assert x.numpy().tobytes() == before
    with (
        service.connect(durability="off") as session,
        pytest.raises(BadValueError, match="journal"),
    ):
        torch.ones(1).item()
        session.move()


def test_two_devices_move_together_or_one_alone(service: Service, workers: Workers) -> None:
    with service.connect(devices="cpu:2") as session:
        x, y = torch.rand(50), torch.rand(50, device="cpu:1")
        expected = (x.numpy().tobytes(), y.numpy().tobytes())
        a, b = (each["worker"] for each in session.describe()["devices"])
        with pytest.raises(CapacityError, match="needs 2 cpu"):
            session.move(allow_numerics_change=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            session.move(f"{a},static-2", allow_numerics_change=True)
            assert [d["worker"] for d in session.describe()["devices"]] == [a, "static-2"]
            session.move(f"{b},{a}", allow_numerics_change=True)
            assert [d["worker"] for d in session.describe()["devices"]] == [b, a]
            assert (x.numpy().tobytes(), y.numpy().tobytes()) == expected
            assert (x.to("cpu:1") + y).numpy().tobytes() == (x.numpy() + y.numpy()).tobytes()


def test_the_client_is_told_the_command_from_which_bits_may_differ(service: Service) -> None:
    with service.connect(replay=False) as session:
        frames = firsts(session)
        torch.manual_seed(5)
        x = torch.rand(300, 300)
        y = x @ x
        known = x.numpy().tobytes(), y.numpy().tobytes()
        (before,) = session.describe()["numerics"]["keys"]
        session.move("static-2", allow_numerics_change=True)
        (after,) = session.describe()["numerics"]["keys"]
        assert before != after
        with pytest.warns(torch.NumericsChangedWarning) as caught:
            z = torch.exp(x) @ y
            z.sum().item()
            wait_until(lambda: named(session), what="the name of the command")
            z.sum().item()  # a wait, if the others were over too early
        (change,) = session.describe()["numerics"]["changes"]
        assert (change["before"], change["after"]) == ([before], [after])
        assert change["command"] == first_after(frames, change["frame"])
        assert "test_moving.py" in change["line"] and change["op"]
        (warned,) = caught
        assert f"from command {change['command']} ({change['op']})" in str(warned.message)
        assert warned.filename == __file__
        # What was there before went along as it was.
        assert (x.numpy().tobytes(), y.numpy().tobytes()) == known
        session.move("static-0", allow_numerics_change=True)
        with pytest.warns(torch.NumericsChangedWarning):
            torch.ones(2).sum().item()
            wait_until(lambda: len(named(session)) == 2, what="the second change")
            torch.ones(2).sum().item()
        again = session.describe()["numerics"]["changes"]
        assert again[0] == change and again[1]["after"] == [before]
        assert again[1]["command"] == first_after(frames, again[1]["frame"]) > change["command"]


def test_a_change_that_two_threads_would_tell_is_told_by_one() -> None:
    class Taken(deque[str]):
        def __bool__(self) -> bool:  # there was one, which another thread has taken since
            return True

    with torch.connect("local:") as session:
        session._untold = Taken(["bits may differ"])
        with pytest.warns(torch.NumericsChangedWarning, match="bits may differ") as caught:
            assert torch.ones(2).tolist() == [1.0, 1.0]
        assert len(caught) == 1


def test_changes_that_nobody_waits_for_are_bounded() -> None:
    most = limits.NUMERICS_CHANGES_MAX
    with torch.connect("local:") as session:
        for k in range(1, 3 * most):
            changes = tuple(NumericsChange(n, n, n) for n in range(max(1, k - most + 1), k + 1))
            session._hear_changes(Changed(changes))
        assert len(session._untold) == len(session._began) == most
        assert f"from command {3 * most - 1}," in session._untold[-1]
        session._untold.clear()


def named(session: Any) -> list[Any]:
    return [each for each in session.describe()["numerics"]["changes"] if each["command"]]


def test_a_change_is_found_by_who_attaches_later_and_after_a_gateway_died(
    service: Service, workers: Workers
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with service.connect() as session:
            x = torch.ones(10)
            x.sum().item()
            session.move("static-2", allow_numerics_change=True)
            x.sum().item()
            wait_until(lambda: named(session))
            session.keep("x", x)
            (change,) = named(session)
            service.kill("gateway")
            service.wait_for_gateway()
            assert x.sum().item() == 10
            assert named(session) == [change]
            name = session.detach()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it is no news
        session = torch.attach(name, service.address, token=service.token, timeout=60)
        with session:
            assert session.kept["x"].sum().item() == 10
            (found,) = named(session)
            assert found | {"op": None, "line": None} == change | {"op": None, "line": None}
            assert where(session) == "static-2"  # it is pinned to the key that it has now
    again = service.log().count("static-2 joined")
    workers.kill(2)
    workers.start(2, options=_OTHER)  # the last one that is reached, for the tests that follow
    wait_until(lambda: service.log().count("static-2 joined") > again, what="the third worker")


def asked(service: Service, *command: str) -> Any:
    environment = {"FARSPAN_ADDRESS": service.address, "FARSPAN_TOKEN": service.token}
    return CliRunner().invoke(main, ["sessions", *command], env=environment)


def test_sessions_are_moved_and_shown_by_the_command_line(service: Service) -> None:
    with service.connect() as session:
        x = torch.ones(5)
        x.sum().item()
        to = twin(session)
        done = asked(service, "move", session.id, "--to", to)
        assert done.exit_code == 0 and to in done.output
        shown = json.loads(asked(service, "show", session.id, "--json").output)
        (device,) = shown["devices"]
        assert device["worker"] == to and device["numerics"] in device["numerics"]
        assert shown["numerics"] == []
        refused = asked(service, "move", session.id, "--to", "static-2")
        assert refused.exit_code == 1 and "allow-numerics-change" in refused.output.replace(
            "_", "-"
        )
        assert x.sum().item() == 5 and where(session) == to
        done = asked(service, "move", session.id, "--to", "static-2", "--allow-numerics-change")
        assert done.exit_code == 0 and "static-2" in done.output
        with pytest.warns(torch.NumericsChangedWarning):
            x.sum().item()
            wait_until(lambda: named(session))
            x.sum().item()
        text = asked(service, "show", session.id).output
        assert f"from command {named(session)[0]['command']}" in text
    assert asked(service, "move", secrets.token_hex(16)).exit_code == 1


def test_a_session_that_waits_for_its_numerics_may_be_let_go_on_with_others(
    service: Service, workers: Workers
) -> None:
    """Last: it takes the workers of the others away."""
    with service.connect() as session:
        x = torch.arange(1000.0)
        assert x.sum().item() == 499500
        for number in (0, 1):
            workers.kill(number)
        got: list[float] = []
        thread = threading.Thread(target=lambda: got.append((x + 1).sum().item()))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            thread.start()
            wait_until(lambda: "waiting" in states(service, session))
            time.sleep(0.2)  # it must not have gone on with the one that is left
            assert not got
            refused = asked(service, "move", session.id)
            assert refused.exit_code == 1 and "waits for workers" in refused.output
            done = asked(service, "move", session.id, "--allow-numerics-change")
            assert done.exit_code == 0, done.output
            thread.join(60)
        assert got == [500500.0] and where(session) == "static-2"
        assert named(session)
    workers.start(0, 1)


def states(service: Service, session: Any) -> str:
    return str(asked(service, "show", session.id).output)


def test_kills_while_a_session_moves_lose_nothing(service: Service, workers: Workers) -> None:
    with service.connect() as session:
        expected = train(20)
        wait_until(lambda: workers.have_joined(service), what="all workers")
        done = threading.Event()

        def strike() -> None:
            for _ in range(2):
                threading.Thread(target=lambda: asked(service, "move", session.id)).start()
                time.sleep(0.05)
                target = session.transport.devices[0]
                if target["worker"] != "static-2":
                    number = int(target["worker"][-1])
                    workers.kill(number)
                    workers.start(number)
            done.set()

        thread = threading.Thread(target=strike)

        def between(step: int) -> None:
            if step == 3:
                thread.start()
            if step == 19:
                assert done.wait(60)

        found = train(20, between)
        thread.join(60)
        assert found == expected


def test_a_session_goes_to_another_kind_of_device_and_back(tmp_path: Path) -> None:
    """In this process, with a namespace in cupy's place."""

    def make(name: str, memory_bytes_max: int) -> Engine:
        return Engine(name, memory_bytes_max, FakeCupy() if name.startswith("cuda") else None)

    def step(x: Any, w: Any) -> float:
        loss = (torch.tanh(x @ w) - 1).square().mean()
        loss.backward()
        with torch.no_grad():
            w.sub_(w.grad)
        w.grad = None
        return float(loss.item())

    with contextlib.closing(Cluster()) as cluster:
        unlike = [Worker(KEY, make, kind) for kind in ("cpu", "cuda")]
        cluster.workers += unlike
        static = tuple(
            StaticWorker(worker.listen("127.0.0.1:0"), KEY, kind)
            for worker, kind in zip(unlike, ("cpu", "cuda"), strict=True)
        )
        cluster.start(2, static, table_hash=table_hash(), journals=tmp_path)
        given = {"token": TOKEN, "devices": "cpu", "replay": False, "timeout": 30}
        losses = []
        for moves in (False, True):
            with torch.connect(cluster.address, **given) as session:
                x = torch.linspace(-1, 1, 12).reshape(3, 4)
                w = torch.linspace(0, 1, 8).reshape(4, 2).requires_grad_()
                losses.append([])
                for kind in ("cpu", "cuda", "cuda", "cpu"):
                    (device,) = session.describe()["devices"]
                    if moves and device["kind"] != kind:
                        (device,) = session.move(kind, allow_numerics_change=True)
                    with warnings.catch_warnings():
                        warnings.simplefilter("ignore", torch.NumericsChangedWarning)
                        losses[-1].append(step(x, w))
                    assert (device["name"], device["kind"]) == ("cpu", kind if moves else "cpu")
                    assert str(w.device) == "cpu"
                changes = session.describe()["numerics"]["changes"]
                assert len(changes) == 2 * moves
        np.testing.assert_allclose(*losses, rtol=1e-5)
