"""Binders of images: convolutions, pools and batch norms, in layouts that stay between them.

All give the bits of the eager kernels, in any layout: convolutions because both ask the library for
the same primitives, so that layouts only decide which copies are made; tests/test_bound.py measures
it. A pool leaves the library's workspace where the op has indices: only for who reads none.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Final

from farspan.core.ops.pool_windows import ints, steps_of
from farspan.core.spec import is_contiguous

from . import checks, norm, pool
from .bind import Entry
from .bound import Binding, Operand
from .conv import Shapes
from .onednn import (
    BIAS,
    DIFF_BIAS,
    DIFF_DST,
    DIFF_SCALE,
    DIFF_SHIFT,
    DIFF_SRC,
    DIFF_WEIGHTS,
    DST,
    INFERENCE,
    MEAN,
    SCALE,
    SHIFT,
    SRC,
    TRAINING,
    VARIANCE,
    WEIGHTS,
    WORKSPACE,
    Desc,
    Kind,
    free,
    plain,
)

Ints = tuple[int, ...]


# -------------------------------------------------------------------------------- convolutions --
def _weights(shapes: Shapes, weight: Operand) -> Operand:
    """Return a weight (out, in / groups, *kernel) with its groups apart."""
    if shapes.groups == 1 or weight.stride is None:
        return weight
    stride = (weight.stride[0] * shapes.weight[1], *weight.stride)
    return weight.seen_as(shapes.weight, stride)


def _convolution(
    b: Binding, input: Operand, weight: Operand, bias: Operand | None, stride: Ints,
    padding: Ints, dilation: Ints, transposed: bool, output_padding: Ints, groups: int,
) -> bool | None:  # fmt: skip
    if transposed:
        return False
    (y,) = b.outputs
    shapes = Shapes(input.shape, weight.shape, y.shape, stride, padding, dilation, groups)
    inputs = {SRC: input, WEIGHTS: _weights(shapes, weight), **b.extra()}
    if bias is not None:
        inputs[BIAS] = bias
    b.add(shapes.forward(bias is not None, b.then), inputs, {DST: y})
    return None


def _convolution_backward(
    b: Binding, g: Operand, input: Operand, weight: Operand, bias_sizes: Ints | None,
    stride: Ints, padding: Ints, dilation: Ints, transposed: bool, output_padding: Ints,
    groups: int, mask: Sequence[bool],
) -> bool | None:  # fmt: skip
    if transposed or (mask[2] and not mask[1]):
        return False
    of_input, of_weight, of_bias = b.outputs
    shapes = Shapes(input.shape, weight.shape, g.shape, stride, padding, dilation, groups)
    if mask[1]:
        outputs = {DIFF_WEIGHTS: _weights(shapes, of_weight)}
        if mask[2]:
            outputs[DIFF_BIAS] = of_bias
        b.add(shapes.of_weights(mask[2]), {SRC: input, DIFF_DST: g}, outputs)
    if mask[0]:
        inputs = {DIFF_DST: g, WEIGHTS: _weights(shapes, weight)}
        b.add(shapes.of_input(), inputs, {DIFF_SRC: of_input})
    return None


# --------------------------------------------------------------------------------------- pools --
def _batched(x: Operand) -> Operand:
    """Return images as a batch of them."""
    if len(x.shape) == 4:
        return x
    stride = None if x.stride is None else (math.prod(x.shape), *x.stride)
    return x.seen_as((1, *x.shape), stride)


def _maxima(
    x: Desc, size: Ints, y: Ints, kernel: Any, stride: Any, padding: Any
) -> tuple[Kind, list[Any]]:
    """Return the forward primitive over images in this layout, and its sizes and steps."""
    window = ints(kernel, 2)
    given = pool.steps_given(size, y[2:], window, steps_of(window, stride, 2), ints(padding, 2))
    return Kind("pooling_forward", TRAINING, pool.MAX, x, free(y), *given), given


def _fits(kernel: Any, dilation: Any) -> bool:
    return set(ints(dilation, 2)) == {1} and math.prod(ints(kernel, 2)) <= pool.WINDOW_MAX


def _max_pool(
    b: Binding, input: Operand, kernel: Any, stride: Any, padding: Any, dilation: Any,
    ceil_mode: bool,
) -> bool | None:  # fmt: skip
    y, at = b.outputs
    if at.stride is not None or not _fits(kernel, dilation):  # somebody reads indices
        return False
    x, y = _batched(input), _batched(y)
    assert x.desc is not None
    if 0 not in b.finite:
        b.call(checks.require_finite, x.flat())
    kind, _ = _maxima(x.desc, x.shape[2:], y.shape, kernel, stride, padding)
    b.add(kind, {SRC: x}, {DST: y, WORKSPACE: at})
    return None


def _apart(
    g: Any, input: Any, kernel: Any, stride: Any, padding: Any, dilation: Any, *rest: Any
) -> bool:
    """Return whether windows share no element: then nothing is added up, in any order."""
    window = ints(kernel, 2)
    steps = steps_of(window, stride, 2)
    return all(s >= k for s, k in zip(steps, window, strict=True))


def _max_pool_backward(
    b: Binding, g: Operand, input: Operand, kernel: Any, stride: Any, padding: Any,
    dilation: Any, ceil_mode: bool, at: Operand,
) -> bool | None:  # fmt: skip
    if at.stride is not None or not _fits(kernel, dilation):
        return False
    x, y, (made,) = _batched(input), _batched(g), b.outputs
    assert x.desc is not None
    forward, given = _maxima(x.desc, x.shape[2:], y.shape, kernel, stride, padding)
    narrow = forward.desc(DST)
    kind = Kind("pooling_backward", pool.MAX, x.desc, narrow, *given, forward)
    b.add(kind, {DIFF_DST: y, WORKSPACE: at}, {DIFF_SRC: _batched(made)})
    return None


def _mean_pool(
    b: Binding, input: Operand, kernel: Any, stride: Any, padding: Any, ceil_mode: bool,
    inside: bool, divisor: int | None,
) -> bool | None:  # fmt: skip
    return _means(b, input, b.outputs[0], False, kernel, stride, padding, inside)


def _mean_pool_backward(
    b: Binding, g: Operand, input: Operand, kernel: Any, stride: Any, padding: Any,
    ceil_mode: bool, inside: bool, divisor: int | None,
) -> bool | None:  # fmt: skip
    return _means(b, b.outputs[0], g, True, kernel, stride, padding, inside, input)


def _means(
    b: Binding, wide: Operand, narrow: Operand, backward: bool, kernel: Any, stride: Any,
    padding: Any, inside: bool, like: Operand | None = None,
) -> None:  # fmt: skip
    x, y = _batched(wide), _batched(narrow)
    layout = (x if like is None else _batched(like)).desc
    assert layout is not None
    algorithm = pool.MEAN if inside else pool.MEAN_INSIDE
    window = ints(kernel, 2)
    given = pool.steps_given(
        x.shape[2:], y.shape[2:], window, steps_of(window, stride, 2), ints(padding, 2)
    )
    way = TRAINING if backward else INFERENCE
    forward = Kind("pooling_forward", way, algorithm, layout, free(y.shape), *given)
    if not backward:
        b.add(forward, {SRC: x}, {DST: y})
        return
    kind = Kind("pooling_backward", algorithm, layout, forward.desc(DST), *given, forward)
    b.add(kind, {DIFF_DST: y}, {DIFF_SRC: x})


# --------------------------------------------------------------------------------- batch norms --
def _inside(x: Operand) -> Desc:
    """Return the layout in which the eager kernel computes."""
    assert x.spec is not None
    shape, stride = x.spec.shape, x.spec.stride
    order = (0, *range(2, len(shape)), 1)
    innermost = len(shape) > 2 and is_contiguous(
        [shape[d] for d in order], [stride[d] for d in order]
    )
    return norm.inside(shape, plain(shape, stride if innermost else None), innermost)


def _affine(weight: Operand | None, bias: Operand | None) -> tuple[int, dict[int, Operand]]:
    """Return which of scale and shift are there, as bits and as arguments."""
    use = (weight is not None) * norm.SCALES | (bias is not None) * norm.SHIFTS
    given = {SCALE: weight, SHIFT: bias}
    return use, {a: o for a, o in given.items() if o is not None}


def _batch_norm(
    b: Binding, input: Operand, weight: Operand | None, bias: Operand | None,
    running_mean: Operand | None, running_var: Operand | None, training: bool, momentum: float,
    eps: float,
) -> bool | None:  # fmt: skip
    out, mean, reciprocal = b.outputs
    inner = _inside(input)
    use, given = _affine(weight, bias)
    inputs, outputs = {SRC: input, **given}, {DST: out}
    if not training:
        if running_mean is None or running_var is None:
            return False
        inputs |= {MEAN: running_mean, VARIANCE: running_var}
        b.add(norm.batch_kind(inner, eps, use | norm.GIVEN), inputs, outputs)
        return None
    variance = b.temporary(plain(mean.shape), mean.shape)
    outputs |= {MEAN: mean, VARIANCE: variance}
    b.add(norm.batch_kind(inner, eps, use), inputs, outputs)
    b.call(partial(norm.reciprocal_into, eps), variance, reciprocal)
    return None


def _batch_norm_backward(
    b: Binding, g: Operand, input: Operand, weight: Operand | None, running_mean: Operand | None,
    running_var: Operand | None, mean: Operand, reciprocal: Operand, train: bool, eps: float,
    mask: Sequence[bool],
) -> bool | None:  # fmt: skip
    if not train or weight is None:
        return False
    row = plain(weight.shape)
    variance = b.temporary(row, weight.shape)
    b.call(norm.variance_into, reciprocal, variance)
    made = [
        o if asked else b.temporary(row if i else _inside(input))
        for i, (o, asked) in enumerate(zip(b.outputs, mask, strict=True))
    ]
    kind = norm.batch_backward_kind(_inside(input), norm.SCALES | norm.SHIFTS)
    inputs = {SRC: input, DIFF_DST: g, MEAN: mean, VARIANCE: variance, SCALE: weight}
    outputs = dict(zip((DIFF_SRC, DIFF_SCALE, DIFF_SHIFT), made, strict=True))
    b.add(kind, inputs, outputs)
    return None


ENTRIES: Final = {
    "convolution": Entry(_convolution, given=(0,), made=(0,)),
    "convolution_backward": Entry(_convolution_backward, given=(0, 1), made=(0,)),
    "max_pool2d_with_indices": Entry(_max_pool, given=(0,), made=(0, 1), passes=True),
    "max_pool2d_with_indices_backward": Entry(
        _max_pool_backward, _apart, False, given=(0, 1, 2), made=(0,), passes=True
    ),
    "avg_pool2d": Entry(_mean_pool, given=(0,), made=(0,), passes=True),
    "avg_pool2d_backward": Entry(_mean_pool_backward, given=(0, 1), made=(0,), passes=True),
    "_native_batch_norm": Entry(_batch_norm, given=(0,), made=(0,), passes=True),
    "native_batch_norm_backward": Entry(_batch_norm_backward, given=(0, 1), made=(0,), passes=True),
}
