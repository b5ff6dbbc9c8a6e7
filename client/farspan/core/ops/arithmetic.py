"""Elementwise arithmetic: sums, products, quotients, powers, signs, rounding, and casts."""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import COMPLEX_KIND, CPP_NAMES, FLOAT_KIND, DType, bool_, complex128, float64
from ..errors import DivisionError, DTypeError
from ..family import common_dtype, composite, floating, pointwise, refuse, structured
from ..spec import Spec


def scaled(x: Any, factor: Any) -> Any:
    """Return x times the conjugate of a Python number, for free where that is 1."""
    return x if factor == 1 else fn.mul(x, factor.conjugate())


# --------------------------------------------------------------------------- sums and products --
def _sum_dtype(self: Any, other: Any, alpha: Any) -> DType:
    """Return the type in which `self + alpha * other` is computed; refuses an alpha above it."""
    common = common_dtype(self, other)
    if isinstance(alpha, bool):
        if common is not bool_:
            raise DTypeError("Boolean alpha only supported for Boolean results.")
    elif isinstance(alpha, float) and common.category < FLOAT_KIND:
        raise DTypeError(
            "For integral input tensors, argument alpha must not be a floating point number."
        )
    elif isinstance(alpha, complex) and common.category < COMPLEX_KIND:
        raise DTypeError(
            "For non-complex input tensors, argument alpha must not be a complex number."
        )
    return common


def _difference_dtype(self: Any, other: Any, alpha: Any) -> DType:
    """As `_sum_dtype`; refuses bools, as torch does."""
    bools = [isinstance(x, bool) or getattr(x, "dtype", None) is bool_ for x in (self, other)]
    if all(bools):
        raise DTypeError(
            "Subtraction, the `-` operator, with two bool tensors is not supported. Use the `^` or "
            "`logical_xor()` operator instead."
        )
    if any(bools):
        raise DTypeError(
            "Subtraction, the `-` operator, with a bool tensor is not supported. If you are trying "
            "to invert a mask, use the `~` or `logical_not()` operator instead."
        )
    return _sum_dtype(self, other, alpha)


pointwise(
    "add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self + other if alpha == 1 else self + alpha * other,
    {"self": lambda g: g, "other": lambda g, alpha: scaled(g, alpha)},
    compute=_sum_dtype,
)
pointwise(
    "add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self + other * alpha,
    {"self": lambda g: g},
    compute=_sum_dtype,
)
pointwise(
    "sub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self - other if alpha == 1 else self - alpha * other,
    {"self": lambda g: g, "other": lambda g, alpha: fn.neg(scaled(g, alpha))},
    compute=_difference_dtype,
)
pointwise(
    "sub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self - other * alpha,
    {"self": lambda g: g},
    compute=_difference_dtype,
)
pointwise(
    "rsub.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: other - self if alpha == 1 else other - alpha * self,
    {"self": lambda g, alpha: fn.neg(scaled(g, alpha)), "other": lambda g: g},
    compute=_difference_dtype,
)
pointwise(
    "rsub.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: other - self if alpha == 1 else other - alpha * self,
    {"self": lambda g, alpha: fn.neg(scaled(g, alpha))},
    compute=_difference_dtype,
)
pointwise(
    "mul.Tensor(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: self * other,
    {
        "self": lambda g, other: fn.mul(g, fn.conj(other)),
        "other": lambda g, self: fn.mul(g, fn.conj(self)),
    },
)
pointwise(
    "mul.Scalar(Tensor self, Scalar other) -> Tensor",
    lambda xp, self, other: self * other,
    {"self": lambda g, other: fn.mul(g, other.conjugate())},
)
pointwise(
    "addcmul(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor",
    lambda xp, self, tensor1, tensor2, value: (
        self + (tensor1 * tensor2 if value == 1 else value * tensor1 * tensor2)
    ),
    {
        "self": lambda g: g,
        "tensor1": lambda g, tensor2, value: scaled(fn.mul(g, fn.conj(tensor2)), value),
        "tensor2": lambda g, tensor1, value: scaled(fn.mul(g, fn.conj(tensor1)), value),
    },
)


