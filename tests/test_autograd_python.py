"""Python in the backward pass: hooks, Functions, functional derivatives, checkpoints."""

from __future__ import annotations

from typing import Any

import farspan
import pytest
import torch
from beside_torch import failure, leaf, same


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s
    torch.set_grad_enabled(True)
    farspan.set_grad_enabled(True)


# ---------------------------------------------------------------------------------------- hooks --
@same
def test_hooks_see_and_replace_gradients(t):
    x = leaf(t, 3)
    seen = []
    y = x * 2
    y.register_hook(lambda g: seen.append(g.clone()))
    y.register_hook(lambda g: g * 10)
    y.register_hook(lambda g: seen.append(g.clone()))
    x.register_hook(lambda g: g + 1)
    (y * y).sum().backward()
    return x.grad, seen


@same
def test_hooks_are_removed(t):
    x = leaf(t, 3)
    calls = []
    handle = x.register_hook(lambda g: calls.append(1))
    (x * 2).sum().backward()
    handle.remove()
    (x * 2).sum().backward()
    with x.register_hook(lambda g: calls.append(2)):
        (x * 2).sum().backward()
    (x * 2).sum().backward()
    return calls, x.grad


@same
def test_hook_gets_the_complete_gradient_once(t):
    x = leaf(t, 3)
    calls = []
    y = x.exp()
    y.register_hook(lambda g: calls.append(g.clone()))
    (y * y + y * 3 + y).sum().backward()
    return calls, x.grad


@same
def test_hook_runs_in_grad_of_an_inner_tensor(t):
    x = leaf(t, 3)
    y = x * 2
    y.register_hook(lambda g: g * 3)
    z = (y * y).sum()
    return t.autograd.grad(z, y, retain_graph=True), t.autograd.grad(z, x)


@same
def test_hooks_run_from_the_last_tensor_to_the_first(t):
    x = leaf(t, 3)
    order = []
    a = x * 2
    b = a.exp()
    x.register_hook(lambda g: order.append("x"))
    a.register_hook(lambda g: order.append("a"))
    b.register_hook(lambda g: order.append("b"))
    b.sum().backward()
    return order


@same
def test_hook_and_retained_gradient(t):
    x = leaf(t, 3)
    y = x * 2
    y.retain_grad()
    y.register_hook(lambda g: g * 10)
    y.sum().backward()
    return y.grad, x.grad


@same
def test_hook_refuses_a_tensor_without_gradient(t):
    return failure(lambda: t.ones(3).register_hook(print), "doesn't require gradient")


@same
def test_hook_may_clip_with_the_values_of_the_gradient(t):
    x = leaf(t, 3)
    y = x * 100
    y.register_hook(lambda g: g / g.norm() if g.norm() > 1 else g)
    (y * y).sum().backward()
    return x.grad


@same
def test_seed_is_not_shared_where_a_hook_makes_python_walk(t):
    x, w, seed = leaf(t, 3), leaf(t, 3, seed=1), t.ones(3)
    x.register_hook(lambda g: None)
    (x + w).backward(seed)
    x.grad.mul_(5)
    return seed, x.grad, w.grad


@same
def test_what_a_hook_returns_is_not_written_to_later(t):
    x, mine = leaf(t, 3), t.ones(3)
    x.register_hook(lambda g: mine)
    (x * 2).sum().backward()
    (x * 2).sum().backward()
    return mine, x.grad


@same
def test_retained_gradient_after_a_write_with_a_hook(t):
    x = leaf(t, 3)
    a = x * 2
    a.retain_grad()
    a.mul_(3)
    x.register_hook(lambda g: g * 2)
    (a * a).sum().backward()
    return a.grad, x.grad


@same
def test_hook_stays_with_the_value_before_a_write(t):
    x = leaf(t, 3)
    seen = []
    a = x * 2
    a.register_hook(lambda g: seen.append(g.clone()))
    a.mul_(3)
    (a * a).sum().backward()
    return seen, x.grad


@same
def test_hooks_while_the_graph_is_kept_for_a_second_derivative(t):
    x = leaf(t, 3)
    y = x * x
    y.register_hook(lambda g: g * x)
    (g,) = t.autograd.grad((y * y).sum(), x, create_graph=True)
    return g, t.autograd.grad(g.sum(), x)


@same
def test_post_accumulate_hooks_see_the_sum(t):
    x = leaf(t, 3)
    seen = []
    handle = x.register_post_accumulate_grad_hook(lambda p: seen.append(p.grad.clone()))
    (x * 2).sum().backward()
    (x * 3).sum().backward()
    handle.remove()
    (x * 4).sum().backward()
    refused = failure(lambda: (x * 2).register_post_accumulate_grad_hook(print), "leaf")
    return seen, x.grad, refused


# ------------------------------------------------------------------------------------ Functions --
def square(t):
    class Square(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx, g):
            (x,) = ctx.saved_tensors
            return g * x * 3  # wrong on purpose, so that it shows who computed it

    return Square.apply


@same
def test_function_with_a_backward_of_its_own(t):
    x = leaf(t, 3)
    y = square(t)(x * 2)
    y.sum().backward()
    return y, x.grad, y.grad_fn.name(), y.requires_grad, y.is_leaf


@same
def test_function_differentiated_twice(t):
    x = leaf(t, 3)
    (g,) = t.autograd.grad((square(t)(x) * x).sum(), x, create_graph=True)
    return g, t.autograd.grad((g * g).sum(), x)


