"""What a write does to the graph: in-place ops, `.data =`, flags - and what the tape lets go of."""

from __future__ import annotations

import gc
from typing import Any

import farspan
import pytest
import torch
from test_autograd import failure, leaf, same, session  # noqa: F401  (the fixture is used by all)


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


# ----------------------------------------------------------------------------------- `.data =` --
@same
def test_new_data_keeps_the_place_in_the_graph(t):
    p = t.tensor([1.0, 2.0], requires_grad=True)
    seen = []
    p.register_hook(lambda g: seen.append(g))
    before = p.exp().sum()  # in torch p * p would use the new data, as it saves p itself
    p.data = t.tensor([5.0, 6.0])
    (before + (p * p * p).sum()).backward()
    p.data = p.data - 0.5 * p.grad
    return p, p.grad, seen


@same
def test_gradient_of_data_that_was_replaced(t):
    p = t.tensor([1.0, 2.0], requires_grad=True)
    y = p * 3
    loss = (y * 5).sum()
    p.data = t.tensor([5.0, 6.0])
    y.data = t.tensor([7.0, 8.0])
    late = (y * 3 + p * y.detach()).sum()
    return t.autograd.grad(loss, p, retain_graph=True), t.autograd.grad(late, p)


@same
def test_two_tensors_of_one_data_are_two_leaves(t):
    p, q = t.ones(2, requires_grad=True), t.tensor([3.0, 4.0])
    p.data = q
    w = t.ones(2, requires_grad=True)
    q.mul_(w)
    (p * q).sum().backward()
    return p, q, p.grad, w.grad, q.requires_grad


@same
def test_what_data_may_be(t):
    p = t.ones(2, requires_grad=True)

    def integers() -> None:
        p.data = t.arange(2)

    def number() -> None:
        p.data = 3

    return failure(integers, "floating point"), failure(number, "has to be a tensor")


# ------------------------------------------------------------------------------- what is let go --
def bytes_held() -> int:
    return farspan._state.current().worker_stats()[0]["bytes"]


def test_a_pass_walked_by_the_client_frees_what_the_worker_saved() -> None:
    w = farspan.ones(1_000, requires_grad=True)
    w.register_hook(lambda g: g * 1)
    losses = []
    held = []
    for _ in range(3):
        losses.append((w.exp().exp().exp()).sum())
        losses[-1].backward()
        held.append(bytes_held())
    assert held[2] - held[1] < 1_000


def test_a_graph_that_is_kept_by_a_walk_can_be_walked_again() -> None:
    w = farspan.ones(3, requires_grad=True)
    handle = w.register_hook(lambda g: g * 2)
    loss = w.exp().sum()
    loss.backward(retain_graph=True)
    handle.remove()
    loss.backward()
    assert w.grad.allclose(3 * w.exp())
    with pytest.raises(RuntimeError, match="a second time"):
        loss.backward()


# ------------------------------------------------------------------------- complex and its parts --
@same
def test_writes_through_the_parts_of_a_complex_tensor(t):
    w = t.tensor([[1 + 2j, 3 - 1j], [0.5 - 1j, -2 + 0.5j]], requires_grad=True)
    a = t.tensor([2.0, -3.0], requires_grad=True)
    results = []
    for write in (
        lambda z: t.view_as_real(z).mul_(2),
        lambda z: z.real.mul_(a),
        lambda z: z[1:].imag.mul_(a),
        lambda z: t.view_as_real(z[:, 1])[0].mul_(a),
        lambda z: z.real[0].mul_(z.imag[1].clone()),
    ):
        z = w * 1
        shown = t.view_as_real(z)[:, 0]
        write(z)
        total = z.abs().sum() + (shown * shown).sum()
        results += [z, *t.autograd.grad(total, (w, a), allow_unused=True)]
    return results


@same
def test_writes_through_a_complex_view_of_parts(t):
    w = t.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, -1.0]], requires_grad=True)
    base = w * 1
    z = t.view_as_complex(base)
    z[1:].mul_(2j)
    base[0].exp_()
    total = (base * base).sum() + z.abs().sum()
    return base, z, t.autograd.grad(total, w)


@same
def test_a_view_as_another_dtype_is_no_part_of_the_graph(t):
    x = t.ones(4, requires_grad=True)
    y = x * 2
    bits = y.view(t.int32)
    y.mul_(3)
    bits[0] = 0
    y.sum().backward()
    return y, bits.requires_grad, x.grad


# ------------------------------------------------------------------------------------- failures --
def test_memory_that_runs_out_in_a_backward_pass_fails_that_pass_alone() -> None:
    owner = farspan._state.current()
    budget = owner.transport.engines[0].budget
    a, b = (farspan.ones(1_000, requires_grad=True) for _ in "ab")
    y, seed = a + b, farspan.ones(1_000)
    owner.synchronize()
    limit, budget.limit = budget.limit, budget.used + 5_000  # for one copy of the seed, not two
    y.backward(seed)
    with pytest.raises(farspan.OutOfMemoryError):
        owner.synchronize()
    budget.limit = limit
    for x in (a, b):
        with pytest.raises(farspan.OutOfMemoryError):
            x.grad.tolist()
        x.grad = None
    (a + b).backward(seed)
    assert a.grad.sum().item() == b.grad.sum().item() == 1_000


def test_views_of_a_healed_tensor_are_its_views_in_the_graph_too() -> None:
    bad = farspan.linalg.inv(farspan.zeros(2, 2))
    row, w = bad[0], farspan.ones(2, requires_grad=True)
    bad.fill_(0.0)
    row.copy_(w)
    (bad * 2).sum().backward()
    with pytest.raises(farspan.FarspanError):
        farspan._state.current().synchronize()
    assert w.grad.tolist() == [2.0, 2.0]


