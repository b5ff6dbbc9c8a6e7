"""Views, writes through them, and the errors that writes can cause."""

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


# ----------------------------------------------------------------------------- views and writes --
@same
def test_write_through_a_row(t):
    x = leaf(t, 3, 4)
    y = x * 2
    y[1] = y[0] * 3
    return y, grad_of(t, y, x)


@same
def test_write_through_a_transpose(t):
    x, w = leaf(t, 3, 4), leaf(t, 3, seed=1)
    y = x * 1
    y.T.mul_(w)
    return y, grad_of(t, y, x, w)


@same
def test_write_through_a_chain_of_views(t):
    x, w = leaf(t, 4, 6), leaf(t, 2, 3, seed=1)
    y = x * 2
    y[1:3].T[::2].T.add_(w * w)
    return y, grad_of(t, y, x, w)


@same
def test_view_sees_what_was_written_to_its_base(t):
    x, w = leaf(t, 3, 4), leaf(t, 3, 4, seed=1)
    y = x * 2
    row = y[1]
    y.mul_(w)
    return row, grad_of(t, row, x, w), row.grad_fn is not None


@same
def test_view_sees_what_was_written_to_another_view(t):
    x = leaf(t, 3, 4)
    y = x * 2
    row, column = y[1], y[:, 2]
    row.mul_(3)
    column.add_(row[0])
    return y, row, column, grad_of(t, row.sum() + column, x), grad_of(t, y, x)


@same
def test_write_into_zeros(t):
    x = leaf(t, 3)
    z = t.zeros(2, 3)
    z[0] = x
    z[1, 1:] = x[:2] * x[1]
    return z, z.requires_grad, z.is_leaf, grad_of(t, z, x)


@same
def test_write_into_zeros_in_a_loop(t):
    x = leaf(t, 4)
    z = t.zeros(4, 4)
    for i in range(4):
        z[i] = x * (z[i - 1].sum() + i + 1)
    return z, grad_of(t, z, x)


@same
def test_fill_and_zero_cut_the_graph_where_they_write(t):
    x = leaf(t, 3, 3)
    y = x * 2
    y[0].zero_()
    y[:, 1].fill_(5.0)
    y[2, 2] = 7.0
    return y, grad_of(t, y, x)


@same
def test_copy_takes_over_the_graph_of_its_source(t):
    x, w = leaf(t, 3), leaf(t, 3, seed=1)
    y = x * 2
    y.copy_(w)
    return y, grad_of(t, y, x, w)


@same
def test_write_of_a_broadcast_value_sums_its_gradient(t):
    x, w = leaf(t, 3, 4), leaf(t, 1, seed=1)
    y = x.clone()
    y[:, 1:3] = w
    y += w
    return y, grad_of(t, y, x, w)


@same
def test_split_views_of_a_written_base(t):
    x = leaf(t, 4, 3)
    y = x.clone()
    a, b = y[:2], y[2:]
    y.mul_(2)
    return grad_of(t, a * b, x)


@same
def test_expanded_view_of_a_written_base_sums(t):
    x = leaf(t, 3, 1)
    y = x * 1
    wide = y.expand(3, 4)
    y.mul_(2)
    return wide, grad_of(t, wide, x)


@same
def test_reshape_that_is_a_view_is_written_through(t):
    x = leaf(t, 2, 6)
    y = x * 1
    y.view(3, 4)[1].mul_(10)
    y.reshape(-1)[0] = 0
    return y, grad_of(t, y, x)


@same
def test_detached_view_shares_memory_but_no_graph(t):
    x = leaf(t, 3)
    y = x * 2
    d = y.detach()
    d.mul_(3)
    return y, d.requires_grad, d.is_leaf, grad_of(t, y, x)


@same
def test_augmented_assignment_writes_in_place(t):
    x = leaf(t, 3)
    y = x * 1
    same_object = y
    y += 1
    y *= x
    y -= 2
    y /= 2
    return same_object is y, y, grad_of(t, y, x)