@same
def test_function_with_several_inputs_and_results(t):
    class Mix(t.autograd.Function):
        @staticmethod
        def forward(ctx, a, k, b):
            ctx.k = k
            whole = (a > 0).long()
            ctx.mark_non_differentiable(whole)
            return a * k, whole, a + b

        @staticmethod
        def backward(ctx, ga, gw, gs):
            return ga * ctx.k + gs, None, gs if ctx.needs_input_grad[2] else None

    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    a, whole, s = Mix.apply(x, 5, w)
    (s * s).sum().backward(retain_graph=True)  # a is not used: zeros arrive
    first = x.grad.clone(), w.grad.clone()
    (a.sum() + s.sum()).backward()
    plain_result = Mix.apply(x, 2, w.detach())[2]
    plain_result.sum().backward()
    return first, x.grad, w.grad, whole.requires_grad


@same
def test_function_with_setup_context_and_none_gradients(t):
    class Double(t.autograd.Function):
        @staticmethod
        def forward(x, y):
            return x * 2, y * 3

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.save_for_backward(*inputs)
            ctx.set_materialize_grads(False)

        @staticmethod
        def backward(ctx, gx, gy):
            return None if gx is None else gx * 2, None if gy is None else gy * 3

    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    Double.apply(x, w)[1].sum().backward()
    return x.grad, w.grad


@same
def test_function_that_saves_its_result(t):
    class Exp(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            y = x.exp()
            ctx.save_for_backward(y)
            return y

        @staticmethod
        def backward(ctx, g):
            return g * ctx.saved_tensors[0]

    x = leaf(t, 3)
    y = Exp.apply(x)
    (g,) = t.autograd.grad(y.sum(), x, create_graph=True)
    (h,) = t.autograd.grad(g.sum(), x)
    z = Exp.apply(x)
    z.mul_(2)
    return g, h, failure(lambda: z.sum().backward(), "modified by an inplace operation")


@same
def test_function_that_hands_its_input_through(t):
    class Reverse(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.view_as(x)

        @staticmethod
        def backward(ctx, g):
            return -g

    x = leaf(t, 3)
    (Reverse.apply(x * 2) * 3).sum().backward()
    return x.grad


@same
def test_function_without_gradients_records_nothing(t):
    with t.no_grad():
        quiet = square(t)(leaf(t, 3))
    return quiet.requires_grad, square(t)(t.ones(3)).requires_grad


@same
def test_function_errors(t):
    class Short(t.autograd.Function):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, g):
            return g

    class Once(t.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        @t.autograd.function.once_differentiable
        def backward(ctx, g):
            return ctx.saved_tensors[0] * 2 * g

    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    made = square(t)(x).sum()
    made.backward()
    (g,) = t.autograd.grad((Once.apply(x) * w).sum(), x, create_graph=True)
    return [
        failure(lambda: Short.apply(x, w).sum().backward(), "incorrect number of gradients"),
        failure(lambda: made.backward(), "second time"),
        failure(lambda: g.sum().backward(), "once_differentiable"),
        g,
    ]


@same
def test_jacobians_and_hessians(t):
    F = t.autograd.functional
    x, w = leaf(t, 2, dtype="float64").detach(), leaf(t, 3, seed=1, dtype="float64").detach()

    def outer(a, b):
        return a[:, None] * b.exp(), (a * a).sum() * b

    def energy(a, b):
        return (a[:, None] * b.exp()).pow(2).sum()

    return [
        F.jacobian(outer, (x, w)),
        F.jacobian(lambda a: a * a.sum(), x),
        F.hessian(energy, (x, w)),
        F.hessian(lambda a: (a**3).sum(), x),
        F.vjp(lambda a: a.exp(), x, t.ones(2, dtype=t.float64)),
        F.jvp(lambda a: a.exp() * a.sum(), x, t.ones(2, dtype=t.float64)),
        F.vhp(lambda a: (a**3).sum(), x, t.ones(2, dtype=t.float64)),
        F.hvp(lambda a: (a**3).sum() * a[0], x, t.ones(2, dtype=t.float64)),
    ]


@same
def test_checkpoint_computes_again(t):
    from importlib import import_module

    checkpoint = import_module(f"{t.__name__}.utils.checkpoint")
    runs = []
    found = []
    for reentrant in (True, False):
        x, w = leaf(t, 3), leaf(t, 3, seed=1)

        def part(a, k, w=w):
            runs.append(1)
            return (a * w).exp() * k, a * 2

        y, z = checkpoint.checkpoint(part, x * 2, 3.0, use_reentrant=reentrant)
        (y.sum() + (z * z).sum()).backward()
        found += [y, x.grad, w.grad]
    data, w = t.ones(3), leaf(t, 3, seed=1)
    checkpoint.checkpoint(lambda a: a * w, data, use_reentrant=False).sum().backward()
    x = leaf(t, 3)
    steps = [t.exp, t.sin, t.tanh, t.exp]
    checkpoint.checkpoint_sequential(steps, 2, x, use_reentrant=True).sum().backward()
    return len(runs), found, w.grad, x.grad


@same
def test_checkpoint_draws_the_same_numbers_again(t):
    from importlib import import_module

    checkpoint = import_module(f"{t.__name__}.utils.checkpoint").checkpoint
    t.manual_seed(3)
    x = leaf(t, 100)
    y = checkpoint(lambda a: t.nn.functional.dropout(a * a, 0.5), x, use_reentrant=True)
    after = t.rand(2)
    y.sum().backward()
    return y, x.grad, after, t.rand(2)
