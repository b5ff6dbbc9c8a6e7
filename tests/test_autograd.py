"""Backward passes, gradients, modes, leaves and names: each program runs beside torch."""

from __future__ import annotations

from typing import Any

import farspan
import pytest
import torch
from beside_torch import failure, grad_of, leaf, same


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s
    torch.set_grad_enabled(True)
    farspan.set_grad_enabled(True)


# ------------------------------------------------------------------------------- backward, grad --
@same
def test_gradients_add_up_over_passes(t):
    x = leaf(t, 3)
    for k in range(3):
        (x * x * (k + 1)).sum().backward()
    return x.grad


@same
def test_gradients_add_up_over_uses(t):
    x = leaf(t, 3)
    y = x
    for _ in range(4):
        y = y * x + x
    y.sum().backward()
    return x.grad


@same
def test_diamonds(t):
    x = leaf(t, 3)
    a = x.exp()
    b, c = a * 2, a * a
    (b * c + b).sum().backward()
    return x.grad


@same
def test_gradient_argument_weights_the_outputs(t):
    x = leaf(t, 2, 3)
    y = x * x
    y.backward(t.tensor([[1.0, 2, 3], [4, 5, 6]]))
    return x.grad


@same
def test_several_roots_in_one_pass(t):
    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    a, b = (x * w).sum(), x * x
    t.autograd.backward([a, b], [None, t.tensor([1.0, 10, 100])])
    return x.grad, w.grad


@same
def test_backward_only_into_chosen_inputs(t):
    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    hidden = x * w
    (hidden * hidden).sum().backward(inputs=[w], retain_graph=True)
    first = (x.grad, w.grad)
    hidden.retain_grad()
    (hidden * 3).sum().backward(inputs=[hidden])
    return first, x.grad, hidden.grad


@same
def test_grad_leaves_grad_alone(t):
    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    g = t.autograd.grad((x * w).sum(), [x, w])
    return g, x.grad, w.grad


@same
def test_grad_of_inner_tensors(t):
    x = leaf(t, 3)
    a = x * 2
    b = a.exp()
    return t.autograd.grad(b.sum(), [a, b, x])


@same
def test_unused_inputs(t):
    x, w = leaf(t, 3), leaf(t, 2, seed=1)
    y = (x * 2).sum()
    some = t.autograd.grad(y, [x, w], allow_unused=True, retain_graph=True)
    zeros = t.autograd.grad(y, [x, w], materialize_grads=True, allow_unused=True)
    return some, zeros


@same
def test_grad_of_a_leaf_by_itself(t):
    x = leaf(t, 3)
    (g,) = t.autograd.grad(x, x, t.ones(3) * 2)
    x.sum().backward()
    x.backward(t.ones(3))
    return g, x.grad


@same
def test_retained_gradients_of_inner_tensors(t):
    x = leaf(t, 3)
    a = x * 2
    a.retain_grad()
    b = a * a
    b.retain_grad()
    b.sum().backward()
    return a.grad, b.grad, x.grad, a.retains_grad, x.retains_grad


@same
def test_retained_gradient_is_of_the_tensor_after_a_write(t):
    x = leaf(t, 3)
    a = x * 2
    a.retain_grad()
    a.mul_(3)
    (a * a).sum().backward()
    return a.grad, x.grad


@same
def test_double_backward(t):
    x = leaf(t, 3)
    (g,) = t.autograd.grad((x**3).sum(), x, create_graph=True)
    (h,) = t.autograd.grad(g.sum(), x, create_graph=True)
    (k,) = t.autograd.grad(h.sum(), x)
    return g, h, k, g.requires_grad, k.requires_grad


@same
def test_gradient_penalty(t):
    x, w = leaf(t, 4, 3), leaf(t, 2, 3, seed=1)
    out = t.tanh(x @ w.T).sum()
    (g,) = t.autograd.grad(out, x, create_graph=True)
    ((g.norm(2, 1) - 1) ** 2).mean().backward()
    return w.grad, x.grad


@same
def test_backward_with_create_graph_makes_a_differentiable_grad(t):
    x = leaf(t, 3)
    (x**3).sum().backward(create_graph=True)
    first = x.grad
    (first**2).sum().backward()
    return first.requires_grad, x.grad


@same
def test_hessian_vector_product(t):
    w, v = leaf(t, 3, 3, dtype="float64"), leaf(t, 3, 3, seed=1, dtype="float64").detach()
    y = (w @ w.T).exp().sum()
    (g,) = t.autograd.grad(y, w, create_graph=True)
    return t.autograd.grad(g, w, v)


@same
def test_double_backward_through_a_write(t):
    x = leaf(t, 3)
    y = x * x
    y[1] = x[0] * x[2] ** 2
    (g,) = t.autograd.grad((y**2).sum(), x, create_graph=True)
    return g, t.autograd.grad((g * g).sum(), x)


