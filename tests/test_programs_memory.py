"""What programs keep of memory: one arena, room for outputs, nothing that nobody needs."""

from __future__ import annotations

import gc
import random
import sys
import weakref
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.dtype import Device, float32
from farspan.core.spec import Spec
from farspan_worker.engine import Engine
from farspan_worker.programs import arena, effects, order, passes
from farspan_worker.programs.flat import FlatPlan
from farspan_worker.programs.graph import Memory, Window
from farspan_worker.programs.run import Program
from program_bodies import beside, record, session

MIB = 2**20


def _engine(s: Any) -> Engine:
    s.synchronize()
    engine: Engine = s.transport.engines[0]
    return engine


def _lives(choose: random.Random, count: int, steps: int) -> dict[Memory, arena.Life]:
    found = {}
    for _ in range(count):
        first = choose.randrange(steps)
        last = min(steps - 1, first + int(choose.expovariate(0.2)))
        found[Memory(None, choose.randrange(1, 5_000))] = arena.Life(first, last)
    return found


# ------------------------------------------------------------------------------------- places --
@pytest.mark.parametrize("pack", [arena._by_size, arena._by_time])
@pytest.mark.parametrize("seed", range(8))
def test_what_is_alive_together_never_overlaps(pack: Any, seed: int) -> None:
    choose = random.Random(seed)
    alive = _lives(choose, choose.randrange(1, 120), 40)
    at, nbytes = pack(alive)
    assert set(at) == set(alive) and all(not offset % 64 for offset in at.values())
    assert all(at[m] + m.nbytes <= nbytes for m in at)
    most = int(arena.live_bytes(alive, 40).max())
    assert most <= nbytes <= 2 * most
    for a, one in alive.items():
        for b, other in alive.items():
            if a is not b and one.first <= other.last and other.first <= one.last:
                assert at[a] + a.nbytes <= at[b] or at[b] + b.nbytes <= at[a]


@pytest.mark.parametrize("seed", range(6))
def test_guests_of_outputs_are_gone_before_these_are_written(seed: int) -> None:
    choose = random.Random(seed)
    alive = _lives(choose, 60, 40)
    sizes = [choose.randrange(5_000, 9_000) for _ in range(9)]
    hosts = {Memory(None, size): choose.randrange(30, 40) for size in sizes}
    found = arena._guests(alive, hosts, 40)
    assert found
    for a, (host, begin) in found.items():
        assert host is not None and begin + a.nbytes <= host.nbytes
        assert alive[a].last < hosts[host]
        for b, (other, at) in found.items():
            if a is not b and host is other:
                apart = begin + a.nbytes <= at or at + b.nbytes <= begin
                assert apart or alive[a].last < alive[b].first or alive[b].last < alive[a].first


