"""What looks at many elements: reductions, scans, searching, sorting, sets."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .. import _shapes
from .._tensor import Tensor
from ..core.call import fn
from ..core.dtype import INT_KIND, DType, bool_, int64, uint64
from ..core.errors import ArgumentError, ValueRangeError
from ._array import Array, array_of, cast, check_axis, of_one_type, own, refuse
from ._elementwise import pair

__all__ = [
    "all", "any", "argmax", "argmin", "argsort", "count_nonzero", "cumulative_prod",
    "cumulative_sum", "diff", "max", "mean", "min", "nonzero", "prod", "searchsorted", "sort",
    "std", "sum", "unique_all", "unique_counts", "unique_inverse", "unique_values", "var", "where",
]  # fmt: skip

Axis = int | tuple[int, ...] | None


def _axes(axis: Axis, ndim: int) -> list[int]:
    """Return the axes to reduce, counted from 0: all for None."""
    if axis is None:
        return list(range(ndim))
    axes = [axis] if isinstance(axis, int) else list(axis)
    return [check_axis(a, ndim) for a in axes]


def _wide(dtype: DType) -> DType:
    """Return the type in which the standard adds up numbers of this one."""
    if dtype.category != INT_KIND:
        return int64 if dtype is bool_ else dtype
    return int64 if dtype.is_signed else uint64


# ----------------------------------------------------------------------------------- reductions --
def sum(
    x: Array, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: bool = False
) -> Array:
    """Return the sum over axes, by default all; of integers in 64 bits."""
    x = own(x)
    axes = _axes(axis, x.ndim)
    dtype = dtype or _wide(x.dtype)
    if not axes:  # torch takes no axes for all
        return fn.clone(cast(x, dtype))
    return fn.sum(x, axes, keepdims, dtype=dtype)


def prod(
    x: Array, /, *, axis: Axis = None, dtype: DType | None = None, keepdims: bool = False
) -> Array:
    """Return the product over axes, by default all; of integers in 64 bits."""
    x = own(x)
    dtype = dtype or _wide(x.dtype)
    if axis is None and not keepdims:
        return fn.prod(x, dtype=dtype)
    found = cast(x, dtype)
    for a in sorted(_axes(axis, x.ndim), reverse=True):
        found = fn.prod(found, a, keepdims, dtype=dtype)
    return found


def _extreme(name: str, word: str) -> Any:
    reduce = getattr(fn, f"a{name}")

    def extreme(x: Array, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
        x = own(x)
        axes = _axes(axis, x.ndim)
        return reduce(x, axes, keepdims) if axes else fn.clone(x)

    extreme.__name__ = extreme.__qualname__ = name
    extreme.__doc__ = f"Return the {word} element over axes, by default all; nan if one is nan."
    return extreme


max, min = _extreme("max", "largest"), _extreme("min", "smallest")


def mean(x: Array, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return the mean over axes, by default all."""
    x = own(x)
    axes = _axes(axis, x.ndim)
    return fn.mean(x, axes, keepdims) if axes else fn.clone(x)


def _spread(name: str, what: str) -> Any:
    reduce = getattr(fn, name)

    def spread(
        x: Array, /, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
    ) -> Array:
        x = own(x)
        axes = _axes(axis, x.ndim)
        if not axes:  # of each element alone: 0, or nan of what is not finite
            return fn.mul(x, 0.0)
        return reduce(x, axes, correction=correction, keepdim=keepdims)

    spread.__name__ = spread.__qualname__ = name
    spread.__doc__ = f"Return the {what} over axes, by default all; n - correction divides."
    return spread


var, std = _spread("var", "variance"), _spread("std", "standard deviation")


