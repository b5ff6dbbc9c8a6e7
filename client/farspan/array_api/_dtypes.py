"""Data types by the standard: casts, kinds and limits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .. import _typeinfo
from .._tensor import Tensor
from ..core import dtype as dtypes
from ..core.dtype import DType
from ..core.errors import ArgumentError, BadValueError
from ._array import Array, own
from ._promotion import promote, scalar_kind, with_scalar

__all__ = ["astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]


def result_type(*arrays_and_dtypes: Array | DType | complex) -> DType:
    """Return the dtype of an operation on all of these: arrays, dtypes and Python numbers."""
    found: DType | None = None
    number = -1
    for item in arrays_and_dtypes:
        if isinstance(item, (Tensor, DType)):
            dtype = item if isinstance(item, DType) else item.dtype
            found = dtype if found is None else promote(found, dtype)
        else:
            number = max(number, scalar_kind(item))
    if found is None:
        raise BadValueError("result_type() needs at least one array or dtype")
    return found if number < 0 else with_scalar(found, number)


def astype(x: Array, dtype: DType, /, *, copy: bool = True, device: Any | None = None) -> Array:
    """Return x with elements of `dtype`; a copy unless `copy=False` and nothing has to change.

    TypeError for complex to real, which loses the imaginary part: write `real(x)`.
    """
    x = own(x)
    if x.dtype.is_complex and not dtype.is_complex and dtype is not dtypes.bool_:
        raise ArgumentError(f"astype: {x.dtype} has no place in {dtype}; write real(x) or abs(x)")
    return x.to(dtype=dtype, device=device, copy=copy)


def can_cast(from_: Array | DType, to: DType, /) -> bool:
    """Return whether promotion takes `from_` to `to`."""
    have = from_ if isinstance(from_, DType) else from_.dtype
    if have.category > to.category:
        return False
    try:
        return promote(have, to) is to
    except TypeError:
        return False


_KINDS = {
    "bool": lambda d: d.category == dtypes.BOOL_KIND,
    "signed integer": lambda d: d.category == dtypes.INT_KIND and d.is_signed,
    "unsigned integer": lambda d: d.category == dtypes.INT_KIND and not d.is_signed,
    "integral": lambda d: d.category == dtypes.INT_KIND,
    "real floating": lambda d: d.category == dtypes.FLOAT_KIND,
    "complex floating": lambda d: d.category == dtypes.COMPLEX_KIND,
    "numeric": lambda d: d.category > dtypes.BOOL_KIND,
}


def isdtype(dtype: DType, kind: DType | str | tuple[DType | str, ...]) -> bool:
    """Return whether the dtype is of a kind: a dtype, one of the standard's names, or several."""
    if isinstance(kind, tuple):
        return any(isdtype(dtype, k) for k in kind)
    if isinstance(kind, DType):
        return dtype is kind
    if kind not in _KINDS:
        raise BadValueError(f"isdtype: unknown kind {kind!r}; expected one of {list(_KINDS)}")
    return _KINDS[kind](dtype)


@dataclass(frozen=True, slots=True)
class FloatLimits:
    """What `finfo` returns: Python floats, and the dtype of the real part."""

    bits: int
    eps: float
    max: float
    min: float
    smallest_normal: float
    dtype: DType


@dataclass(frozen=True, slots=True)
class IntLimits:
    """What `iinfo` returns."""

    bits: int
    max: int
    min: int
    dtype: DType


def _dtype_of(x: Any) -> DType:
    return x if isinstance(x, DType) else x.dtype


def finfo(type: DType | Array, /) -> FloatLimits:
    """Return the limits of a floating dtype, or of an array's; for complex ones of their parts."""
    dtype = _dtype_of(type)
    found = _typeinfo.finfo(dtype)
    return FloatLimits(
        found.bits, found.eps, found.max, found.min, found.smallest_normal, dtype.to_real()
    )


def iinfo(type: DType | Array, /) -> IntLimits:
    """Return the limits of an integer dtype, or of an array's."""
    dtype = _dtype_of(type)
    found = _typeinfo.iinfo(dtype)
    return IntLimits(found.bits, found.max, found.min, dtype)