def _addcdiv_dtype(self: Spec, tensor1: Spec, tensor2: Spec, value: Any) -> DType:
    """Return the promoted dtype; refuses a quotient of two tensors of integers."""
    if tensor1.dtype.category < FLOAT_KIND and tensor2.dtype.category < FLOAT_KIND:
        raise DTypeError(
            "Integer division with addcdiv is no longer supported: use floating-point tensors, or "
            "torch.div with a rounding_mode"
        )
    common = common_dtype(self, tensor1, tensor2)
    refuse("addcdiv", common, "bi")
    return common


pointwise(
    "addcdiv(Tensor self, Tensor tensor1, Tensor tensor2, *, Scalar value=1) -> Tensor",
    lambda xp, self, tensor1, tensor2, value: self + value * tensor1 / tensor2,
    {
        "self": lambda g: g,
        "tensor1": lambda g, tensor2, value: scaled(fn.div(g, fn.conj(tensor2)), value),
        "tensor2": lambda g, tensor1, tensor2, value: fn.neg(
            scaled(fn.mul(g, fn.conj(fn.div(tensor1, fn.mul(tensor2, tensor2)))), value)
        ),
    },
    compute=_addcdiv_dtype,
)


def _lerp(xp: Any, self: Any, end: Any, weight: Any) -> Any:
    """Go from the nearer end, so that weight 1 gives `end` exactly."""
    step = end - self
    return xp.where(xp.abs(weight) < 0.5, self + weight * step, end - step * (1 - weight))


def _lerp_dtype(self: Spec, end: Spec, weight: Any) -> DType:
    """Return the dtype of both ends and, unless it is a number or 0-d, of the weight."""
    given = {"end": end}
    if isinstance(weight, Spec) and weight.shape:
        given["weight"] = weight
    for name, spec in given.items():
        if spec.dtype is not self.dtype:
            raise DTypeError(
                f"expected dtype {CPP_NAMES[self.dtype.name]} for `{name}` but got dtype "
                f"{CPP_NAMES[spec.dtype.name]}"
            )
    refuse("lerp", self.dtype, "bi")
    return self.dtype


pointwise(
    "lerp.Tensor(Tensor self, Tensor end, Tensor weight) -> Tensor",
    _lerp,
    {
        "self": lambda g, weight: fn.mul(g, fn.conj(fn.rsub(weight, 1))),
        "end": lambda g, weight: fn.mul(g, fn.conj(weight)),
        "weight": lambda g, self, end: fn.mul(g, fn.conj(fn.sub(end, self))),
    },
    compute=_lerp_dtype,
)
pointwise(
    "lerp.Scalar(Tensor self, Tensor end, Scalar weight) -> Tensor",
    lambda xp, self, end, weight: (
        self + weight * (end - self) if abs(weight) < 0.5 else end - (end - self) * (1 - weight)
    ),
    {
        "self": lambda g, weight: scaled(g, 1 - weight),
        "end": lambda g, weight: scaled(g, weight),
    },
    operands="self end",
    compute=_lerp_dtype,
)


# ----------------------------------------------------------------------------------- quotients --
def _nonzero(xp: Any, self: Any, other: Any) -> None:
    """Raise where integers would be divided by zero; floats give inf and nan."""
    dtype = getattr(self, "dtype", None) or other.dtype
    if dtype.kind in "iub" and not xp.all(other):
        raise DivisionError("ZeroDivisionError: integers divided by zero")


def _floor_divide(xp: Any, self: Any, other: Any) -> Any:
    _nonzero(xp, self, other)
    return xp.floor_divide(self, other)


def _remainder(xp: Any, self: Any, other: Any) -> Any:
    _nonzero(xp, self, other)
    return xp.remainder(self, other)


def _fmod(xp: Any, self: Any, other: Any) -> Any:
    _nonzero(xp, self, other)
    return xp.fmod(self, other)


def _divide(xp: Any, self: Any, other: Any, rounding_mode: str | None) -> Any:
    if rounding_mode is None:
        return self / other
    if rounding_mode == "floor":
        return _floor_divide(xp, self, other)
    if self.dtype.kind == "f":
        return xp.trunc(self / other)
    return xp.floor_divide(self - _fmod(xp, self, other), other)


