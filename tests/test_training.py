"""A convolutional net and a perceptron train as they do in torch, from seed to last loss."""

from __future__ import annotations

import farspan
import numpy as np
import pytest
import torch

STEPS = 15


@pytest.fixture(autouse=True)
def session():
    with farspan.connect("local:") as s:
        yield s


def convolutional(nn):
    # No biases before norms: their gradients are only rounding, which Adam would blow up.
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 3, stride=2, groups=2, bias=False), nn.GroupNorm(2, 16), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(16, 10),
    )  # fmt: skip


def perceptron(nn):
    return nn.Sequential(
        nn.Flatten(), nn.Linear(64, 32), nn.LayerNorm(32), nn.GELU(), nn.Dropout(0.1),
        nn.Linear(32, 10),
    )  # fmt: skip


OPTIMIZERS = {
    "sgd": lambda t, params: t.optim.SGD(params, lr=0.05, momentum=0.9, nesterov=True),
    "adamw": lambda t, params: t.optim.AdamW(params, lr=0.01),
}


def train(t, make, optimizer):
    """Return the losses, then every parameter and buffer."""
    t.manual_seed(5)
    net = make(t.nn)
    step = OPTIMIZERS[optimizer](t, net.parameters())
    rng = np.random.default_rng(9)
    losses = []
    for _ in range(STEPS):
        x = t.tensor(rng.normal(size=(16, 1, 8, 8)).astype("float32"))
        y = t.tensor(rng.integers(0, 10, 16))
        step.zero_grad()
        loss = t.nn.functional.cross_entropy(net(x), y)
        loss.backward()
        step.step()
        losses.append(loss.detach())
    return [*losses, *[v.detach() for v in net.state_dict().values()]]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("make", [convolutional, perceptron])
def test_training_equals_torch(make, optimizer):
    ours = train(farspan, make, optimizer)
    theirs = train(torch, make, optimizer)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(a.numpy().copy()), b, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(farspan.get_rng_state().numpy(), torch.get_rng_state().numpy())
