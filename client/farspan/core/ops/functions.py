"""Elementwise functions of analysis: exponentials, logarithms, angles, gammas.

Formulas of functions that are holomorphic hold for complex numbers too: the gradient is multiplied
by the conjugate of the derivative, which is what `of_self` and `of_out` write down once.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from .. import special
from ..blocks import by_blocks
from ..call import fn
from ..errors import ParameterError, UnsupportedError
from ..family import composite, floating, pointwise

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..dtype import DType
    from ..spec import Spec

_LN2, _LN10 = math.log(2), math.log(10)
_TWO_OVER_ROOT_PI = 2 / math.sqrt(math.pi)


def of_self(derivative: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the formula of a function whose derivative is best had from its argument."""
    return {"self": lambda g, self: fn.mul(g, fn.conj(derivative(self)))}


def of_out(derivative: Callable[[Any], Any]) -> dict[str, Any]:
    """Return the formula of a function whose derivative is best had from its result."""
    return {"self": lambda g, out: fn.mul(g, fn.conj(derivative(out)))}


def _over(divisor: Callable[[Any], Any]) -> dict[str, Any]:
    return {"self": lambda g, self: fn.div(g, fn.conj(divisor(self)))}


def _one_minus_square(x: Any) -> Any:
    return fn.rsub(fn.mul(x, x), 1)


def _one_plus_square(x: Any) -> Any:
    return fn.add(fn.mul(x, x), 1)


# ------------------------------------------------------------ those that numpy has by some name --
_FUNCTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "exp": ("exp", of_out(lambda y: y)),
    "exp2": ("exp2", of_out(lambda y: fn.mul(y, _LN2))),
    "expm1": ("expm1", of_out(lambda y: fn.add(y, 1))),
    "log": ("log", _over(lambda x: x)),
    "log2": ("log2", _over(lambda x: fn.mul(x, _LN2))),
    "log10": ("log10", _over(lambda x: fn.mul(x, _LN10))),
    "log1p": ("log1p", _over(lambda x: fn.add(x, 1))),
    "sqrt": ("sqrt", {"self": lambda g, out: fn.div(g, fn.conj(fn.mul(out, 2)))}),
    "sin": ("sin", of_self(lambda x: fn.cos(x))),
    "cos": ("cos", of_self(lambda x: fn.neg(fn.sin(x)))),
    "tan": ("tan", of_out(_one_plus_square)),
    "asin": ("arcsin", of_self(lambda x: fn.rsqrt(_one_minus_square(x)))),
    "acos": ("arccos", of_self(lambda x: fn.neg(fn.rsqrt(_one_minus_square(x))))),
    "atan": ("arctan", _over(_one_plus_square)),
    "sinh": ("sinh", of_self(lambda x: fn.cosh(x))),
    "cosh": ("cosh", of_self(lambda x: fn.sinh(x))),
    "asinh": ("arcsinh", of_self(lambda x: fn.rsqrt(_one_plus_square(x)))),
    "acosh": ("arccosh", of_self(lambda x: fn.mul(fn.rsqrt(fn.sub(x, 1)),
                                                  fn.rsqrt(fn.add(x, 1))))),
    "atanh": ("arctanh", _over(_one_minus_square)),
}  # fmt: skip
for _name, (_numpy, _vjp) in _FUNCTIONS.items():
    pointwise(
        f"{_name}(Tensor self) -> Tensor",
        lambda xp, self, f=_numpy: getattr(xp, f)(self),
        _vjp,
        dtype=floating,
    )
