"""Kernels that give other bits come in between two frames, and a replay repeats them there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import farspan as torch
import programs
import pytest
from farspan.core import limits, link, words
from farspan.core.errors import ProtocolError
from farspan.core.words import Switch
from farspan_worker import snapshot
from farspan_worker.engine import Engine
from farspan_worker.kernels.cpu import loops
from farspan_worker.kernels.cpu.loops import compiled, native
from farspan_worker.programs.switches import SwitchError
from test_replay import state

pytestmark = pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())


class Compiler:
    """LLVM behind a gate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.gate = threading.Event()
        made = native.to_object

        def waits(text: str) -> bytes:
            assert self.gate.wait(60)
            return made(text)

        monkeypatch.setattr(native, "to_object", waits)
        monkeypatch.setattr(native, "on_disk", lambda text: None)
        monkeypatch.setattr(compiled, "_loops", type(compiled._loops)())

    def finish(self) -> None:
        """Let it work, until nothing waits."""
        self.gate.set()
        for pending in list(compiled._loops.values()):
            if isinstance(pending, compiled.Pending):
                pending.result()


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[Compiler]:
    monkeypatch.delenv("FARSPAN_LOOPS", raising=False)
    compiler = Compiler(monkeypatch)
    yield compiler
    compiler.gate.set()


@pytest.fixture
def session() -> Iterator[Any]:
    made = torch.connect("local:", replay=False)
    yield made
    made.close()


def train(lr: float = 0.1) -> Any:
    """Return a compiled step whose loops and plain kernels differ in their bits, by its state."""
    torch.manual_seed(0)
    w = torch.randn(301, requires_grad=True)

    @torch.compile
    def step() -> Any:
        loss = (torch.tanh(w * 1.5).exp() * torch.sigmoid(w)).sum()
        loss.backward()
        with torch.no_grad():
            w.sub_(w.grad * lr)
            w.grad = None
        return loss

    return step


def used(engine: Engine) -> list[bool]:
    found = [json.loads(engine.programs.explain(p))["plans"] for p in engine.programs._programs]
    return [plan["loops"]["used"] for plans in found for plan in plans]


def run(session: Any, slow: Compiler, calls: tuple[int, int, int]) -> tuple[Any, int, Switch]:
    """Return a recording, after how many of its frames the one plan was switched, and how.

    calls: without loops; with loops that nobody has switched to; by loops.
    """
    recording = programs.Recording(session)
    switches, asked = recording.engine.programs.switches, []
    switches.ask = asked.append
    step = train()
    kept = [step()]

    def some(count: int) -> None:
        for _ in range(count):
            kept.append(step())
            session.synchronize()

    some(calls[0])
    assert used(recording.engine) == [False] and not asked
    slow.finish()
    some(calls[1])
    assert used(recording.engine) == [False] and len(asked) == 1, "it is asked for once"
    at = len(recording.frames)
    switches.take(asked[0])
    some(calls[2])
    assert used(recording.engine) == [True] and [*switches.on] == asked
    recording.kept = kept  # type: ignore[attr-defined]
    return recording, at, asked[0]


def again(recording: Any, at: int, switch: Switch, through: bool = False) -> Engine:
    """Run a recording with a switch after so many of its frames.

    through: between any two frames an engine made of a snapshot takes the place of the one before.
    """

    def made() -> Engine:
        engine = Engine(memory_bytes_max=recording.engine.budget.limit)
        engine.steady, engine.programs.switches.ask = True, lambda switch: None
        return engine

    engine = made()
    for k, frame in enumerate(recording.frames):
        if k == at:
            engine.programs.switches.take(switch)
        if through:
            data, engine = snapshot.take(engine), made()
            snapshot.restore(engine, data)
        engine.handle(frame, recording.transfers_of(frame))
    return engine


def test_a_switch_at_the_same_frame_gives_the_same_bits(session: Any, slow: Compiler) -> None:
    recording, at, switch = run(session, slow, (3, 2, 4))
    mine = state(recording.engine)
    assert state(again(recording, at, switch)) == mine
    for other in (0, at + 1, 1 << 30):
        assert state(again(recording, other, switch)) != mine, "the test must see a difference"


def test_snapshots_before_and_after_a_switch_keep_it(session: Any, slow: Compiler) -> None:
    recording, at, switch = run(session, slow, (3, 2, 4))
    assert state(again(recording, at, switch, through=True)) == state(recording.engine)


def test_a_replay_waits_for_loops_that_were_switched_to(session: Any, slow: Compiler) -> None:
    recording, at, switch = run(session, slow, (2, 1, 3))
    mine = state(recording.engine)
    compiled._loops.clear()
    slow.gate.clear()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(state(again(recording, at, switch))))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    slow.gate.set()
    thread.join(60)
    assert found == [mine]


