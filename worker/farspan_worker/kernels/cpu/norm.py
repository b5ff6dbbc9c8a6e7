"""Layer norm and batch norm by oneDNN, forward and backward.

The library wants variances where ATen keeps reciprocal deviations r: backward passes take 1 / r^2
with an epsilon of 0, which is the same number. Measured by benchmarks/kernels.py, forward and
backward, fast / numpy / torch in ms: layer norm of 1024 x 768 0.15 / 0.84 / 0.21 and 0.26 / 1.95 /
0.25; batch norm of 32x32x32x32 0.82 / 1.25 / 1.47 and 1.12 / 2.88 / 0.47.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from .. import Fast, Registry, single
from . import onednn as dn

Ints = tuple[int, ...]
GIVEN, SCALES, SHIFTS = 1, 2, 4  # dnnl_normalization_flags_t
_SMALL: Final = 2_048


def _reciprocal(variance: Any, eps: float) -> Any:
    return 1 / np.sqrt(variance + np.float32(eps))


def reciprocal_into(eps: float, variance: Any, out: Any) -> None:
    """Write reciprocal deviations, the bits that `_layer` and `_batch` give."""
    np.add(variance, np.float32(eps), out=out)
    np.sqrt(out, out=out)
    np.divide(1, out, out=out)


def _variance(reciprocal: Any) -> Any:
    return 1 / np.square(np.ascontiguousarray(reciprocal))


def variance_into(reciprocal: Any, out: Any) -> None:
    """Write the variances of reciprocal deviations, the bits that backward passes take."""
    np.square(reciprocal, out=out)
    np.divide(1, out, out=out)


# ----------------------------------------------------------------------------------- layer norm --
def layer_kind(x: dn.Desc, each: dn.Desc, eps: float, affine: bool) -> dn.Kind:
    """Return the primitive over rows of x, with a mean and a variance of each."""
    use = dn.flags(SCALES | SHIFTS if affine else 0)
    return dn.Kind("layer_normalization_forward", dn.TRAINING, x, x, each, dn.number(eps), use)


def layer_backward_kind(x: dn.Desc, each: dn.Desc, affine: bool) -> dn.Kind:
    """Return its gradient."""
    use = dn.flags(SCALES | SHIFTS if affine else 0)
    forward = layer_kind(x, each, 0, affine)
    return dn.Kind(
        "layer_normalization_backward", dn.BACKWARD, x, x, x, each, dn.number(0), use, forward
    )


@dn.cached
def _layer_route(rows: int, columns: int, eps: float, affine: bool) -> dn.Route:
    x, each, row = dn.plain((rows, columns)), dn.plain((rows,)), dn.plain((columns,))
    kind = layer_kind(x, each, eps, affine)
    inputs = [(dn.SRC, x), *([(dn.SCALE, row), (dn.SHIFT, row)] if affine else [])]
    return dn.Route(kind, inputs, [(dn.DST, x), (dn.MEAN, each), (dn.VARIANCE, each)])


@dn.cached
def _layer_backward_route(rows: int, columns: int, affine: bool) -> dn.Route:
    x, each, row = dn.plain((rows, columns)), dn.plain((rows,)), dn.plain((columns,))
    kind = layer_backward_kind(x, each, affine)
    inputs = [(dn.SRC, x), (dn.DIFF_DST, x), (dn.MEAN, each), (dn.VARIANCE, each)]
    outputs = [(dn.DIFF_SRC, x)]
    if affine:  # 3.2 wants the shift too, though no gradient depends on it
        inputs += [(dn.SCALE, row), (dn.SHIFT, row)]
        outputs += [(dn.DIFF_SCALE, row), (dn.DIFF_SHIFT, row)]
    return dn.Route(kind, inputs, outputs)


def _layer(
    xp: Any, input: Any, normalized_shape: Ints, weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any]:
    columns = math.prod(normalized_shape)
    lead = input.shape[: input.ndim - len(normalized_shape)]
    rows = math.prod(lead)
    x = np.ascontiguousarray(input)
    out = np.empty_like(x)
    mean, variance = np.empty((2, *lead, *[1] * len(normalized_shape)), np.float32)
    affine = weight is not None
    given = [np.ascontiguousarray(weight), np.ascontiguousarray(bias)] if affine else []
    _layer_route(rows, columns, eps, affine)(x, *given, out, mean, variance)
    return out, mean, _reciprocal(variance, eps)


def _layer_backward(
    xp: Any, grad_out: Any, input: Any, normalized_shape: Ints, mean: Any, rstd: Any,
    weight: Any, bias: Any, output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    columns = math.prod(normalized_shape)
    x, g = np.ascontiguousarray(input), np.ascontiguousarray(grad_out)
    affine = weight is not None
    given = [x, g, np.ascontiguousarray(mean), _variance(rstd)]
    made = [np.empty_like(x)]
    if affine:
        scale = np.ascontiguousarray(weight)
        given += [scale, scale]
        made += [np.empty(normalized_shape, np.float32), np.empty(normalized_shape, np.float32)]
    _layer_backward_route(x.size // columns, columns, affine)(*given, *made)
    none = np.empty(0, np.float32)
    made += [none, none]
    return tuple(m if asked else none for m, asked in zip(made[:3], output_mask, strict=True))


def _layer_when(input: Any, normalized_shape: Ints, weight: Any, bias: Any, eps: float) -> bool:
    both = (weight is None) == (bias is None)
    return single(input, weight, bias) and both


def _layer_backward_when(
    grad_out: Any, input: Any, normalized_shape: Ints, mean: Any, rstd: Any, weight: Any,
    bias: Any, output_mask: Sequence[bool],
) -> bool:  # fmt: skip
    if weight is None and (output_mask[1] or output_mask[2]):
        return False
    return single(grad_out, input, mean, rstd, weight)


# ----------------------------------------------------------------------------------- batch norm --
def inside(shape: Ints, outside: dn.Desc, innermost: bool) -> dn.Desc:
    """Return the layout in which the library has vector code for images in C order: blocks of 16.

    Measured on 32 images of 32 x 32 in 32 channels: 0.8 ms with the reorders, in C order 1.9.
    """
    return outside if innermost or len(shape) == 2 or shape[1] < 12 else dn.blocked(shape)


def batch_kind(inner: dn.Desc, eps: float, use: int) -> dn.Kind:
    """Return the primitive over images in this layout; `use` says what is given."""
    way = dn.INFERENCE if use & GIVEN else dn.TRAINING
    return dn.Kind("batch_normalization_forward", way, inner, inner, dn.number(eps), dn.flags(use))


def batch_backward_kind(inner: dn.Desc, use: int) -> dn.Kind:
    """Return its gradient."""
    forward = batch_kind(inner, 0, use)
    return dn.Kind(
        "batch_normalization_backward", dn.BACKWARD, inner, inner, inner, dn.number(0),
        dn.flags(use), forward,
    )  # fmt: skip


@dn.cached
def _batch_route(shape: Ints, strides: Ints, eps: float, use: int) -> dn.Route:
    x, each = dn.plain(shape, [s // 4 for s in strides]), dn.plain(shape[1:2])
    inner = inside(shape, x, len(shape) > 2 and strides[1] == 4)
    fixed = bool(use & GIVEN)
    kind = batch_kind(inner, eps, use)
    inputs, outputs = [(dn.SRC, x)], [(dn.DST, x)]
    statistics = [(dn.MEAN, each), (dn.VARIANCE, each)]
    (inputs if fixed else outputs).extend(statistics)
    inputs += [(a, each) for a, bit in ((dn.SCALE, SCALES), (dn.SHIFT, SHIFTS)) if use & bit]
    return dn.Route(kind, inputs, outputs)


@dn.cached
def _batch_backward_route(shape: Ints, strides: Ints, use: int) -> dn.Route:
    x, each = dn.plain(shape, [s // 4 for s in strides]), dn.plain(shape[1:2])
    inner = inside(shape, x, len(shape) > 2 and strides[1] == 4)
    kind = batch_backward_kind(inner, use)
    inputs = [(dn.SRC, x), (dn.DIFF_DST, x), (dn.MEAN, each), (dn.VARIANCE, each)]
    outputs = [(dn.DIFF_SRC, x)]
    if use & SCALES:
        inputs.append((dn.SCALE, each))
        outputs.append((dn.DIFF_SCALE, each))
    if use & SHIFTS:
        outputs.append((dn.DIFF_SHIFT, each))
    return dn.Route(kind, inputs, outputs)


def _innermost(x: Any) -> bool:
    """Return whether x, not in C order, has its channels innermost."""
    return x.ndim > 2 and x.transpose(0, *range(2, x.ndim), 1).flags.c_contiguous


def _batch(
    xp: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    x = input if _innermost(input) else np.ascontiguousarray(input)
    out = np.empty_like(x)
    use = (weight is not None) * SCALES | (bias is not None) * SHIFTS
    affine = [np.ascontiguousarray(a) for a in (weight, bias) if a is not None]
    none = np.empty(0, np.float32)
    if not training:
        fixed = [np.ascontiguousarray(a) for a in (running_mean, running_var)]
        _batch_route(x.shape, x.strides, eps, use | GIVEN)(x, *fixed, *affine, out)
        return out, none, none
    mean, variance = np.empty((2, x.shape[1]), np.float32)
    _batch_route(x.shape, x.strides, eps, use)(x, *affine, out, mean, variance)
    return out, mean, _reciprocal(variance, eps)


def _batch_backward(
    xp: Any, grad_out: Any, input: Any, weight: Any, running_mean: Any, running_var: Any,
    save_mean: Any, save_invstd: Any, train: bool, eps: float, output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    x = input if _innermost(input) else np.ascontiguousarray(input)
    g = grad_out
    if g.strides != x.strides:
        g = np.empty_like(x)
        g[...] = grad_out
    if weight is None:
        weight = np.ones(x.shape[1], np.float32)
    made = [np.empty_like(x), *np.empty((2, x.shape[1]), np.float32)]
    given = [x, g, np.ascontiguousarray(save_mean), _variance(save_invstd)]
    route = _batch_backward_route(x.shape, x.strides, SCALES | SHIFTS)
    route(*given, np.ascontiguousarray(weight), *made)
    none = np.empty(0, np.float32)
    return tuple(m if asked else none for m, asked in zip(made, output_mask, strict=True))


def _batch_when(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, *rest: Any
) -> bool:
    specs = (input, weight, bias, running_mean, running_var)
    return single(*specs) and 2 <= input.ndim <= 5


def _batch_backward_when(
    grad_out: Any, input: Any, weight: Any, running_mean: Any, running_var: Any, save_mean: Any,
    save_invstd: Any, train: bool, *rest: Any,
) -> bool:  # fmt: skip
    if not train or not single(grad_out, input, weight, save_mean, save_invstd):
        return False
    return 2 <= input.ndim <= 5


def register(registry: Registry) -> None:
    """Enter the norms; a small tensor is done in numpy before oneDNN has begun."""
    registry["native_layer_norm"] = Fast(_layer, _layer_when, _SMALL)
    registry["native_layer_norm_backward"] = Fast(_layer_backward, _layer_backward_when, _SMALL)
    registry["_native_batch_norm"] = Fast(_batch, _batch_when, _SMALL)
    registry["native_batch_norm_backward"] = Fast(_batch_backward, _batch_backward_when, _SMALL)