def _divide_dtype(self: Any, other: Any, rounding_mode: str | None) -> DType:
    common = common_dtype(self, other)
    if rounding_mode is None:
        return floating(common)
    if rounding_mode not in ("floor", "trunc"):
        raise DTypeError(
            "div expected rounding_mode to be one of None, 'trunc', or 'floor' but found "
            f"'{rounding_mode}'"
        )
    return common


def _div_self(g: Any, other: Any) -> Any:
    return fn.div(g, fn.conj(other))


def _div_other(g: Any, self: Any, other: Any) -> Any:
    return fn.neg(fn.mul(g, fn.conj(fn.div(fn.div(self, other), other))))


pointwise(
    "div.Tensor(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: self / other,
    {"self": _div_self, "other": _div_other},
    dtype=floating,
)
pointwise(
    "div.Scalar(Tensor self, Scalar other) -> Tensor",
    lambda xp, self, other: xp.divide(self, other),
    {"self": lambda g, other: fn.div(g, other.conjugate())},
    dtype=floating,
)
pointwise(
    "div.Tensor_mode(Tensor self, Tensor other, *, str? rounding_mode) -> Tensor",
    _divide,
    {
        "self": lambda g, other, rounding_mode: (
            fn.zeros_like(g) if rounding_mode else _div_self(g, other)
        ),
        "other": lambda g, self, other, rounding_mode: (
            fn.zeros_like(other) if rounding_mode else _div_other(g, self, other)
        ),
    },
    compute=_divide_dtype,
)
pointwise(
    "div.Scalar_mode(Tensor self, Scalar other, *, str? rounding_mode) -> Tensor",
    _divide,
    {
        "self": lambda g, other, rounding_mode: (
            fn.zeros_like(g) if rounding_mode else fn.div(g, other.conjugate())
        )
    },
    compute=_divide_dtype,
)
pointwise("floor_divide(Tensor self, Tensor other) -> Tensor", _floor_divide, refuses="c")
pointwise("floor_divide.Scalar(Tensor self, Scalar other) -> Tensor", _floor_divide, refuses="c")
pointwise(
    "remainder.Tensor(Tensor self, Tensor other) -> Tensor",
    _remainder,
    {
        "self": lambda g: g,
        "other": lambda g, self, other: fn.neg(
            fn.mul(g, fn.div(self, other, rounding_mode="floor"))
        ),
    },
    refuses="bc",
)
pointwise(
    "remainder.Scalar(Tensor self, Scalar other) -> Tensor",
    _remainder,
    {"self": lambda g: g},
    refuses="bc",
)
pointwise(
    "remainder.Scalar_Tensor(Scalar self, Tensor other) -> Tensor",
    _remainder,
    {
        "other": lambda g, self, other: fn.neg(
            fn.mul(g, fn.div(fn.full_like(other, self), other, rounding_mode="floor"))
        )
    },
    refuses="bc",
)
pointwise(
    "fmod.Tensor(Tensor self, Tensor other) -> Tensor",
    _fmod,
    {
        "self": lambda g: g,
        "other": lambda g, self, other: fn.neg(
            fn.mul(g, fn.div(self, other, rounding_mode="trunc"))
        ),
    },
    refuses="bc",
)
pointwise(
    "fmod.Scalar(Tensor self, Scalar other) -> Tensor", _fmod, {"self": lambda g: g}, refuses="bc"
)
pointwise(
    "reciprocal(Tensor self) -> Tensor",
    lambda xp, self: 1 / self,
    {"self": lambda g, out: fn.neg(fn.mul(g, fn.conj(fn.mul(out, out))))},
    dtype=floating,
)


# -------------------------------------------------------------------------------------- powers --
def _pow_number(xp: Any, self: Any, exponent: Any) -> Any:
    """Raise to a number; small whole powers by products, which `power` computes by logarithms."""
    if self.dtype.kind in "iu" and exponent < 0:
        raise DTypeError("Integers to negative integer powers are not allowed.")
    if exponent == 3:
        return self * self * self
    return self**exponent


def _pow(xp: Any, self: Any, exponent: Any) -> Any:
    dtype = getattr(exponent, "dtype", None) or self.dtype
    if dtype.kind != "i" or not xp.any(exponent < 0):
        return xp.power(self, exponent)
    # Truncated towards zero, 1/n vanishes but for n = 1 and -1.
    sign = xp.where(self == 1, 1, xp.where(self == -1, 1 - 2 * (exponent & 1), 0))
    return xp.where(exponent < 0, sign, xp.power(self, xp.maximum(exponent, 0)))


