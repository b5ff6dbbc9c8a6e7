"""Data types by the standard: promotion, kinds, limits.

Unlike torch's, the standard's promotion looks at dtypes alone: a 0-d array counts like any other,
and unsigned integers promote with signed ones to the next size that holds both.
Source: https://data-apis.org/array-api/2024.12/API_specification/type_promotion.html
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import _typeinfo
from .._tensor import Tensor
from ..core import dtype as dtypes
from ..core.dtype import DType
from ..core.errors import ArgumentError, BadValueError
from ._array import Array, own

__all__ = ["astype", "can_cast", "finfo", "iinfo", "isdtype", "result_type"]

_SCALARS = {
    bool: 0,
    int: 1,
    float: 2,
    complex: 3,
}  # Python's numbers by the kind of dtype they need


@functools.cache
def promote(a: DType, b: DType) -> DType:
    """Return the smallest type that holds both. TypeError where the standard leaves it undefined
    and torch too: int64 with uint64."""
    if a is b:
        return a
    if a.kind == b.kind == dtypes.INT_KIND:
        found = np.promote_types(a.numpy, b.numpy)
        if found.kind == "f":
            raise ArgumentError(f"{a} and {b} have no common integer type; cast one with astype")
        return dtypes.from_numpy(found)
    if {a.kind, b.kind} == {dtypes.BOOL_KIND, dtypes.INT_KIND}:
        return max(a, b, key=lambda d: d.kind)
    if {a.kind, b.kind} == {dtypes.INT_KIND, dtypes.COMPLEX_KIND}:
        return max(a, b, key=lambda d: d.kind)
    return dtypes.promote(a, b)


def with_scalar(dtype: DType, kind: int) -> DType:
    """Return the type of a `dtype` array with a Python number of this kind: the array's, if it can.

    A number of a higher kind than the array's, which the standard leaves open, decides as in torch.
    """
    if kind <= dtype.kind:
        return dtype
    if kind == dtypes.COMPLEX_KIND:
        return dtype.to_complex() if dtype.is_floating_point else dtypes.scalar_dtype("c")
    return dtypes.scalar_dtype("if"[kind - 1])


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


def scalar_kind(x: Any) -> int:
    """Return the kind of dtype that a Python number needs. TypeError for anything else."""
    for python, kind in _SCALARS.items():
        if isinstance(x, python):
            return kind
    raise ArgumentError(f"expected an array, a dtype or a number, not {type(x).__name__}")


def astype(x: Array, dtype: DType, /, *, copy: bool = True, device: Any | None = None) -> Array:
    """Return x with elements of `dtype`; a copy unless `copy=False` and nothing has to change.

    TypeError for complex to real, which loses the imaginary part: write `real(x)`.
    """
    x = own(x)
    if x.dtype.is_complex and not dtype.is_complex and dtype is not dtypes.bool_:
        raise ArgumentError(f"astype: {x.dtype} has no place in {dtype}; write real(x) or abs(x)")
    return x.to(dtype=dtype, device=device, copy=copy)  # type: ignore[attr-defined, no-any-return]


def can_cast(from_: Array | DType, to: DType, /) -> bool:
    """Return whether promotion takes `from_` to `to`."""
    have = from_ if isinstance(from_, DType) else from_.dtype
    if have.kind > to.kind:
        return False
    try:
        return promote(have, to) is to
    except TypeError:
        return False


_KINDS = {
    "bool": lambda d: d.kind == dtypes.BOOL_KIND,
    "signed integer": lambda d: d.kind == dtypes.INT_KIND and d.is_signed,
    "unsigned integer": lambda d: d.kind == dtypes.INT_KIND and not d.is_signed,
    "integral": lambda d: d.kind == dtypes.INT_KIND,
    "real floating": lambda d: d.kind == dtypes.FLOAT_KIND,
    "complex floating": lambda d: d.kind == dtypes.COMPLEX_KIND,
    "numeric": lambda d: d.kind > dtypes.BOOL_KIND,
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
    return x if isinstance(x, DType) else x.dtype  # type: ignore[no-any-return]


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
