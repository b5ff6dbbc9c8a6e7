"""Activation functions: operators of the table, with torch's ``inplace`` and its checks."""

from __future__ import annotations

import warnings
from typing import Any

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn

# Operators of the table that are torch's functions as they stand.
gelu, softplus, logsigmoid = fn.gelu, fn.softplus, fn.log_sigmoid
hardshrink, softshrink, prelu = fn.hardshrink, fn.softshrink, fn.prelu
relu_, celu_, selu_, rrelu_ = fn.relu_, fn.celu_, fn.selu_, fn.rrelu_
elu_, leaky_relu_, hardtanh_, threshold_ = fn.elu_, fn.leaky_relu_, fn.hardtanh_, fn.threshold_


def relu(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.relu_(input) if inplace else fn.relu(input)


def relu6(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.relu6_(input) if inplace else fn.relu6(input)


def elu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return fn.elu_(input, alpha) if inplace else fn.elu(input, alpha)


def selu(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.selu_(input) if inplace else fn.selu(input)


def celu(input: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    return fn.celu_(input, alpha) if inplace else fn.celu(input, alpha)


def leaky_relu(input: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    return (fn.leaky_relu_ if inplace else fn.leaky_relu)(input, negative_slope)


def rrelu(
    input: Tensor,
    lower: float = 1.0 / 8,
    upper: float = 1.0 / 3,
    training: bool = False,
    inplace: bool = False,
) -> Tensor:
    """Return ``input`` with negative elements times slopes that training draws at random."""
    return (fn.rrelu_ if inplace else fn.rrelu)(input, lower, upper, training)


def silu(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.silu_(input) if inplace else fn.silu(input)


def mish(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.mish_(input) if inplace else fn.mish(input)


def hardsigmoid(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.hardsigmoid_(input) if inplace else fn.hardsigmoid(input)


def hardswish(input: Tensor, inplace: bool = False) -> Tensor:
    return fn.hardswish_(input) if inplace else fn.hardswish(input)


def hardtanh(
    input: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False
) -> Tensor:
    if min_val > max_val:
        raise ValueError("min_val cannot be greater than max_val")
    return (fn.hardtanh_ if inplace else fn.hardtanh)(input, min_val, max_val)


def threshold(input: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Return ``input`` where it is above ``threshold`` and ``value`` elsewhere."""
    return (fn.threshold_ if inplace else fn.threshold)(input, threshold, value)


def softsign(input: Tensor) -> Tensor:
    return input / (input.abs() + 1)


def tanhshrink(input: Tensor) -> Tensor:
    return input - input.tanh()


def tanh(input: Tensor) -> Tensor:
    return fn.tanh(input)


def sigmoid(input: Tensor) -> Tensor:
    return fn.sigmoid(input)


def glu(input: Tensor, dim: int = -1) -> Tensor:
    """Return the first half along ``dim`` times the sigmoid of the second half."""
    if input.dim() == 0:
        raise RuntimeError("glu does not support scalars because halving size must be even")
    return fn.glu(input, dim)


def softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    dim = _implicit_dim("softmax", input.dim(), _stacklevel) if dim is None else dim
    return fn.softmax(input, dim, dtype=dtype)


def softmin(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    dim = _implicit_dim("softmin", input.dim(), _stacklevel) if dim is None else dim
    return fn.softmax(-input, dim, dtype=dtype)


def log_softmax(
    input: Tensor, dim: int | None = None, _stacklevel: int = 3, dtype: Any = None
) -> Tensor:
    dim = _implicit_dim("log_softmax", input.dim(), _stacklevel) if dim is None else dim
    return fn.log_softmax(input, dim, dtype=dtype)


def _implicit_dim(name: str, ndim: int, stacklevel: int) -> int:
    warnings.warn(
        f"Implicit dimension choice for {name} has been deprecated. Change the call to include "
        "dim=X as an argument.",
        stacklevel=stacklevel,
    )
    return 0 if ndim in (0, 1, 3) else 1


def gumbel_softmax(
    logits: Tensor, tau: float = 1, hard: bool = False, eps: float = 1e-10, dim: int = -1
) -> Tensor:
    """Return a relaxed (or, with ``hard``, one-hot) sample of the categorical ``logits``."""
    noise = -farspan.empty_like(logits).exponential_().log()
    soft = ((logits + noise) / tau).softmax(dim)
    if not hard:
        return soft
    index = soft.argmax(dim, keepdim=True)
    one_hot = farspan.zeros_like(logits).scatter_(dim, index, 1.0)
    return one_hot - soft.detach() + soft