def _pow_self_number(g: Any, self: Any, exponent: Any) -> Any:
    if exponent == 0:
        return fn.zeros_like(g)
    if exponent == 2:
        return fn.mul(g, fn.mul(fn.conj(self), 2))
    return fn.mul(g, fn.conj(fn.mul(fn.pow(self, exponent - 1), exponent)))


def _pow_self(g: Any, self: Any, exponent: Any) -> Any:
    slope = fn.conj(fn.mul(exponent, fn.pow(self, fn.sub(exponent, 1))))
    return fn.where(fn.eq(exponent, 0), 0.0, fn.mul(g, slope))


def _pow_exponent(g: Any, self: Any, exponent: Any, out: Any) -> Any:
    """d/dy x^y = x^y log x, taken as 0 where x is 0 and y is not negative."""
    power = fn.real(exponent) if exponent._spec.dtype.is_complex else exponent
    flat = fn.ge(power, 0)
    if not isinstance(self, (bool, int, float, complex)):
        base = self if self._spec.dtype.is_complex else fn._cast(self, out._spec.dtype)
        flat, log = fn.logical_and(fn.eq(self, 0), flat), fn.log(base)
    elif self == 0:
        return fn.where(flat, 0.0, fn.mul(g, fn.mul(out, -math.inf)))
    else:
        log = _log_number(complex(self) if out._spec.dtype.is_complex else self)
        return fn.mul(g, fn.conj(fn.mul(out, log)))
    return fn.where(flat, 0.0, fn.mul(g, fn.conj(fn.mul(out, log))))


def _log_number(x: Any) -> Any:
    if isinstance(x, complex):
        import cmath

        return cmath.log(x)
    return math.log(x) if x > 0 else math.nan


pointwise(
    "pow.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor",
    _pow,
    {"self": _pow_self, "exponent": _pow_exponent},
)
pointwise(
    "pow.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor",
    _pow_number,
    {"self": _pow_self_number},
)
# torch gives this overload alone a result in C order, whatever the exponent's strides.
structured(
    "pow.Scalar(Scalar self, Tensor exponent) -> Tensor",
    meta=lambda self, exponent: exponent.contiguous_.with_(dtype=common_dtype(self, exponent)),
    kernel=_pow,
    vjp={"exponent": _pow_exponent},
    compute=common_dtype,
)


@composite("square(Tensor self) -> Tensor")
def square(self: Any) -> Any:
    return fn.pow(self, 2)


@composite("positive(Tensor(a) self) -> Tensor(a)")
def positive(self: Any) -> Any:
    if self._spec.dtype is bool_:
        raise DTypeError("The `+` operator, on a bool tensor is not supported.")
    return self


@composite("ldexp.Tensor(Tensor self, Tensor other) -> Tensor")
def ldexp(self: Any, other: Any) -> Any:
    return fn.mul(self, fn.pow(2.0, other))


def _double(*values: Any) -> DType:
    return complex128 if common_dtype(*values).is_complex else float64


@composite("float_power.Tensor_Tensor(Tensor self, Tensor exponent) -> Tensor")
def float_power(self: Any, exponent: Any) -> Any:
    dtype = _double(self._spec, exponent._spec)
    return fn.pow(fn._cast(self, dtype), fn._cast(exponent, dtype))


@composite("float_power.Tensor_Scalar(Tensor self, Scalar exponent) -> Tensor")
def float_power_number(self: Any, exponent: Any) -> Any:
    return fn.pow(fn._cast(self, _double(self._spec, exponent)), exponent)


@composite("float_power.Scalar(Scalar self, Tensor exponent) -> Tensor")
def float_power_of_number(self: Any, exponent: Any) -> Any:
    return fn.pow(self, fn._cast(exponent, _double(exponent._spec, self)))


