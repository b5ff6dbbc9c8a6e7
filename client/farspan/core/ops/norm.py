"""Normalizations: layer, group and root mean square; batch norm stands in `batch_norm.py`.

Layer, group and batch norm are one map, x -> (x - mean) / deviation * weight + bias, over different
axes. Its gradients of first and second order are here once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import float32
from ..errors import DTypeError, ShapeError, UnsupportedError
from ..family import common_device, composite, structured
from ..spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence

Ints = tuple[int, ...]


# ------------------------------------------------------------------------------- the shared map --
def moments(xp: Any, x: Any, axes: Ints) -> tuple[Any, Any, Any]:
    """Return mean and variance over the axes, kept as ones, and x minus the mean."""
    count = x.dtype.type(math.prod(x.shape[a] for a in axes))
    mean = x.sum(axis=axes, keepdims=True) / count
    centered = x - mean
    variance = xp.square(centered).sum(axis=axes, keepdims=True) / count
    return mean, variance, centered


def reciprocal_deviation(xp: Any, variance: Any, eps: float) -> Any:
    return 1 / xp.sqrt(variance + variance.dtype.type(eps))


def normalized(
    xp: Any, x: Any, weight: Any, bias: Any, eps: float, axes: Ints
) -> tuple[Any, Any, Any]:
    """Return the normalized x, the mean and the reciprocal deviation. weight broadcasts to x."""
    mean, variance, out = moments(xp, x, axes)
    rstd = reciprocal_deviation(xp, variance, eps)
    out *= rstd
    if weight is not None:
        out *= weight
    if bias is not None:
        out += bias
    return out, mean, rstd


def normalized_backward(
    xp: Any, g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: Ints, mask: Sequence[bool]
) -> tuple[Any, Any]:
    """Return the gradient of x, and g times the normalized x, whose sum is that of the weight."""
    centered = (x - mean) * rstd
    product = g * centered
    if not mask[0]:
        return None, product
    count = x.dtype.type(math.prod(x.shape[a] for a in axes))
    slope = g if weight is None else g * weight
    of_slope = slope.sum(axis=axes, keepdims=True) / count
    both = product if weight is None else product * weight
    of_both = both.sum(axis=axes, keepdims=True) / count
    out = slope - of_slope
    centered *= of_both
    out -= centered
    out *= rstd
    return out, product


def normalized_double(
    cotangents: Sequence[Any], g: Any, x: Any, mean: Any, rstd: Any, weight: Any, axes: Ints
) -> tuple[Any, Any, Any]:
    """Return the gradients of g, x and weight (not yet summed) of the backward map.

    cotangents: of its three results, each None or broadcast to x. With y the normalized x, m the
    mean over the axes and P(v) = rstd (v - m(v) - y m(v y)), backward is (P(g w), g y, g).
    """
    of_x, of_weight, of_bias = cotangents
    y = fn.mul(fn.sub(x, mean), rstd)
    slope = g if weight is None else fn.mul(g, weight)

    def m(v: Any) -> Any:
        return fn.mean(v, axes, True)

    def project(v: Any) -> Any:
        rest = fn.sub(fn.sub(v, m(v)), fn.mul(y, m(fn.mul(v, y))))
        return fn.mul(rest, rstd)

    to_g = to_x = to_weight = None
    if of_x is not None:
        projected = project(of_x)
        to_weight = fn.mul(g, projected)
        to_g = projected if weight is None else fn.mul(projected, weight)
        p, q = m(fn.mul(of_x, y)), m(fn.mul(slope, y))
        covariance = fn.sub(fn.sub(m(fn.mul(of_x, slope)), fn.mul(m(of_x), m(slope))), fn.mul(p, q))
        curved = fn.mul(fn.mul(covariance, fn.mul(rstd, rstd)), y)
        mixed = fn.mul(fn.add(fn.mul(q, projected), fn.mul(p, project(slope))), rstd)
        to_x = fn.neg(fn.add(curved, mixed))
    if of_weight is not None:
        to_g = _plus(to_g, fn.mul(of_weight, y))
        to_x = _plus(to_x, project(fn.mul(of_weight, g)))
    if of_bias is not None:
        to_g = _plus(to_g, fn.expand(of_bias, x._spec.shape))
    return to_g, to_x, to_weight


def _plus(a: Any, b: Any) -> Any:
    return b if a is None else fn.add(a, b)


def shaped(x: Any, shape: Any) -> Any:
    return None if x is None else x.reshape(shape)


def viewed(x: Any, shape: Any) -> Any:
    return None if x is None else fn.reshape(x, shape)


def check_parameters(input: Spec, shape: Ints, **given: Spec | None) -> Any:
    """Raise unless weight and bias have this shape; return the type of the statistics."""
    if input.dtype.category != 2:
        raise UnsupportedError(f"normalization is not implemented for {input.dtype.c_name!r}")
    dtype = input.dtype
    for name, s in given.items():
        if s is None:
            continue
        if s.shape != shape:
            raise ShapeError(f"expected {name} of shape {list(shape)}, got {list(s.shape)}")
        if s.dtype is not input.dtype:
            if not (input.dtype.is_reduced and s.dtype is float32):
                raise DTypeError(f"expected scalar type {dtype.name} but found {s.dtype.name}")
            dtype = float32
    common_device([input, *[s for s in given.values() if s is not None]])
    return float32 if input.dtype.is_reduced and dtype is float32 else input.dtype


def masked(specs: Sequence[Spec], mask: Sequence[bool]) -> tuple[Spec, ...]:
    """Return the specs of gradients; what is not asked for is empty."""
    return tuple(
        s if asked else s.with_(shape=(0,), stride=None)
        for s, asked in zip(specs, mask, strict=True)
    )


def given(found: Sequence[Any], mask: Sequence[bool]) -> tuple[Any, ...]:
    return tuple(x if asked else None for x, asked in zip(found, mask, strict=True))


# ------------------------------------------------------------------------------------ layer norm --
def _layer_axis(input: Spec, normalized_shape: Ints) -> int:
    """Return the first of the dims that are normalized. ShapeError if they do not fit."""
    shape = tuple(normalized_shape)
    if not shape:
        raise ShapeError(
            "Expected normalized_shape to be at least 1-dimensional, i.e., containing at least "
            "one element, but got normalized_shape = []"
        )
    if input.shape[-len(shape) :] != shape:
        inner = ", ".join(map(str, shape))
        raise ShapeError(
            f"Given normalized_shape={list(shape)}, expected input with shape [*, {inner}], but "
            f"got input of size{list(input.shape)}"
        )
    return input.ndim - len(shape)


def _check_layer(name: str, s: Spec | None, shape: Ints) -> None:
    if s is not None and s.shape != tuple(shape):
        raise ShapeError(
            f"Expected {name} to be of same shape as normalized_shape, but got {name} of shape "
            f"{list(s.shape)} and normalized_shape = {list(shape)}"
        )


def _layer_meta(
    input: Spec, normalized_shape: Ints, weight: Spec | None, bias: Spec | None, eps: float
) -> tuple[Spec, Spec, Spec]:
    axis = _layer_axis(input, normalized_shape)
    _check_layer("weight", weight, normalized_shape)
    _check_layer("bias", bias, normalized_shape)
    dtype = check_parameters(input, tuple(normalized_shape), weight=weight, bias=bias)
    shape = (*input.shape[:axis], *[1] * (input.ndim - axis))
    statistics = Spec.make(shape, dtype, input.device)
    return input.contiguous_, statistics, statistics


def _layer_kernel(
    xp: Any, input: Any, normalized_shape: Ints, weight: Any, bias: Any, eps: float
) -> tuple[Any, Any, Any]:
    axes = tuple(range(input.ndim - len(normalized_shape), input.ndim))
    return normalized(xp, input, weight, bias, eps, axes)


def _layer_backward_kernel(
    xp: Any,
    grad_out: Any,
    input: Any,
    normalized_shape: Ints,
    mean: Any,
    rstd: Any,
    weight: Any,
    bias: Any,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:
    axis = input.ndim - len(normalized_shape)
    axes, lead = tuple(range(axis, input.ndim)), tuple(range(axis))
    out, product = normalized_backward(xp, grad_out, input, mean, rstd, weight, axes, output_mask)
    none = xp.empty((0,), input.dtype)
    return (
        none if out is None else out,
        product.sum(axis=lead) if output_mask[1] else none,
        grad_out.sum(axis=lead) if output_mask[2] else none,
    )


def _layer_grad(
    g: Any,
    input: Any,
    normalized_shape: Ints,
    weight: Any,
    bias: Any,
    out_1: Any,
    out_2: Any,
    needed: Any,
) -> tuple[Any, ...]:
    found = fn.native_layer_norm_backward(
        g[0], input, normalized_shape, out_1, out_2, weight, bias, needed
    )
    return given(found, needed)


def _layer_double(
    g: Any, grad_out: Any, input: Any, normalized_shape: Ints, mean: Any, rstd: Any, weight: Any,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    axis = input._spec.ndim - len(normalized_shape)
    axes = tuple(range(axis, input._spec.ndim))
    return normalized_double(given(g, output_mask), grad_out, input, mean, rstd, weight, axes)


structured(
    "native_layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight, Tensor? bias,"
    " float eps) -> (Tensor, Tensor, Tensor)",
    meta=_layer_meta,
    kernel=_layer_kernel,
    vjp={"input weight bias": _layer_grad},
)
structured(
    "native_layer_norm_backward(Tensor grad_out, Tensor input, SymInt[] normalized_shape,"
    " Tensor mean, Tensor rstd, Tensor? weight, Tensor? bias, bool[3] output_mask)"
    " -> (Tensor, Tensor, Tensor)",
    meta=lambda grad_out, input, normalized_shape, mean, rstd, weight, bias, output_mask: masked(
        [
            input.contiguous_,
            *[
                (s or input).with_(shape=tuple(normalized_shape), stride=None)
                for s in (weight, bias)
            ],
        ],
        output_mask,
    ),
    kernel=_layer_backward_kernel,
    vjp={"grad_out input weight": _layer_double},
)


@composite(
    "layer_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, Tensor? bias=None,"
    " float eps=1.0000000000000001e-05, bool cudnn_enable=True) -> Tensor"
)
def layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Any:  # fmt: skip
    return fn.native_layer_norm(input, normalized_shape, weight, bias, eps)[0]


@composite(
    "rms_norm(Tensor input, SymInt[] normalized_shape, Tensor? weight=None, float? eps=None)"
    " -> Tensor"
)
def rms_norm(
    input: Any, normalized_shape: Any, weight: Any = None, eps: float | None = None
) -> Any:
    spec = input._spec
    axis = _layer_axis(spec, normalized_shape)
    _check_layer("weight", None if weight is None else weight._spec, normalized_shape)
    wide = fn.contiguous(input, memory_format=spec.suggested_format)
    if spec.dtype.is_reduced:
        wide = fn._cast(wide, float32)
    if eps is None:
        eps = _EPSILONS[wide._spec.dtype.name]
    square = fn.mean(fn.mul(wide, wide), tuple(range(axis, spec.ndim)), True)
    out = fn.mul(wide, fn.rsqrt(fn.add(square, eps)))
    if weight is not None:
        out = fn.mul(out, weight)
    return fn._cast(out, spec.dtype) if spec.dtype is not out._spec.dtype else out


#: Of rms_norm where none is given: the spacing of numbers at 1.
_EPSILONS = {
    "float32": 2.0**-23,
    "float64": 2.0**-52,
    "complex64": 2.0**-23,
    "complex128": 2.0**-52,
}


# ------------------------------------------------------------------------------------ group norm --
def _group_meta(
    input: Spec, weight: Spec | None, bias: Spec | None, N: int, C: int, HxW: int, group: int,
    eps: float,
) -> tuple[Spec, Spec, Spec]:  # fmt: skip
    if group <= 0 or C % group:
        raise ShapeError(
            "Expected number of channels in input to be divisible by num_groups, but got input of "
            f"shape {list(input.shape)} and num_groups={group}"
        )
    if input.numel != N * C * HxW:
        raise ShapeError(f"input of shape {list(input.shape)} is not {N} x {C} x {HxW}")
    dtype = check_parameters(input, (C,), weight=weight, bias=bias)
    statistics = Spec.make((N, group), dtype, input.device)
    return input.as_images(input.shape), statistics, statistics


def _group_kernel(
    xp: Any, input: Any, weight: Any, bias: Any, N: int, C: int, HxW: int, group: int, eps: float
) -> tuple[Any, Any, Any]:
    each = (group, C // group, 1)
    out, mean, rstd = normalized(
        xp, input.reshape(N, group, C // group, HxW), shaped(weight, each), shaped(bias, each),
        eps, (2, 3),
    )  # fmt: skip
    return out.reshape(input.shape), mean.reshape(N, group), rstd.reshape(N, group)


def _group_backward_kernel(
    xp: Any,
    grad_out: Any,
    input: Any,
    mean: Any,
    rstd: Any,
    weight: Any,
    N: int,
    C: int,
    HxW: int,
    group: int,
    output_mask: Sequence[bool],
) -> tuple[Any, ...]:
    shape, one = (N, group, C // group, HxW), (N, group, 1, 1)
    out, product = normalized_backward(
        xp, grad_out.reshape(shape), input.reshape(shape), mean.reshape(one), rstd.reshape(one),
        shaped(weight, (group, C // group, 1)), (2, 3), output_mask,
    )  # fmt: skip
    none = xp.empty((0,), input.dtype)
    return (
        none if out is None else out.reshape(input.shape),
        product.reshape(N, C, HxW).sum(axis=(0, 2)) if output_mask[1] else none,
        grad_out.reshape(N, C, HxW).sum(axis=(0, 2)) if output_mask[2] else none,
    )


def _group_grad(
    g: Any,
    input: Any,
    weight: Any,
    N: int,
    C: int,
    HxW: int,
    group: int,
    out_1: Any,
    out_2: Any,
    needed: Any,
) -> tuple[Any, ...]:
    found = fn.native_group_norm_backward(
        g[0], input, out_1, out_2, weight, N, C, HxW, group, needed
    )
    return given(found, needed)


def _group_double(
    g: Any, grad_out: Any, input: Any, mean: Any, rstd: Any, weight: Any, N: int, C: int,
    HxW: int, group: int, output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    shape, one, each = (N, group, C // group, HxW), (N, group, 1, 1), (group, C // group, 1)
    of_x, of_weight, of_bias = given(g, output_mask)
    found = normalized_double(
        (viewed(of_x, shape), viewed(of_weight, each), viewed(of_bias, each)),
        fn.reshape(grad_out, shape), fn.reshape(input, shape), fn.reshape(mean, one),
        fn.reshape(rstd, one), viewed(weight, each), (2, 3),
    )  # fmt: skip
    to_g, to_x, to_weight = found
    if to_weight is not None:
        to_weight = fn.reshape(fn.sum(to_weight, (0, 3)), (C,))
    return viewed(to_g, grad_out._spec.shape), viewed(to_x, input._spec.shape), to_weight


structured(
    "native_group_norm(Tensor input, Tensor? weight, Tensor? bias, SymInt N, SymInt C, SymInt HxW,"
    " int group, float eps) -> (Tensor, Tensor, Tensor)",
    meta=_group_meta,
    kernel=_group_kernel,
    vjp={"input weight bias": _group_grad},
)
structured(
    "native_group_norm_backward(Tensor grad_out, Tensor input, Tensor mean, Tensor rstd,"
    " Tensor? weight, SymInt N, SymInt C, SymInt HxW, int group, bool[3] output_mask)"
    " -> (Tensor, Tensor, Tensor)",
    meta=lambda grad_out, input, mean, rstd, weight, N, C, HxW, group, output_mask: masked(
        [input.contiguous_, *[(weight or input).with_(shape=(C,), stride=None)] * 2], output_mask
    ),
    kernel=_group_backward_kernel,
    vjp={"grad_out input weight": _group_double},
)


@composite(
    "group_norm(Tensor input, int num_groups, Tensor? weight=None, Tensor? bias=None,"
    " float eps=1.0000000000000001e-05, bool cudnn_enabled=True) -> Tensor"
)
def group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5,
    cudnn_enabled: bool = True,
) -> Any:  # fmt: skip
    shape = input._spec.shape
    if len(shape) < 2:
        raise ShapeError(
            f"Expected at least 2 dimensions for input tensor but received {len(shape)}"
        )
    rest = math.prod(shape[2:])
    return fn.native_group_norm(input, weight, bias, *shape[:2], rest, num_groups, eps)[0]