@same
def test_gradients_of_ops_with_several_results(t):
    x = leaf(t, 4, 3)
    a, b = x.chunk(2)
    values, indices = x.max(1)
    parts = x.unbind(1)
    y = (a * b).sum() + (values * values).sum() + (parts[0] * parts[2]).sum()
    y.backward()
    return x.grad, indices.requires_grad, values.requires_grad


@same
def test_unused_result_of_an_op_with_several(t):
    x = leaf(t, 3, 4)
    mean = t.var_mean(x, dim=1)[1]
    values = t.sort(x, dim=0)[0][0]
    return t.autograd.grad(mean.sum() + (values * values).sum(), x)


@same
def test_complex_gradients(t):
    x = leaf(t, 3, dtype="float64")
    z = t.complex(x, x * 2)
    y = (z * z.conj()).real.sum() + (z.exp()).imag.sum() + z.abs().sum()
    y.backward()
    w = t.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    (w * w * (1 - 1j)).real.sum().backward()
    v = t.tensor([1 + 2j, 3 - 1j], requires_grad=True)
    (v * t.tensor([2.0, 3.0])).abs().sum().backward()
    r = t.tensor([2.0, 3.0], requires_grad=True)
    (r * w.detach()).abs().sum().backward()
    return x.grad, w.grad, v.grad, r.grad, str(r.grad.dtype)


@same
def test_gradient_has_the_dtype_and_shape_of_its_tensor(t):
    x = t.tensor([[1.0, 2.0]], requires_grad=True)
    h = t.tensor(3.0, dtype=t.float64, requires_grad=True)
    y = (x.double() * h).sum() + (x.half().float() * t.ones(4, 2)).sum()
    y.backward()
    return x.grad, h.grad, x.grad.dtype, h.grad.dtype


@same
def test_assigned_gradients_are_checked(t):
    x = leaf(t, 3)
    x.grad = t.ones(3)
    (x * 2).sum().backward()
    kept = x.grad.clone()
    kinds = [
        failure(lambda: setattr(x, "grad", t.ones(2)), "size"),
        failure(lambda: setattr(x, "grad", t.ones(3).double())),
        failure(lambda: setattr(x, "grad", 3)),
    ]
    x.grad = None
    return kept, kinds, x.grad


@same
def test_grad_is_accumulated_in_place(t):
    x = leaf(t, 3)
    (x * 2).sum().backward()
    first = x.grad
    (x * 3).sum().backward()
    return first is x.grad, first, x.grad.requires_grad


@same
def test_grad_does_not_share_memory_with_the_seed(t):
    x, seed = leaf(t, 3), t.ones(3)
    (x + 0).backward(seed)
    x.grad.mul_(5)
    y = leaf(t, 3)
    z = leaf(t, 3)
    (y + z).backward(seed)
    y.grad.mul_(3)
    return seed, x.grad, y.grad, z.grad


# -------------------------------------------------------------------------- modes, leaves, rules --
@same
def test_grad_modes_as_contexts_and_decorators(t):
    x = leaf(t, 3)

    @t.no_grad()
    def quiet():
        return (x * 2).requires_grad, t.is_grad_enabled()

    @t.enable_grad()
    def loud():
        return (x * 2).requires_grad

    @t.no_grad
    def bare():
        return (x * 2).requires_grad

    with t.no_grad():
        inside = (x * 2).requires_grad, loud(), t.is_grad_enabled()
        with t.enable_grad():
            nested = (x * 2).requires_grad
        made = t.ones(3, requires_grad=True)
        again = (made * 2).requires_grad
    with t.set_grad_enabled(False):
        off = (x * 2).requires_grad
    before = t.is_grad_enabled()
    t.set_grad_enabled(False)
    later = (x * 2).requires_grad, t.is_grad_enabled()
    t.set_grad_enabled(True)
    with t.inference_mode():
        inference = (x * 2).requires_grad
    with t.inference_mode(False):
        back = (x * 2).requires_grad
    return quiet(), bare(), inside, nested, made.requires_grad, again, off, before, later, \
        inference, back, t.is_grad_enabled()  # fmt: skip


@same
def test_mode_is_restored_after_an_error(t):
    try:
        with t.no_grad():
            raise ValueError
    except ValueError:
        pass
    return t.is_grad_enabled()


@same
def test_set_grad_enabled_as_a_decorator(t):
    x = leaf(t, 3)

    @t.set_grad_enabled(False)
    def quiet():
        return (x * 2).requires_grad

    return t.is_grad_enabled(), quiet(), t.is_grad_enabled()


@same
def test_generators_keep_their_mode(t):
    @t.no_grad()
    def numbers():
        yield t.is_grad_enabled()
        yield t.is_grad_enabled()

    seen = []
    for inside in numbers():
        seen += [inside, t.is_grad_enabled()]
    return seen


