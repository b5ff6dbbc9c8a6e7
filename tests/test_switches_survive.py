"""Workers and gateways die around a switch to compiled loops: no value contradicts another.

What a client was shown must be what one engine gives that is switched between some two frames of
the session. A replay that forgot the switch, or had it elsewhere, would agree with none.
"""

from __future__ import annotations

import copy
import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import farspan as torch
import pytest
from farspan.core.command import Frame, Value
from farspan.core.words import Switch
from farspan_server import history, journal
from farspan_server.disk import RealDisk
from farspan_worker.engine import Engine
from farspan_worker.kernels.cpu import loops
from restarting import Service
from test_recovery import kill_worker

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(loops.missing()), reason=loops.missing()),
]

_WAIT_S = 60.0


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Service]]:
    """Return what makes a service whose workers compile all loops anew."""
    made: dict[str, Service] = {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FARSPAN_CACHE", "off")
        patch.delenv("FARSPAN_LOOPS", raising=False)

        def make(every_s: str) -> Service:
            if every_s not in made:
                where = tmp_path_factory.mktemp("service")
                made[every_s] = Service(where, "--snapshot-every", every_s, workers=2)
            return made[every_s]

        yield make
        for service in made.values():
            assert "Traceback" not in service.close()


class Run:
    """A compiled step on a session: what was sent and what was shown."""

    def __init__(self, session: Any, service: Service) -> None:
        self.session = session
        self.place = service.journal / session.transport.session_id
        self.frames: list[Frame] = []
        self.shown: list[bytes] = []
        self.reads: list[int] = []  # the last frame before each of these was there
        send = session.transport.send

        def sending(frame: Frame) -> None:
            send(frame)  # which numbers it
            self.frames.append(copy.deepcopy(frame))

        session.transport.send = sending
        torch.manual_seed(0)
        w = torch.randn(301, requires_grad=True)

        @torch.compile
        def step() -> Any:
            loss = (torch.tanh(w * 1.5).exp() * torch.sigmoid(w)).sum()
            loss.backward()
            with torch.no_grad():
                w.sub_(w.grad * 0.1)
                w.grad = None
            return loss

        self._step, self._w = step, w

    def some(self, count: int) -> None:
        for _ in range(count):
            self._step()
            self.shown.append(self._w.detach().numpy().tobytes())
            self.reads.append(self.frames[-1].sequence)

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _WAIT_S
        while True:
            self.some(1)
            if true():
                return
            assert time.monotonic() < deadline

    @property
    def switched(self) -> bool:
        return any(each.get("switched") for each in self.session.worker_stats())

    def noted(self) -> list[history.Placed]:
        """Return the switches that the journal has."""
        found = [
            history._formatted(r)
            for r in journal.glimpse(RealDisk(), self.place)
            if r.kind == history.SWITCH
        ]
        return [
            history.Placed(f["sequence"], f["device"], Switch(f["program"], f["plan"]))
            for f in found
        ]

    def again(self, switch: Switch, after: int) -> list[bytes]:
        """Return what an engine shows that is switched after a frame."""
        engine, shown = Engine(), []
        engine.steady, engine.programs.switches.ask = True, lambda switch: None
        for frame in self.frames:
            events = engine.handle(copy.deepcopy(frame))
            shown += [bytes(e.data) for e in events if isinstance(e, Value)]
            if frame.sequence == after:
                engine.programs.switches.take(switch)
        engine.close()
        return shown

    def asked_for(self) -> Switch:
        """Return what a worker asks for once its loops are compiled."""
        engine = Engine()
        engine.steady, engine.programs.switches.ask = True, lambda switch: None
        for frame in self.frames:
            engine.handle(copy.deepcopy(frame))
        plans = [(n, plan.key) for n, p in engine.programs.defined() for plan in p.plans]
        engine.close()
        (found,) = {Switch(*each) for each in plans}
        return found

    def check(self, switch: Switch) -> None:
        """Check that all that was shown goes together."""
        plain = self.again(switch, 1 << 60)
        assert plain != self.shown and len(plain) == len(self.shown), "it was never switched"
        first = next(k for k, each in enumerate(plain) if each != self.shown[k])
        tried = [f.sequence for f in self.frames if f.sequence <= self.reads[first]][-20:]
        assert any(self.again(switch, after) == self.shown for after in reversed(tried)), (
            "no switch explains what was shown"
        )


def test_a_worker_killed_around_a_switch_changes_no_bit(services: Any) -> None:
    service = services("1000")
    with torch.connect(service.address, token=service.token, timeout=30, replay=False) as session:
        run = Run(session, service)
        run.some(3)
        kill_worker(session)  # while its loops are compiled
        run.until(lambda: bool(run.noted()))
        kill_worker(session)  # noted just now: it may have run by loops or not
        run.until(lambda: run.switched)
        run.some(3)
        kill_worker(session)  # it has
        run.some(3)
        assert run.switched
        (placed, *more) = run.noted()
        assert {each.switch for each in more} <= {placed.switch}
        assert run.again(placed.switch, placed.sequence) == run.shown
        run.check(placed.switch)


def test_a_snapshot_keeps_what_was_switched(services: Any) -> None:
    service = services("0.3")
    with torch.connect(service.address, token=service.token, timeout=30, replay=False) as session:
        run = Run(session, service)
        run.until(lambda: run.switched)
        run.some(1)
        run.until(lambda: not run.noted() and bool(list(run.place.glob("snapshot-*"))))
        kill_worker(session)
        run.some(5)
        assert run.switched
        switch = run.asked_for()
        run.check(switch)


@pytest.mark.parametrize("every_s", ["1000", "0.3"])
def test_a_gateway_killed_after_a_switch_repeats_it(services: Any, every_s: str) -> None:
    service = services(every_s)
    with torch.connect(service.address, token=service.token, timeout=30, replay=False) as session:
        run = Run(session, service)
        run.until(lambda: run.switched)
        run.some(2)
        pid = session.transport.devices[0]["pid"]
        service.kill_gateway()
        os.kill(pid, signal.SIGKILL)
        service.start_gateway()
        run.some(4)
        assert run.switched
        run.check(run.asked_for())
