"""The same seed gives torch's numbers through the public API, and leaves the generator in step."""

from __future__ import annotations

import platform

import farspan
import numpy as np
import pytest
import torch

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "AMD64"), reason="torch rounds otherwise elsewhere"
)
SEED = 20240607


@pytest.fixture(autouse=True)
def seeded():
    with farspan.connect("local:") as s:
        farspan.manual_seed(SEED)
        torch.manual_seed(SEED)
        yield s


def bits(x):
    """Return a tensor of either library as numpy bits."""
    if "bfloat16" in str(x.dtype):
        x = x.float()
    return np.ascontiguousarray(x.detach().numpy()).view(np.uint8)


def assert_in_step(ours, theirs):
    assert str(ours.dtype) == str(theirs.dtype)
    assert tuple(ours.shape) == tuple(theirs.shape)
    np.testing.assert_array_equal(bits(ours), bits(theirs))
    np.testing.assert_array_equal(farspan.get_rng_state().numpy(), torch.get_rng_state().numpy())


CALLS = {
    "rand": lambda t: t.rand(3, 50),
    "rand of float64": lambda t: t.rand((7,), dtype=t.float64),
    "rand of bfloat16": lambda t: t.rand(7, dtype=t.bfloat16),
    "rand of complex64": lambda t: t.rand(7, dtype=t.complex64),
    "randn": lambda t: t.randn(3, 50),
    "randn, few": lambda t: t.randn(5),
    "randn of float64": lambda t: t.randn(2, 17, dtype=t.float64),
    "randint": lambda t: t.randint(10, (40,)),
    "randint from": lambda t: t.randint(-5, 10**12, (40,)),
    "randint of int32": lambda t: t.randint(3, 7, (2, 3), dtype=t.int32),
    "randperm": lambda t: t.randperm(1000),
    "rand_like": lambda t: t.rand_like(t.zeros(3, 4)),
    "rand_like, transposed": lambda t: t.rand_like(t.zeros(3, 4).t()),
    "randn_like": lambda t: t.randn_like(t.zeros(3, 40, dtype=t.float64)),
    "randint_like": lambda t: t.randint_like(t.zeros(3, 40), 2, 9),
    "normal": lambda t: t.normal(0.5, 2.0, (3, 40)),
    "normal around a mean": lambda t: t.normal(t.zeros(40) + 3, 2.0),
    "normal with deviations": lambda t: t.normal(1.0, t.ones(40)),
    "normal of tensors": lambda t: t.normal(t.ones(40), t.ones(40)),
    "uniform_": lambda t: t.zeros(5, 6).uniform_(-0.25, 0.25),
    "uniform_, transposed": lambda t: t.zeros(5, 6).t().uniform_(-0.25, 0.25),
    "uniform_, a column": lambda t: t.zeros(5, 6).select(1, 2).uniform_(),
    "normal_": lambda t: t.zeros(5, 6).normal_(1, 0.02),
    "normal_, transposed": lambda t: t.zeros(5, 6).t().normal_(1, 0.02),
    "normal_, permuted": lambda t: t.zeros(2, 5, 6).permute(1, 2, 0).normal_(),
    "random_": lambda t: t.zeros(30, dtype=t.int64).random_(),
    "random_ to": lambda t: t.zeros(30).random_(10),
    "random_ from": lambda t: t.zeros(30).random_(-10, 10),
    "bernoulli_": lambda t: t.zeros(30).bernoulli_(),
    "bernoulli_ of p": lambda t: t.zeros(5, 6).t().bernoulli_(0.2),
    "bernoulli_ of tensors": lambda t: t.zeros(30).bernoulli_(t.zeros(30) + t.ones(30)),
    "bernoulli": lambda t: t.bernoulli(t.rand(30)),
    "exponential_": lambda t: t.zeros(30).exponential_(0.5),
    "geometric_": lambda t: t.zeros(30).geometric_(0.5),
    "cauchy_": lambda t: t.zeros(30).cauchy_(),
    "log_normal_": lambda t: t.zeros(30).log_normal_(),
    "multinomial": lambda t: t.multinomial(t.rand(3, 9), 4),
    "multinomial, replaced": lambda t: t.multinomial(t.rand(9), 20, replacement=True),
    "dropout": lambda t: t.dropout(t.ones(8, 8), 0.3, True),
    "dropout of few": lambda t: t.dropout(t.ones(50, 7), 0.1, True),
    "dropout of most": lambda t: t.dropout(t.ones(50, 7), 0.9, True),
    "dropout, transposed": lambda t: t.dropout(t.ones(8, 4).t(), 0.3, True),
    "dropout, off": lambda t: t.dropout(t.ones(8, 8), 0.3, False),
    "dropout of all": lambda t: t.dropout(t.ones(8, 8), 1.0, True),
    "feature_dropout": lambda t: t.feature_dropout(t.ones(4, 5, 3), 0.3, True),
    "alpha_dropout": lambda t: t.alpha_dropout(t.ones(4, 5), 0.3, True),
    "one after the other": lambda t: (t.randn(3), t.rand(2), t.randn(20), t.randn(1))[3],
}


