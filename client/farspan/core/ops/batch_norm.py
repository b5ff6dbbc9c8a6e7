"""Batch norm: each channel over batch and image, with running statistics for evaluation.

The primitive is a function of its arguments: it leaves the running statistics alone, and a store of
its own advances them (`_update_running_stats_`), so that a poisoned batch does not reach them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import float32
from ..errors import BadValueError, ShapeError
from ..family import composite, structured
from ..op import declare
from ..spec import Spec
from .norm import (
    check_parameters,
    given,
    masked,
    normalized,
    normalized_backward,
    normalized_double,
    reciprocal_deviation,
    shaped,
    viewed,
)

if TYPE_CHECKING:
    from collections.abc import Sequence


def _axes(ndim: int) -> tuple[int, ...]:
    return (0, *range(2, ndim))


def _channels(ndim: int) -> tuple[int, ...]:
    """Return the shape in which what is kept for each channel broadcasts to the input."""
    return (-1, *[1] * (ndim - 2))


# -------------------------------------------------------------------------------------- forward --
def _meta(
    input: Spec, weight: Spec | None, bias: Spec | None, running_mean: Spec | None,
    running_var: Spec | None, training: bool, momentum: float, eps: float,
) -> tuple[Spec, Spec, Spec]:  # fmt: skip
    if input.ndim < 2:
        raise ShapeError(f"batch_norm expects 2 dims or more, got shape {list(input.shape)}")
    channels = input.shape[1:2]
    for name, s in (("running_mean", running_mean), ("running_var", running_var)):
        if s is not None and s.shape != channels:
            raise ShapeError(f"{name} should contain {channels[0]} elements not {s.numel}")
    if not training and (running_mean is None or running_var is None):
        raise ShapeError("running_mean and running_var must be defined in evaluation mode")
    dtype = check_parameters(input, channels, weight=weight, bias=bias)
    for s in (running_mean, running_var):
        if s is not None and s.dtype is float32:
            dtype = float32 if input.dtype.is_reduced else dtype
    saved = Spec.make(channels if training else (0,), dtype, input.device)
    return input.as_images(input.shape), saved, saved


def _kernel(
    xp: Any, input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any,
    training: bool, momentum: float, eps: float,
) -> tuple[Any, Any, Any]:  # fmt: skip
    each = _channels(input.ndim)
    weight, bias = shaped(weight, each), shaped(bias, each)
    if training:
        out, mean, rstd = normalized(xp, input, weight, bias, eps, _axes(input.ndim))
        return out, mean.reshape(-1), rstd.reshape(-1)
    out = input - running_mean.reshape(each)
    factor = reciprocal_deviation(xp, running_var, eps).reshape(each)
    out *= factor if weight is None else factor * weight
    if bias is not None:
        out += bias
    none = xp.empty((0,), input.dtype)
    return out, none, none


def _grad(
    g: Any, input: Any, weight: Any, running_mean: Any, running_var: Any, training: bool,
    eps: float, out_1: Any, out_2: Any, needed: Any,
) -> tuple[Any, ...]:  # fmt: skip
    found = fn.native_batch_norm_backward(
        g[0], input, weight, running_mean, running_var, out_1, out_2, training, eps, needed
    )
    return given(found, needed)


structured(
    "farspan::_native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    " Tensor? running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)",
    meta=_meta,
    kernel=_kernel,
    vjp={"input weight bias": _grad},
)


# ------------------------------------------------------------------------------------- backward --
def _backward_meta(
    grad_out: Spec, input: Spec, weight: Spec | None, running_mean: Spec | None,
    running_var: Spec | None, save_mean: Spec | None, save_invstd: Spec | None, train: bool,
    eps: float, output_mask: Sequence[bool],
) -> tuple[Spec, ...]:  # fmt: skip
    each = (weight or input).with_(shape=input.shape[1:2], stride=None)
    return masked([input.packed, each, each], output_mask)


def _backward_kernel(
    xp: Any, grad_out: Any, input: Any, weight: Any, running_mean: Any, running_var: Any,
    save_mean: Any, save_invstd: Any, train: bool, eps: float, output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    each, axes = _channels(input.ndim), _axes(input.ndim)
    factor = shaped(weight, each)
    if train:
        out, product = normalized_backward(
            xp, grad_out, input, save_mean.reshape(each), save_invstd.reshape(each), factor, axes,
            output_mask,
        )  # fmt: skip
    else:
        rstd = reciprocal_deviation(xp, running_var, eps).reshape(each)
        out = grad_out * (rstd if weight is None else rstd * factor)
        product = grad_out * ((input - running_mean.reshape(each)) * rstd)
    none = xp.empty((0,), input.dtype)
    return (
        out if output_mask[0] else none,
        product.sum(axis=axes) if output_mask[1] else none,
        grad_out.sum(axis=axes) if output_mask[2] else none,
    )


def _double(
    g: Any, grad_out: Any, input: Any, weight: Any, running_mean: Any, running_var: Any,
    save_mean: Any, save_invstd: Any, train: bool, eps: float, output_mask: Sequence[bool],
) -> tuple[Any, ...]:  # fmt: skip
    ndim = input._spec.ndim
    each = _channels(ndim)
    of_x, of_weight, of_bias = given(g, output_mask)
    cotangents = of_x, viewed(of_weight, each), viewed(of_bias, each)
    factor = viewed(weight, each)
    if train:
        mean, rstd = fn.reshape(save_mean, each), fn.reshape(save_invstd, each)
        to_g, to_x, to_weight = normalized_double(
            cotangents, grad_out, input, mean, rstd, factor, _axes(ndim)
        )
    else:
        mean = fn.reshape(running_mean, each)
        rstd = fn.reshape(fn.rsqrt(fn.add(running_var, eps)), each)
        to_g, to_x, to_weight = _double_fixed(cotangents, grad_out, input, mean, rstd, factor)
    if to_weight is not None:
        to_weight = fn.sum(to_weight, _axes(ndim))
    return to_g, to_x, to_weight


def _double_fixed(
    cotangents: Any, g: Any, x: Any, mean: Any, rstd: Any, weight: Any
) -> tuple[Any, Any, Any]:
    """Return what `normalized_double` does where mean and deviation are given numbers."""
    of_x, of_weight, of_bias = cotangents
    terms, to_x, to_weight = [], None, None
    if of_x is not None:
        scaled = fn.mul(of_x, rstd)
        to_weight = fn.mul(scaled, g)
        terms.append(scaled if weight is None else fn.mul(scaled, weight))
    if of_weight is not None:
        scaled = fn.mul(of_weight, rstd)
        terms.append(fn.mul(scaled, fn.sub(x, mean)))
        to_x = fn.mul(scaled, g)
    if of_bias is not None:
        terms.append(fn.expand(of_bias, x._spec.shape))
    to_g = None
    for term in terms:
        to_g = term if to_g is None else fn.add(to_g, term)
    return to_g, to_x, to_weight


structured(
    "native_batch_norm_backward(Tensor grad_out, Tensor input, Tensor? weight,"
    " Tensor? running_mean, Tensor? running_var, Tensor? save_mean, Tensor? save_invstd,"
    " bool train, float eps, bool[3] output_mask) -> (Tensor, Tensor, Tensor)",
    meta=_backward_meta,
    kernel=_backward_kernel,
    vjp={"grad_out input weight": _double},
)


# --------------------------------------------------------------------------- running statistics --
def _update_meta(
    running_mean: Spec, running_var: Spec, save_mean: Spec, save_invstd: Spec, *rest: Any
) -> tuple[()]:
    for s in (running_var, save_mean, save_invstd):
        if s.shape != running_mean.shape:
            raise ShapeError(f"statistics of shapes {list(running_mean.shape)} and {list(s.shape)}")
    return ()


def _update_kernel(
    xp: Any, running_mean: Any, running_var: Any, save_mean: Any, save_invstd: Any, count: int,
    momentum: float, eps: float,
) -> tuple[()]:  # fmt: skip
    mean, rstd = save_mean.astype("float64"), save_invstd.astype("float64")
    biased = xp.where(xp.isinf(rstd), 0.0, 1 / (rstd * rstd)) - eps
    variance = xp.maximum(biased, 0) * count / xp.asarray(count - 1, "float64")
    for running, now in ((running_mean, mean), (running_var, variance)):
        running[...] = running * (1 - momentum) + now * momentum
    return ()


declare(
    "farspan::_update_running_stats_(Tensor(a!) running_mean, Tensor(b!) running_var,"
    " Tensor save_mean, Tensor save_invstd, int count, float momentum, float eps) -> ()",
    "step",
    meta=_update_meta,
    kernel=_update_kernel,
)


@composite(
    "native_batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    " Tensor? running_var, bool training, float momentum, float eps) -> (Tensor, Tensor, Tensor)"
)
def native_batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool,
    momentum: float, eps: float,
) -> Any:  # fmt: skip
    if not training:
        return fn._native_batch_norm(
            input, weight, bias, running_mean, running_var, False, momentum, eps
        )
    found = fn._native_batch_norm(input, weight, bias, None, None, True, momentum, eps)
    if running_mean is not None and running_var is not None:
        shape = input._spec.shape
        fn._update_running_stats_(
            running_mean, running_var, found[1], found[2], shape[0] * math.prod(shape[2:]),
            momentum, eps,
        )  # fmt: skip
    return found


@composite(
    "batch_norm(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean,"
    " Tensor? running_var, bool training, float momentum, float eps, bool cudnn_enabled) -> Tensor"
)
def batch_norm(
    input: Any, weight: Any, bias: Any, running_mean: Any, running_var: Any, training: bool,
    momentum: float, eps: float, cudnn_enabled: bool,
) -> Any:  # fmt: skip
    """As torch's; `native_batch_norm` advances the running statistics."""
    if training and eps <= 0:
        raise BadValueError(f"batch_norm eps must be positive during training, but got {eps:g}")
    return fn.native_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )[0]
