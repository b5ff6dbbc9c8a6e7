"""Copies whose parts are made in place: fewer steps, the same values, and when they stay."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import farspan as torch
import pytest
from farspan import nn
from program_bodies import beside, record, session


def attention(x: Any) -> Any:
    """Heads of attention: the gradients of q, k and v are stacked and turned."""
    q, k, v = (x @ torch.ones(32, 96) + x.sum()).view(2, 5, 3, 4, 8).permute(2, 0, 3, 1, 4)
    mixed = nn.functional.scaled_dot_product_attention(q, k, v)
    return mixed.transpose(1, 2).reshape(2, 5, 32)


def recurrent(x: Any) -> Any:
    """Four gates side by side at each step, the steps behind each other."""
    h, outs = x[:, 0], []
    for t in range(x.shape[1]):
        parts = (h + x[:, t]).chunk(4, 1)
        h = torch.cat([torch.sigmoid(p) * i for i, p in enumerate(parts, 1)], 1)
        outs.append(torch.tanh(h))
    return torch.stack(outs, 1)


def columns(x: Any) -> Any:
    """Columns of a wider row."""
    return torch.cat([x * 2, x + 1, (x - 1) * x], -1)


def shared(x: Any) -> Any:
    """Parts that others look at, too."""
    a, b = x * 2, x.exp()
    return torch.cat([a, b], 0).sum(0) + torch.cat([a, b], 1).sum((0, 1)) + a[0]


def changed(x: Any) -> Any:
    """A part that is changed after it was copied."""
    a, b = x * 2, x + 1
    whole = torch.cat([a, b], 1)
    a += 1
    return whole.sum() + a


def twice(x: Any) -> Any:
    """The same part in two places, and a part of a part."""
    a = x * 3
    return torch.cat([a, a], 0).sum(0) + torch.cat([a[:, :1], a[:, 1:].exp()], 1).sum()


def turned(x: Any) -> Any:
    """Products that are stored in columns."""
    y = x.transpose(1, 2) @ x
    return torch.stack([y.transpose(1, 2), (x.transpose(1, 2) @ x).clone().transpose(1, 2)], 0)


CASES: dict[str, tuple[Callable[[Any], Any], int]] = {
    "attention": (attention, 1), "recurrent": (recurrent, 3), "columns": (columns, 1),
    "shared": (shared, 1), "changed": (changed, 0), "twice": (twice, 0), "turned": (turned, 1),
}  # fmt: skip


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("name", CASES)
def test_parts_are_made_where_they_belong(name: str, exact: bool) -> None:
    run, least = CASES[name]
    with session() as s:
        s.replay = False
        x = torch.randn(2, 5, 32)

        def step() -> Any:
            y = x.detach().clone().requires_grad_()
            out = run(y)
            (out * out).sum().backward()
            return out.detach(), y.grad

        step()
        recorded = record(step, s, exact)
    notes = beside(recorded)._plans[0][0].graph.notes
    gone = [int(n.split()[0]) for n in notes if "copies went" in n]
    assert sum(gone) >= (least if not exact or name != "turned" else 0), notes
