"""Rules for products of vectors and matrices."""

from __future__ import annotations

import math
from typing import Any

from ..core.call import fn
from ..core.ops.contract import LETTERS
from .apply import Batch, rule, run
from .tensor import value


@rule("mm", "bmm")
def product(b: Batch) -> Any:
    x, y = b.tensors
    if not y._levels and y._spec.ndim == 2:
        return fn.matmul(value(x), y)  # one product of all rows
    ndim = x._spec.ndim
    return fn.matmul(b.front(x, ndim), b.front(y, ndim))


@rule("mv")
def mv(b: Batch) -> Any:
    x, y = b.tensors
    if not y._levels:
        return fn.matmul(value(x), y)
    if not x._levels:
        return fn.matmul(value(y), fn.t(x))
    column = fn.unsqueeze(b.front(y), -1)
    return fn.squeeze(fn.matmul(b.front(x), column), -1)


@rule("dot")
def dot(b: Batch) -> Any:
    x, y = b.tensors
    if not y._levels:
        return fn.matmul(value(x), y)
    if not x._levels:
        return fn.matmul(value(y), x)
    return fn.sum(fn.mul(b.front(x), b.front(y)), -1)


@rule("linear")
def linear(b: Batch) -> Any:
    x, weight, bias = b.args
    if not weight._levels and (bias is None or not bias._levels):
        return run(b.op, value(x), weight, bias)
    if not weight._levels:
        made = run(b.op, b.full(x), weight, None)
    else:
        made = _with_own_weights(b, x, weight)
    if bias is None:
        return made
    return fn.add(made, b.front(bias, made._spec.ndim - b.k) if bias._levels else bias)


def _with_own_weights(b: Batch, x: Any, weight: Any) -> Any:
    """Return x times the sample's own weights: (..., inner) by (columns, inner)."""
    ndim = x._spec.ndim
    if weight._spec.ndim == 1:  # one column, whose dim the result has not
        column = fn.unsqueeze(b.front(weight, max(ndim - 1, 1)), -1)
        rows = b.front(x) if ndim > 1 else fn.unsqueeze(b.front(x), -2)
        made = fn.squeeze(fn.matmul(rows, column), -1)
        return made if ndim > 1 else fn.squeeze(made, -1)
    if ndim == 1:
        row = fn.unsqueeze(b.front(x), -2)
        return fn.squeeze(fn.matmul(row, fn.transpose(b.front(weight), -2, -1)), -2)
    if ndim > 2:  # the rows of a sample together
        shape = x._spec.shape
        lead = b.front(x)
        rows = math.prod(shape[:-1])
        flat = fn.reshape(lead, (*lead._spec.shape[: b.k], rows, shape[-1]))
        made = fn.matmul(flat, fn.transpose(b.front(weight), -2, -1))
        return fn.reshape(made, (*b.sizes, *shape[:-1], made._spec.shape[-1]))
    return fn.matmul(b.front(x), fn.transpose(b.front(weight), -2, -1))


@rule("addmm", "baddbmm", "addmv", "addr")
def add_product(b: Batch) -> Any:
    start, x, y = b.args[:3]
    beta, alpha = b["beta"], b["alpha"]
    ndim = b.outs[0].ndim
    if b.op.base == "addr":
        product_ = fn.mul(fn.unsqueeze(b.front(x), -1), fn.unsqueeze(b.front(y), -2))
    elif b.op.base == "addmv":
        column = fn.unsqueeze(b.front(y), -1)
        product_ = fn.squeeze(fn.matmul(b.front(x), column), -1)
    else:
        product_ = fn.matmul(b.front(x), b.front(y))
    if alpha != 1:
        product_ = fn.mul(product_, alpha)
    if beta == 0:
        return fn.expand(product_, (*b.sizes, *b.outs[0].shape))
    first = b.front(start, ndim) if start._levels else start
    if beta != 1:
        first = fn.mul(first, beta)
    return b.shaped(fn.expand(fn.add(first, product_), (*b.sizes, *b.outs[0].shape)))


@rule("_contract")
def contract(b: Batch) -> Any:
    """The batch dims become labels of their own."""
    equation, x, y = b.args
    free = [c for c in LETTERS if c not in equation]
    label = dict(zip(b.levels, free, strict=False))
    inputs, _, out = equation.partition("->")
    left, _, right = inputs.partition(",")
    own = ["".join(label[level] for level in t._levels) for t in (x, y)]
    everything = "".join(label[level] for level in b.levels)
    text = f"{own[0]}{left},{own[1]}{right}->{everything}{out}"
    return run(b.op, text, value(x), value(y))
