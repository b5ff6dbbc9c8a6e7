"""What a library promises, said once: a program runs on torch and on farspan, with one outcome.

A program takes the library and returns what is to be equal: tensors, numbers, strings, None.
"""

from __future__ import annotations

import functools
import warnings
from typing import Any

import farspan
import numpy as np
import torch


def plain(x: Any) -> Any:
    """Return what can be compared: arrays for tensors, text for dtypes."""
    if isinstance(x, (torch.Tensor, farspan.Tensor)):
        return x.detach().numpy()
    if isinstance(x, (list, tuple)):
        return [plain(i) for i in x]
    return str(x) if isinstance(x, (torch.dtype, farspan.dtype)) else x


def assert_equal(
    ours: Any, theirs: Any, where: str = "result", rtol: float = 1e-5, atol: float = 1e-6
) -> None:
    if isinstance(theirs, list):
        assert len(ours) == len(theirs), where
        for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
            assert_equal(a, b, f"{where}[{i}]", rtol, atol)
    elif isinstance(theirs, np.ndarray):
        assert ours is not None, f"{where}: None, torch has {theirs}"
        assert ours.dtype == theirs.dtype, where
        np.testing.assert_allclose(ours, theirs, rtol=rtol, atol=atol, err_msg=where)
    else:
        assert ours == theirs, f"{where}: {ours!r}, torch has {theirs!r}"


def same(program: Any = None, *, rtol: float = 1e-5, atol: float = 1e-6) -> Any:
    """Make a test of a program: both libraries return the same, or raise the same."""
    if program is None:
        return functools.partial(same, rtol=rtol, atol=atol)

    @functools.wraps(program)
    def test() -> None:
        results = []
        for lib in (torch, farspan):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                results.append(plain(program(lib)))
        assert_equal(results[1], results[0], rtol=rtol, atol=atol)

    del test.__wrapped__  # pytest would ask for a fixture named like the parameter
    return test


def failure(action: Any, *words: str) -> str:
    """Return the builtin class of what `action` raises, whose message holds the words."""
    try:
        action()
    except Exception as e:
        for word in words:
            assert word in str(e), f"{word!r} is not in {e}"
        builtin = next(c for c in type(e).__mro__ if c.__module__ == "builtins")
        return builtin.__name__
    return "nothing was raised"


def leaf(t: Any, *shape: int, seed: int = 0, dtype: str = "float32") -> Any:
    values = np.random.default_rng(seed).uniform(-2, 2, shape).astype(dtype)
    return t.tensor(values, requires_grad=True)


def grad_of(t: Any, y: Any, *xs: Any) -> Any:
    """Return gradients of a weighted sum of y, so that transposed ones would show."""
    weights = t.arange(y.numel(), dtype=y.dtype).reshape(y.shape) + 1
    return t.autograd.grad((y * weights).sum(), xs, retain_graph=True, allow_unused=True)
