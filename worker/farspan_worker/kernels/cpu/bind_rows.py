"""Binders of rows: products of matrices, softmaxes, layer norms and maps of elements.

All give the bits of the eager kernels; of products this holds where eager asks the library too, by
the rule of product.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np

from . import checks, norm, pointwise, product, softmax
from .bind import Entry
from .bound import Binding, Operand
from .loops import relu
from .onednn import (
    BIAS,
    DIFF_DST,
    DIFF_SCALE,
    DIFF_SHIFT,
    DIFF_SRC,
    DST,
    MEAN,
    SCALE,
    SHIFT,
    SRC,
    VARIANCE,
    WEIGHTS,
    Kind,
    plain,
)

Ints = tuple[int, ...]
_BLOCK: Final = 16_384  # elements: what is at work on them stays in the second-level cache


def _in_c_order(b: Binding, x: Operand) -> Operand:
    """Return x, or a copy in C order."""
    assert x.desc is not None
    target = plain(x.shape)
    if x.desc == target:
        return x if x.stride is not None else x.seen_as(x.shape)
    copy = b.temporary(target, x.shape)
    b.reorder(x, copy)
    return copy.seen_as(x.shape)


# ------------------------------------------------------------------------------------ products --
def _placed(b: Binding, x: Operand) -> Operand:
    """Return x, or a copy, as matrices of dense rows or dense columns that do not overlap."""
    if x.stride is None:
        return _in_c_order(b, x)
    rows, columns = x.stride[-2:]
    if (columns == 1 and rows >= x.shape[-1]) or (rows == 1 and columns >= x.shape[-2]):
        return x
    return _in_c_order(b, x)


def _turned(x: Operand) -> Operand:
    """Return the transpose of matrices, on the same memory."""
    assert x.stride is not None
    shape, stride = x.shape, x.stride
    return x.seen_as((*shape[:-2], shape[-1], shape[-2]), (*stride[:-2], stride[-1], stride[-2]))


def _multiply(b: Binding, x: Operand, y: Operand, out: Operand, row: Operand | None) -> bool | None:
    """Add out = x @ y (+ a row), and what is to be done after it; False: there is no quick code."""
    if 1 in (x.shape[-2], y.shape[-1]):
        return False  # by a vector: BLAS is several times faster
    x, y = _placed(b, x), _placed(b, y)
    if row is None and not b.then and out.stride is not None and out.stride[-1] != 1:
        x, y, out = _turned(y), _turned(x), _turned(out)  # a result in columns
    inputs = {SRC: x, WEIGHTS: y, **b.extra()}
    if row is not None:
        wide = (*[1] * (len(out.shape) - 1), out.shape[-1])
        inputs[BIAS] = _in_c_order(b, row).seen_as(wide)
    bias = None if row is None else inputs[BIAS].desc
    assert out.desc is not None
    kind = Kind("matmul", x.desc, y.desc, bias, out.desc, then=b.then)
    if kind.implementation.startswith("ref"):
        return False
    inputs |= {SRC: x, WEIGHTS: y}
    b.add(kind, inputs, {DST: out})
    return None


def _mm(b: Binding, self: Operand, other: Operand) -> bool | None:
    if self.shape[:-2] != other.shape[:-2] or len(self.shape) > product.DIMS_MAX:
        return False
    if b.exact and not product.is_large(self.shape, other.shape):
        return False
    return _multiply(b, self, other, b.outputs[0], None)


def _addmm(b: Binding, self: Operand, x: Operand, y: Operand, beta: Any, alpha: Any) -> bool | None:
    if beta != 1 or alpha != 1 or self.shape != (y.shape[-1],):
        return False
    if b.exact and not product.is_large(x.shape, y.shape):
        return False
    return _multiply(b, x, y, b.outputs[0], self)


def _linear(b: Binding, input: Operand, weight: Operand, bias: Operand | None) -> bool | None:
    if len(weight.shape) != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        return False
    wide = product.folded(input.shape)
    if b.exact and not product.is_large(wide, weight.shape[::-1]):
        return False
    x = input if len(input.shape) == 2 else _in_c_order(b, input).seen_as(wide)
    out = b.outputs[0].seen_as((wide[0], weight.shape[0]))
    return _multiply(b, x, _turned(_placed(b, weight)), out, bias)


# ----------------------------------------------------------------------- softmaxes, layer norms --
def _softmax(algorithm: int) -> Callable[..., bool | None]:
    def bind(b: Binding, self: Operand, dim: int, half_to_float: bool) -> bool | None:
        shape = softmax.folded(self.shape, dim)
        out = b.outputs[0].seen_as(shape)
        x = _in_c_order(b, self).seen_as(shape)
        b.add(softmax.forward_kind(shape, algorithm), {SRC: x}, {DST: out})
        if 0 not in b.finite:
            b.call(checks.require_numbers, out)
        return None

    return bind


def _softmax_backward(algorithm: int) -> Callable[..., bool | None]:
    def bind(b: Binding, g: Operand, output: Operand, dim: int, dtype: Any) -> bool | None:
        shape = softmax.folded(output.shape, dim)
        g, y = (_in_c_order(b, x).seen_as(shape) for x in (g, output))
        if algorithm == softmax.LOG and 1 not in b.finite:
            b.call(checks.require_numbers, y)
        kind = softmax.backward_kind(shape, algorithm)
        b.add(kind, {DIFF_DST: g, DST: y}, {DIFF_SRC: b.outputs[0].seen_as(shape)})
        return None

    return bind


def _layer_norm(
    b: Binding, input: Operand, normalized: Sequence[int], weight: Operand | None,
    bias: Operand | None, eps: float,
) -> bool | None:  # fmt: skip
    out, mean, reciprocal = b.outputs
    columns = math.prod(normalized)
    shape = (math.prod(input.shape) // columns, columns)
    x, each = _in_c_order(b, input).seen_as(shape), plain(shape[:1])
    inputs = {SRC: x}
    if weight is not None and bias is not None:
        inputs |= {SCALE: weight.seen_as((columns,)), SHIFT: bias.seen_as((columns,))}
    variance = b.temporary(each, shape[:1])
    outputs = {DST: out.seen_as(shape), MEAN: mean.seen_as(shape[:1]), VARIANCE: variance}
    kind = norm.layer_kind(x.desc, each, eps, weight is not None)
    b.add(kind, inputs, outputs)
    b.call(partial(norm.reciprocal_into, eps), variance, reciprocal.seen_as(shape[:1]))
    return None


def _layer_norm_backward(
    b: Binding, g: Operand, input: Operand, normalized: Sequence[int], mean: Operand,
    reciprocal: Operand, weight: Operand | None, bias: Operand | None, mask: Sequence[bool],
) -> bool | None:  # fmt: skip
    columns = math.prod(normalized)
    shape = (math.prod(input.shape) // columns, columns)
    x, dy = (_in_c_order(b, o).seen_as(shape) for o in (input, g))
    each, row = plain(shape[:1]), plain((columns,))
    variance = b.temporary(each, shape[:1])
    b.call(norm.variance_into, reciprocal.seen_as(shape[:1]), variance)
    inputs = {SRC: x, DIFF_DST: dy, MEAN: mean.seen_as(shape[:1]), VARIANCE: variance}
    made = [
        o.seen_as((columns,) if i else shape) if asked
        else b.temporary(row if i else plain(shape), (columns,) if i else shape)
        for i, (o, asked) in enumerate(zip(b.outputs, mask, strict=True))
    ]  # fmt: skip
    outputs = {DIFF_SRC: made[0]}
    if weight is not None:
        scale = weight.seen_as((columns,))
        inputs |= {SCALE: scale, SHIFT: scale}
        outputs |= {DIFF_SCALE: made[1], DIFF_SHIFT: made[2]}
    b.add(norm.layer_backward_kind(plain(shape), each, weight is not None), inputs, outputs)
    return None


# --------------------------------------------------------------------------- maps of elements --
def _alike(*operands: Operand) -> list[Operand] | None:
    """Return the memory of values that lie alike, as rows; None if they do not."""
    first = operands[0]
    if first.desc is None or any(o.desc != first.desc for o in operands[1:]):
        return None
    if first.spec is not None and first.stride is not None and not first.spec.dense:
        return None
    return [o.flat() for o in operands]


def _map(algorithm: int, alpha: float = 0.0) -> Callable[..., bool | None]:
    def bind(b: Binding, self: Operand, approximate: str = "none") -> bool | None:
        b.outputs[0].desc = b.outputs[0].desc or self.desc
        rows = _alike(self, b.outputs[0])
        if rows is None:
            return False
        chosen = pointwise.GELU_TANH if approximate == "tanh" else algorithm
        kind = pointwise.forward_kind(rows[0].shape[0], chosen, alpha)
        b.add(kind, {SRC: rows[0]}, {DST: rows[1]})
        return None

    return bind


def _slope(algorithm: int, alpha: float = 0.0) -> Callable[..., bool | None]:
    def bind(b: Binding, g: Operand, self: Operand, approximate: str = "none") -> bool | None:
        b.outputs[0].desc = b.outputs[0].desc or self.desc
        rows = _alike(g, self, b.outputs[0])
        if rows is None:
            return False
        chosen = pointwise.GELU_TANH if approximate == "tanh" else algorithm
        kind = pointwise.backward_kind(rows[0].shape[0], chosen, alpha)
        b.add(kind, {DIFF_DST: rows[0], SRC: rows[1]}, {DIFF_SRC: rows[2]})
        return None

    return bind


def _positive_part(x: Any, out: Any) -> None:
    """Write relu of x; unlike the library's, NaN stays NaN."""
    if not relu.positive_part(x, out):
        np.maximum(x, 0, out=out)


