"""gradcheck and gradgradcheck: what they accept, and what they find wrong."""

from __future__ import annotations

import inspect
from typing import Any

import numpy as np
from beside_torch import failure, same


def drawn(t: Any, *shape: int, seed: int = 0) -> Any:
    values = np.random.default_rng(seed).uniform(0.5, 2, shape)
    return t.tensor(values, requires_grad=True)


def wrong(t: Any) -> Any:
    class Wrong(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return g * 3

    return Wrong.apply


@same
def test_right_gradients_pass_every_kind_of_check(t: Any) -> Any:
    x, y = drawn(t, 2, 2), drawn(t, 2, seed=1)
    check, second = t.autograd.gradcheck, t.autograd.gradgradcheck

    def f(x: Any, y: Any) -> Any:
        return t.tanh(x) * y, (x * y).sum()

    return [
        check(f, (x, y)), check(lambda x: x.exp(), x), check(f, (x, y), fast_mode=True),
        check(f, (x, y), check_forward_ad=True, check_batched_grad=True, check_grad_dtypes=True),
        check(f, (x, y), check_forward_ad=True, check_backward_ad=False),
        check(lambda x, n: x * n, (x, 3)), check(lambda x: x.detach() * 0 + 1, x),
        second(lambda x: t.tanh(x) * x, x), second(f, (x, y), fast_mode=True),
        second(lambda x: x**3, x, check_fwd_over_rev=True),
        second(lambda x: x**3, x, t.ones(2, 2, dtype=t.float64, requires_grad=True)),
        second(lambda x: x * x, x, gen_non_contig_grad_outputs=True),
    ]  # fmt: skip


@same
def test_complex_functions_are_checked_by_their_parts(t: Any) -> Any:
    z = t.complex(drawn(t, 3).detach(), drawn(t, 3, seed=1).detach()).requires_grad_()
    return [
        t.autograd.gradcheck(lambda z: z * z.conj().exp(), z),
        t.autograd.gradcheck(lambda z: z.abs(), z),
        t.autograd.gradcheck(lambda x: t.complex(x, x * x), drawn(t, 3)),
        t.autograd.gradgradcheck(lambda z: (z * z).real, z),
    ]


@same
def test_wrong_gradients_are_found(t: Any) -> Any:
    x = drawn(t, 3)
    apply = wrong(t)

    def saved_twice(x: Any) -> Any:
        return x * x.detach()

    return [
        failure(
            lambda: t.autograd.gradcheck(apply, x), "Jacobian mismatch for output 0 with respect"
        ),
        t.autograd.gradcheck(apply, x, raise_exception=False),
        t.autograd.gradcheck(saved_twice, x, raise_exception=False, fast_mode=True),
        failure(lambda: t.autograd.gradcheck(saved_twice, x), "Jacobian mismatch"),
        t.autograd.gradgradcheck(lambda x: x * saved_twice(x), x, raise_exception=False),
        failure(lambda: t.autograd.gradcheck(apply, x.detach()), "at least one input tensor"),
        failure(lambda: t.autograd.gradcheck(apply, drawn(t, 1).expand(3)), "stride 0"),
        failure(
            lambda: t.autograd.gradcheck(apply, x, check_backward_ad=False), "Expected at least one"
        ),
        issubclass(
            inspect.unwrap(t.autograd.gradcheck).__globals__["GradcheckError"], RuntimeError
        ),
    ]


@same
def test_a_nondeterministic_backward_is_found(t: Any) -> Any:
    calls = [0]

    class Drifts(t.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            return x * 2

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            calls[0] += 1
            return g * (2 + calls[0] * 1e-7)

    x = drawn(t, 2)
    return [
        failure(lambda: t.autograd.gradcheck(Drifts.apply, x), "not reentrant"),
        t.autograd.gradcheck(Drifts.apply, x, nondet_tol=1e-3),
    ]


@same
def test_inputs_are_left_as_they_were(t: Any) -> Any:
    x = drawn(t, 3)
    before = x.detach().clone()
    y = x * x
    t.autograd.gradcheck(lambda x: x.sin(), x)
    return [(x.detach() == before).all().item(), t.autograd.grad(y.sum(), x)]