# ------------------------------------------------------------------------- results saved in part --
@same
def test_results_that_no_formula_needs_may_be_written(t):
    f = t.nn.functional
    x = t.linspace(-2, 2, 96, dtype=t.float64).sin().reshape(2, 3, 4, 4).requires_grad_()
    results = []
    for y in (
        t.nn.BatchNorm2d(3).double()(x),
        t.nn.LayerNorm(4).double()(x),
        t.nn.GroupNorm(3, 3).double()(x),
        f.max_pool2d(x, 2),
        f.adaptive_max_pool2d(x, 2),
        x.max(1)[0],
        x.median(2).values,
        x.sort(3)[0],
        x.topk(2, 3).values,
        x.kthvalue(2, 1).values,
        x.cummax(2)[0],
    ):
        y.mul_(2)
        f.relu(y, inplace=True)
        results += [y, t.autograd.grad(y.sum(), x)[0]]
    return results


def test_dropout_may_be_followed_by_a_write() -> None:
    x = farspan.ones(100, requires_grad=True)
    y = farspan.nn.functional.dropout(x, 0.5)
    y.mul_(3).sum().backward()
    assert set(x.grad.tolist()) == {0.0, 6.0}


# --------------------------------------------------------------------------- overlapping memory --
@same
def test_writes_over_a_part_of_their_own_input_are_refused(t):
    x, square = t.arange(6.0), t.arange(4.0).reshape(2, 2)
    tails = (
        failure(lambda: x[1:].add_(x[:-1]), "single memory location"),
        failure(lambda: x[1:].copy_(x[:-1]), "single memory location"),
        failure(lambda: square.mul_(square.T), "single memory location"),
        failure(lambda: t.add(x[:-1], 1, out=x[1:]), "single memory location"),
    )
    x[3:].add_(x[:3])
    x[::2].sub_(x[1::2])  # both have gaps
    x.mul_(x).copy_(x.view(6))
    t.neg(x, out=x)
    return *tails, x, square


# ------------------------------------------------------------------------ numbers beside tensors --
@same
def test_what_subtraction_and_alpha_refuse(t):
    mask, ints, x = t.tensor([True, False]), t.arange(2), t.ones(2)
    return [
        failure(lambda: 1 - mask, "with a bool tensor"),
        failure(lambda: mask - mask, "with two bool tensors"),
        failure(lambda: x - mask, "with a bool tensor"),
        failure(lambda: x - True, "with a bool tensor"),
        failure(lambda: ints.sub_(mask), "with a bool tensor"),
        failure(lambda: t.add(ints, 1, alpha=1.5), "must not be a floating"),
        failure(lambda: t.sub(ints, ints, alpha=1.5), "must not be a floating"),
        failure(lambda: t.add(x, x, alpha=True), "Boolean alpha"),
        failure(lambda: t.add(x, x, alpha=1j), "complex number"),
        t.add(mask, mask, alpha=True),
        t.add(ints, x, alpha=1.5),
    ]


@same
def test_a_number_divided_by_integers_and_rounded_down(t):
    ints = t.tensor([2, 3], dtype=t.int32)
    return [5.5 // ints, 5 // ints, True // ints, 7.5 // ints[0], 7 // ints[0], 7 // t.ones(2)]


def test_generators_that_are_gone_hold_no_state() -> None:
    owner = farspan._state.current()
    for seed in range(5):
        generator = farspan.Generator().manual_seed(seed)
        farspan.rand(3, generator=generator)
    owner.synchronize()
    owner.synchronize()
    assert len(owner.transport.engines[0].generators) == 1


# -------------------------------------------------------------------------------- in-place names --
def test_in_place_methods_are_the_ones_that_torch_has() -> None:
    ours = {n for n in dir(farspan.Tensor) if n.endswith("_") and not n.startswith("_")}
    assert sorted(ours - set(dir(torch.Tensor))) == []


@same
def test_a_tensor_becomes_its_own_view(t):
    w = leaf(t, 2, 2)
    y = w * 2
    row = y[0]
    y.t_()
    y[0].mul_(3)
    plain = t.arange(6.0).view(1, 2, 3)
    other = plain[0]
    plain.squeeze_(0).transpose_(0, 1).unsqueeze_(-1)
    plain[0] = 7
    with t.no_grad():
        w.t_()
    total = (y * t.arange(4.0).view(2, 2)).sum() + (row * row).sum()
    refused = failure(lambda: w.t_(), "leaf")
    total.backward()
    return y, row, plain, other, w.is_leaf, w.requires_grad, refused, w


# ------------------------------------------------------------------------------------- lifetimes --
def test_a_training_loop_leaves_nothing_behind_without_the_collector() -> None:
    nn = farspan.nn
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(inplace=True), nn.Dropout())
    optimizer = farspan.optim.Adam(model.parameters(), lr=1e-3)
    model[0].weight.register_hook(lambda g: g * 1)
    owner = farspan._state.current()
    owner.replay = False  # programs have memory of their own
    x = farspan.randn(16, 4)

    def step() -> None:
        optimizer.zero_grad()
        y = model(x)
        y[0].mul_(2)
        loss = (y * y).sum()
        loss.backward(create_graph=True)
        (loss + sum((p.grad * p.grad).sum() for p in model.parameters())).backward()
        optimizer.step()

    def held() -> tuple[int, int]:
        owner.synchronize()
        stats = owner.worker_stats()[0]
        return stats["tensors"], stats["bytes"]

    before_replay, owner.replay = owner.replay, False  # plans keep memory for themselves
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            step()
        optimizer.zero_grad()
        before = held()
        for _ in range(20):
            step()
        optimizer.zero_grad()
        assert held() == before
    finally:
        gc.enable()
        owner.replay = before_replay
