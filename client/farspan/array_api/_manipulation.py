"""Shapes and indexing: joining, splitting, moving and taking elements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _shapes
from .._tensor import Tensor
from ..core.call import fn
from ..core.dtype import int64
from ..core.errors import BadValueError
from ._array import Array, array_of, cast, check_axis, own, refuse
from ._dtypes import result_type

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "broadcast_arrays", "broadcast_to", "concat", "expand_dims", "flip", "matrix_transpose",
    "moveaxis", "permute_dims", "repeat", "reshape", "roll", "squeeze", "stack", "take",
    "take_along_axis", "tile", "unstack",
]  # fmt: skip


def broadcast_arrays(*arrays: Array) -> list[Array]:
    """Return the arrays expanded to their common shape."""
    owned = [own(a) for a in arrays]
    return array_of(list(_shapes.broadcast_tensors(*owned))) if owned else []


def broadcast_to(x: Array, /, shape: tuple[int, ...]) -> Array:
    """Return a view of x repeated to `shape`."""
    return fn.broadcast_to(own(x), tuple(shape))


def _joined(arrays: Sequence[Array]) -> list[Array]:
    """Return arrays to join, cast to their common dtype."""
    owned = [own(a) for a in arrays]
    refuse(not owned, "at least one array is needed")
    dtype = result_type(*owned)
    return [cast(a, dtype) for a in owned]


def concat(arrays: Sequence[Array], /, *, axis: int | None = 0) -> Array:
    """Return the arrays joined along an axis; flattened first if it is None."""
    owned = _joined(arrays)
    if axis is None:
        return fn.cat([fn.reshape(a, (-1,)) for a in owned])
    refuse(any(a.ndim == 0 for a in owned), "concat: 0-d arrays have no axis to join")
    # torch passes over empty vectors of other dims; the standard wants one number of dims.
    refuse(len({a.ndim for a in owned}) > 1, "concat: the arrays have different numbers of dims")
    return fn.cat(owned, axis)


def stack(arrays: Sequence[Array], /, *, axis: int = 0) -> Array:
    """Return the arrays joined along a new axis."""
    return fn.stack(_joined(arrays), axis)


def unstack(x: Array, /, *, axis: int = 0) -> tuple[Array, ...]:
    """Return the slices of x along an axis, which they lack."""
    return tuple(fn.unbind(own(x), axis))


def expand_dims(x: Array, /, axis: int) -> Array:
    """Return a view with a new axis of size 1. IndexError if it is out of bounds."""
    x = own(x)
    return fn.unsqueeze(x, check_axis(axis, x.ndim + 1))


def squeeze(x: Array, /, axis: int | tuple[int, ...]) -> Array:
    """Return a view without the axes, each of size 1. ValueError if one has another size."""
    x = own(x)
    axes = [axis] if isinstance(axis, int) else list(axis)
    axes = [check_axis(a, x.ndim) for a in axes]
    for a in axes:
        refuse(x.shape[a] != 1, f"squeeze: axis {a} has size {x.shape[a]}, not 1")
    return fn.squeeze(x, axes) if axes else x


def flip(x: Array, /, *, axis: int | tuple[int, ...] | None = None) -> Array:
    """Return x with the elements along axes, by default all, in reverse order."""
    x = own(x)
    axes = range(x.ndim) if axis is None else [axis] if isinstance(axis, int) else axis
    return fn.flip(x, tuple(axes))


def matrix_transpose(x: Array, /) -> Array:
    """Return a view of matrices with the last two axes exchanged."""
    return fn.mT(own(x))


def moveaxis(
    x: Array, source: int | tuple[int, ...], destination: int | tuple[int, ...], /
) -> Array:
    """Return a view with some axes at other places; the others keep their order."""
    return fn.moveaxis(own(x), source, destination)


def permute_dims(x: Array, /, axes: tuple[int, ...]) -> Array:
    """Return a view with the axes in this order."""
    return fn.permute(own(x), tuple(axes))


def repeat(x: Array, repeats: int | Array, /, *, axis: int | None = None) -> Array:
    """Return x with each element along the axis repeated; flattened first if axis is None.

    repeats: one number, or an array with one for each element, which decides the shape: waits.
    """
    x = own(x)
    if axis is None:
        x, axis = fn.reshape(x, (-1,)), 0
    axis = check_axis(axis, x.ndim)
    if isinstance(repeats, Tensor):
        counts = fn.reshape(own(repeats), (-1,))
        if counts.numel() == 1 and x.shape[axis] != 1:
            repeats = int(counts)
        else:
            ends = fn.cumsum(counts, 0)
            total = int(ends[-1]) if counts.numel() else 0
            places = fn.searchsorted(ends, fn.arange(total, device=x.device), right=True)
            return fn.index_select(x, axis, places)
    # One more axis, expanded and merged: no list of places has to be made.
    shape = list(x.shape)
    wider = fn.expand(fn.unsqueeze(x, axis + 1), [*shape[: axis + 1], repeats, *shape[axis + 1 :]])
    shape[axis] *= repeats
    return fn.reshape(wider, shape)


def reshape(x: Array, /, shape: tuple[int, ...], *, copy: bool | None = None) -> Array:
    """Return x in another shape of as many elements; one size may be -1.

    copy: True copies in any case; False raises ValueError where a view cannot do.
    """
    x = own(x)
    if copy is False:
        try:
            return fn.view(x, tuple(shape))
        except RuntimeError as error:
            raise BadValueError(f"reshape(copy=False): {error}") from None
    return fn.reshape(fn.clone(x) if copy else x, tuple(shape))


def roll(
    x: Array,
    /,
    shift: int | tuple[int, ...],
    *,
    axis: int | tuple[int, ...] | None = None,
) -> Array:
    """Return x with elements moved along axes, those pushed out coming in at the other end."""
    x = own(x)
    if axis is None:
        return fn.roll(x, shift)
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    shifts = (shift,) * len(axes) if isinstance(shift, int) else tuple(shift)
    return fn.roll(x, shifts, axes)


def tile(x: Array, repetitions: tuple[int, ...], /) -> Array:
    """Return x repeated as a whole along each axis; missing leading axes are added."""
    return fn.tile(own(x), tuple(repetitions))


def take(x: Array, indices: Array, /, *, axis: int | None = None) -> Array:
    """Return the elements along the axis at `indices`, 0-d or 1-d; negative ones from the end.

    axis may be None only for a vector.
    """
    x = own(x)
    refuse(axis is None and x.ndim != 1, "take: axis is needed unless x has one dim")
    axis = check_axis(0 if axis is None else axis, x.ndim)
    return x[(slice(None),) * axis + (own(indices),)]


def take_along_axis(x: Array, indices: Array, /, *, axis: int = -1) -> Array:
    """Return elements of x, each at its own index along the axis; other dims broadcast."""
    x, indices = own(x), own(indices)
    axis = check_axis(axis, x.ndim)
    refuse(x.ndim != indices.ndim, "take_along_axis: x and indices must have as many dims")
    places = fn.where(fn.lt(indices, 0), fn.add(indices, x.shape[axis]), indices)
    return fn.take_along_dim(x, cast(places, int64), axis)
