"""Formulas by scripts: what a backward pass gives must not depend on how often it has run."""

import itertools

import farspan
import numpy as np
import pytest
from farspan_worker import formulas


@pytest.fixture(autouse=True)
def _anew():
    formulas._scripts.clear()
    with farspan.connect("local:"):
        yield
    formulas._scripts.clear()


def _gradients(f, arrays):
    leaves = [farspan.tensor(a).requires_grad_() for a in arrays]
    f(*leaves).backward()
    return [x.grad.numpy() for x in leaves]


def _scripts():
    return sum(type(s) is formulas.Script for s in formulas._scripts.values())


CASES = {
    "linear": lambda x, w: farspan.relu(farspan.nn.functional.linear(x, w)).square().sum(),
    "broadcast": lambda x, w: (x * w[0] + x / 3.0).mean(),
    "several outputs": lambda x, w: x.split(2)[1].exp().sum() + w.sum(),
    "norm": lambda x, w: farspan.nn.functional.layer_norm(x, (4,), w[0], None).tanh().sum(),
    "lists": lambda x, w: farspan.cat([x, w, x]).pow(3).sum(),
    "same input twice": lambda x, w: (x * x).sum() + (w @ w).sum(),
    "views": lambda x, w: x.t()[1:3].reshape(-1).sigmoid().sum() + w[:, ::2].sum(),
}


@pytest.mark.parametrize("name", CASES)
def test_the_second_and_third_pass_give_the_bits_of_the_first(name):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal((4, 4), np.float32) for _ in range(2)]
    first = _gradients(CASES[name], arrays)
    for _ in range(2):
        again = _gradients(CASES[name], arrays)
        for a, b in zip(first, again, strict=True):
            np.testing.assert_array_equal(a, b)
    assert _scripts()


def test_numbers_that_compare_equal_have_scripts_of_their_own():
    x = np.ones(3, np.float32)
    for factor, _ in itertools.product((0.0, -0.0), range(3)):
        (g,) = _gradients(lambda x, by=factor: (x * by).sum(), [x])
        assert np.signbit(g).tolist() == [np.signbit(factor)] * 3


def test_a_node_with_two_edges_to_one_place_differs_from_one_with_two_places():
    x, y = np.full(3, 2, np.float32), np.full(3, 5, np.float32)
    for _ in range(3):
        (g,) = _gradients(lambda x: (x * x).sum(), [x])
        assert g.tolist() == [4.0] * 3
        a, b = _gradients(lambda x, y: (x * y).sum(), [x, y])
        assert a.tolist() == [5.0] * 3
        assert b.tolist() == [2.0] * 3


def test_a_second_pass_over_a_freed_graph_is_an_error_with_scripts_too():
    for _ in range(3):
        x = farspan.ones(3, requires_grad=True)
        y = x.exp().sum()
        y.backward()
        with pytest.raises(farspan.ProgramError, match="second time"):
            y.backward()


def test_memory_is_refused_inside_of_a_script():
    x = farspan.ones(64, 64, requires_grad=True)
    for _ in range(3):
        (x @ x).sum().backward()
    x.grad.sum().item()  # all of it has run
    assert _scripts()
    budget = farspan._state.current().transport.engines[0].budget
    before, budget.limit = budget.limit, budget.used + 40_000
    try:
        with pytest.raises(farspan.ProgramError, match=r"memory|allocate"):
            (x @ x).sum().backward()
            x.grad.sum().item()
    finally:
        budget.limit = before
