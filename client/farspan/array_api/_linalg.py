"""Products that the standard has at the top level as well as in `linalg`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import _contract
from ..core.call import fn
from ._array import Array, array_of, of_one_type, own, refuse

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["matmul", "tensordot", "vecdot"]


def matmul(x1: Array, x2: Array, /) -> Array:
    """Return the matrix product; a vector counts as a row before and a column after."""
    a, b = of_one_type(own(x1), own(x2))
    refuse(not a.ndim or not b.ndim, "matmul: 0-d arrays have no product")
    return fn.matmul(a, b)


def tensordot(
    x1: Array, x2: Array, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2
) -> Array:
    """Return sums of products over the last `axes` of x1 and the first of x2, or over pairs."""
    a, b = of_one_type(own(x1), own(x2))
    dims = axes if isinstance(axes, int) else (list(axes[0]), list(axes[1]))
    return array_of(_contract.tensordot(a, b, dims))


def vecdot(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Return the sum of conj(x1) * x2 along an axis, counted from the last; others broadcast."""
    a, b = of_one_type(own(x1), own(x2))
    refuse(axis >= 0, f"vecdot: axis must be negative, got {axis}")
    refuse(a.shape[axis] != b.shape[axis], "vecdot: the axis must have one size in both")
    rows, columns = fn.movedim(fn.conj(a), axis, -1), fn.movedim(b, axis, -1)
    product = fn.matmul(fn.unsqueeze(rows, -2), fn.unsqueeze(columns, -1))
    return fn.squeeze(product, (-2, -1))