def test_loops_that_cannot_be_compiled_any_more_end_the_session(
    session: Any, slow: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    recording, at, switch = run(session, slow, (2, 1, 3))
    compiled._loops.clear()

    def refuses(text: str) -> bytes:
        raise RuntimeError("no")

    monkeypatch.setattr(native, "to_object", refuses)
    with pytest.raises(SwitchError, match="cannot be compiled now: no"):
        again(recording, at, switch)


def test_loops_are_waited_for_where_nobody_journals_switches(session: Any, slow: Compiler) -> None:
    slow.gate.set()
    engine = session.transport.engines[0]
    engine.steady = True
    step = train()
    step(), step()
    session.synchronize()
    assert used(engine) == [True] and not engine.programs.switches.on


def test_what_is_asked_for_and_switched_is_bounded(
    session: Any, slow: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "SWITCHES_MAX", 2)
    switches = session.transport.engines[0].programs.switches
    for k in range(3):
        switches.take(Switch(1, f"{k:032}"))
    assert [s.plan for s in switches.on] == [f"{k:032}" for k in range(2)]
    switches.ask = lambda switch: pytest.fail("there is no room for it")
    slow.finish()
    step = train()
    for _ in range(3):
        step()
        slow.finish()
        session.synchronize()
    assert used(session.transport.engines[0]) == [False]


@pytest.mark.parametrize("body", [
    b"", b"[]", b"{}", b'{"program": 1}', b'{"program": true, "plan": "%032d"}' % 0,
    b'{"program": -1, "plan": "%032d"}' % 0, b'{"program": 64, "plan": "%032d"}' % 0,
    b'{"program": 1, "plan": "%031d"}' % 0, b'{"program": 1, "plan": "%032d\n"}' % 0,
    b'{"program": 1, "plan": 5}', b'{"program": 1.0, "plan": "%032d"}' % 0,
])  # fmt: skip
def test_a_message_that_is_no_switch_is_refused(body: bytes) -> None:
    with pytest.raises(ProtocolError):
        words.unpack_switch(body)
    good = Switch(63, "0123456789abcdef" * 2)
    assert words.unpack_switch(words.pack_switch(1, good)[link.HEADER_BYTES :]) == good


def test_within_a_frame_nothing_is_switched(
    session: Any, slow: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is looked at by the frame's first Call; loops come ready before the second."""
    from farspan_worker.programs.flat import FlatPlan

    engine = session.transport.engines[0]
    x = torch.rand(100)
    double = torch.compile(lambda: torch.tanh(x).exp())
    double()
    session.synchronize()
    ran: list[bool] = []
    plain = FlatPlan.run

    def watched(self: FlatPlan, scalars: Any) -> Any:
        ran.append(not self.awaits)
        slow.finish()
        return plain(self, scalars)

    monkeypatch.setattr(FlatPlan, "run", watched)
    from farspan.core.command import CALL

    kept = [double() for _ in range(3)]
    session.synchronize()
    frames = []
    handle = engine.handle
    monkeypatch.setattr(engine, "handle", lambda f, *t: (frames.append(f), handle(f, *t))[1])
    kept += [double() for _ in range(2)]
    session.synchronize()
    assert CALL in frames[-1].opcodes
    assert ran[0] is False and ran[-1] is True and len(engine.programs.switches.on) == 1
    assert torch.equal(kept[-1], kept[-2])


def test_a_program_of_the_same_number_starts_anew(session: Any, slow: Compiler) -> None:
    recording, _, switch = run(session, slow, (1, 1, 2))
    switches = recording.engine.programs.switches
    switches.forget(switch.program + 1)
    assert switches.on
    switches.forget(switch.program)
    assert not switches.on


def test_loops_that_llvm_refuses_leave_the_plain_kernels(
    session: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(text: str) -> bytes:
        raise RuntimeError("no")

    monkeypatch.setattr(native, "to_object", refuses)
    monkeypatch.setattr(native, "on_disk", lambda text: None)
    monkeypatch.setattr(compiled, "_loops", type(compiled._loops)())
    monkeypatch.delenv("FARSPAN_LOOPS", raising=False)
    x = torch.rand(100)
    f = torch.compile(lambda: torch.tanh(x).exp())
    for _ in range(4):
        assert torch.allclose(f(), torch.tanh(x).exp())
    assert f.ready(5.0)
    assert used(session.transport.engines[0]) == [False]


def test_ready_waits_for_the_compiler(session: Any, slow: Compiler) -> None:
    x = torch.rand(100)
    f = torch.compile(lambda: torch.tanh(x).exp())
    assert f.ready(0.0), "nothing is compiled for it yet"
    f(), f()
    assert not f.ready(0.05)
    slow.finish()
    assert f.ready(10.0)
    f()
    session.synchronize()
    assert used(session.transport.engines[0]) == [True]
    assert "'used': True" in f.explain(show=False)
