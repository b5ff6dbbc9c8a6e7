"""What the laws of single ops do not see: names of results, long sums, torch's other spellings."""

from __future__ import annotations

from typing import Any

import farspan
import numpy as np
import pytest
import torch
from farspan.core.blocks import by_blocks, kept, select

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def session() -> Any:
    with farspan.connect("local:") as s:
        yield s


def test_results_have_torchs_names() -> None:
    x = farspan.tensor([[1.0, 3.0], [2.0, 0.0]])
    found = x.max(dim=1)
    assert found.values.tolist() == [3.0, 2.0]
    assert found.indices.tolist() == [1, 0]
    values, indices = found
    assert values is found.values and indices is found[1]
    assert repr(found) == repr(torch.tensor([[1.0, 3.0], [2.0, 0.0]]).max(dim=1))
    assert x.aminmax().max.item() == 3.0
    assert type(farspan.var_mean(x)) is tuple


@pytest.mark.parametrize("axis", [0, 1, (0, 1)])
@pytest.mark.parametrize("name", ["sum", "mean", "var", "norm"])
def test_long_float32_reductions_keep_their_digits(name: str, axis: Any) -> None:
    x = RNG.random((20_000, 40)).astype("float32")
    arguments = {"dim": axis}
    for tensor in (farspan.tensor(x), farspan.tensor(x.T.copy()).T):
        ours = getattr(tensor, name)(**arguments).numpy()
        exact = getattr(torch.tensor(x.astype("float64")), name)(**arguments).numpy()
        np.testing.assert_allclose(ours, exact, rtol=1.3e-6)


def test_ties_share_the_gradient_of_an_extreme_and_first_wins_along_a_dim() -> None:
    for lib in (farspan, torch):
        x = lib.tensor([[2.0, 2.0, 1.0], [0.0, 2.0, 2.0]], requires_grad=True)
        x.max().backward()
        assert x.grad.tolist() == [[0.25, 0.25, 0], [0, 0.25, 0.25]]
        assert x.max(1).indices.tolist() == [0, 1]
        assert x.argmax(1).tolist() == [0, 1]


@pytest.mark.parametrize("call", [
    lambda x: x.norm(), lambda x: x.norm(1), lambda x: x.norm(p="fro", dim=1),
    lambda x: x.norm(2, dim=0, keepdim=True), lambda x: x.norm(float("inf")),
    lambda x: x.std(1), lambda x: x.var(unbiased=False), lambda x: x.var(0, keepdim=True),
    lambda x: x.sum(1, keepdim=True), lambda x: x.mean((0, 1)), lambda x: x.max(x * 2),
    lambda x: x.amax(), lambda x: x.softmax(-1), lambda x: x.clamp(min=0), lambda x: 2 - x,
    lambda x: 2**x, lambda x: 7 % x, lambda x: 1 / x, lambda x: x // 2, lambda x: x % 3,
    lambda x: x.div(2, rounding_mode="floor"), lambda x: abs(-x), lambda x: x.logsumexp(1),
    lambda x: (x > 1).any(1), lambda x: (x > 1).all(), lambda x: (x > 1).sum(), lambda x: x**0.5,
])  # fmt: skip
def test_torchs_spellings(call: Any) -> None:
    x = RNG.random((3, 4)) * 5 + 0.5
    np.testing.assert_allclose(
        call(farspan.tensor(x)).numpy(), call(torch.tensor(x)).numpy(), rtol=1e-7
    )


def test_nan_wins_a_median_and_never_a_nanmedian() -> None:
    x = np.array([[3.0, np.nan, 1.0, 2.0], [np.nan] * 4, [4.0, 1.0, 3.0, 2.0]])
    for name in ("median", "nanmedian"):
        for arguments in ((), (1,), (0,)):
            ours, theirs = (getattr(lib.tensor(x), name)(*arguments) for lib in (farspan, torch))
            values = [v if isinstance(v, tuple) else (v,) for v in (ours, theirs)]
            np.testing.assert_array_equal(values[0][0].numpy(), values[1][0].numpy())


def test_division_of_integers_by_zero_is_an_error() -> None:
    x = farspan.tensor([1, 2])
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        (x // farspan.tensor([1, 0])).tolist()


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize("n", [0, 7, 5_000])
def test_selections_by_bits_are_those_of_where(dtype: str, n: int) -> None:
    a, b = (RNG.integers(-9, 9, n).astype(dtype) for _ in range(2))
    if dtype != "int64" and n:
        a[::3], b[1::3] = np.nan, -np.inf
    mask = RNG.random(n) < 0.5
    np.testing.assert_array_equal(select(np, mask, a, b), np.where(mask, a, b))
    np.testing.assert_array_equal(select(np, mask, 3, b), np.where(mask, 3, b))
    np.testing.assert_array_equal(select(np, mask, a, 0), np.where(mask, a, 0))
    np.testing.assert_array_equal(kept(np, mask, a), np.where(mask, a, 0))


def test_blocks_cover_every_element_whatever_the_layout() -> None:
    kernel = by_blocks(lambda xp, x, y, n: x * n + y)
    x, y = RNG.random((2, 300, 701))
    np.testing.assert_array_equal(kernel(np, x, y, 2), x * 2 + y)
    np.testing.assert_array_equal(kernel(np, x.T, y.T, 2), x.T * 2 + y.T)
    np.testing.assert_array_equal(kernel(np, x, y[:1], 2), x * 2 + y[:1])


@pytest.mark.parametrize("name", ["erf", "erfc", "lgamma", "digamma", "erfinv"])
def test_special_functions_at_their_edges(name: str) -> None:
    x = np.array([0.0, -0.0, 0.5, -0.5, 1.0, -1.0, 3.7, -3.7, 30.0, 1e-12, np.inf, np.nan])
    ours = getattr(farspan, name)(farspan.tensor(x)).numpy()
    np.testing.assert_allclose(
        ours, getattr(torch, name)(torch.tensor(x)).numpy(), rtol=1e-12, atol=1e-14
    )
