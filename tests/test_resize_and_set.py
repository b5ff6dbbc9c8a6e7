"""Changing a tensor's memory: resize_, resize_as_, set_, beside torch; growth over a gateway."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
from beside_torch import failure, same


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


@same
def test_resize_shows_memory_in_order(torch: Any) -> Any:
    x = torch.arange(6.0)
    y = x.view(2, 3)
    shrunk = x.clone().resize_(2, 2)
    turned = y.clone().t().resize_(4)
    row = torch.arange(6.0).view(2, 3)[1].resize_(2)
    last = torch.zeros(2, 3, 4, 5).resize_(1, 2, 3, 4, memory_format=torch.channels_last)
    like = torch.arange(6.0).resize_as_(torch.empty(2, 2))
    other = torch.resize_as_(torch.arange(6.0), torch.empty(3, 2))
    return [shrunk, turned, row, list(last.stride()), like, other, x.resize_((6,)) is x]


@same
def test_memory_that_grows_stays_shared(torch: Any) -> Any:
    x = torch.arange(6.0)
    y = x.view(2, 3)
    part, other = x[2:], x.data
    x.resize_(4, 4)
    other[1] = 5
    other.resize_(7)[6] = 3
    x[0, 0] = 9
    x[0, 2] = 7
    grown = torch.zeros(3)[1:].resize_(2)
    return [y, part, other, list(x.shape), x.flatten()[:7], x.untyped_storage().nbytes(), grown,
            x.storage_offset(), y._version == x._version]  # fmt: skip


@same
def test_set_shares_memory(torch: Any) -> Any:
    m = torch.arange(6.0).view(2, 3)
    a = torch.zeros(4).set_(m)
    b = torch.zeros(1).set_(m, 1, (2,), (2,))
    c = torch.zeros(1).set_(m, 2, (3,))
    d = torch.zeros(3).set_()
    m[0, 1] = 10
    big = torch.zeros(2).set_(m, 0, (2, 3))
    return [a, b, c, d, list(d.shape), big, a.is_set_to(m), b.is_set_to(m), list(b.stride())]


@same
def test_what_cannot_be_resized(torch: Any) -> Any:
    x = torch.arange(6.0)
    leaf = torch.ones(2, requires_grad=True)
    borrowed = torch.from_numpy(np.zeros(2))
    return [
        failure(lambda: leaf.resize_(3), "cannot resize variables that require grad"),
        failure(lambda: x.resize_(-1)),
        failure(lambda: borrowed.resize_(5), "not resizable"),
        failure(lambda: x.set_(torch.arange(3)), "Could not set tensor of type long int"),
        failure(lambda: x.resize_(2, 3, memory_format=torch.channels_last), "rank 4"),
        list(borrowed.resize_(1).shape),
    ]


@same
def test_resizing_counts_as_a_write(torch: Any) -> Any:
    w = torch.tensor([1.0, 2.0], requires_grad=True)
    x = torch.tensor([3.0, 4.0])
    y = (w * x).sum()
    x.resize_(1)
    return [failure(y.backward, "modified by an inplace operation"), x._version]


@same
def test_an_untyped_storage_tells_what_is_shared(torch: Any) -> Any:
    x = torch.arange(6.0)
    y, z = x[2:], torch.arange(6.0)
    memory = y.untyped_storage()
    here = torch.zeros(2).set_(memory)
    return [memory.nbytes(), len(memory), memory.data_ptr() == x.untyped_storage().data_ptr(),
            memory.data_ptr() == z.untyped_storage().data_ptr(), here, memory.size()]  # fmt: skip


def test_memory_over_the_budget_fails_alone() -> None:
    with farspan.connect("local:") as s:
        s.transport.engines[0].budget.limit = 1 << 20
        x = farspan.arange(4.0)
        view = x[1:]
        with pytest.raises(farspan.OutOfMemoryError):
            x.resize_(1 << 20).sum().item()
        assert farspan.ones(3).sum().item() == 3
        with pytest.raises(farspan.OutOfMemoryError):
            view.tolist()
