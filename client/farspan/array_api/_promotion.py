"""The dtype of an operation by the standard: from dtypes alone, and from Python's numbers' kinds.

Unlike in torch, a 0-d array counts like any other, and unsigned integers promote with signed ones
to the next size that holds both.
Source: https://data-apis.org/array-api/2024.12/API_specification/type_promotion.html
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np

from ..core import dtype as dtypes
from ..core.dtype import DType
from ..core.errors import ArgumentError

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
    if a.category == b.category == dtypes.INT_KIND:
        found = np.promote_types(a.numpy, b.numpy)
        if found.kind == "f":
            raise ArgumentError(f"{a} and {b} have no common integer type; cast one with astype")
        return dtypes.from_numpy(found)
    if {a.category, b.category} == {dtypes.BOOL_KIND, dtypes.INT_KIND}:
        return max(a, b, key=lambda d: d.category)
    if {a.category, b.category} == {dtypes.INT_KIND, dtypes.COMPLEX_KIND}:
        return max(a, b, key=lambda d: d.category)
    return dtypes.promote(a, b)


def with_scalar(dtype: DType, kind: int) -> DType:
    """Return the type of a `dtype` array with a Python number of this kind: the array's, if it can.

    A number of a higher kind than the array's, which the standard leaves open, decides as in torch.
    """
    if kind <= dtype.category:
        return dtype
    if kind == dtypes.COMPLEX_KIND:
        return dtype.to_complex() if dtype.is_floating_point else dtypes.scalar_dtype("c")
    return dtypes.scalar_dtype("if"[kind - 1])


def scalar_kind(x: Any) -> int:
    """Return the kind of dtype that a Python number needs. TypeError for anything else."""
    for python, kind in _SCALARS.items():
        if isinstance(x, python):
            return kind
    raise ArgumentError(f"expected an array, a dtype or a number, not {type(x).__name__}")
