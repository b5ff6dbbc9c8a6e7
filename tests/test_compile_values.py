"""farspan.compile: tensors that a function makes of Python values, and numbers it is given."""

from __future__ import annotations

import itertools
import math
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn


def calls(session: Any) -> int:
    return int(session.stats()["calls"])


def test_tensors_of_python_values_are_constants(session: Any) -> None:
    session.replay, weights = False, [1.0, 2.0, 3.0]

    @torch.compile
    def f(x: Any) -> Any:
        mask = torch.tensor([True, False, True])
        return torch.where(mask, x * torch.tensor(weights), torch.tensor(0.5))

    for _ in range(5):
        assert f(torch.ones(3)).tolist() == [1.0, 0.5, 3.0]
    assert calls(session) == 3
    weights[2] = 7.0
    for _ in range(4):
        assert f(torch.ones(3)).tolist() == [1.0, 0.5, 7.0]
    assert calls(session) == 5


def test_a_constant_that_is_written_to_or_given_away_is_a_new_one_each_time(session: Any) -> None:
    session.replay = False

    @torch.compile
    def f(x: Any) -> Any:
        total = torch.tensor([1.0, 2.0, 3.0])
        total[1:] += x[1:]
        given = torch.tensor([[5.0, 6.0]])
        return total, given, given[0, 1:]

    for i in range(6):
        total, given, part = f(torch.full((3,), float(i)))
        assert total.tolist() == [1.0, 2.0 + i, 3.0 + i]
        part.zero_()
        assert given.tolist() == [[5.0, 0.0]]
        given.fill_(9.0)
        assert part.tolist() == [9.0]
    assert calls(session) == 4


def test_values_that_differ_each_time_stay_eager() -> None:
    with torch.connect("local:", replay=False) as session:
        numbers = itertools.count()
        f = torch.compile(lambda x: x + torch.tensor([float(next(numbers))]))
        for i in range(40):
            assert f(torch.zeros(1)).tolist() == [float(i)]
        assert calls(session) == 0
        assert "Python values" in f.explain(show=False)


def test_gradients_go_through_constants(session: Any) -> None:
    session.replay, w = False, torch.ones(2, requires_grad=True)

    @torch.compile
    def f(x: Any) -> Any:
        w.grad = None
        leaf = torch.tensor([2.0, 3.0], requires_grad=True)
        (w * leaf * torch.tensor([1.0, -1.0]) * x).sum().backward()
        return leaf.grad * 1

    for i in range(5):
        assert f(torch.full((2,), float(i))).tolist() == [float(i), -float(i)]
        assert w.grad.tolist() == [2.0 * i, -3.0 * i]
    assert calls(session) == 3


def test_arrays_become_constants_over_a_wire(service: tuple[str, str]) -> None:
    with torch.connect(service[0], token=service[1], replay=False, timeout=20) as session:
        f = torch.compile(lambda x: x * torch.as_tensor(np.arange(3, dtype=np.float32)))
        for i in range(4):
            assert f(torch.full((3,), float(i))).tolist() == [0.0, i, 2.0 * i]
        assert calls(session) == 2
        large = np.ones(100_000, np.float32)
        g = torch.compile(lambda: torch.tensor(large).sum() + float(large[0]))
        for i in range(3):
            large[0] = i
            assert g().item() == 99_999 + 2 * i
