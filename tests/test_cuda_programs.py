"""Programs on a GPU, on the stand-in for cupy: planned, fused, captured, and right at every Call.

The stand-in captures as CUDA does: while a graph is captured nothing runs, a read is an error, and
a launch works on the memory and the numbers that were captured.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import cuda_host
import farspan
import numpy as np
import pytest
from fake_cupy import FakeCupy
from farspan.nn import functional as F
from farspan_worker import kernels, snapshot
from farspan_worker.backend import HOST
from farspan_worker.engine import Engine
from farspan_worker.kernels import cuda
from farspan_worker.kernels.cuda.graphs import Graphs

REAL = bool(os.environ.get("FARSPAN_TEST_GPU"))  # cupy and the machine's own GPU
pytestmark = pytest.mark.skipif(not (REAL or cuda_host.COMPILER), reason="no g++ here")


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A session with a CPU and a GPU that is the fake; the table's kernels on the CPU."""
    if not REAL:
        monkeypatch.setattr(cuda, "_cupy", lambda index: FakeCupy())
    monkeypatch.setattr(kernels, "overrides", dict)
    before = dict(HOST.plans)
    HOST.plans.clear()
    with farspan.connect("local:", devices="cuda:1") as s:
        yield s
    HOST.plans.clear()
    HOST.plans.update(before)


def programs(session: Any) -> list[dict[str, Any]]:
    found = session.transport.engines[1].programs._programs.values()
    return [p.told() for p in found]


def train(device: str, optimizer: str, compiled: bool, steps: int = 22, **options: Any) -> Any:
    """Return losses and parameters of a training whose learning rate halves at its tenth step."""
    farspan.manual_seed(3)
    nn = farspan.nn
    net = nn.Sequential(
        nn.Linear(12, 16), nn.GELU(), nn.Tanh(), nn.LayerNorm(16),
        nn.Linear(16, 3),
    ).to(device)  # fmt: skip
    optim = getattr(farspan.optim, optimizer)(net.parameters(), lr=0.02, **options)

    def step(x: Any, y: Any) -> Any:
        loss = F.cross_entropy(net(x), y)
        optim.zero_grad()
        loss.backward()
        optim.step()
        return loss

    run = farspan.compile(step) if compiled else step
    rng, losses = np.random.default_rng(5), []
    for k in range(steps):
        x = farspan.tensor(rng.normal(size=(6, 12)).astype(np.float32), device=device)
        y = farspan.tensor(rng.integers(0, 3, 6), device=device)
        if k == 10:
            for group in optim.param_groups:
                group["lr"] = 0.01
        losses.append(run(x, y).item())
    return [np.array(losses), *[p.detach().cpu().numpy() for p in net.parameters()]]


