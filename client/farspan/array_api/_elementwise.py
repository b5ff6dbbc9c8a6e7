"""Elementwise functions: the standard's names over the table's operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .._tensor import Tensor
from ..core.call import fn
from ..core.dtype import INT_KIND
from ..core.errors import ArgumentError
from ._array import Array, cast, number_array, own, promoted
from ._dtypes import iinfo
from ._promotion import scalar_kind, with_scalar

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["clip", "expm1", "imag", "real", "round", "sign", "signbit", "tanh"]

_UNARY = {
    "abs": "abs", "acos": "acos", "acosh": "acosh", "asin": "asin", "asinh": "asinh",
    "atan": "atan", "atanh": "atanh", "bitwise_invert": "bitwise_not", "ceil": "ceil",
    "conj": "conj_physical", "cos": "cos", "cosh": "cosh", "exp": "exp",
    "floor": "floor", "isfinite": "isfinite", "isinf": "isinf", "isnan": "isnan", "log": "log",
    "log1p": "log1p", "log2": "log2", "log10": "log10", "logical_not": "logical_not",
    "negative": "neg", "positive": "clone", "reciprocal": "reciprocal", "sin": "sin",
    "sinh": "sinh", "square": "square", "sqrt": "sqrt", "tan": "tan",
    "trunc": "trunc",
}  # fmt: skip
_BINARY = {
    "atan2": "atan2", "copysign": "copysign", "hypot": "hypot", "logaddexp": "logaddexp",
    "logical_and": "logical_and", "logical_or": "logical_or", "logical_xor": "logical_xor",
    "maximum": "maximum", "minimum": "minimum",
    "nextafter": "nextafter",
}  # fmt: skip
_OPERATORS = {
    "add": "add", "bitwise_and": "and", "bitwise_left_shift": "lshift", "bitwise_or": "or",
    "bitwise_right_shift": "rshift", "bitwise_xor": "xor", "divide": "truediv", "equal": "eq",
    "floor_divide": "floordiv", "greater": "gt", "greater_equal": "ge", "less": "lt",
    "less_equal": "le", "multiply": "mul", "not_equal": "ne", "pow": "pow", "remainder": "mod",
    "subtract": "sub",
}  # fmt: skip


def pair(x1: Any, x2: Any) -> tuple[Array, Array]:
    """Return two operands as arrays of one dtype; one of them may be a Python number."""
    if isinstance(x1, Tensor) and isinstance(x2, Tensor):
        return promoted(own(x1), own(x2))
    if isinstance(x1, Tensor):
        a = own(x1)
        return cast(a, with_scalar(a.dtype, scalar_kind(x2))), number_array(x2, a)
    b = own(x2)
    return number_array(x1, b), cast(b, with_scalar(b.dtype, scalar_kind(x1)))


def _unary(name: str, operator: str) -> Callable[[Array], Array]:
    function = getattr(fn, operator)

    def elementwise(x: Array, /) -> Array:
        return function(own(x))

    return _described(elementwise, name)


def _binary(name: str, operator: str) -> Callable[[Any, Any], Array]:
    function = getattr(fn, operator)

    def elementwise(x1: Array | complex, x2: Array | complex, /) -> Array:
        return function(*pair(x1, x2))

    return _described(elementwise, name)


def _of_operator(name: str, python: str) -> Callable[[Any, Any], Array]:
    forward, reflected = getattr(Array, f"__{python}__"), getattr(Array, f"__r{python}__", None)

    def elementwise(x1: Array | complex, x2: Array | complex, /) -> Array:
        if isinstance(x1, Tensor):
            found = forward(own(x1), x2)
        elif reflected is not None:
            found = reflected(own(x2), x1)
        else:  # a comparison
            found = forward(*pair(x1, x2))
        if found is NotImplemented:
            raise ArgumentError(f"{name}: {type(x1).__name__} with {type(x2).__name__}")
        return found

    return _described(elementwise, name)


def _described(function: Any, name: str) -> Any:
    function.__name__ = function.__qualname__ = name
    function.__doc__ = f"Return `{name}` of each element, by the array API standard. Does not wait."
    return function


for _name, _op in _UNARY.items():
    globals()[_name] = _unary(_name, _op)
for _name, _op in _BINARY.items():
    globals()[_name] = _binary(_name, _op)
for _name, _op in _OPERATORS.items():
    globals()[_name] = _of_operator(_name, _op)
__all__ += [*_UNARY, *_BINARY, *_OPERATORS]


def round(x: Array, /) -> Array:
    """Return each element rounded to the nearest integer, halves to the even one.

    Parts of complex numbers are rounded apart.
    """
    x = own(x)
    if x.dtype.is_complex:
        return fn.complex(fn.round(fn.real(x)), fn.round(fn.imag(x)))
    return fn.round(x)


def expm1(x: Array, /) -> Array:
    """Return exp(x) - 1 of each element, exact near 0; of infinities and nan with C99's parts."""
    x = own(x)
    near = fn.expm1(x)
    if not x.dtype.is_complex:
        return near
    ordinary = fn.logical_and(fn.isfinite(x), fn.ne(x, 0))
    return fn.where(ordinary, near, fn.sub(fn.exp(x), 1))


def tanh(x: Array, /) -> Array:
    """Return the hyperbolic tangent of each element; at infinities its zero part has x's sign."""
    x = own(x)
    found = fn.tanh(x)
    if not x.dtype.is_complex:
        return found
    signed = fn.copysign(fn.imag(found), fn.imag(x))
    imag = fn.where(fn.isinf(fn.real(x)), signed, fn.imag(found))
    return fn.complex(fn.real(found), imag)


def sign(x: Array, /) -> Array:
    """Return -1, 0 or 1 with the sign of each element; x / abs(x) of complex ones; nan of nan."""
    x = own(x)
    if x.dtype.is_floating_point:
        return fn.where(fn.isnan(x), x, fn.sign(x))
    return fn.sgn(x) if x.dtype.is_complex else fn.sign(x)


def signbit(x: Array, /) -> Array:
    """Return whether the sign of each element is negative; that of -0.0 is."""
    return fn.signbit(own(x))


def real(x: Array, /) -> Array:
    """Return the real part of each element; x itself if it is real."""
    return fn.real(own(x))


def imag(x: Array, /) -> Array:
    """Return the imaginary part of each element; zeros if x is real."""
    x = own(x)
    return fn.imag(x) if x.dtype.is_complex else fn.zeros_like(x)


def clip(x: Array, /, min: Array | float | None = None, max: Array | float | None = None) -> Array:
    """Return x with elements below `min` or above `max` replaced by them; dtype of x.

    The three broadcast. A nan in any of them is a nan in the result.
    """
    x = own(x)
    found = fn.clone(x) if min is None and max is None else x
    for bound, choose in ((min, fn.maximum), (max, fn.minimum)):
        if bound is not None:
            found = choose(*pair(found, _within(bound, x)))
    return cast(found, x.dtype)


def _within(bound: Any, x: Array) -> Any:
    """Return a bound as it can be compared with x; an integer beyond x's range is its limit."""
    if isinstance(bound, Tensor) or x.dtype.category != INT_KIND or type(bound) is not int:
        return bound
    limits = iinfo(x.dtype)
    return sorted((limits.min, bound, limits.max))[1]
