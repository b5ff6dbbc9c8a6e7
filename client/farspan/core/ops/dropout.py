"""Dropout: of elements, of channels, and to selu's lower limit.

`native_dropout` keeps its mask for backward, as in torch; the others are made of draws of
`sampling.py`. The numbers come from the generator that the engine passes.
"""

from __future__ import annotations

import math
from typing import Any

from .. import random as draw
from ..call import fn
from ..dtype import bool_
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import composite, structured
from ..spec import Spec


def _dropout_kernel(xp: Any, gen: Any, input: Any, p: float, train: bool | None) -> tuple[Any, Any]:
    if train is False or not input.size:
        return input, xp.ones(input.shape, bool)
    mask = draw.bernoulli_p(gen, input.shape, 1 - p)
    # The factor is rounded as `dropout` in torch does: 1 over (1 - p) in the input's type.
    one = input.dtype.type(1)
    scale = one / input.dtype.type(1 - p) if p < 1 else input.dtype.type(0)
    return input * (mask * scale), mask


def _dropout_meta(input: Spec, p: float, train: bool | None) -> tuple[Spec, Spec]:
    if train is not False and 0 < p < 1 and input.numel and input.dtype.category < 2:
        raise DTypeError(
            f"result type Float can't be cast to the desired output type {input.dtype.c_name}"
        )
    return input.packed, input.contiguous_.with_(dtype=bool_)


structured(
    "native_dropout(Tensor input, float p, bool? train) -> (Tensor, Tensor)",
    meta=_dropout_meta,
    kernel=_dropout_kernel,
    vjp={
        "input": lambda g, out_1, p, train: fn.native_dropout_backward(
            g[0], out_1, 1.0 if train is False else 0.0 if p == 1 else 1 / (1 - p)
        )
    },
    random=True,
)
structured(
    "native_dropout_backward(Tensor grad_output, Tensor mask, float scale) -> Tensor",
    meta=lambda grad_output, mask, scale: (
        grad_output if grad_output.dense else grad_output.contiguous_
    ),
    kernel=lambda xp, grad_output, mask, scale: (
        grad_output * (mask * grad_output.dtype.type(scale))
    ),
    vjp={
        "grad_output": lambda g, mask, scale: fn.native_dropout_backward(g, mask, scale),
    },
)


def _check_dropout(p: float) -> None:
    if not 0 <= p <= 1:
        raise ParameterError(f"dropout probability has to be between 0 and 1, but got {p:g}")


@composite("dropout(Tensor input, float p, bool train) -> Tensor")
def dropout(input: Any, p: float, train: bool) -> Any:
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    if input._spec.contiguous:
        return fn.native_dropout(input, p, True)[0]
    noise = fn.bernoulli_(fn.empty_like(input), 1 - p)  # in the order of the input's memory
    return fn.mul(input, fn.div_(noise, 1 - p))


@composite("feature_dropout(Tensor input, float p, bool train) -> Tensor")
def feature_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout of whole channels."""
    _check_dropout(p)
    spec = input._spec
    if p == 0 or not train or not spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return fn.mul(input, fn.div_(fn.bernoulli_(_channel_noise(input), 1 - p), 1 - p))


def _channel_noise(input: Any) -> Any:
    """Return one element for each channel of each sample."""
    shape = input._spec.shape
    if len(shape) < 2:
        raise ShapeError("Feature dropout requires at least 2 dimensions in the input")
    return fn.new_zeros(input, (*shape[:2], *[1] * (len(shape) - 2)))


_SELU_NEGATIVE_LIMIT = 1.7580993408473766  # minus alpha times scale of selu


@composite("alpha_dropout(Tensor input, float p, bool train) -> Tensor")
def alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """Dropout to selu's lower limit, keeping mean and variance (Klambauer et al., 2017)."""
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return _alpha_dropped(input, fn.bernoulli_(fn.empty_like(input), 1 - p), p)


def _alpha_dropped(input: Any, noise: Any, p: float) -> Any:
    """Return the input where noise is 1 and selu's limit where it is 0, scaled and shifted."""
    scale = 1 / math.sqrt((_SELU_NEGATIVE_LIMIT**2 * p + 1) * (1 - p))
    shift = fn.add_(
        fn.mul_(fn.sub(noise, 1), _SELU_NEGATIVE_LIMIT * scale), _SELU_NEGATIVE_LIMIT * scale * p
    )
    return fn.add(fn.mul(input, fn.mul_(noise, scale)), shift)


@composite("feature_alpha_dropout(Tensor input, float p, bool train) -> Tensor")
def feature_alpha_dropout(input: Any, p: float, train: bool) -> Any:
    """alpha_dropout of whole channels."""
    _check_dropout(p)
    if p == 0 or not train or not input._spec.numel:
        return input
    if p == 1:
        return fn.mul(input, 0.0)
    return _alpha_dropped(input, fn.bernoulli_(_channel_noise(input), 1 - p), p)