@pytest.mark.parametrize("name", CALLS)
def test_draws_equal_torch_and_stay_in_step(name):
    assert_in_step(CALLS[name](farspan), CALLS[name](torch))


def test_gradient_of_dropout_uses_the_same_mask():
    ours, theirs = [t.ones(6, 6).requires_grad_() for t in (farspan, torch)]
    for t, x in ((farspan, ours), (torch, theirs)):
        (t.dropout(x, 0.4, True) * 2).sum().backward()
    assert_in_step(ours.grad, theirs.grad)


def test_generators_of_the_users_own_are_streams_of_their_own():
    ours, theirs = farspan.Generator().manual_seed(3), torch.Generator().manual_seed(3)
    for make in (
        lambda t, g: t.randn(20, generator=g),
        lambda t, g: t.randperm(9, generator=g),
        lambda t, g: t.randint(0, 9, (4,), generator=g),
        lambda t, g: t.zeros(4).uniform_(generator=g),
        lambda t, g: t.rand(4),
    ):
        assert_in_step(make(farspan, ours), make(torch, theirs))
    np.testing.assert_array_equal(ours.get_state().numpy(), theirs.get_state().numpy())


def test_a_state_goes_back_and_forth():
    before = farspan.get_rng_state()
    first = farspan.randn(3)
    farspan.set_rng_state(before)
    np.testing.assert_array_equal(first.numpy(), farspan.randn(3).numpy())
    torch.randn(7)
    farspan.set_rng_state(farspan.tensor(torch.get_rng_state().numpy()))
    assert_in_step(farspan.randn(30), torch.randn(30))


def test_a_state_that_is_none_is_refused_and_changes_nothing(seeded):
    with pytest.raises(TypeError, match=r"must be a torch\.ByteTensor"):
        farspan.set_rng_state(farspan.zeros(5056))
    with pytest.raises(RuntimeError, match="RNG state has 3 bytes"):
        farspan.set_rng_state(farspan.zeros(3, dtype=farspan.uint8))
    farspan.set_rng_state(farspan.zeros(5056, dtype=farspan.uint8))
    with pytest.raises(ValueError, match="not the state of an MT19937"):
        seeded.synchronize()
    assert_in_step(farspan.rand(3), torch.rand(3))


@pytest.mark.parametrize(
    "call",
    [
        lambda t: t.zeros(3).uniform_(1, 0),
        lambda t: t.zeros(3).normal_(0, -1),
        lambda t: t.normal(0.0, -1.0, (3,)),
        lambda t: t.zeros(3).random_(5, 5),
        lambda t: t.randint(5, 5, (2,)),
        lambda t: t.randperm(-1),
        lambda t: t.zeros(3).bernoulli_(1.5),
        lambda t: t.zeros(3).exponential_(0),
        lambda t: t.zeros(3).geometric_(1),
        lambda t: t.zeros(3).cauchy_(0, 0),
        lambda t: t.zeros(3, dtype=t.int64).normal_(),
        lambda t: t.rand(3, dtype=t.int64),
        lambda t: t.multinomial(t.ones(3), 4),
        lambda t: t.multinomial(t.ones(3), 0),
        lambda t: t.multinomial(t.ones(3, 3, 3), 1),
        lambda t: t.dropout(t.ones(3), 1.5, True),
    ],
)
def test_what_torch_refuses_is_refused_by_the_call_itself(call):
    with pytest.raises(RuntimeError):
        call(torch)
    with pytest.raises(RuntimeError):
        call(farspan)
    assert_in_step(farspan.rand(3), torch.rand(3))


def test_bad_probabilities_are_errors_of_the_program(seeded):
    farspan.bernoulli(farspan.ones(3) + farspan.ones(3))
    with pytest.raises(farspan.ProgramError, match="p_in"):
        seeded.synchronize()
