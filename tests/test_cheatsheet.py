"""Every idea of the cheat-sheet that farspan began with, run on torch and on farspan."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import torch as real


@pytest.fixture(params=["torch", "farspan"])
def torch(request: pytest.FixtureRequest) -> Any:
    if request.param == "torch":
        yield real
    else:
        with farspan.connect("local:"):
            yield farspan


def test_tensors(torch: Any) -> None:
    assert torch.empty(3).size() == (3,)
    assert torch.empty(2, 3).shape == (2, 3)
    assert torch.empty(2, 2, 3).dim() == 3
    y = torch.rand(2, 2)
    assert 0 <= y.min().item() <= y.max().item() < 1
    assert torch.zeros(2, 3).sum().item() == 0
    assert torch.ones(2, 2, dtype=torch.int).dtype is torch.int32
    z = torch.ones(2, 2, dtype=torch.float16)
    assert repr(z.dtype) == "torch.float16" and repr(z.size()) == "torch.Size([2, 2])"
    u = torch.tensor([2.5, 0.1])
    assert repr(u) == "tensor([2.5000, 0.1000])"


def test_arithmetic(torch: Any) -> None:
    x1, x2 = torch.rand(2, 2), torch.rand(2, 2)
    for operator, name in (("__add__", "add"), ("__sub__", "sub"), ("__mul__", "mul"),
                           ("__truediv__", "div")):  # fmt: skip
        assert torch.equal(getattr(x1, operator)(x2), getattr(torch, name)(x1, x2))
    total = x1 + x2
    assert x2.add_(x1) is x2 and torch.equal(x2, total)
    assert isinstance(x2[1, 1].item(), float)


def test_views(torch: Any) -> None:
    x4 = torch.rand(4, 4)
    assert x4.view(16).shape == (16,)
    assert x4.view(-1, 8).shape == (2, 8)


def test_numpy_and_devices(torch: Any) -> None:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    z = (torch.ones(5, device=device) + torch.ones(5).to(device)).to("cpu")
    assert z.tolist() == [2.0] * 5
    a = torch.ones(5)
    b = a.numpy()
    a.add_(1)
    assert b.tolist() == [2.0] * 5, "they share memory"
    c = np.ones(5)
    d = torch.from_numpy(c)
    c[0] = 3
    assert d.dtype is torch.float64 and d[0].item() == 3


def test_autograd(torch: Any) -> None:
    torch.manual_seed(0)
    x = torch.rand(3, requires_grad=True)
    y = x + 2
    z = (y * y * 2).mean()
    assert z.requires_grad and repr(z.grad_fn).startswith("<MeanBackward0")
    z.backward()
    assert torch.allclose(x.grad, 4 * (x.detach() + 2) / 3)
    with pytest.raises(RuntimeError, match="second time"):
        z.backward()
    w = x * 2
    w.backward(torch.tensor([0.1, 1.0, 0.001], dtype=torch.float32))
    assert torch.allclose(x.grad, 4 * (x.detach() + 2) / 3 + torch.tensor([0.2, 2.0, 0.002]))
    assert not x.detach().requires_grad
    with torch.no_grad():
        assert not (x + 2).requires_grad
    x.requires_grad_(False)
    assert not x.requires_grad


def test_gradients_are_emptied(torch: Any) -> None:
    weights = torch.ones(4, requires_grad=True)
    for _ in range(3):
        (weights * 3).sum().backward()
        assert repr(weights.grad) == "tensor([3., 3., 3., 3.])"
        weights.grad.zero_()


def test_optimizer(torch: Any) -> None:
    weights = torch.ones(4, requires_grad=True)
    optimizer = torch.optim.SGD([weights], lr=0.01)
    prediction = weights * 3
    loss = ((prediction - 1) ** 2).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    assert weights.grad is None
    assert torch.allclose(weights.detach(), torch.full((4,), 0.97))


def test_its_slips_say_what_to_write() -> None:
    with pytest.raises(TypeError, match=r"torch\.empty\(4, 4\)"):
        farspan.tensor(4, 4)
    with pytest.raises(TypeError, match="iterable of Tensors"):
        farspan.optim.SGD(farspan.ones(4, requires_grad=True), lr=0.01)
    z = (farspan.rand(3, requires_grad=True) * 2).mean()
    with pytest.raises(RuntimeError, match="shape"):
        z.backward(farspan.tensor([0.1, 1.0, 0.001]))
    with pytest.raises(RuntimeError, match="scalar outputs"):
        (farspan.rand(3, requires_grad=True) * 2).backward()
