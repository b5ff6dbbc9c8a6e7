"""Losses by class run as native loops in plans, equal to torch's, and refuse what it refuses."""

from __future__ import annotations

from typing import Any

import farspan
import pytest
import torch
from farspan_worker.kernels.cpu import loops

pytestmark = pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())


def native_steps(session: Any) -> int:
    programs = session.transport.engines[0].programs._programs.values()
    plans = [plan for program in programs for plan in program.plans]
    return sum("_by_loop" in getattr(f, "__qualname__", "") for p in plans for f, _ in p.steps)


@pytest.mark.parametrize("shape", [(7, 5), (64, 10), (1, 3), (300, 1000)])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("ignored", [-100, 2])
def test_cross_entropy_of_a_plan_is_torchs(
    shape: tuple[int, int], reduction: str, ignored: int
) -> None:
    with farspan.connect("local:") as session:
        farspan.manual_seed(0)
        x = farspan.randn(*shape, requires_grad=True)
        y = farspan.randint(0, shape[1], (shape[0],))

        @farspan.compile
        def step() -> Any:
            x.grad = None
            loss = farspan.nn.functional.cross_entropy(
                x, y, reduction=reduction, ignore_index=ignored
            )
            loss.backward()
            return loss

        losses = [step().item() for _ in range(4)]
        assert native_steps(session) == 2
        other = torch.tensor(x.detach().numpy(), requires_grad=True)
        loss = torch.nn.functional.cross_entropy(
            other, torch.tensor(y.numpy()), reduction=reduction, ignore_index=ignored
        )
        loss.backward()
        torch.testing.assert_close(torch.tensor(losses[-1]), loss.detach())
        torch.testing.assert_close(torch.tensor(x.grad.numpy()), other.grad)


@pytest.mark.parametrize("wrong", [-1, 5, 2**40])
def test_a_class_that_is_not_there_is_an_error_of_its_line(wrong: int) -> None:
    with farspan.connect("local:") as session:
        x, y = farspan.randn(4, 5), farspan.zeros(4, dtype=farspan.int64)
        step = farspan.compile(lambda: farspan.nn.functional.cross_entropy(x, y))
        right = [step().item() for _ in range(3)][-1]
        assert native_steps(session) == 1
        y[2] = wrong
        with pytest.raises(IndexError, match=f"Target {wrong} is out of bounds"):
            step().item()
        y[2] = 0
        assert step().item() == right


def test_gradients_of_an_exact_plan_have_the_kernels_bits() -> None:
    found = []
    for replay in (False, True):
        with farspan.connect("local:", replay=replay) as session:
            farspan.manual_seed(0)
            x, y = farspan.randn(9, 5, requires_grad=True), farspan.randint(0, 5, (9,))
            y[3] = -100
            for _ in range(5):
                x.grad = None
                farspan.nn.functional.cross_entropy(x, y).backward()
                found.append(x.grad.numpy().tobytes())
            assert native_steps(session) == replay
    assert len(set(found)) == 1


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("replay", [False, True])
@pytest.mark.parametrize("targets", [(0, 1, 2, 0), (0, 0, 0, 0)])
def test_a_class_that_is_ignored_does_not_count_in_any_kind_of_plan(
    targets: tuple[int, ...], replay: bool, dtype: str
) -> None:
    """Padding of sequences, mostly: ignore_index=0. Exact plans, and float64, have no loop."""
    x = torch.randn(4, 3, generator=torch.Generator().manual_seed(0), dtype=getattr(torch, dtype))
    expected = torch.nn.functional.cross_entropy(x, torch.tensor(targets), ignore_index=0)
    with farspan.connect("local:", replay=replay) as session:
        mine, y = farspan.tensor(x.numpy(), requires_grad=True), farspan.tensor(targets)

        def step() -> Any:
            mine.grad = None
            loss = farspan.nn.functional.cross_entropy(mine, y, ignore_index=0)
            loss.backward()
            return loss

        called = step if replay else farspan.compile(step)
        found = [called().item() for _ in range(8)]
        assert session.transport.engines[0].programs.planned
    assert found == pytest.approx([expected.item()] * 8, rel=1e-6, nan_ok=True)


@pytest.mark.parametrize("compiled", [False, True])
def test_nan_in_a_loss_makes_its_gradient_nan(compiled: bool) -> None:
    """And not infinite, as oneDNN's would be, whose exp of NaN is infinite."""
    x = torch.ones(70, 40)
    x[3, 4] = torch.nan
    wanted = torch.log_softmax(x.requires_grad_(), 1)
    wanted.sum().backward()
    for replay in (False, True):
        with farspan.connect("local:", replay=replay):
            mine = farspan.tensor(x.detach().numpy(), requires_grad=True)

            def step() -> Any:
                mine.grad = None
                farspan.log_softmax(mine, 1).sum().backward()
                return mine.grad

            called = farspan.compile(step) if compiled else step
            for _ in range(5):
                found = torch.tensor(called().numpy())
                torch.testing.assert_close(found, x.grad, equal_nan=True)