@same
def test_leaves_and_their_flags(t):
    x, c = leaf(t, 3), t.ones(3)
    y = x * 2
    z = y.detach().requires_grad_()
    w = c * 2
    return [
        (i.requires_grad, i.is_leaf, i.grad_fn is None) for i in (x, c, y, z, w, x.detach(), x[0])
    ]


@same
def test_detach_inplace_makes_a_leaf(t):
    x = leaf(t, 3)
    y = x * 2
    y.detach_()
    flags = y.requires_grad, y.is_leaf
    y.requires_grad_()
    (y * x).sum().backward()
    return flags, x.grad, y.grad


@same
def test_requires_grad_switched_off_and_on(t):
    x = leaf(t, 3)
    old = (x * 2).sum()
    x.requires_grad_(False)
    new = x * 2
    x.requires_grad_()
    old.backward()
    return new.requires_grad, x.grad, (x * 2).requires_grad


@same
def test_data_reads_and_writes_without_history(t):
    x = leaf(t, 3)
    y = (x * x).sum()
    x.data.mul_(2)
    x.data = t.tensor([1.0, 2.0, 3.0])
    z = (x * x).sum()
    z.backward()
    return x, x.grad, x.is_leaf, y.requires_grad


@same
def test_integers_and_comparisons_have_no_gradient(t):
    x = leaf(t, 3)
    return [
        (x > 0).requires_grad, x.argmax().requires_grad, x.long().requires_grad,
        (x > 0).float().requires_grad, t.zeros_like(x).requires_grad,
    ]  # fmt: skip


@same
def test_names_of_grad_fns(t):
    x, w, b = leaf(t, 2, 3), leaf(t, 4, 3, seed=1), leaf(t, 4, seed=2)
    made = [
        x * x, x + x, x - x, x / x, x.exp(), x.sum(), x.sum(0), x.mean(), x.t(), x.T, x[0], x[:, 1],
        x.view(3, 2), x.reshape(-1), x.clone(), x @ x.T, x.unsqueeze(0), x.double(), -x, x**2,
        x.relu(), x.tanh(), x.sigmoid(), t.cat([x, x]), t.nn.functional.linear(x, w, b),
        t.nn.functional.linear(x, w), t.nn.functional.softmax(x, 1),
        t.nn.functional.log_softmax(x, 1), x.max(), x.max(1)[0], x.permute(1, 0), x.expand(2, 2, 3),
        t.where(x > 0, x, x), x.abs(), x.log(), x.sqrt(), x.clamp(0, 1), x.detach().exp() * x,
        x.squeeze(), x.flatten(), t.stack([x, x]), x.pow(x), x.norm(), x.var(), x.cumsum(0),
        t.bmm(x[None], w.T[None]), t.mv(x, x[0]), t.dot(b, b), t.addmm(b, x, w.T),
    ]  # fmt: skip
    return [m.grad_fn.name() for m in made]


@same
def test_graph_can_be_walked(t):
    x = leaf(t, 3)
    y = (x * 2).exp()
    one = y.grad_fn
    two = one.next_functions[0][0]
    three = two.next_functions[0][0]
    return [n.name().rsplit("::")[-1] for n in (one, two, three)], three.next_functions


@same
def test_operations_between_leaves_and_constants_keep_constants_constant(t):
    x, c = leaf(t, 3), t.ones(3)
    ((x * c) + c).sum().backward()
    return x.grad, c.grad, c.requires_grad


@same
def test_sgd_by_hand(t):
    w = leaf(t, 3)
    goal = t.tensor([1.0, 2.0, 3.0])
    for _ in range(5):
        loss = ((w - goal) ** 2).sum()
        loss.backward()
        with t.no_grad():
            w -= 0.1 * w.grad
            w.grad.zero_()
    for _ in range(5):
        loss = ((w - goal) ** 2).sum()
        loss.backward()
        w.data -= 0.1 * w.grad
        w.grad = None
    return w, w.requires_grad, w.is_leaf


@same
def test_window_of_a_base_with_gaps(t):
    memory = t.arange(12.0).reshape(3, 4)
    w = leaf(t, 3)
    base = memory[:, ::2].detach()
    base[:, 1] = w
    base[0].mul_(2)
    return base, grad_of(t, base, w)


@same
def test_deep_graphs_do_not_recurse(t):
    x = leaf(t, 2)
    y = x
    for _ in range(3000):
        y = y * 1.0001
    y.sum().backward()
    return x.grad


@same
def test_overlapping_windows_add_up(t):
    x = leaf(t, 6)
    y = x * 1
    frames = y.unfold(0, 3, 1)
    y.mul_(2)
    return frames, grad_of(t, frames, x)