def _truth(name: str) -> Any:
    reduce = getattr(fn, name)

    def truth(x: Array, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
        x = cast(own(x), bool_)
        axes = _axes(axis, x.ndim)
        return reduce(x, axes, keepdims) if axes else fn.clone(x)

    truth.__name__ = truth.__qualname__ = name
    truth.__doc__ = f"Return whether {name} of the elements along axes, by default all, are true."
    return truth


all, any = _truth("all"), _truth("any")


def count_nonzero(x: Array, /, *, axis: Axis = None, keepdims: bool = False) -> Array:
    """Return how many elements along axes, by default all, are not zero."""
    return sum(cast(own(x), bool_), axis=axis, keepdims=keepdims)


def _cumulative(
    function: Any, first: int, x: Array, axis: int | None, dtype: DType | None, initial: bool
) -> Array:
    x = own(x)
    refuse(axis is None and x.ndim != 1, "axis is needed unless x has one dim")
    axis = check_axis(0 if axis is None else axis, x.ndim)
    dtype = dtype or _wide(x.dtype)
    found = function(x, axis, dtype=dtype)
    if not initial:
        return found
    shape = [*x.shape[:axis], 1, *x.shape[axis + 1 :]]
    start = fn.full(shape, first, dtype=dtype, device=x.device)
    return array_of(fn.cat([start, found], axis))


def cumulative_sum(
    x: Array,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Array:
    """Return running sums along an axis, with a zero in front if `include_initial`."""
    return _cumulative(fn.cumsum, 0, x, axis, dtype, include_initial)


def cumulative_prod(
    x: Array,
    /,
    *,
    axis: int | None = None,
    dtype: DType | None = None,
    include_initial: bool = False,
) -> Array:
    """Return running products along an axis, with a one in front if `include_initial`."""
    return _cumulative(fn.cumprod, 1, x, axis, dtype, include_initial)


def diff(
    x: Array,
    /,
    *,
    axis: int = -1,
    n: int = 1,
    prepend: Array | None = None,
    append: Array | None = None,
) -> Array:
    """Return n times the difference of each element to the one before it along an axis."""
    x = own(x)
    axis = check_axis(axis, x.ndim)
    parts = [own(p) for p in (prepend, x, append) if p is not None]
    for part in parts:
        if part.dtype is not x.dtype:
            raise ArgumentError("diff: prepend and append must have the dtype of x")
    found = fn.cat(parts, axis) if len(parts) > 1 else x
    for _ in range(n):
        size = found.shape[axis]
        after, before = fn.slice(found, axis, 1), fn.slice(found, axis, 0, size - 1 if size else 0)
        found = fn.logical_xor(after, before) if x.dtype is bool_ else fn.sub(after, before)
    return found if n else fn.clone(found)


# ------------------------------------------------------------------------------------ searching --
def _place_of(name: str, word: str) -> Any:
    find = getattr(fn, name)

    def place(x: Array, /, *, axis: int | None = None, keepdims: bool = False) -> Array:
        return find(own(x), axis, keepdims)

    place.__name__ = place.__qualname__ = name
    place.__doc__ = f"Return the index of the first {word} element; in x flattened if no axis."
    return place


argmax, argmin = _place_of("argmax", "largest"), _place_of("argmin", "smallest")


def nonzero(x: Array, /) -> tuple[Array, ...]:
    """Return the indices of the elements that are not zero, one array a dim. Waits."""
    x = own(x)
    refuse(x.ndim == 0, "nonzero: x must have a dim")
    return tuple(fn.unbind(fn.nonzero(x), 1))


def searchsorted(
    x1: Array, x2: Array, /, *, side: str = "left", sorter: Array | None = None
) -> Array:
    """Return where in the sorted vector x1 each element of x2 belongs, by insertion on `side`."""
    refuse(side not in ("left", "right"), f"searchsorted: side is 'left' or 'right', not {side!r}")
    a, b = of_one_type(own(x1), own(x2))
    if sorter is not None:
        a = fn.index_select(a, 0, cast(own(sorter), int64))
    return fn.searchsorted(a, b, right=side == "right")


def where(condition: Array, x1: Array | complex, x2: Array | complex, /) -> Array:
    """Return elements of x1 where the condition holds, else of x2."""
    if not isinstance(x1, Tensor) and not isinstance(x2, Tensor):
        from ._creation import asarray

        x1 = asarray(x1, device=condition.device)
    return fn.where(own(condition), *pair(x1, x2))


# -------------------------------------------------------------------------------------- sorting --
def sort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """Return the elements along an axis in order; the order of nan among them is torch's: last."""
    x = own(x)
    if not x.ndim:
        raise ValueRangeError("sort: a 0-d array has no axis")
    return fn.sort(x, stable=stable, dim=axis, descending=descending)[0]


def argsort(x: Array, /, *, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """Return the indices that sort the elements along an axis."""
    x = own(x)
    if not x.ndim:
        raise ValueRangeError("argsort: a 0-d array has no axis")
    return fn.sort(x, stable=stable, dim=axis, descending=descending)[1]


# ----------------------------------------------------------------------------------------- sets --
class UniqueAll(NamedTuple):
    values: Array
    indices: Array
    inverse_indices: Array
    counts: Array


class UniqueCounts(NamedTuple):
    values: Array
    counts: Array


class UniqueInverse(NamedTuple):
    values: Array
    inverse_indices: Array


def _unique(x: Array) -> tuple[Array, Array, Array]:
    """Return (values, inverse indices, counts); each nan is a value of its own. Waits."""
    flat = fn.reshape(x, (-1,))
    if x.dtype.is_complex:  # ordered by their parts
        flat = fn.view_as_real(flat)
    found = _shapes.unique(
        flat, return_inverse=True, return_counts=True, dim=0 if x.dtype.is_complex else None
    )
    values, inverse, counts = array_of(found)
    if x.dtype.is_complex:
        values = fn.view_as_complex(values)
    return values, fn.reshape(inverse, x.shape), counts


def unique_all(x: Array, /) -> UniqueAll:
    """Return the distinct values, where each is first, where each element's is, and counts.

    The values are in order and every nan is distinct. Waits for their number.
    """
    x = own(x)
    values, inverse, counts = _unique(x)
    flat = fn.reshape(inverse, (-1,))
    last = fn.full_like(counts, math.prod(x.shape))
    first = fn.scatter_reduce(last, 0, flat, fn.arange(flat.numel(), device=x.device), "amin")
    return UniqueAll(values, first, inverse, counts)


def unique_counts(x: Array, /) -> UniqueCounts:
    """Return the distinct values in order and how often each is there. Waits."""
    values, _, counts = _unique(own(x))
    return UniqueCounts(values, counts)


def unique_inverse(x: Array, /) -> UniqueInverse:
    """Return the distinct values in order and the index of each element's. Waits."""
    values, inverse, _ = _unique(own(x))
    return UniqueInverse(values, inverse)


def unique_values(x: Array, /) -> Array:
    """Return the distinct values in order. Waits for their number."""
    x = own(x)
    if x.dtype.is_complex:
        return _unique(x)[0]
    return array_of(_shapes.unique(fn.reshape(x, (-1,))))