# --------------------------------------------------------------------------- signs and rounding --
pointwise(
    "neg(Tensor self) -> Tensor",
    lambda xp, self: -self,
    {"self": lambda g: fn.neg(g)},
    refuses="b",
)
pointwise(
    "abs(Tensor self) -> Tensor",
    lambda xp, self: xp.abs(self),
    {"self": lambda g, self: fn.mul(g, fn.sgn(self))},
    result=lambda d: d.to_real(),
)


def _sign(xp: Any, self: Any) -> Any:
    """Return -1, 0 or 1; 0 for nan, as torch does."""
    if self.dtype.kind in "bu":
        return (self > 0).astype(self.dtype)
    return (self > 0).astype(self.dtype) - (self < 0).astype(self.dtype)


def _sgn(xp: Any, self: Any) -> Any:
    if self.dtype.kind != "c":
        return _sign(xp, self)
    size = xp.abs(self)
    return xp.where(size == 0, 0, self / xp.where(size == 0, 1, size))


def _sgn_grad(g: Any, self: Any, out: Any) -> Any:
    """The part of the gradient across the direction of self, over its length."""
    if not self._spec.dtype.is_complex:
        return fn.zeros_like(g)
    along = fn.mul(out, fn.real(fn.mul(fn.conj(out), g)))
    size = fn.abs(self)
    return fn.where(fn.eq(size, 0), 0.0, fn.div(fn.sub(g, along), size))


pointwise("sign(Tensor self) -> Tensor", _sign, {"self": lambda g: fn.zeros_like(g)}, refuses="c")
pointwise("sgn(Tensor self) -> Tensor", _sgn, {"self": _sgn_grad})
pointwise("signbit(Tensor self) -> Tensor", lambda xp, self: (
    xp.signbit(self) if self.dtype.kind == "f" else self < 0
), result=bool_, refuses="c")  # fmt: skip


def _copysign_self(g: Any, self: Any, out: Any) -> Any:
    return fn.mul(g, fn.masked_fill(fn.div(out, self), fn.eq(self, 0), 0))


pointwise(
    "copysign.Tensor(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: xp.copysign(self, other),
    {"self": _copysign_self, "other": lambda g: fn.zeros_like(g)},
    dtype=floating,
    refuses="c",
)
pointwise(
    "copysign.Scalar(Tensor self, Scalar other) -> Tensor",
    lambda xp, self, other: xp.copysign(self, xp.asarray(other, self.dtype)),
    {"self": _copysign_self},
    dtype=floating,
    refuses="c",
)


def _rounded(name: str) -> Any:
    def kernel(xp: Any, self: Any) -> Any:
        return self if self.dtype.kind in "iu" else getattr(xp, name)(self)

    return kernel


for _name, _numpy in {"floor": "floor", "ceil": "ceil", "trunc": "trunc", "round": "rint"}.items():
    pointwise(
        f"{_name}(Tensor self) -> Tensor",
        _rounded(_numpy),
        {"self": lambda g: fn.zeros_like(g)},
        refuses="bc",
    )


def _round_decimals(xp: Any, self: Any, decimals: int) -> Any:
    scale = 10.0 ** abs(decimals)
    return xp.rint(self * scale) / scale if decimals >= 0 else xp.rint(self / scale) * scale


pointwise(
    "round.decimals(Tensor self, *, int decimals) -> Tensor",
    _round_decimals,
    {"self": lambda g: fn.zeros_like(g)},
    refuses="bic",
)
pointwise(
    "frac(Tensor self) -> Tensor",
    lambda xp, self: self - xp.trunc(self),
    {"self": lambda g: g},
    refuses="bic",
)


# --------------------------------------------------------------------------------------- casts --
def _cast_kernel(xp: Any, self: Any, dtype: DType) -> Any:
    """Cast as C does: a float goes to an int by truncation, a complex loses its imaginary part.

    What is not zero is true, whichever part of it is not.
    """
    if dtype is bool_:
        return self != 0
    if self.dtype.kind == "c" and not dtype.is_complex:
        self = self.real
    if self.dtype.name == "bfloat16":
        self = self.astype("float32")
    return self.astype(dtype.numpy)


structured(
    "farspan::_cast(Tensor self, ScalarType dtype) -> Tensor",
    meta=lambda self, dtype: (self if self.dense else self.contiguous_).with_(dtype=dtype),
    kernel=_cast_kernel,
    vjp={"self": lambda g: g},
    moves=True,
)
