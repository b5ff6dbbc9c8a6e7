"""Optimizer steps of plans run over a table, and give the bits of the kernels."""

from __future__ import annotations

from typing import Any

import farspan as torch
import pytest
from farspan_worker.kernels.cpu import loops

pytestmark = pytest.mark.skipif(bool(loops.missing()), reason=loops.missing())

#: optimizer, options, whether its steps fit a table
CASES: list[tuple[str, dict[str, Any], bool]] = [
    ("SGD", {}, True), ("SGD", {"momentum": 0.9}, True), ("SGD", {"weight_decay": 0.1}, True),
    ("SGD", {"momentum": 0.9, "nesterov": True, "maximize": True}, True),
    ("Adam", {}, True), ("Adam", {"amsgrad": True, "weight_decay": 0.1}, True),
    ("AdamW", {"maximize": True}, True), ("RMSprop", {}, False),
    ("Adam", {"dtype": torch.float64}, True), ("Adam", {"dtype": torch.bfloat16}, False),
]  # fmt: skip


def trained(replay: bool, name: str, options: dict[str, Any]) -> tuple[list[Any], list[str]]:
    """Return what parameters and loss became, and the functions of the plan's steps."""
    options = dict(options)
    dtype = options.pop("dtype", torch.float32)
    with torch.connect("local:", replay=replay) as session:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(5, 3), torch.nn.Linear(3, 1)).to(dtype)
        optimizer = getattr(torch.optim, name)(model.parameters(), lr=0.1, **options)
        x, seen = torch.rand(4, 5, dtype=dtype), []
        for i in range(12):
            optimizer.zero_grad()
            loss = model(x).square().mean()
            loss.backward()
            optimizer.step()
            seen.append(loss.item())
            if i % 3 == 2:
                for group in optimizer.param_groups:
                    group["lr"] *= 0.7
        values = [p.detach().double().numpy().tobytes() for p in model.parameters()]
        programs = session.transport.engines[0].programs._programs.values()
        plans = [plan for program in programs for plan in program.plans]
        names = [getattr(f, "__qualname__", "") for plan in plans for f, _ in plan.steps]
        assert bool(plans) == replay
        return [*seen, *values], names


@pytest.mark.parametrize(("name", "options", "fits"), CASES, ids=str)
def test_a_step_by_a_table_gives_the_bits_of_its_kernel(
    name: str, options: dict[str, Any], fits: bool
) -> None:
    plain, _ = trained(False, name, options)
    planned, names = trained(True, name, options)
    assert planned == plain
    assert any(n in ("_sgd.<locals>.run", "_adam.<locals>.run") for n in names) == fits


def test_a_number_that_changes_what_is_kept_goes_to_the_kernel() -> None:
    """Momentum that comes to be 0 leaves the buffers as they are."""
    found = []
    for replay in (False, True):
        with torch.connect("local:", replay=replay):
            w = torch.arange(1.0, 5.0, requires_grad=True)
            optimizer = torch.optim.SGD([w], lr=0.01, momentum=0.9)
            for i in range(12):
                optimizer.zero_grad()
                (w * w).sum().backward()
                optimizer.step()
                if i == 7:
                    optimizer.param_groups[0]["momentum"] = 0.0
                w.sum().item()
            found.append((w.tolist(), optimizer.state[w]["momentum_buffer"].tolist()))
    assert found[0] == found[1]