def _kept_where_positive(g: Any, y: Any, out: Any) -> None:
    """Write g where y is positive or NaN, else 0; in numpy by bits, as `kept` does, in pieces."""
    if relu.kept_where_positive(g, y, out):
        return
    for start in range(0, g.size, _BLOCK):
        part = slice(start, start + _BLOCK)
        mask = np.less_equal(y[part], 0).view(np.int8)
        keep = np.subtract(mask, 1, dtype=np.int32)  # all bits where not y <= 0
        np.bitwise_and(g[part].view(np.int32), keep, out=out[part].view(np.int32))


def _relu(b: Binding, self: Operand) -> bool | None:
    b.outputs[0].desc = b.outputs[0].desc or self.desc
    rows = _alike(self, b.outputs[0])
    if rows is None:
        return False
    if 0 in b.finite:
        kind = pointwise.forward_kind(rows[0].shape[0], pointwise.RELU, 0.0)
        b.add(kind, {SRC: rows[0]}, {DST: rows[1]})
    else:
        b.call(_positive_part, *rows)
    return None


def _relu_backward(b: Binding, g: Operand, self: Operand, threshold: Any) -> bool | None:
    """Let gradients through where the result of relu is positive."""
    if threshold != 0:
        return False
    made = b.outputs[0]
    made.desc = made.desc or self.desc
    if g.desc != self.desc and self.stride is None:
        g = b.copy(g, self.desc)
    rows = _alike(g, self, made)
    if rows is None:
        return False
    if b.exact or 1 not in b.finite:  # the library multiplies: it makes -0, and 0 of NaN
        b.call(_kept_where_positive, *rows)
        return None
    kind = pointwise.relu_backward_kind(rows[0].shape[0])
    b.add(kind, {DIFF_DST: rows[0], DST: rows[1]}, {DIFF_SRC: rows[2]})
    return None