pointwise(
    "rsqrt(Tensor self) -> Tensor",
    lambda xp, self: 1 / xp.sqrt(self),
    of_out(lambda y: fn.mul(fn.pow(y, 3), -0.5)),
    dtype=floating,
)
pointwise(
    "sigmoid(Tensor self) -> Tensor",
    by_blocks(lambda xp, self: 1 / (1 + xp.exp(-self))),
    {"self": lambda g, out: fn.sigmoid_backward(g, out)},
    dtype=floating,
)
pointwise(
    "sigmoid_backward(Tensor grad_output, Tensor output) -> Tensor",
    by_blocks(lambda xp, grad_output, output: grad_output * xp.conj((1 - output) * output)),
    {
        "grad_output": lambda g, output: fn.sigmoid_backward(g, fn.conj(output)),
        "output": lambda g, grad_output, output: fn.mul(
            fn.mul(fn.conj(g), grad_output), fn.rsub(fn.mul(fn.conj(output), 2), 1)
        ),
    },
)
pointwise(
    "tanh(Tensor self) -> Tensor",
    lambda xp, self: xp.tanh(self),
    {"self": lambda g, out: fn.tanh_backward(g, out)},
    dtype=floating,
)
pointwise(
    "tanh_backward(Tensor grad_output, Tensor output) -> Tensor",
    by_blocks(lambda xp, grad_output, output: grad_output * xp.conj(1 - output * output)),
    {
        "grad_output": lambda g, output: fn.tanh_backward(g, fn.conj(output)),
        "output": lambda g, grad_output, output: fn.mul(
            fn.conj(g), fn.mul(fn.mul(fn.conj(output), grad_output), -2)
        ),
    },
)


def _sinc(xp: Any, self: Any) -> Any:
    angle = self * math.pi
    return xp.where(self == 0, 1, xp.sin(angle) / xp.where(self == 0, 1, angle))


def _sinc_derivative(x: Any) -> Any:
    angle = fn.mul(x, math.pi)
    square = fn.mul(fn.mul(angle, x), 1)
    slope = fn.div(fn.sub(fn.mul(angle, fn.cos(angle)), fn.sin(angle)), square)
    return fn.masked_fill(slope, fn.eq(x, 0), 0)


pointwise("sinc(Tensor self) -> Tensor", _sinc, of_self(_sinc_derivative), dtype=floating)


# -------------------------------------------------------------------------- of two arguments --
def _atan2_grad(g: Any, self: Any, other: Any, needed: Any) -> Any:
    square = fn.add(fn.mul(self, self), fn.mul(other, other))
    scale = fn.masked_fill(fn.div(g, square), fn.eq(square, 0), 0)
    return (
        fn.mul(scale, other) if needed[0] else None,
        fn.neg(fn.mul(scale, self)) if needed[1] else None,
    )


pointwise(
    "atan2(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: xp.arctan2(self, other),
    {"self other": _atan2_grad},
    dtype=floating,
    refuses="c",
)
pointwise(
    "hypot(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: xp.hypot(self, other),
    {
        "self": lambda g, self, out: fn.mul(g, fn.div(self, out)),
        "other": lambda g, other, out: fn.mul(g, fn.div(other, out)),
    },
    refuses="bic",
)


def add_exponentials(xp: Any, self: Any, other: Any) -> Any:
    """Return log(exp(self) + exp(other)) without overflow."""
    if self.dtype.kind != "c":
        return xp.logaddexp(self, other)
    larger = self.real >= other.real
    top, low = xp.where(larger, self, other), xp.where(larger, other, self)
    return top + xp.log1p(xp.exp(low - top))


pointwise(
    "logaddexp(Tensor self, Tensor other) -> Tensor",
    add_exponentials,
    {
        "self": lambda g, self, other: fn.mul(g, fn.conj(fn.sigmoid(fn.sub(self, other)))),
        "other": lambda g, self, other: fn.mul(g, fn.conj(fn.sigmoid(fn.sub(other, self)))),
    },
    refuses="bi",
)
pointwise(
    "logaddexp2(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: xp.logaddexp2(self, other),
    {
        "self": lambda g, self, other: fn.mul(g, fn.sigmoid(fn.mul(fn.sub(self, other), _LN2))),
        "other": lambda g, self, other: fn.mul(g, fn.sigmoid(fn.mul(fn.sub(other, self), _LN2))),
    },
    refuses="bic",
)


def _xlogy(xp: Any, self: Any, other: Any) -> Any:
    value = xp.where(self == 0, 0, self * xp.log(other))
    return xp.where(xp.isnan(other), xp.nan, value)


