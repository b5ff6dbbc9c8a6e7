"""Shorter ways for ops whose table kernels go round what numpy lacks: inexact loops only."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Final

from farspan.core.ops.loss import MEAN, NONE

from . import functions
from .group import Unfused


def _mse(xp: Any, self: Any, target: Any, reduction: int) -> Any:
    from .trace import reduced

    d = self - target
    if reduction == NONE:
        return d * d
    return reduced(d * d, "mean" if reduction == MEAN else "sum", range(d.ndim))


def _mse_backward(xp: Any, g: Any, self: Any, target: Any, reduction: int) -> Any:
    d = self - target
    factor = 2 / d.size if reduction == MEAN and d.size else 2
    return d * (g * d.dtype.type(factor))


def _gelu(xp: Any, self: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return functions.gelu_tanh(self)
    return 0.5 * self * (1 + functions.erf(self * math.sqrt(0.5)))


def _gelu_backward(xp: Any, g: Any, self: Any, approximate: str) -> Any:
    if approximate == "tanh":
        return g * functions.gelu_tanh_slope(self)
    cdf = 0.5 * (1 + functions.erf(self * math.sqrt(0.5)))
    pdf = functions.exp(-0.5 * self * self) * (1 / math.sqrt(2 * math.pi))
    return g * (cdf + self * pdf)


def _over(x: Any, dim: int) -> list[int]:
    if not x.ndim:
        raise Unfused("a row of a tensor without dims")
    return [dim % x.ndim]


# "top" is the maximum of a row where it has no NaN: with one, each element becomes NaN anyway.
def _softmax(xp: Any, self: Any, dim: int, half_to_float: bool) -> Any:
    from .trace import reduced

    over = _over(self, dim)
    powers = functions.exp_below(self - reduced(self, "top", over, True))
    return powers * (1 / reduced(powers, "sum", over, True))


def _log_softmax(xp: Any, self: Any, dim: int, half_to_float: bool) -> Any:
    from .trace import reduced

    over = _over(self, dim)
    top = reduced(self, "top", over, True)
    total = reduced(functions.exp_below(self - top), "sum", over, True)
    return self - top - functions.log(total)


def _softmax_backward(xp: Any, g: Any, output: Any, dim: int, input_dtype: Any) -> Any:
    from .trace import reduced

    return output * (g - reduced(g * output, "sum", _over(output, dim), True))


def _log_softmax_backward(xp: Any, g: Any, output: Any, dim: int, input_dtype: Any) -> Any:
    from .trace import reduced

    return g - functions.exp(output) * reduced(g, "sum", _over(output, dim), True)


LOWERED: Final[dict[str, Callable[..., Any]]] = {
    "_softmax": _softmax,
    "_softmax_backward_data": _softmax_backward,
    "_log_softmax": _log_softmax,
    "_log_softmax_backward_data": _log_softmax_backward,
    "erf": lambda xp, self: functions.erf(self),
    "gelu": _gelu,
    "gelu_backward": _gelu_backward,
    "mse_loss": _mse,
    "mse_loss_backward": _mse_backward,
}
