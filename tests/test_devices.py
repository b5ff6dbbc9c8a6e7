"""Two devices in one session: copies worker to worker, modules split over both, one tape each."""

from __future__ import annotations

from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan.core import errors


def bits(x: Any) -> bytes:
    return x.detach().cpu().numpy().tobytes()


def _data(*shape: int) -> Any:
    return torch.tensor(np.random.default_rng(0).standard_normal(shape).astype(np.float32))


def test_copies_go_worker_to_worker_and_keep_bits(session: Any) -> None:
    for dtype in (torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64):
        x = _data(3, 4).to(dtype)
        y = x.to("cpu:1")
        assert str(y.device) == "cpu:1" and y.dtype is dtype
        assert (y.cpu() == x).all().item()
        assert y.cpu().device == x.device
    assert torch.ones(2, device="cpu:1").to("cpu:1").sum().item() == 2
    empty = torch.zeros(0, 3).to("cpu:1")
    assert empty.shape == (0, 3) and (empty + 1).tolist() == []
    assert torch.tensor(1.5).to("cpu:1").item() == 1.5
    turned = _data(4, 3).T.to("cpu:1")
    assert bits(turned) == bits(_data(4, 3).T.contiguous())


def test_large_copies_and_values_arrive(session: Any) -> None:
    x = _data(1_000, 1_000)
    y = x.to("cpu:1")
    assert bits(y) == bits(x)
    assert bits((y + y).to("cpu")) == bits(x + x)


def test_poison_crosses_devices_and_names_its_line(session: Any) -> None:
    bad = torch.zeros(2**44)[:2]
    y = bad.to("cpu:1") + 1
    good = torch.ones(2, device="cpu:1")
    with pytest.raises(torch.OutOfMemoryError, match=r"bad = torch\.zeros"):
        y.tolist()
    assert good.tolist() == [1, 1]
    session.synchronize()


def test_an_op_on_two_devices_is_an_error_a_number_goes_along(session: Any) -> None:
    x, y = torch.ones(2), torch.ones(2, device="cpu:1")
    with pytest.raises(errors.DeviceError, match="cpu:1"):
        x + y
    assert (y * torch.tensor(3.0)).tolist() == [3, 3]
    with pytest.raises(errors.DeviceError, match="no device 'cpu:2'"):
        x.to("cpu:2")


def _passes(first: str, second: str) -> list[bytes]:
    """Run a net with skip connections from device to device and return its bits.

    copy=True: on one device a crossing is a copy too, or gradients would add up in another order.
    """
    w1 = _data(6, 8).to(first).requires_grad_()
    w2 = _data(8, 8).to(second).requires_grad_()
    w3 = _data(8, 3).to(first).requires_grad_()
    x = _data(5, 6).to(first)
    kept = []
    for _ in range(3):
        h = x.mm(w1).relu()
        away = h.to(second, copy=True)
        skip = away.mm(w2).sigmoid() * 2 + away
        out = (skip.to(first, copy=True) + h).mm(w3)
        loss = (out * out).sum() + skip.sum().to(first, copy=True)
        loss.backward()
        for w in (w1, w2, w3):
            kept += [bits(w.grad), bits(w)]
            with torch.no_grad():
                w -= 0.01 * w.grad
            w.grad = None
        kept.append(bits(loss))
    return kept


def test_a_net_over_two_devices_equals_one_device_bit_for_bit(session: Any) -> None:
    assert _passes("cpu", "cpu:1") == _passes("cpu", "cpu")
    assert _passes("cpu:1", "cpu") == _passes("cpu:1", "cpu:1")


def test_modules_split_over_two_devices_train_as_on_one(session: Any) -> None:
    from farspan import nn, optim

    class Net(nn.Module):
        def __init__(self, second: str) -> None:
            super().__init__()
            self.second = second
            self.a = nn.Linear(6, 8)
            self.b = nn.Sequential(nn.Linear(8, 8), nn.ReLU()).to(second)
            self.c = nn.Linear(8, 2)

        def forward(self, x: Any) -> Any:
            h = self.a(x).relu()
            return self.c(self.b(h.to(self.second)).to("cpu") + h)

    def train(second: str) -> list[bytes]:
        torch.manual_seed(0)
        net = Net(second)
        optimizer = optim.Adam(net.parameters(), lr=0.01)
        for _ in range(5):
            optimizer.zero_grad()
            loss = (net(_data(5, 6)) ** 2).mean()
            loss.backward()
            optimizer.step()
        assert {str(p.device) for p in net.parameters()} == {"cpu", second}
        return [bits(p) for p in net.parameters()] + [bits(loss)]

    assert train("cpu:1") == train("cpu")


def test_random_numbers_do_not_depend_on_the_device(session: Any) -> None:
    def draw(device: str) -> list[bytes]:
        torch.manual_seed(3)
        drawn = [
            torch.rand(5, device=device),
            torch.randn(20, device=device),
            torch.randint(0, 9, (4,), device=device),
            torch.empty(7, device=device).uniform_(),
            torch.nn.functional.dropout(torch.ones(9, device=device), 0.5),
        ]
        assert {str(d.device) for d in drawn} == {device}
        return [bits(d) for d in drawn]

    assert draw("cpu:1") == draw("cpu")


def test_grad_of_a_crossing_comes_back(session: Any) -> None:
    x = torch.ones(3, requires_grad=True)
    y = x.to("cpu:1")
    assert y.requires_grad and not y.is_leaf
    (y * torch.tensor([1.0, 2.0, 3.0], device="cpu:1")).sum().backward()
    assert x.grad.tolist() == [1, 2, 3] and str(x.grad.device) == "cpu"
    (g,) = torch.autograd.grad((x.to("cpu:1") ** 3).sum(), x, create_graph=True)
    assert torch.autograd.grad(g.sum(), x)[0].tolist() == [6, 6, 6]
