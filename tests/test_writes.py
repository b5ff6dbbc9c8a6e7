"""What a write does to the graph: in-place ops, `.data =`, flags - and what the tape lets go of."""

from __future__ import annotations

from typing import Any

import farspan
import pytest
from test_autograd import failure, same, session  # noqa: F401  (the fixture is used by all)


# ----------------------------------------------------------------------------- ends of gradients --
@pytest.mark.parametrize("name", ["eq_", "ne_", "lt_", "le_", "gt_", "ge_"])
def test_a_comparison_in_place_ends_the_gradient(name: str) -> None:
    @same
    def program(t: Any) -> Any:
        x = t.tensor([0.5, 1.0, 2.0], requires_grad=True)
        y = x * 2
        getattr(y, name)(1.0)
        z = x * 3
        getattr(z[1:], name)(1.0)
        (y * 5).sum().backward()
        part = t.autograd.grad(z.sum(), x)[0]
        return y, x.grad, z, part

    program()


@pytest.mark.parametrize("name", ["floor_divide_", "heaviside_"])
def test_a_step_function_in_place_ends_the_gradient(name: str) -> None:
    x = farspan.tensor([0.5, 1.0, 2.0], requires_grad=True)
    y = x * 2
    getattr(y[1:], name)(farspan.ones(2))
    y.sum().backward()
    assert x.grad.tolist() == [2.0, 0.0, 0.0]  # torch has no formula and raises


# ------------------------------------------------------------------------- views of no_grad mode --
@same
def test_a_view_made_in_no_grad_mode_is_not_written_outside_of_it(t):
    x, w = t.ones(4, requires_grad=True), t.ones(2, requires_grad=True)
    y, plain = x * 2, t.zeros(4)
    with t.no_grad():
        v, u = y[1:3], plain[1:3]
    inner = v[:1]
    u.mul_(2)  # nothing is recorded here
    return [
        failure(lambda: v.mul_(3), "no_grad mode"),
        failure(lambda: inner.mul_(3), "no_grad mode"),
        failure(lambda: u.mul_(w), "no_grad mode"),
        u,
    ]


# ------------------------------------------------------------------------------ flags of a leaf --
@same
def test_a_leaf_switched_off_gets_no_gradient(t):
    x = t.ones(3, requires_grad=True)
    z = (x * x).sum()
    x.requires_grad_(False)
    z.backward()
    return x.grad


@same
def test_a_leaf_switched_off_and_on_gets_each_gradient_once(t):
    x = t.ones(3, requires_grad=True)
    z = (x * x).sum()
    x.requires_grad_(False).requires_grad_(True)
    (z + (x * 3).sum()).backward()
    return x.grad
