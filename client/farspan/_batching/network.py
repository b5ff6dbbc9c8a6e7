"""Rules for convolutions, pooling, padding and normalization.

Ops that know one batch dim get all of them folded into it; what has weights of its own for each
sample becomes groups of channels.
"""

from __future__ import annotations

import math
import re
from typing import Any

from ..core.call import fn
from .apply import RULES, Batch, rule, run
from .tensor import value

_WINDOWED = re.compile(r"^(?!fractional)\w*(pool|pad|upsample)\w*?([123])d")
_SIZED = frozenset({"size", "input_size"})  # of the gradient: it would have to be folded too


def _core_dims(op: Any) -> int | None:
    """Return how many dims a sample's sample has: channels and space; None if it is no such op."""
    if op.base in ("im2col",):
        return 3
    if op.base == "col2im":
        return 2
    found = _WINDOWED.search(op.base)
    if found is None or any(a.name in _SIZED for a in op.args):
        return None
    return int(found[2]) + 1


@rule("<structured>")
def folded(b: Batch) -> Any:
    """Fold the batch dims into the one that windows over images know."""
    core = _core_dims(b.op)
    if core is None or any(t._spec.ndim < core for t in b.tensors):
        return NotImplemented
    tensors = []
    for t in b.tensors:
        shape = t._spec.shape
        inner = shape[len(shape) - core :]
        rows = math.prod(b.sizes) * math.prod(shape[: len(shape) - core])
        tensors.append(fn.reshape(b.full(t), (rows, *inner)))
    return b.shaped(run(b.op, *b.op.recipe(b.static).args(tensors, b.scalars)))


RULES["adaptive_max_pool2d"] = RULES["im2col"] = RULES["col2im"] = folded


# --------------------------------------------------------------------------------- convolution --
def _fold(b: Batch, t: Any) -> Any:
    """Return t with all batch dims and its own first dim as one."""
    shape = t._spec.shape
    return fn.reshape(b.full(t), (math.prod(b.sizes) * shape[0], *shape[1:]))


def _fold_channels(b: Batch, t: Any) -> Any:
    """Return t (n, channels, ...) with the batch dims folded into the channels."""
    shape = t._spec.shape
    x = fn.reshape(b.full(t), (-1, *shape)) if b.k != 1 else b.full(t)
    return fn.reshape(fn.transpose(x, 0, 1), (shape[0], math.prod(b.sizes) * shape[1], *shape[2:]))


