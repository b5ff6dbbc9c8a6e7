"""farspan.compile beside eager: random functions of tensors, numbers and what they reach."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import optim

CALLS = 18


class Reached:
    """What a random function reaches apart from its arguments."""

    def __init__(self, seed: int) -> None:
        self.state = torch.arange(12.0).reshape(3, 4) * 0.1
        self.weight = torch.full((3, 4), 0.5, requires_grad=True)
        make: Any = optim.SGD if seed % 2 else optim.Adam
        self.optimizer = make([self.weight], lr=0.01)
        self.scales = [1.0, 0.5]

    def train(self, x: Any, beta: float) -> None:
        self.optimizer.zero_grad()
        ((self.weight * x.detach()).tanh() * beta).sum().backward()
        self.optimizer.step()

    def scaled(self, x: Any) -> Any:
        for scale in self.scales:
            x = x * scale
        return x

    def written(self, x: Any, lr: float) -> Any:
        self.state.mul_(0.9).add_(x, alpha=lr)
        return x


def _spoilt(x: Any, first: Any) -> Any:
    row = torch.tensor([0.5, 1.5, 2.5, 3.5])
    row[1:].mul_(first[0, 1:].detach())
    return x + row


#: (what is reached, two tensors, the argument x, lr, n, beta) -> a tensor of 3 x 4
STEPS: list[Callable[..., Any]] = [
    lambda at, a, b, x, lr, n, beta: a * lr + b,
    lambda at, a, b, x, lr, n, beta: torch.add(a, b, alpha=beta),
    lambda at, a, b, x, lr, n, beta: at.written(x, lr),
    lambda at, a, b, x, lr, n, beta: a + torch.tensor([1.0, 2.0, 3.0, 4.0]) * n,
    lambda at, a, b, x, lr, n, beta: a.clamp(min=lr - 1.0, max=3.0),
    lambda at, a, b, x, lr, n, beta: (at.train(a, beta), a)[1],
    lambda at, a, b, x, lr, n, beta: _spoilt(a, x),
    lambda at, a, b, x, lr, n, beta: at.scaled(a),
    lambda at, a, b, x, lr, n, beta: torch.where(a > lr, a, b),
    lambda at, a, b, x, lr, n, beta: a[:, ::2].repeat(1, 2) + beta,
    lambda at, a, b, x, lr, n, beta: (a @ at.weight.detach().t()).softmax(1) @ at.weight.detach(),
    lambda at, a, b, x, lr, n, beta: a.t().contiguous().t() / (1.0 if lr < 0.3 else 2.0),
    lambda at, a, b, x, lr, n, beta: b.clone().sub_(lr),
    lambda at, a, b, x, lr, n, beta: torch.addcmul(a, b, a, value=lr),
]


def run(seed: int, wrap: Any) -> list[Any]:
    """Return all that a random function gave, called with changing arguments."""
    choose, at = random.Random(seed), Reached(seed)
    plan = [
        (choose.choice(STEPS), choose.randrange(3), choose.randrange(3))
        for _ in range(choose.randrange(3, 12))
    ]
    returned = choose.choice((0, 2))

    def function(x: Any, lr: float, n: int, *, beta: float = 0.5) -> Any:
        pool = [x, at.state, x * 1.0]
        for step, a, b in plan:
            pool[a if a != 1 else 2] = step(at, pool[a], pool[b], x, lr, n, beta)
        grad = at.weight.grad
        return pool[returned], None if grad is None else grad * 1

    wrapped, kept = wrap(function), []
    lr, n, beta = 0.1, 1, 0.5
    for i in range(CALLS):
        if choose.random() < 0.5:
            lr = choose.choice([0.1, 0.25, 0.5, 0.0, -0.0, 1.0, round(choose.random(), 3)])
        if choose.random() < 0.15:
            n = choose.choice([1, 2])
        if choose.random() < 0.3:
            beta = choose.choice([0.5, 1.0, round(choose.random(), 3)])
        if choose.random() < 0.08:
            at.scales.append(0.7)
        if choose.random() < 0.1:
            at.optimizer.param_groups[0]["lr"] *= 0.5
        if choose.random() < 0.06:
            at.state.zero_()
        values = np.random.default_rng(i % 5).standard_normal((3, 4)).astype("float32")
        x = at.state if choose.random() < 0.1 else torch.tensor(values)
        out, grad = wrapped(x, lr, n, beta=beta)
        kept += [out.detach().clone()] if grad is None else [out.detach().clone(), grad]
    return [t.detach().numpy().copy() for t in (*kept, at.state, at.weight)]


@pytest.mark.parametrize("seed", range(24))
def test_random_functions_do_the_same_compiled(seed: int) -> None:
    found = []
    for wrap in (lambda f: f, torch.compile):
        with torch.connect("local:", replay=seed % 3 == 0), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(run(seed, wrap))
    for k, (mine, theirs) in enumerate(zip(found[1], found[0], strict=True)):
        np.testing.assert_allclose(mine, theirs, 1e-4, 1e-5, err_msg=str(k))
