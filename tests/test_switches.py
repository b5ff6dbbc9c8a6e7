"""Kernels that give other bits come in at recorded Calls, and a replay repeats them there."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import farspan as torch
import programs
import pytest
from farspan_worker.engine import Engine
from farspan_worker.kernels.cpu import loops
from farspan_worker.kernels.cpu.loops import compiled, native
from farspan_worker.programs.switches import Switch, SwitchError
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


def run(session: Any, slow: Compiler, calls: tuple[int, int]) -> tuple[Any, list[Switch]]:
    """Return a recording of Calls before and after loops are ready, and the Switches."""
    recording = programs.Recording(session)
    switched: list[Switch] = []
    recording.engine.programs.switches.record = switched.append
    step = train()
    kept = [step()]
    for _ in range(calls[0]):
        kept.append(step())
        session.synchronize()
    assert used(recording.engine) == [False] and not switched
    slow.finish()
    for _ in range(calls[1]):
        kept.append(step())
        session.synchronize()
    recording.kept = kept  # type: ignore[attr-defined]
    return recording, switched


def again(recording: Any, switches: list[Switch] | None, until: int = 1 << 60) -> Engine:
    engine = Engine(memory_bytes_max=recording.engine.budget.limit)
    if switches is not None:
        engine.programs.switches.replay(switches, until)
    for frame in recording.frames:
        engine.handle(frame, recording.transfers_of(frame))
    return engine


def test_a_switch_is_told_once_and_a_replay_with_it_gives_the_same_bits(
    session: Any, slow: Compiler
) -> None:
    recording, switched = run(session, slow, (3, 4))
    assert used(recording.engine) == [True]
    assert len(switched) == 1 and (switched[0].program, switched[0].plan) in (
        recording.engine.programs.switches.on
    )
    mine = state(recording.engine)
    assert state(again(recording, switched)) == mine
    assert state(again(recording, [])) != mine, "never by loops: the test must see a difference"
    assert state(again(recording, None)) != mine, "by loops from the start"


def test_a_replay_waits_for_loops_that_a_record_names(session: Any, slow: Compiler) -> None:
    recording, switched = run(session, slow, (2, 3))
    mine = state(recording.engine)
    compiled._loops.clear()
    slow.gate.clear()
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(state(again(recording, switched))))
    thread.start()
    thread.join(0.3)
    assert thread.is_alive()
    slow.gate.set()
    thread.join(60)
    assert found == [mine]


def test_after_the_recorded_part_switches_are_live_again(session: Any, slow: Compiler) -> None:
    recording, switched = run(session, slow, (2, 3))
    engine = again(recording, [], until=switched[0].call - 1)
    assert used(engine) == [True] and state(engine) == state(recording.engine)


def test_a_record_of_something_else_is_refused(session: Any, slow: Compiler) -> None:
    recording, switched = run(session, slow, (2, 3))
    other = Switch(switched[0].call, switched[0].program, "another plan")
    with pytest.raises(SwitchError, match="another plan"):
        again(recording, [other])


def test_within_a_frame_nothing_is_switched(
    session: Any, slow: Compiler, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan is looked at by the frame's first Call; loops come ready before the second."""
    from farspan_worker.programs.flat import FlatPlan

    engine = session.transport.engines[0]
    switched: list[Switch] = []
    engine.programs.switches.record = switched.append
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
    assert ran[0] is False and ran[-1] is True and len(switched) == 1
    assert torch.equal(kept[-1], kept[-2])


def test_a_program_of_the_same_number_starts_anew(session: Any, slow: Compiler) -> None:
    recording, switched = run(session, slow, (1, 2))
    switches = recording.engine.programs.switches
    switches.forget(switched[0].program + 1)
    assert switches.on
    switches.forget(switched[0].program)
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
