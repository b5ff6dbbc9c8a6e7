"""Elementwise questions and choices: comparisons, logic, bits, extremes, clamps, `where`."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..blocks import select
from ..call import fn
from ..dtype import CPP_NAMES, bool_
from ..errors import DTypeError, ParameterError, ShapeError
from ..family import common_device, common_dtype, composite, pointwise, structured
from ..spec import Spec, broadcast_shapes

if TYPE_CHECKING:
    from ..dtype import DType


# ------------------------------------------------------------------------- comparisons and logic --
def _declare_comparisons() -> None:
    kernels = {
        "eq": lambda xp, self, other: self == other,
        "ne": lambda xp, self, other: self != other,
        "lt": lambda xp, self, other: self < other,
        "le": lambda xp, self, other: self <= other,
        "gt": lambda xp, self, other: self > other,
        "ge": lambda xp, self, other: self >= other,
    }
    for name, kernel in kernels.items():
        refuses = "" if name in ("eq", "ne") else "c"
        for kind in ("Tensor", "Scalar"):
            line = f"{name}.{kind}(Tensor self, {kind} other) -> Tensor"
            pointwise(line, kernel, result=bool_, refuses=refuses)


_declare_comparisons()
for _name in ("and", "or", "xor"):
    pointwise(
        f"logical_{_name}(Tensor self, Tensor other) -> Tensor",
        lambda xp, self, other, f=f"logical_{_name}": getattr(xp, f)(self, other),
        result=bool_,
    )
pointwise("logical_not(Tensor self) -> Tensor", lambda xp, self: xp.logical_not(self), result=bool_)
for _name in ("bitwise_and", "bitwise_or", "bitwise_xor"):
    for _form in (".Tensor(Tensor self, Tensor", ".Scalar(Tensor self, Scalar",
                  ".Scalar_Tensor(Scalar self, Tensor"):  # fmt: skip
        pointwise(
            f"{_name}{_form} other) -> Tensor",
            lambda xp, self, other, f=_name: getattr(xp, f)(self, other),
            refuses="fc",
        )
for _name, _numpy in {"bitwise_left_shift": "left_shift",
                      "bitwise_right_shift": "right_shift"}.items():  # fmt: skip
    for _form in (".Tensor(Tensor self, Tensor", ".Tensor_Scalar(Tensor self, Scalar",
                  ".Scalar_Tensor(Scalar self, Tensor"):  # fmt: skip
        pointwise(
            f"{_name}{_form} other) -> Tensor",
            lambda xp, self, other, f=_numpy: getattr(xp, f)(self, other),
            refuses="bfc",
        )
pointwise("bitwise_not(Tensor self) -> Tensor", lambda xp, self: xp.invert(self), refuses="fc")

pointwise("isnan(Tensor self) -> Tensor", lambda xp, self: xp.isnan(self), result=bool_)
pointwise("isinf(Tensor self) -> Tensor", lambda xp, self: xp.isinf(self), result=bool_)
pointwise("isfinite(Tensor self) -> Tensor", lambda xp, self: xp.isfinite(self), result=bool_)
pointwise(
    "isposinf(Tensor self) -> Tensor",
    lambda xp, self: self == math.inf,
    result=bool_,
    refuses="c",
)
pointwise(
    "isneginf(Tensor self) -> Tensor",
    lambda xp, self: self == -math.inf,
    result=bool_,
    refuses="c",
)


def _isclose(xp: Any, self: Any, other: Any, rtol: float, atol: float, equal_nan: bool) -> Any:
    close = self == other
    if self.dtype.kind in "fc":
        distance = xp.abs(self - other)
        close |= xp.isfinite(distance) & (distance <= atol + xp.abs(rtol * other))
        if equal_nan:
            close |= xp.isnan(self) & xp.isnan(other)
    elif rtol or atol:
        allowed = atol + xp.abs(rtol * other.astype(xp.float64))
        close |= xp.abs(self.astype(xp.float64) - other) <= allowed
    return close


def _one_dtype(self: Spec, other: Spec, *rest: Any) -> DType:
    if self.dtype is not other.dtype:
        raise DTypeError(f"{other.dtype.name} did not match {self.dtype.name}")
    return self.dtype


pointwise(
    "isclose(Tensor self, Tensor other, float rtol=1.0000000000000001e-05, float atol=1e-08, bool"
    " equal_nan=False) -> Tensor",
    _isclose,
    operands="self other",
    result=bool_,
    compute=_one_dtype,
)


@composite("allclose(Tensor self, Tensor other, float rtol=1.0000000000000001e-05, float atol=1e-08"
           ", bool equal_nan=False) -> bool")  # fmt: skip
def allclose(
    self: Any, other: Any, rtol: float = 1e-5, atol: float = 1e-8, equal_nan: bool = False
) -> bool:
    return bool(fn.all(fn.isclose(self, other, rtol, atol, equal_nan)))


@composite("equal(Tensor self, Tensor other) -> bool")
def equal(self: Any, other: Any) -> bool:
    """Whether shapes and elements are the same. Waits."""
    return self._spec.shape == other._spec.shape and bool(fn.all(fn.eq(self, other)))


# ------------------------------------------------------------------------------------- choices --
def _check_condition(condition: Spec) -> None:
    if condition.dtype is not bool_:
        raise DTypeError(
            "where expected condition to be a boolean tensor, but got a tensor with dtype "
            f"{condition.dtype.name}"
        )


def _where_dtype(condition: Spec, self: Any, other: Any) -> DType:
    _check_condition(condition)
    return common_dtype(self, other)


for _form in ("self(Tensor condition, Tensor self, Tensor",
              "ScalarOther(Tensor condition, Tensor self, Scalar",
              "ScalarSelf(Tensor condition, Scalar self, Tensor",
              "Scalar(Tensor condition, Scalar self, Scalar"):  # fmt: skip
    _vjp: dict[str, Any] = {}
    if "Tensor self" in _form:
        _vjp["self"] = lambda g, condition: fn.where(condition, g, 0)
    if _form.endswith("Tensor"):
        _vjp["other"] = lambda g, condition: fn.where(condition, 0, g)
    pointwise(
        f"where.{_form} other) -> Tensor",
        lambda xp, condition, self, other: select(xp, condition, self, other),
        _vjp,
        operands="self other",
        compute=_where_dtype,
    )


def check_fill_mask(mask: Spec) -> None:
    """Raise unless a mask says by bools where one value goes."""
    if mask.dtype is not bool_:
        raise DTypeError(
            "masked_fill_ only supports boolean masks, but got mask with dtype "
            + CPP_NAMES.get(mask.dtype.name, mask.dtype.name)
        )


def _masked_fill_meta(self: Spec, mask: Spec, value: Any) -> Spec:
    check_fill_mask(mask)
    if isinstance(value, Spec) and value.shape:
        raise ShapeError(
            "masked_fill_ only supports a 0-dimensional value tensor, but got tensor with "
            f"{value.ndim} dimension(s)."
        )
    return Spec.make(
        broadcast_shapes(self.shape, mask.shape), self.dtype, common_device((self, mask))
    )


_C_TYPES = {
    "float16": "c10::Half", "bfloat16": "c10::BFloat16", "float32": "float", "float64": "double",
    "uint8": "uint8_t", "int8": "int8_t", "int16": "int16_t", "int32": "int", "int64": "int64_t",
}  # fmt: skip


def _converted(xp: Any, value: Any, dtype: Any) -> Any:
    """Return the number as this dtype. DTypeError if it does not fit; -255 to 255 fit a uint8."""
    x = xp.asarray(value)
    if dtype.kind in "bc":
        return x.astype(dtype)
    fits = x.dtype.kind != "c" or not x.imag
    number = x.real if x.dtype.kind == "c" else x
    if fits and dtype.kind in "iu" and number.dtype.kind != "b":
        limits = xp.iinfo(dtype)
        lowest = -int(limits.max) if dtype.kind == "u" else int(limits.min)
        fits = bool(xp.isfinite(number)) and lowest <= int(number) <= int(limits.max)
        made = xp.asarray(int(number) if fits else 0).astype(dtype)
    else:
        made = number.astype(dtype)
        fits = fits and not (xp.isfinite(number) and xp.isinf(made))
    if not fits:
        name = _C_TYPES[dtype.name]
        raise DTypeError(f"value cannot be converted to type {name} without overflow")
    return made


def _masked_fill(xp: Any, self: Any, mask: Any, value: Any) -> Any:
    return select(xp, mask, _converted(xp, value, self.dtype), self)


structured(
    "masked_fill.Scalar(Tensor self, Tensor mask, Scalar value) -> Tensor",
    meta=_masked_fill_meta,
    kernel=_masked_fill,
    vjp={"self": lambda g, mask: fn.masked_fill(g, mask, 0)},
    moves=True,
)
structured(
    "masked_fill.Tensor(Tensor self, Tensor mask, Tensor value) -> Tensor",
    meta=_masked_fill_meta,
    kernel=_masked_fill,
    vjp={
        "self": lambda g, mask: fn.masked_fill(g, mask, 0),
        "value": lambda g, mask: fn.sum(fn.where(mask, g, 0)),
    },
    moves=True,
)


# ------------------------------------------------------------------------- extremes and clamps --
def _half_at_ties(worse: Any) -> dict[str, Any]:
    """Formulas of maximum and minimum: equal arguments share the gradient."""

    def share(g: Any, mine: Any, theirs: Any) -> Any:
        g = fn.where(fn.eq(mine, theirs), fn.div(g, 2), g)
        return fn.masked_fill(g, worse(mine, theirs), 0)

    return {
        "self": lambda g, self, other: share(g, self, other),
        "other": lambda g, self, other: share(g, other, self),
    }


def _picked(better: Any) -> dict[str, Any]:
    """Formulas of fmax and fmin: nan never wins, ties go to self."""

    def wins(self: Any, other: Any) -> Any:
        return fn.logical_or(better(self, other), fn.isnan(other))

    return {
        "self": lambda g, self, other: fn.where(wins(self, other), g, 0),
        "other": lambda g, self, other: fn.where(wins(self, other), 0, g),
    }


for _name, _vjp in {
    "maximum": _half_at_ties(lambda a, b: fn.lt(a, b)),
    "minimum": _half_at_ties(lambda a, b: fn.gt(a, b)),
    "fmax": _picked(lambda a, b: fn.ge(a, b)),
    "fmin": _picked(lambda a, b: fn.le(a, b)),
}.items():
    pointwise(
        f"{_name}(Tensor self, Tensor other) -> Tensor",
        lambda xp, self, other, f=_name: getattr(xp, f)(self, other),
        _vjp,
        refuses="c",
    )


def _clamp(xp: Any, self: Any, min: Any, max: Any) -> Any:
    if min is not None:
        self = xp.maximum(self, min)
    return self if max is None else xp.minimum(self, max)


def _clamp_dtype(self: Spec, min: Any, max: Any) -> DType:
    if min is None and max is None:
        raise ParameterError("torch.clamp: At least one of 'min' or 'max' must not be None")
    common = common_dtype(self, min, max)
    if common.is_complex:
        raise DTypeError("clamp is not supported for complex types")
    return common


def _clamp_self(g: Any, self: Any, min: Any, max: Any) -> Any:
    inside = [fn.ge(self, min)] if min is not None else []
    if max is not None:
        inside.append(fn.le(self, max))
    kept = inside[0] if len(inside) == 1 else fn.logical_and(*inside)
    return fn.where(kept, g, 0)


def _clamp_min_grad(g: Any, self: Any, min: Any, max: Any) -> Any:
    low = fn.lt(self, min)
    if max is not None:
        low = fn.logical_and(low, fn.lt(min, max))
    return fn.where(low, g, 0)


def _clamp_max_grad(g: Any, self: Any, min: Any, max: Any) -> Any:
    high = fn.gt(self, max)
    if min is not None:
        high = fn.logical_or(high, fn.lt(max, min))
    return fn.where(high, g, 0)


pointwise(
    "clamp.Tensor(Tensor self, Tensor? min=None, Tensor? max=None) -> Tensor",
    _clamp,
    {"self": _clamp_self, "min": _clamp_min_grad, "max": _clamp_max_grad},
    compute=_clamp_dtype,
)
pointwise(
    "clamp(Tensor self, Scalar? min=None, Scalar? max=None) -> Tensor",
    _clamp,
    {"self": _clamp_self},
    compute=_clamp_dtype,
)
for _kind in ("Tensor", "Scalar"):
    _overload = ".Tensor" if _kind == "Tensor" else ""
    composite(f"clamp_min{_overload}(Tensor self, {_kind} min) -> Tensor")(
        lambda self, min: fn.clamp(self, min, None)
    )
    composite(f"clamp_max{_overload}(Tensor self, {_kind} max) -> Tensor")(
        lambda self, max: fn.clamp(self, None, max)
    )


def _finite(xp: Any, self: Any, nan: float | None, posinf: Any, neginf: Any) -> Any:
    """Replace what is not finite; the defaults are 0 and the type's own extremes."""
    if self.dtype.kind == "c":
        parts = (_finite(xp, p, nan, posinf, neginf) for p in (self.real, self.imag))
        real, imag = parts
        return real + 1j * imag
    if self.dtype.kind in "iub":
        return self
    largest = 3.3895313892515355e38 if self.dtype.name == "bfloat16" else xp.finfo(self.dtype).max
    posinf = largest if posinf is None else posinf
    neginf = -largest if neginf is None else neginf
    pieces = ((xp.isnan(self), nan or 0.0), (self == xp.inf, posinf), (self == -xp.inf, neginf))
    for where, value in pieces:
        self = xp.where(where, xp.asarray(value).astype(self.dtype), self)
    return self


pointwise(
    "nan_to_num(Tensor self, float? nan=None, float? posinf=None, float? neginf=None) -> Tensor",
    _finite,
    {"self": lambda g, self: fn.where(fn.isfinite(self), g, 0)},
    operands="self",
    moves=True,
)
pointwise(
    "heaviside(Tensor self, Tensor values) -> Tensor",
    lambda xp, self, values: xp.where(self == 0, values, (self > 0).astype(self.dtype)),
    compute=lambda self, values: _one_dtype(self, values),
    refuses="c",
)
