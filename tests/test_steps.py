"""Optimizer steps equal torch.optim over many steps, and a refused step changes nothing."""

from __future__ import annotations

import farspan
import numpy as np
import pytest
import torch
from farspan.core.call import fn

SHAPES = [(4, 3), (5,), (), (2, 0), (3, 2, 2)]
STEPS = 20


@pytest.fixture(autouse=True)
def session():
    with farspan.connect("local:") as s:
        yield s


def start(dtype):
    """Return parameters, the gradients of every step, and the same as torch tensors."""
    rng = np.random.default_rng(11)

    def draw(shape):
        values = np.asarray(rng.normal(size=shape))
        if dtype.startswith("complex"):
            values = values + 1j * rng.normal(size=shape)
        return np.asarray(values).astype(dtype)

    params = [draw(s) for s in SHAPES]
    grads = [[draw(s) for s in SHAPES] for _ in range(STEPS)]
    return params, grads


def run_torch(optimizer_class, params, grads, **options):
    theirs = [torch.nn.Parameter(torch.from_numpy(p.copy())) for p in params]
    optimizer = optimizer_class(theirs, foreach=False, **options)
    for step in grads:
        for p, g in zip(theirs, step, strict=True):
            p.grad = torch.from_numpy(g.copy())
        optimizer.step()
    return [p.detach() for p in theirs], optimizer


def zeros(params):
    return [farspan.zeros_like(p) for p in params]


def assert_equal(ours, theirs):
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(torch.from_numpy(a.numpy().copy()), b)


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"momentum": 0.9},
        {"momentum": 0.9, "dampening": 0.3, "weight_decay": 0.01},
        {"momentum": 0.9, "nesterov": True, "maximize": True},
    ],
)
def test_sgd_equals_torch(options, dtype):
    params, grads = start(dtype)
    theirs, _ = run_torch(torch.optim.SGD, params, grads, lr=0.05, **options)
    ours = [farspan.tensor(p) for p in params]
    full = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
            "maximize": False} | options  # fmt: skip
    buffers = zeros(ours) if full["momentum"] else []
    for i, step in enumerate(grads):
        fn._sgd_step_(ours, [farspan.tensor(g) for g in step], buffers, lr=0.05, first=i == 0,
                      **full)  # fmt: skip
    assert_equal(ours, theirs)


ADAM = {"lr": 0.01, "beta1": 0.9, "beta2": 0.999, "weight_decay": 0.0, "eps": 1e-8,
        "amsgrad": False, "maximize": False, "decoupled": False}  # fmt: skip


def adam(ours, grads, **options):
    state = [zeros(ours), zeros(ours), zeros(ours) if options["amsgrad"] else []]
    steps = [farspan.zeros(()) for _ in ours]
    for step in grads:
        fn._adam_step_(ours, [farspan.tensor(g) for g in step], *state, steps, **options)
    return state, steps


@pytest.mark.parametrize("dtype", ["float32", "float64", "complex64"])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"weight_decay": 0.1},
        {"weight_decay": 0.1, "decoupled": True},
        {"amsgrad": True, "maximize": True},
        {"beta1": 0.3, "beta2": 0.6, "eps": 1e-4},
    ],
)
def test_adam_equals_torch(options, dtype):
    params, grads = start(dtype)
    full = ADAM | options
    theirs, optimizer = run_torch(
        torch.optim.AdamW if full["decoupled"] else torch.optim.Adam, params, grads,
        lr=full["lr"], betas=(full["beta1"], full["beta2"]), eps=full["eps"],
        weight_decay=full["weight_decay"], amsgrad=full["amsgrad"], maximize=full["maximize"],
    )  # fmt: skip
    ours = [farspan.tensor(p) for p in params]
    state, steps = adam(ours, grads, **full)
    assert_equal(ours, theirs)
    names = ["exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if full["amsgrad"] else [])]
    for name, tensors in zip(names, state, strict=False):
        assert_equal(tensors, [s[name] for s in optimizer.state.values()])
    assert [float(s) for s in steps] == [STEPS] * len(ours)


@pytest.mark.parametrize("dtype", [farspan.float16, farspan.bfloat16])
def test_half_precision_steps_round_once(dtype):
    params, grads = start("float32")
    ours = [farspan.tensor(p, dtype=dtype) for p in params]
    wide = [farspan.tensor(p.float().numpy().copy()) for p in ours]
    g = [farspan.tensor(x, dtype=dtype) for x in grads[0]]
    options = {"momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0, "nesterov": False,
               "maximize": False, "first": True}  # fmt: skip
    fn._sgd_step_(ours, g, [], lr=0.5, **options)
    fn._sgd_step_(wide, [x.float() for x in g], [], lr=0.5, **options)
    for a, b in zip(ours, wide, strict=True):
        np.testing.assert_array_equal(a.float().numpy(), b.to(dtype).float().numpy())


def test_step_writes_parameters_that_are_views_or_transposed():
    base = farspan.tensor(np.arange(6, dtype="float32").reshape(2, 3))
    grad = farspan.tensor(np.ones((3, 2), "float32"))
    adam_args = [base.t()], [grad], [farspan.zeros(3, 2)], [farspan.zeros(3, 2)], []
    version = base._version
    fn._adam_step_(*adam_args, [farspan.zeros(())], **(ADAM | {"lr": 1.0}))
    np.testing.assert_allclose(base.numpy(), np.arange(6).reshape(2, 3) - 1, rtol=1e-5, atol=1e-5)
    assert base._version > version


def test_a_step_that_does_not_fit_is_refused_before_it_writes():
    p = [farspan.zeros(3), farspan.zeros(2)]
    options = {"lr": 1.0, "momentum": 0.0, "dampening": 0.0, "weight_decay": 0.0,
               "nesterov": False, "maximize": False, "first": False}  # fmt: skip
    with pytest.raises(RuntimeError, match=r"grads\[1\] has shape \[3\]"):
        fn._sgd_step_(p, [farspan.ones(3), farspan.ones(3)], [], **options)
    with pytest.raises(RuntimeError, match="2 parameters but 1 tensors in grads"):
        fn._sgd_step_(p, [farspan.ones(3)], [], **options)
    with pytest.raises(RuntimeError, match="float64, but its parameter has float32"):
        fn._sgd_step_(p, [farspan.ones(3), farspan.ones(2, dtype=farspan.float64)], [], **options)
    for x in p:
        assert not x.numpy().any()


def test_a_step_with_a_poisoned_gradient_is_skipped_whole(session):
    p = [farspan.zeros(3), farspan.zeros(2)]
    steps = [farspan.zeros(()), farspan.zeros(())]
    state = zeros(p), zeros(p), []
    log_probs, classes = farspan.zeros(2, 3), farspan.tensor([0, 7])
    poisoned = fn.nll_loss_forward(log_probs, classes, None, 0, -100)[0]
    fn._adam_step_(p, [farspan.ones(3), poisoned], *state, steps, **ADAM)
    with pytest.raises(IndexError, match="Target 7 is out of bounds"):
        session.synchronize()
    for x in [*p, *steps, *state[0], *state[1]]:
        assert not x.numpy().any()
    fn._adam_step_(p, [farspan.ones(3), farspan.ones(2)], *state, steps, **ADAM)
    assert [float(s) for s in steps] == [1.0, 1.0]
