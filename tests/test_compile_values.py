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
        numbers = [itertools.count()]  # of its own it would be refused as an iterator
        f = torch.compile(lambda x: x + torch.tensor([float(next(numbers[0]))]))
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


# --- numbers among the arguments -----------------------------------------------------------------
def compiled(session: Any, function: Any, *numbers: Any) -> tuple[list[Any], int]:
    """Return what a compiled function gives for these numbers, each right, and Calls sent."""
    session.replay, f, x = False, torch.compile(function), torch.arange(1.0, 4.0)
    before, found = calls(session), []
    for n in numbers:
        found.append(f(x, n))
        assert repr(found[-1]) == repr(function(x, n)), n
    return found, calls(session) - before


RATES = [0.5 + i / 8 for i in range(10)]


def test_a_float_is_an_argument_of_the_call(session: Any) -> None:
    for function in (
        lambda x, n: x * n + 1,
        lambda x, n: torch.add(x, x, alpha=n),
        lambda x, n: (x - n).clamp(max=n),
        lambda x, n: torch.where(x > n, x, x.neg()) * 2,
        lambda x, n: torch.addcmul(x, x, x, value=n) / n,
    ):
        assert compiled(session, function, *RATES)[1] == 8, "two traces tell"


def test_a_float_that_is_computed_with_or_looked_at_is_a_guard(session: Any) -> None:
    for function in (
        lambda x, n: x * math.sqrt(n),
        lambda x, n: x * n + math.exp(n),
        lambda x, n: x * (n + 1),
        lambda x, n: x * n if n > 0.8 else x + n,
        lambda x, n: (x * n, n),
        lambda x, n: (x * n, math.sin(n)),
        lambda x, n: x * max(n, 0.7),
        lambda x, n: x * torch.tensor(n),
        lambda x, n: x.norm(n + 1) + torch.arange(0.0, n if n > 0 else 1.0).sum(),
        lambda x, n: x.norm(n) if math.isfinite(n) else x + torch.arange(0.0, 2 * 0.6).sum(),
        lambda x, n: nn.functional.dropout(x, min(n, 0.5) if n > 0 else 0.0) * 0 + x * n,
    ):
        numbers = [0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 2.25, 0.0, -0.0, float("nan"), 0.5]
        compiled(session, function, *numbers)


def test_a_float_that_is_judged_in_c_is_a_guard_whatever_two_traces_say(session: Any) -> None:
    close, one = math.isclose, np.float64(1.0)
    for function in (
        lambda x, n: x * n + 100 if math.isclose(n, 1.0) else x * n + 0,
        lambda x, n: x * n + 100 if close(n, 1.0) else x * n + 0,
        lambda x, n: x * n + 100 if np.isclose(n, one) else x * n + 0,
        lambda x, n: x * n if math.isfinite(n) else x + 7,
    ):
        compiled(session, function, 2.0, 3.0, 4.0, 1.0, 1.0, float("inf"))


def test_arguments_by_name_keep_their_order_and_explain_tells_of_numbers() -> None:
    with torch.connect("local:", replay=False) as session:

        @torch.compile
        def f(x: Any, *more: Any, **named: Any) -> Any:
            for k, (name, value) in enumerate(named.items()):
                x = x * value if name != "c" else x + k
            return x + sum(more[1:]) * more[0] if more else x

        for i in range(6):
            got = f(torch.ones(1), 3, 1, b=0.5 + i, c=1.0, a=2.0 + i)
            assert got.tolist() == [((0.5 + i) + 1) * (2.0 + i) + 3]
        assert calls(session) == 4
        assert "numbers among the arguments: any, any, 1.0" in f.explain(show=False)


def test_two_numbers_that_change_in_turn(session: Any) -> None:
    """Several programs are there when a trace shows what they have in common."""
    session.replay = False
    f = torch.compile(lambda x, a, b: (x * a).clamp(max=b) + math.floor(a))
    x = torch.arange(3.0)
    for a, b in ((0.5, 1.0), (1.5, 1.0), (0.5, 2.0), (1.5, 2.0), (0.5, 3.0), (0.25, 4.0)) * 2:
        assert f(x, a, b).tolist() == [min(v * a, b) + math.floor(a) for v in range(3)]
    assert calls(session) >= 6


def test_odd_floats_arrive_as_they_are(session: Any) -> None:
    odd = [0.5, 0.25, 0.0, -0.0, float("inf"), float("nan"), -1e-310, 1e300, 1.0]
    assert compiled(session, lambda x, n: x * n, *odd)[1] >= 7
    assert compiled(session, lambda x, n: x * n, 1, 2.0, True, 2, 1.0, 3.0, 4.0)[1] >= 2


def test_a_rate_and_a_weight_of_a_training_step(session: Any) -> None:
    session.replay = False

    def train(wrap: Any) -> Any:
        w = torch.full((3,), 2.0, requires_grad=True)

        def step(x: Any, lr: float, *, beta: float = 0.5) -> Any:
            w.grad = None
            loss = (w * x).pow(2).mean() + w.abs().sum() * beta
            loss.backward()
            with torch.no_grad():
                w.sub_(w.grad, alpha=lr)
            return loss

        step, losses = wrap(step), []
        for i in range(12):
            losses.append(step(torch.ones(3), 0.1 / (i + 1), beta=0.01 * i))
        return [loss.item() for loss in losses], w.tolist()

    expected, before = train(lambda f: f), calls(session)
    found = train(torch.compile)
    assert calls(session) - before == 9, "the first call found no gradient"
    assert found[0] == pytest.approx(expected[0], rel=1e-5)
    assert found[1] == pytest.approx(expected[1], rel=1e-5)


def test_a_number_that_a_function_keeps_is_a_plain_one_afterwards() -> None:
    with torch.connect("local:", replay=False):
        kept: dict[str, Any] = {}

        @torch.compile
        def f(x: Any, n: float) -> Any:
            kept["n"] = n
            return x * n

        for n in (0.5, 0.25, 0.75):
            assert f(torch.ones(1), n).item() == n == kept["n"]
            y = torch.ones(2, dtype=torch.float32) * kept["n"]
            assert y.dtype is torch.float32 and y.tolist() == [n, n]
