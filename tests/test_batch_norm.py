"""What the laws cannot see of batch norm: running statistics, and gradients that go with them."""

from __future__ import annotations

import farspan
import numpy as np
import pytest
import torch

SHAPES = [(6, 3), (4, 3, 5), (2, 3, 4, 5)]


@pytest.fixture(autouse=True)
def session():
    with farspan.connect("local:") as s:
        yield s


def inputs(shape, dtype="float32"):
    """Return x, weight, bias, running mean and variance as arrays."""
    rng = np.random.default_rng(2)
    x = rng.normal(2, 3, shape)
    others = rng.normal(size=(2, 3)), np.zeros((1, 3)), np.ones((1, 3))
    return [np.asarray(a, dtype) for a in (x, *np.concatenate(others))]


def both(shape, dtype="float32"):
    arrays = inputs(shape, dtype)
    ours = [farspan.tensor(a) for a in arrays]
    theirs = [torch.from_numpy(a.copy()) for a in arrays]
    return ours, theirs


def assert_close(ours, theirs):
    torch.testing.assert_close(torch.from_numpy(ours.detach().numpy().copy()), theirs.detach())


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_training_advances_the_running_statistics_as_torch_does(shape, dtype):
    ours, theirs = both(shape, dtype)
    for momentum in (0.1, 0.5, 0.0):
        for t, args in ((farspan, ours), (torch, theirs)):
            out = t.batch_norm(args[0], *args[1:], True, momentum, 1e-5, False)
            args[0] = out * 2 + args[0]
        for a, b in zip(ours, theirs, strict=True):
            assert_close(a, b)


def test_evaluation_leaves_the_running_statistics_alone():
    ours, theirs = both((4, 3, 5))
    versions = [x._version for x in ours]
    for t, args in ((farspan, ours), (torch, theirs)):
        args[0] = t.batch_norm(args[0], *args[1:], False, 0.1, 1e-5, False)
    assert_close(ours[0], theirs[0])
    assert [x._version for x in ours[1:]] == versions[1:]


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_both_orders_with_running_statistics(training):
    ours, theirs = both((4, 3, 5), "float64")
    found = []
    for t, args in ((farspan, ours), (torch, theirs)):
        leaves = [x.requires_grad_() for x in args[:3]]
        out = t.batch_norm(*args, training, 0.1, 1e-5, False)
        first = t.autograd.grad((out**3).sum(), leaves, create_graph=True)
        total = sum((g * g).sum() for g in first)
        found.append([*first, *t.autograd.grad(total, leaves)])
    for a, b in zip(*found, strict=True):
        assert_close(a, b)


def test_a_poisoned_batch_does_not_reach_the_running_statistics(session):
    (x, weight, bias, mean, variance), _ = both((4, 3))
    bad = farspan.nn.functional.nll_loss(
        farspan.zeros(4, 3), farspan.tensor([0, 1, 2, 7]), reduction="none"
    )
    farspan.batch_norm(x * bad.reshape(4, 1), weight, bias, mean, variance, True, 0.1, 1e-5, False)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        session.synchronize()
    assert not mean.numpy().any()
    assert (variance.numpy() == 1).all()