def _calls_of(run: Any) -> int:
    """Return how many functions are called meanwhile, those of C too."""
    count = 0

    def note(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        run()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", ["products", "backward", "outputs"])
def test_making_a_plan_takes_time_in_proportion_to_its_commands(kind: str) -> None:
    def work(count: int) -> int:
        def run() -> Any:
            y, kept = x, []
            for k in range(count):
                y = (y @ x).softmax(-1) if kind != "backward" else (y * x).softmax(-1)
                if kind == "outputs" and k % 2:
                    kept.append(y)
            if kind == "backward":
                y.sum().backward()
                kept.append(x.grad)
                x.grad = None
            return kept or y

        with session() as s:
            x = torch.randn(4, 4, requires_grad=kind == "backward")
            recorded = record(run, s)
            program = Program(recorded.body, Engine())
            inputs = recorded.fresh()
            program._make(inputs, recorded.body.scalars, ())  # what is made once, is made
            return _calls_of(lambda: program._make(inputs, recorded.body.scalars, ()))

    assert work(400) < 2.6 * work(200)


def test_a_body_that_comes_to_too_much_is_left_to_the_commands(monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "PROGRAM_STEPS_MAX", 60)

    def run() -> Any:
        y = x
        for _ in range(10):
            y = y.softmax(0)
        return [torch.autograd.grad(y.sum(), x, retain_graph=True) for _ in range(9)]

    with session() as s:
        x = torch.randn(4, requires_grad=True)
        recorded = record(run, s)
        program = beside(recorded, calls=1, plan=False)
        assert "more than 60 operations" in program.refused[0]


# -------------------------------------------------------------------------------------- order --
def test_weights_gradients_come_before_the_gradient_of_the_layer_before() -> None:
    def run() -> Any:
        y = x
        for up, down in zip(weights[::2], weights[1::2], strict=True):
            y = y + torch.nn.functional.gelu(y @ up) @ down
        return torch.autograd.grad((y * y).sum(), weights)

    with session() as s:
        x = torch.randn(64, 32)
        shapes = [(32, 128), (128, 32)] * 2
        weights = [torch.randn(shape, requires_grad=True) for shape in shapes]
        recorded = record(run, s)
        program = beside(recorded)
        (plan,) = program.plans
        steps = plan.graph.steps
        assert order._peak(steps) <= order._peak(sorted(steps, key=lambda k: k.command))
        found = plan.arena_bytes
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(passes, "lower_peak", lambda graph: False)
            (plain,) = beside(recorded).plans
        assert found < plain.arena_bytes


def test_no_store_moves_before_a_step_that_may_raise() -> None:
    def run() -> Any:
        big = x * 2
        w.add_(big.sum())
        picked = table[index]
        v.mul_(picked.sum())
        return big + picked.sum()

    with session() as s, torch.no_grad():
        x, w, v, table = (torch.randn(50) for _ in range(4))
        index = torch.tensor([3, 4])
        graph = beside(record(run, s)).plans[0].graph
    raising = [k for k, step in enumerate(graph.steps) if effects.may_raise(step)]
    stores = [k for k, step in enumerate(graph.steps) if effects.stores(step)]
    assert raising and stores[-1] > raising[0]


# ------------------------------------------------------------------------------- what is kept --
def _step(width: int) -> Any:
    weight = torch.randn(width, 512)

    def step(x: Any) -> Any:
        return (x @ weight).relu().sum(0)

    return torch.compile(step)


def test_plans_share_one_arena() -> None:
    with session() as s, torch.no_grad():
        engine = _engine(s)
        x, kept = torch.randn(256, 64), []
        for width in (64, 64, 64):
            kept.append(_step(width))
            for _ in range(3):
                kept[-1](x)
        s.synchronize()
        plans = [p for q in engine.programs._programs.values() for p in q.plans]
        assert len(plans) >= 3
        assert engine.programs.arena.nbytes == max(p.arena_bytes for p in plans) >= 512 * 1024
        assert engine.stats()["programs_bytes"] < 2 * max(p.arena_bytes for p in plans)


def test_functions_that_are_gone_leave_nothing() -> None:
    with session() as s, torch.no_grad():
        engine = _engine(s)
        x = torch.randn(256, 64)
        before = s.memory_of(0)[0]
        for _ in range(3):
            step = _step(64)
            for _ in range(3):
                y = step(x)
            s.synchronize()
            assert engine.stats()["programs"] and engine.programs.arena.nbytes
            del step, y
        gc.collect()
        s.synchronize()
        assert engine.stats()["programs"] == engine.stats()["programs_bytes"] == 0
        assert s.memory_of(0)[0] == before and engine.budget.used == before
        again = _step(64)  # numbers are given anew
        for _ in range(100):
            assert again(x).shape == (512,)
        s.synchronize()


def test_a_function_may_go_while_its_calls_are_on_their_way() -> None:
    with session(), torch.no_grad():
        x = torch.randn(256, 64)
        wanted = _step(64)
        for _ in range(2):
            wanted(x)
        expected = wanted(x)
        found = wanted(x)
        del wanted
        gc.collect()
        others = [_step(64) for _ in range(3)]
        for other in others * 3:
            other(x)
        assert torch.equal(found, expected)


def test_more_programs_than_numbers_are_defined_anew() -> None:
    with session() as s, torch.no_grad():
        x = torch.ones(4)
        steps = [torch.compile(lambda x, k=k: x * k + 1) for k in range(limits.PROGRAMS_MAX + 6)]
        for _ in range(3):
            for k, step in enumerate(steps):
                assert step(x).tolist() == [k + 1] * 4
        del steps[::2], step
        gc.collect()
        s.synchronize()
        for _ in range(2):
            for k, step in enumerate(steps):
                assert step(x).tolist() == [2 * k + 2] * 4


def test_undefined_numbers_are_ignored_and_a_call_of_one_is_an_error() -> None:
    from farspan.core.errors import ProtocolError
    from test_programs_engine import Writer, squares

    engine = Engine()
    engine.handle(squares().add(cmd.UNDEFINE, [], (0, 5, 5)).frame)
    assert not len(engine.programs)
    engine.handle(Writer().put(1, np.ones(3, np.float32)).frame)
    with pytest.raises(ProtocolError, match="not defined"):
        engine.handle(Writer().add(cmd.CALL, [1, 2], (0,)).frame)


def test_a_plan_that_is_not_called_keeps_nothing_and_works_again(monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "ARENA_CALLS", 8)
    with session() as s, torch.no_grad():
        engine = _engine(s)
        x, small = torch.randn(256, 64), torch.randn(2, 64)
        large, other = _step(64), _step(64)
        expected = [large(x) for _ in range(3)][-1].tolist()
        for _ in range(3):
            other(small)
        s.synchronize()
        assert engine.programs.arena.nbytes >= 512 * 1024
        for _ in range(30):
            other(small)
        s.synchronize()
        assert engine.programs.arena.nbytes < 64 * 1024
        assert engine.stats()["programs_bytes"] < 64 * 1024
        block = weakref.ref(engine.programs.arena.storage.array.base)
        torch.cpu.empty_cache()
        assert engine.programs.arena.nbytes == 0 and block() is None
        assert large(x).tolist() == expected
        assert engine.programs.arena.nbytes >= 512 * 1024


def test_what_plans_keep_is_counted() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(MIB)
        step = torch.compile(lambda x: x * 2 + 1)
        for _ in range(3):
            y = step(x)
        s.synchronize()
        assert s.memory_of(0)[0] >= 8 * MIB
        del y
        kept = _engine(s).stats()
        assert kept["bytes"] >= kept["programs_bytes"] >= 4 * MIB  # room for the result


def test_an_input_that_is_freed_is_freed_in_plans() -> None:
    with session() as s, torch.no_grad():
        step = torch.compile(lambda x: x.sum() * 2)
        for k in range(4):
            x = torch.full((MIB,), float(k))
            assert step(x).item() == 2 * k * MIB
            used = s.memory_of(0)[0]
            del x
            s.flush()
            s.synchronize()
            assert s.memory_of(0)[0] <= used - 4 * MIB
        x = torch.ones(MIB)
        part = x[:4]  # which keeps the memory
        step(x)
        del x
        assert part.tolist() == [1.0] * 4


def test_an_output_is_not_written_over_while_something_sees_it() -> None:
    with session() as s, torch.no_grad():
        step = torch.compile(lambda x: x * 2)
        x, seen = torch.ones(4), []
        for k in range(6):
            x.fill_(float(k))
            y = step(x)
            seen.append([y, y[1:3], y.detach(), y.numpy()][k % 4])
        s.synchronize()
        for k, each in enumerate(seen):
            assert (np.asarray(each.tolist()) == 2 * k).all()


# ------------------------------------------------------------------------------- few plans only --
def test_numbers_that_always_differ_make_no_plan_each_time() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(6)
        recorded = record(lambda: x.cumsum(0).pow(1.5) * 2, s)
        program = Program(recorded.body, Engine())
        made = 0
        for k in range(300):
            scalars = [float(k) + 0.5 for _ in recorded.body.scalars]
            program.run(recorded.fresh(), scalars)
            made = program._made
        assert made <= limits.PLANS_PER_PROGRAM_MAX + 2


def test_more_kinds_of_inputs_than_plans_do_not_make_plans_anew_each_time() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(6)
        recorded = record(lambda: x.softmax(0) * 2, s)
        program = Program(recorded.body, Engine())
        kinds = limits.PLANS_PER_PROGRAM_MAX + 1
        ran = 0
        for k in range(40 * kinds):
            recorded.specs[0] = Spec.make((k % kinds + 2,), float32, Device("cpu"))
            recorded.inputs[0] = np.ones(k % kinds + 2, np.float32)
            ran += program.run(recorded.fresh(), recorded.body.scalars) is not None
        assert program._made <= limits.PLANS_PER_PROGRAM_MAX + 6
        assert ran >= 40 * kinds * 0.6  # those that have one still run by it


def test_a_graph_that_lives_now_is_no_reason_for_ever() -> None:
    with session() as s:
        x = torch.randn(6, requires_grad=True)
        step = torch.compile(lambda t: t.detach() * 2 + 1)
        y = x * 2
        for _ in range(3):
            step(x)
        engine = _engine(s)
        plain = record(lambda: (x.detach() * 2).sum(), s)
        program = Program(plain.body, engine)
        assert program.run([engine.tensors[y._ref.id]], plain.body.scalars) is None
        assert "graph" in program.refused[0]
        del y
        assert program.run(plain.fresh(), plain.body.scalars) is not None


def test_no_room_now_is_no_reason_for_ever() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(64, 64)
        recorded = record(lambda: (x @ x).softmax(0).sum(1), s)
        engine = Engine()
        program, inputs = Program(recorded.body, engine), recorded.fresh()
        engine.budget.limit = engine.budget.used + 100
        for _ in range(3):
            assert program.run(inputs, recorded.body.scalars) is None
        assert "OutOfMemoryError" in program.refused[0]
        engine.budget.limit += 1 << 20
        assert program.run(inputs, recorded.body.scalars) is not None


# -------------------------------------------------------------------------- what must not happen --
def test_arrays_of_numpy_that_overlap_are_one_memory() -> None:
    whole = np.zeros(12, np.float32)
    for a, b in ((whole[:8], whole[4:]), (whole[:4], whole[8:])):
        whole[:] = 1
        with session(), torch.no_grad():
            x, y = torch.from_numpy(a), torch.from_numpy(b)

            @torch.compile
            def step(x: Any, y: Any) -> Any:
                before = y * 1
                x.mul_(2)
                return before + y * 10

            for _ in range(4):
                expected = b + 10 * np.where(np.isin(np.arange(b.size), _shared(a, b)), b * 2, b)
                assert step(x, y).tolist() == expected.tolist()


def test_a_plan_that_refused_arrays_that_overlap_goes_on() -> None:
    """It counts which inputs share memory, and must count nothing of those it did not take."""
    with session() as s, torch.no_grad():
        step = torch.compile(lambda x, y: x.add_(1) + y)
        for _ in range(3):
            step(torch.from_numpy(np.zeros(4)), torch.from_numpy(np.zeros(4)))
        assert _engine(s).programs.planned
        whole = np.zeros(6)
        for i in range(1, 4):
            found = step(torch.from_numpy(whole[:4]), torch.from_numpy(whole[2:]))
            assert found.tolist() == [2 * i, 2 * i, i, i]
        planned = _engine(s).programs.planned
        assert step(torch.from_numpy(np.zeros(4)), torch.from_numpy(np.ones(4))).tolist() == [2] * 4
        assert _engine(s).programs.planned == planned + 1


def _shared(a: Any, b: Any) -> list[int]:
    """Return which elements of `b` are elements of `a` too."""
    skip = (b.ctypes.data - a.ctypes.data) // 4
    return [i for i in range(b.size) if 0 <= i + skip < a.size]


def test_a_step_writes_over_an_input_only_in_the_same_layout() -> None:
    spec = Spec.make((4, 4), float32, Device("cpu"))
    dead, made = Window(Memory(None, 64), spec), Window(Memory(None, 64), spec)

    class _Step:
        inputs, outs = (dead,), (made,)

    assert passes._fits(dead, made, _Step())  # type: ignore[arg-type]
    dead.memory.layout = "blocks"  # type: ignore[assignment]
    assert not passes._fits(dead, made, _Step())  # type: ignore[arg-type]
    made.memory.layout = "blocks"  # type: ignore[assignment]
    assert passes._fits(dead, made, _Step())  # type: ignore[arg-type]


def test_a_plan_that_fails_between_its_stores_spoils_what_it_wrote_only(monkeypatch: Any) -> None:
    with session() as s, torch.no_grad():
        x, y, z = torch.ones(4), torch.ones(4), torch.ones(4)

        @torch.compile
        def step() -> Any:
            x.mul_(2)
            return (y @ y) + z.sum()

        for _ in range(3):
            step()
        s.synchronize()
        run = FlatPlan.run

        def torn(plan: FlatPlan, scalars: Any) -> Any:
            def fail() -> None:
                raise MemoryError

            plan.steps.append((fail, []))
            return run(plan, scalars)

        monkeypatch.setattr(FlatPlan, "run", torn)
        made = step()
        s.flush()
        monkeypatch.undo()
        for lost in (made, x):
            with pytest.raises(torch.FarspanError, match="failed between its stores"):
                lost.tolist()
        assert y.tolist() == z.tolist() == [1.0] * 4
        x.fill_(3.0)
        assert x.tolist() == [3.0] * 4 and (y + z).tolist() == [2.0] * 4


def test_a_step_that_fails_halfway_in_a_program_is_not_taken_twice() -> None:
    """Its first parameter has been written; run again, it would be once more, and go through."""
    with torch.connect("local:") as session:
        first, second = (torch.ones(100).requires_grad_() for _ in range(2))
        optimizer = torch.optim.Adamax([first, second])

        def step() -> None:
            first.grad, second.grad = torch.ones(100), torch.ones(100)
            optimizer.step()

        compiled = torch.compile(step)
        for _ in range(6):
            compiled()
            session.synchronize()
        assert session.transport.engines[0].programs.planned, "no plan ran: nothing is tested"
        optimizer.state[second]["step"].fill_(-1)  # the next one divides by 1 - beta ** 0
        compiled()
        with pytest.raises(torch.ServiceError, match=r"between its stores: ZeroDivisionError"):
            first.tolist()
