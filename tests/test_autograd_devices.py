"""Gradients across devices equal those of one device, bit for bit; failed tensors."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import torch
from beside_torch import leaf


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s
    torch.set_grad_enabled(True)
    farspan.set_grad_enabled(True)


# ---------------------------------------------------------------------------------- two devices --
def two_devices(program: Any, second: str) -> Any:
    with farspan.connect("local:", devices="cpu:2"):
        return [g.detach().cpu().numpy() for g in program(farspan, second)]


def residual(t: Any, far: str) -> Any:
    """A network whose skip connections cross to another device and back."""
    x, w1, w2 = leaf(t, 4, 5), leaf(t, 5, 5, seed=1), leaf(t, 5, 5, seed=2)
    v = leaf(t, 5, 5, seed=3).detach().to(far).requires_grad_()
    a = (x @ w1).tanh()
    b = (a.to(far) @ v).exp()
    c = (b.to("cpu") + a) @ w2 + x
    d = (c.to(far) * b).to("cpu") + a * c
    (d * d).sum().backward()
    return x.grad, w1.grad, w2.grad, v.grad


def branches(t: Any, far: str) -> Any:
    """One tensor that goes across twice, and a write on the other side."""
    x = leaf(t, 6)
    y = x.exp()
    left, right = y.to(far) * 2, y.to(far)
    right = right * 1
    right[2:4] = left[:2] * 3
    total = (left * right).sum() + y.sum().to(far)
    total.backward()
    return (x.grad,)


def penalty(t: Any, far: str) -> Any:
    """A second derivative through a crossing."""
    x = leaf(t, 4)
    y = ((x * x).to(far) ** 2).to("cpu").sum()
    (g,) = t.autograd.grad(y, x, create_graph=True)
    (h,) = t.autograd.grad((g * g).sum(), x)
    return g, h


@pytest.mark.parametrize("program", [residual, branches, penalty])
def test_gradients_across_devices_are_bit_equal_to_one_device(program: Any) -> None:
    near, far = two_devices(program, "cpu"), two_devices(program, "cpu:1")
    for a, b in zip(near, far, strict=True):
        np.testing.assert_array_equal(a, b)


def test_gradient_lives_where_its_tensor_does() -> None:
    with farspan.connect("local:", devices="cpu:2"):
        x = farspan.ones(3, requires_grad=True)
        w = farspan.ones(3, device="cpu:1", requires_grad=True)
        (x.to("cpu:1") * w).sum().backward()
        assert (str(x.grad.device), str(w.grad.device)) == ("cpu", "cpu:1")
        assert x.to("cpu:1").grad_fn.name() == "ToCopyBackward0"


def test_hooks_and_retained_gradients_across_devices() -> None:
    with farspan.connect("local:", devices="cpu:2"):
        x = farspan.ones(3, requires_grad=True)
        y = (x * 2).to("cpu:1")
        y.retain_grad()
        y.register_hook(lambda g: g * 10)
        (y * y).sum().backward()
        assert y.grad.tolist() == [40.0] * 3
        assert x.grad.tolist() == [80.0] * 3


def test_a_failed_tensor_gives_a_failed_gradient_and_no_other() -> None:
    x = farspan.ones(2, 2, requires_grad=True)
    w = farspan.ones(2, requires_grad=True)
    bad = farspan.linalg.inv(x * 1)  # singular
    (bad.sum() + (w * 2).sum()).backward()
    with pytest.raises(farspan.FarspanError):
        x.grad.tolist()
    (w * 3).sum().backward()
    with pytest.raises(farspan.FarspanError):
        w.grad.tolist()  # its pass began at a failed tensor
    w.grad = None
    (w * 3).sum().backward()
    assert w.grad.tolist() == [3.0, 3.0]