def _add(b: Binding, self: Operand, other: Operand, alpha: Any) -> bool | None:
    made = b.outputs[0]
    made.desc = made.desc or self.desc
    if alpha != 1 or self.shape != other.shape:
        return False
    if other.desc != self.desc and self.stride is None:
        other = b.copy(other, self.desc)
    rows = _alike(self, other, made)
    if rows is None:
        return False
    b.call(_sum, *rows)
    return None


def _sum(x: Any, y: Any, out: Any) -> None:
    np.add(x, y, out=out)


_EACH = {"given": (0,), "made": (0,), "passes": True}
_PAIR = {"given": (0, 1), "made": (0,), "passes": True}
ENTRIES: Final = {
    "mm": Entry(_mm),
    "bmm": Entry(_mm),
    "_batched_mm": Entry(_mm),
    "addmm": Entry(_addmm),
    "linear": Entry(_linear),
    "_softmax": Entry(_softmax(softmax.ACCURATE)),
    "_log_softmax": Entry(_softmax(softmax.LOG)),
    "_softmax_backward_data": Entry(_softmax_backward(softmax.ACCURATE)),
    "_log_softmax_backward_data": Entry(_softmax_backward(softmax.LOG)),
    "native_layer_norm": Entry(_layer_norm),
    "native_layer_norm_backward": Entry(_layer_norm_backward),
    "gelu": Entry(_map(pointwise.GELU)),
    "gelu_backward": Entry(_slope(pointwise.GELU)),
    "silu": Entry(_map(pointwise.SWISH, 1.0)),
    "silu_backward": Entry(_slope(pointwise.SWISH, 1.0)),
    "sigmoid": Entry(_map(pointwise.SIGMOID)),
    "relu": Entry(_relu, always=True, **_EACH),
    "threshold_backward": Entry(_relu_backward, always=True, **_PAIR),
    "add.Tensor": Entry(_add, always=True, **_PAIR),
}