@pytest.mark.parametrize("compiled", [True, False], ids=["compiled", "replayed"])
@pytest.mark.parametrize(
    ("optimizer", "options"),
    [("AdamW", {}), ("Adam", {"amsgrad": True, "weight_decay": 0.1}), ("SGD", {}),
     ("SGD", {"momentum": 0.9, "nesterov": True}), ("RMSprop", {})],
)  # fmt: skip
def test_training_by_plans_is_training_on_the_cpu(
    session: Any, optimizer: str, options: Any, compiled: bool
) -> None:
    there = train("cuda:0", optimizer, compiled, **options)
    for a, b in zip(there, train("cpu", optimizer, False, **options), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    found = [p for p in programs(session) if p["calls"]]
    assert found and all(p["refused"] == [] for p in found)
    assert sum(p["planned"] for p in found) >= 8
    notes = [note for p in found for plan in p["plans"] for note in plan["notes"]]
    assert any("CUDA graphs" in note for note in notes), notes
    backend = session.transport.engines[1].backend
    assert backend.modules.refused == {} and backend.fallbacks == {}


def test_a_replayed_run_gives_the_bits_of_the_commands(session: Any) -> None:
    by_plan = train("cuda:0", "AdamW", False)
    assert any(p["planned"] for p in programs(session))
    session.replay = False
    one_by_one = train("cuda:0", "AdamW", False)
    for a, b in zip(by_plan, one_by_one, strict=True):
        assert np.array_equal(a, b)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float64"])
def test_steps_of_other_types_are_the_cpus(session: Any, dtype: str) -> None:
    def run(device: str) -> Any:
        w = farspan.nn.Parameter(farspan.linspace(-1, 1, 9, device=device).to(
            getattr(farspan, dtype)))  # fmt: skip
        optim = farspan.optim.Adam([w], lr=0.1)
        for _ in range(3):
            w.grad = w.detach() * 2 + 1
            optim.step()
        return w.detach().float().cpu().numpy()

    np.testing.assert_allclose(run("cuda:0"), run("cpu"), rtol=1e-5, atol=1e-6)
    backend = session.transport.engines[1].backend
    assert REAL or backend.modules.compiled >= 1


def test_inputs_that_move_and_results_that_stay_are_right(session: Any) -> None:
    @farspan.compile
    @farspan.no_grad()
    def f(x: Any, w: Any) -> Any:
        return (x * 2 + w).relu().sum(0), x - w

    kept = []
    w = farspan.ones(5, device="cuda:0")
    for k in range(12):
        if k == 7:
            w = farspan.full((5,), 2.0, device="cuda:0")
        x = farspan.full((4, 5), float(k), device="cuda:0")
        kept.append((k, 1.0 if k < 7 else 2.0, *f(x, w)))
    for k, c, total, difference in kept:
        assert total.tolist() == [4 * (2 * k + c)] * 5
        assert difference.tolist() == [[k - c] * 5] * 4


def test_a_failing_call_changes_nothing_and_names_its_line(session: Any) -> None:
    table = farspan.zeros(3, 2, device="cuda:0")

    @farspan.compile
    @farspan.no_grad()
    def f(at: Any) -> Any:
        table.add_(1)
        return table[at] * 2

    for _ in range(6):
        assert f(farspan.tensor([0, 2], device="cuda:0")).shape == (2, 2)
    with pytest.raises(IndexError, match="out of"):
        f(farspan.tensor([0, 7], device="cuda:0")).tolist()
    assert f(farspan.tensor([1, 1], device="cuda:0"))[0, 0].item() == 2 * table[0, 0].item()


def test_a_step_that_fails_halfway_in_a_plan_is_not_taken_twice(session: Any) -> None:
    """Its first parameter has been written; run again, it would be once more, and go through."""
    first, second = (farspan.ones(100, device="cuda:0").requires_grad_() for _ in range(2))
    optimizer = farspan.optim.Adamax([first, second])

    def step() -> None:
        for each in (first, second):
            each.grad = farspan.ones(100, device="cuda:0")
        optimizer.step()

    compiled = farspan.compile(step)
    for _ in range(6):
        compiled()
        session.synchronize()
    assert sum(each["planned"] for each in programs(session)), "no plan ran: nothing is tested"
    broken = _Breaking(session)
    with broken:
        compiled()
        session.flush()
    assert broken.calls == 1, "it was run again"
    with pytest.raises(farspan.ServiceError, match="between its stores"):
        first.tolist()


class _Breaking:
    """Lets the next optimizer's step of a plan raise once it has written."""

    def __init__(self, session: Any) -> None:
        programs = session.transport.engines[1].programs._programs.values()
        self._plans = [plan for each in programs for plan, _ in each._plans]
        self.calls = 0

    def __enter__(self) -> None:
        for plan in self._plans:
            at = max(k for k, step in enumerate(plan.graph.steps) if step.op.writes)
            bound = plan._of.index(at)
            f, args = plan.steps[bound]

            def halfway(*given: Any, f: Any = f) -> None:
                self.calls += 1
                f(*given)
                raise ZeroDivisionError("halfway")

            plan.steps[bound] = (halfway, args)
            plan.graphs = Graphs(plan.backend, plan.steps, set(range(len(plan.steps))))

    def __exit__(self, *_: Any) -> None:
        return


def test_a_relu_joins_the_product_before_it(session: Any) -> None:
    farspan.manual_seed(0)
    nn = farspan.nn
    net = nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU()).to("cuda:0")
    optim = farspan.optim.SGD(net.parameters(), lr=0.1)
    x = farspan.randn(6, 5).to("cuda:0")

    def step() -> Any:
        optim.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optim.step()
        return loss

    def three(run: Any) -> Any:
        for p in net.parameters():
            p.data.copy_(farspan.linspace(-1, 1, p.numel(), device="cuda:0").view_as(p))
        return [run().item() for _ in range(5)]

    wanted = three(step)
    np.testing.assert_allclose(three(farspan.compile(step)), wanted, rtol=1e-5)
    notes = [n for p in programs(session) for plan in p["plans"] for n in plan["notes"]]
    assert "2 activations are part of products" in notes, notes


def test_draws_stand_between_graphs(session: Any) -> None:
    @farspan.compile
    @farspan.no_grad()
    def f(x: Any) -> Any:
        y = (x + 1).relu() @ x
        return (y * farspan.rand(3, 3, device="cuda:0")) @ x + 1

    def many(make: Any) -> list[Any]:
        farspan.manual_seed(1)
        x = farspan.eye(3, device="cuda:0")
        return [make(x).tolist() for _ in range(9)]

    assert np.array_equal(many(f), many(f.__wrapped__ if hasattr(f, "__wrapped__") else f))


def test_tf32_is_state_of_the_session(session: Any) -> None:
    backend = session.transport.engines[1].backend
    x = farspan.ones(2, 2, device="cuda:0")
    assert farspan.get_float32_matmul_precision() == "highest" and not backend.math.matmul_tf32
    try:
        farspan.backends.cuda.matmul.allow_tf32 = True
        assert (x @ x).sum().item() == 8 and backend.math.matmul_tf32
        with farspan.connect("local:", devices="cuda:1") as other:
            farspan.ones(1, device="cuda:0").item()
            engine = other.transport.engines[1]
            assert engine.backend.math.matmul_tf32
            made = Engine("cuda:0", xp=None if REAL else FakeCupy())
            snapshot.restore(made, snapshot.take(engine))
            assert made.backend.math.matmul_tf32
            made.close()
        farspan.set_float32_matmul_precision("highest")
        assert (x @ x).sum().item() == 8 and not backend.math.matmul_tf32
        assert farspan.backends.cuda.matmul.allow_tf32 is False
    finally:
        farspan.set_float32_matmul_precision("highest")


def test_captures_that_grow_stale_end_after_a_bound() -> None:
    backend = type("Backend", (), {})()
    backend.module, backend.pool_limit, backend.keeping = FakeCupy(), 0, None
    backend.stream, backend.math = backend.module.cuda.Stream(), None
    ran: list[int] = []
    graphs = Graphs(backend, [(lambda: ran.append(0), [])] * 3, set())
    for _ in range(5_000):
        graphs.run([0])
        graphs.moved()
    assert graphs.captured <= 33 and graphs.notes()[0].startswith("no CUDA graph")