def _unfold_channels(b: Batch, x: Any) -> Any:
    """Undo `_fold_channels`: (n, batch * channels, ...) -> (*batch, n, channels, ...)."""
    shape = x._spec.shape
    count = math.prod(b.sizes)
    x = fn.reshape(x, (shape[0], count, shape[1] // count, *shape[2:]))
    x = fn.transpose(x, 0, 1)
    return x if b.k == 1 else fn.reshape(x, (*b.sizes, *x._spec.shape[1:]))


@rule("convolution")
def convolution(b: Batch) -> Any:
    x, weight, bias, *rest = b.args
    if not weight._levels:
        own = bias is not None and bias._levels
        made = run(b.op, _fold(b, x), weight, None if own else bias, *rest)
        made = fn.reshape(made, (*b.sizes, *b.outs[0].shape))
        if own:
            made = fn.add(made, fn.view(b.front(bias), _channel_shape(b, bias, made)))
        return made
    groups = rest[-1]
    count = math.prod(b.sizes)
    if bias is not None:
        bias = fn.reshape(b.full(bias), (-1,))
    shared = not x._levels and groups == 1 and not rest[3]
    folded_x = x if shared else _fold_channels(b, x)
    groups = 1 if shared else groups * count
    made = run(b.op, folded_x, _fold(b, weight), bias, *rest[:-1], groups)
    return _unfold_channels(b, made)


def _channel_shape(b: Batch, vector: Any, like: Any) -> tuple[int, ...]:
    """Return the shape that lets a sample's vector broadcast along the channels of `like`."""
    lead = [n.size if n in vector._levels else 1 for n in b.levels]
    space = like._spec.ndim - b.k - 2
    return (*lead, 1, vector._spec.shape[0], *[1] * space)


@rule("convolution_backward")
def convolution_backward(b: Batch) -> Any:
    grad, x, weight, bias_sizes, *rest, groups, mask = b.args
    count = math.prod(b.sizes)
    sizes = None if bias_sizes is None else [n * count for n in bias_sizes]
    made = run(b.op, _fold_channels(b, grad), _fold_channels(b, x), _fold(b, weight), sizes, *rest,
               groups * count, mask)  # fmt: skip
    gx, gw, gb = made
    shape = (*b.sizes, *weight._spec.shape)
    return (
        _unfold_channels(b, gx) if mask[0] else _hollow(b, gx),
        fn.reshape(gw, shape) if mask[1] else _hollow(b, gw),
        fn.reshape(gb, (*b.sizes, -1)) if mask[2] else _hollow(b, gb),
    )


def _hollow(b: Batch, x: Any) -> Any:
    """Return a result that nobody asked for, with the batch dims that wrapping expects."""
    return fn.expand(x, (*b.sizes, *x._spec.shape))


# ------------------------------------------------------------------------------- normalization --
@rule("native_layer_norm")
def layer_norm(b: Batch) -> Any:
    x, shape, weight, bias, eps = b.args
    own = [t for t in (weight, bias) if t is not None and t._levels]
    if not own:
        return run(b.op, value(x), shape, weight, bias, eps)
    made, mean, rstd = run(b.op, b.full(x), shape, None, None, eps)
    ndim = x._spec.ndim
    if weight is not None:
        made = fn.mul(made, b.front(weight, ndim) if weight._levels else weight)
    if bias is not None:
        made = fn.add(made, b.front(bias, ndim) if bias._levels else bias)
    return made, mean, rstd


@rule("native_layer_norm_backward")
def layer_norm_backward(b: Batch) -> Any:
    grad, x, shape, mean, rstd, weight, _, mask = b.args
    ndim = x._spec.ndim
    g, inner, m, r = b.full(grad), b.full(x), b.full(mean), b.full(rstd)
    inner_g, plain = g, weight
    if weight is not None and weight._levels:
        inner_g, plain = fn.mul(g, b.front(weight, ndim)), None
    gx = run(b.op, inner_g, inner, shape, m, r, plain, None, [True, False, False])[0]
    dims = [b.k + i for i in range(ndim - len(shape))]
    normal = fn.mul(fn.sub(inner, m), r)

    def summed(t: Any) -> Any:
        return fn.sum(t, dims) if dims else t

    gw = summed(fn.mul(g, normal)) if mask[1] else _hollow(b, fn.new_empty(g, (0,)))
    gb = summed(g) if mask[2] else _hollow(b, fn.new_empty(g, (0,)))
    return gx, gw, gb


@rule("native_group_norm")
def group_norm(b: Batch) -> Any:
    x, weight, bias, n, channels, space, groups, eps = b.args
    count = math.prod(b.sizes)
    plain = not any(t is not None and t._levels for t in (weight, bias))
    made, mean, rstd = run(b.op, _fold(b, x), weight if plain else None, bias if plain else None,
                           n * count, channels, space, groups, eps)  # fmt: skip
    made, mean, rstd = b.shaped((made, mean, rstd))
    if not plain:
        for t, combine in ((weight, fn.mul), (bias, fn.add)):
            if t is not None:
                made = combine(made, fn.view(b.front(t), _channel_shape(b, t, made)))
    return made, mean, rstd


def _vector(b: Batch, t: Any) -> Any:
    """Return a sample's vectors over channels as one over all channels of all samples."""
    return None if t is None else fn.reshape(b.full(t), (-1,))


@rule("_native_batch_norm")
def batch_norm(b: Batch) -> Any:
    x, *vectors, training, momentum, eps = b.args
    made, mean, invstd = run(b.op, _fold_channels(b, x), *[_vector(b, v) for v in vectors],
                             training, momentum, eps)  # fmt: skip
    return _unfold_channels(b, made), _per_sample(b, mean), _per_sample(b, invstd)


def _per_sample(b: Batch, vector: Any) -> Any:
    count = math.prod(b.sizes)
    return fn.reshape(vector, (*b.sizes, vector._spec.numel // count if count else 0))


@rule("native_batch_norm_backward")
def batch_norm_backward(b: Batch) -> Any:
    grad, x, *vectors, train, eps, mask = b.args
    gx, gw, gb = run(b.op, _fold_channels(b, grad), _fold_channels(b, x),
                     *[_vector(b, v) for v in vectors], train, eps, mask)  # fmt: skip
    return (
        _unfold_channels(b, gx) if mask[0] else _hollow(b, gx),
        _per_sample(b, gw) if mask[1] else _hollow(b, gw),
        _per_sample(b, gb) if mask[2] else _hollow(b, gb),
    )