@same
def test_masked_and_indexed_writes(t):
    x, w = leaf(t, 5), leaf(t, 2, seed=1)
    y = x * 1
    y[t.tensor([0, 3])] = w
    y[y > 1] = 0.5
    return y, grad_of(t, y, x, w)


@same
def test_write_to_the_base_of_a_no_grad_view(t):
    w = leaf(t, 3)
    with t.no_grad():
        w[0] = 5.0
        w.mul_(2)
    y = (w * w).sum()
    y.backward()
    return w, w.is_leaf, w.requires_grad, w.grad


# --------------------------------------------------------------------------------------- errors --
@same
def test_saved_tensor_that_was_written_is_noticed(t):
    x = leaf(t, 3)
    y = x.exp()
    y.add_(1)
    first = failure(lambda: y.sum().backward(), "modified by an inplace operation")
    a = x * 1
    z = a * x
    a.mul_(2)
    return first, failure(lambda: z.sum().backward(), "modified by an inplace operation")


@same
def test_write_through_a_view_is_noticed_too(t):
    x = leaf(t, 3, 3)
    a = x * 1
    z = a * a
    a[0].zero_()
    return failure(lambda: z.sum().backward(), "modified by an inplace operation")


@same
def test_write_that_saved_values_do_not_need_is_allowed(t):
    x = leaf(t, 3)
    a = x * 1
    z = a + x
    a.mul_(2)
    return grad_of(t, z, x), grad_of(t, a, x)


@same
def test_versions_count_writes(t):
    a = t.zeros(3, 3)
    b = a[0]
    counts = [a._version]
    b.add_(1)
    counts.append(a._version)
    a.mul_(2)
    a.fill_(3)
    return counts, a._version, b._version, a.detach()._version, a.clone()._version


@same
def test_leaves_are_not_written_in_place(t):
    x = leaf(t, 3, 3)
    return [
        failure(lambda: x.add_(1), "a leaf Variable that requires grad"),
        failure(lambda: x[0].add_(1), "a view of a leaf Variable that requires grad"),
        failure(lambda: x.__setitem__(0, 1.0), "leaf Variable that requires grad"),
        failure(lambda: x.copy_(x * 2), "a leaf Variable that requires grad"),
    ]


@same
def test_second_backward_needs_retain_graph(t):
    x = leaf(t, 3)
    y = (x * x).sum()
    y.backward(retain_graph=True)
    y.backward()
    again = failure(lambda: y.backward(), "backward through the graph a second time")
    z = (x + 1).sum()  # saves nothing
    z.backward()
    z.backward()
    return again, x.grad


@same
def test_part_of_a_freed_graph_is_noticed(t):
    x = leaf(t, 3)
    shared = x.exp()
    a, b = shared.sum(), (shared * 2).sum()
    a.backward()
    return failure(lambda: b.backward(), "second time"), x.grad


@same
def test_backward_refuses(t):
    x = leaf(t, 3)
    y = x * 2
    return [
        failure(lambda: y.backward(), "grad can be implicitly created only for scalar outputs"),
        failure(lambda: y.detach().sum().backward(), "does not require grad"),
        failure(lambda: y.backward(t.ones(2)), "shape"),
        failure(lambda: t.autograd.grad(y.sum(), t.ones(3)), "does not require grad"),
        failure(lambda: t.autograd.grad(y.sum(), leaf(t, 3)), "not have been used in the graph"),
        failure(lambda: y.sum().backward(inputs=[]), "cannot be empty"),
        failure(lambda: t.tensor([1, 2], requires_grad=True), "floating point"),
        failure(lambda: t.tensor([1, 2]).requires_grad_(), "floating point"),
        failure(lambda: y.requires_grad_(False), "you can only change requires_grad flags of leaf"),
        failure(lambda: x.numpy(), "requires grad"),
    ]


@same
def test_writes_through_data_are_not_noticed(t):
    x = t.tensor([1.0, 2.0], requires_grad=True)
    y = x.clone()
    z = y * y  # saves y
    y.data[0] = 5.0
    counts = [y._version, y.data._version, y.data_ptr() == y.data.data_ptr()]
    z.sum().backward()
    return y, x.grad, counts
