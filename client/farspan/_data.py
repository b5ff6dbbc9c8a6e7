"""Python's data as an array and a dtype: what ``tensor([[1, 2], [3, 4]])`` means, and its errors.

The dtype is the promotion of all leaves': Python's numbers, numpy's scalars and arrays, tensors.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any

import numpy as np

from .core import dtype as dtypes
from .core.call import fn
from .core.dtype import DType
from .core.errors import ArgumentError, BadValueError, DTypeError

_NUMBERS = frozenset((bool, int, float, complex))


def as_array(data: Any, dtype: DType | None) -> tuple[np.ndarray[Any, Any], DType]:
    """Return the values, not yet cast, and the dtype of the tensor to make of them.

    Waits only if tensors are among the leaves. Raises ValueError for ragged lists and TypeError,
    ValueError or RuntimeError, as torch does, for leaves that are no numbers or do not fit.
    """
    if isinstance(data, (np.ndarray, np.generic)):
        return np.asarray(data), dtype or dtypes.from_numpy(data.dtype)
    if isinstance(data, str):
        raise ArgumentError("new(): invalid data type 'str'")
    leaves: set[Any] = set()
    data = _plain(data, leaves)
    try:
        array = np.asarray(data)
    except ValueError:
        raise _ragged(data) from None
    found = dtype or reduce(dtypes.promote, map(_dtype_of, leaves or {float}))
    if array.dtype == np.uint64 and dtype is dtypes.uint64:
        return array, dtype
    if array.dtype == object or (array.dtype == np.uint64 and found.category < dtypes.FLOAT_KIND):
        if found.category < dtypes.FLOAT_KIND:
            raise BadValueError("Overflow when unpacking long long")
        array = array.astype(np.float64)
    if dtype is not None and array.size:
        _check_fits(array, dtype)
    return array, found


def _plain(data: Any, leaves: set[Any]) -> Any:
    """Return the data without tensors in it; adds the type or dtype of every leaf to `leaves`."""
    from ._tensor import Tensor

    if isinstance(data, Sequence) and not isinstance(data, (str, bytes)):
        kinds = set(map(type, data))
        if kinds <= _NUMBERS:
            leaves |= kinds
            return data
        if kinds == {Tensor} and all(x.numel() == 1 for x in data):
            leaves |= {x.dtype for x in data}
            return fn.stack([fn.reshape(fn.detach(x), ()) for x in data]).tolist()  # one wait
        return [_plain(x, leaves) for x in data]
    if isinstance(data, Tensor):
        leaves.add(data.dtype)
        if data.numel() != 1:
            raise BadValueError("only one element tensors can be converted to Python scalars")
        return data.item()
    if isinstance(data, (bool, int, float, complex)) and not isinstance(data, np.generic):
        leaves.add(next(t for t in (bool, int, float, complex) if isinstance(data, t)))
        return data
    if isinstance(data, str):
        raise BadValueError("too many dimensions 'str'")
    if not hasattr(data, "__array__"):
        raise DTypeError(f"Could not infer dtype of {type(data).__name__}")
    array = np.asarray(data)
    leaves.add(dtypes.from_numpy(array.dtype))
    return array


def _dtype_of(leaf: Any) -> DType:
    if isinstance(leaf, DType):
        return leaf
    return dtypes.scalar_dtype({bool: "b", int: "i", float: "f", complex: "c"}[leaf])


def _check_fits(array: np.ndarray[Any, Any], dtype: DType) -> None:
    """Raise where a number is out of the dtype's range; negatives of an unsigned one wrap."""
    if array.dtype.kind == "c" and not dtype.is_complex:
        raise ArgumentError("must be real number, not complex")
    if dtype.category == dtypes.INT_KIND and array.dtype.kind in "iuf":
        most = np.iinfo(dtype.numpy)
        least = int(most.min) or -int(most.max)
        if not (array.min() >= least and array.max() <= most.max):  # nan fits neither
            raise DTypeError(f"value cannot be converted to type {dtype.name} without overflow")


def _ragged(data: Any) -> Exception:
    """Return what torch says of nested lists whose lengths differ."""
    lengths, first = [], data
    while _has_length(first):
        lengths.append(len(first))
        first = first[0] if len(first) else None

    def check(part: Any, dim: int) -> Exception | None:
        if dim == len(lengths):
            kind = type(part).__name__
            wrong = _has_length(part)
            return (
                ArgumentError(f"{kind!r} object cannot be interpreted as a number")
                if wrong
                else None
            )
        if not _has_length(part):
            return ArgumentError(f"not a sequence, but {part!r} beside lists at dim {dim}")
        if len(part) != lengths[dim]:
            return BadValueError(
                f"expected sequence of length {lengths[dim]} at dim {dim} (got {len(part)})"
            )
        return next((e for e in (check(x, dim + 1) for x in part) if e is not None), None)

    return check(data, 0) or BadValueError("the nested lists do not make one shape")


def _has_length(x: Any) -> bool:
    return isinstance(x, (Sequence, np.ndarray)) and getattr(x, "ndim", 1) > 0