def _xlogy_self(g: Any, self: Any, other: Any) -> Any:
    slope = math.log(other) if isinstance(other, (int, float)) and other > 0 else None
    if slope is None:
        other = fn.full_like(self, other) if isinstance(other, (int, float)) else other
        slope = fn.log(other)
        empty = fn.logical_and(fn.eq(self, 0), fn.le(other, 0))
        return fn.masked_fill(fn.mul(g, slope), empty, 0)
    return fn.mul(g, slope)


pointwise(
    "xlogy.Tensor(Tensor self, Tensor other) -> Tensor",
    _xlogy,
    {"self": _xlogy_self, "other": lambda g, self, other: fn.div(fn.mul(g, self), other)},
    dtype=floating,
    refuses="c",
)
pointwise(
    "xlogy.Scalar_Self(Scalar self, Tensor other) -> Tensor",
    _xlogy,
    {"other": lambda g, self, other: fn.mul(fn.div(g, other), self)},
    dtype=floating,
    refuses="c",
)
pointwise(
    "xlogy.Scalar_Other(Tensor self, Scalar other) -> Tensor",
    _xlogy,
    {"self": _xlogy_self},
    dtype=floating,
    refuses="c",
)


# ------------------------------------------------------------------------- erf, gamma and kin --
def _gaussian(x: Any) -> Any:
    return fn.mul(fn.exp(fn.neg(fn.mul(x, x))), _TWO_OVER_ROOT_PI)


_SPECIAL: dict[str, dict[str, Any]] = {
    "erf": of_self(_gaussian),
    "erfc": of_self(lambda x: fn.neg(_gaussian(x))),
    "erfinv": of_out(lambda y: fn.mul(fn.exp(fn.mul(y, y)), 1 / _TWO_OVER_ROOT_PI)),
    "lgamma": of_self(lambda x: fn.digamma(x)),
    "digamma": of_self(lambda x: fn.polygamma(1, x)),
}
for _name, _vjp in _SPECIAL.items():
    pointwise(
        f"{_name}(Tensor self) -> Tensor",
        by_blocks(getattr(special, _name)),
        _vjp,
        dtype=floating,
        refuses="c",
    )


def _polygamma_dtype(n: int, self: Spec) -> DType:
    if n < 0:
        raise ParameterError("polygamma(n, x) does not support negative n.")
    if self.dtype.is_complex:
        raise UnsupportedError(f"\"polygamma\" not implemented for '{self.dtype.c_name}'")
    return floating(self.dtype)


def _polygamma(xp: Any, n: int, self: Any) -> Any:
    return special.polygamma(xp, n, self) if n else special.digamma(xp, self)


pointwise(
    "polygamma(int n, Tensor self) -> Tensor",
    _polygamma,
    {"self": lambda g, n, self: fn.mul(g, fn.polygamma(n + 1, self))},
    compute=_polygamma_dtype,
)


def _logit(xp: Any, self: Any, eps: float | None) -> Any:
    if eps is not None:
        self = xp.clip(self, eps, 1 - eps)
    return xp.log(self / (1 - self))


def _logit_grad(g: Any, self: Any, eps: float | None) -> Any:
    slope = fn.div(g, fn.mul(self, fn.rsub(self, 1)))
    low, high = (0.0, 1.0) if eps is None else (eps, 1 - eps)
    outside = fn.logical_or(fn.lt(self, low), fn.gt(self, high))
    return fn.masked_fill(slope, outside, math.nan if eps is None else 0.0)


pointwise(
    "logit(Tensor self, float? eps=None) -> Tensor",
    _logit,
    {"self": _logit_grad},
    dtype=floating,
    operands="self",
    refuses="c",
)


@composite("deg2rad(Tensor self) -> Tensor")
def deg2rad(self: Any) -> Any:
    return fn.mul(self, math.pi / 180)


@composite("rad2deg(Tensor self) -> Tensor")
def rad2deg(self: Any) -> Any:
    return fn.mul(self, 180 / math.pi)
