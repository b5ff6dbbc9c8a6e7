"""The linear algebra extension: the standard's names over `farspan.linalg`. Nothing waits."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from .._tensor import Tensor
from ..core.call import fn
from ..core.dtype import DType, bool_
from ..core.errors import BadValueError
from ._array import Array, array_of, cast, check_axis, of_one_type, own, refuse
from ._linalg import matmul, tensordot, vecdot
from ._manipulation import matrix_transpose
from ._reductions import sum

__all__ = [
    "cholesky", "cross", "det", "diagonal", "eigh", "eigvalsh", "inv", "matmul", "matrix_norm",
    "matrix_power", "matrix_rank", "matrix_transpose", "outer", "pinv", "qr", "slogdet", "solve",
    "svd", "svdvals", "tensordot", "trace", "vecdot", "vector_norm",
]  # fmt: skip


class EighResult(NamedTuple):
    eigenvalues: Array
    eigenvectors: Array


class QRResult(NamedTuple):
    Q: Array
    R: Array


class SlogdetResult(NamedTuple):
    sign: Array
    logabsdet: Array


class SVDResult(NamedTuple):
    U: Array
    S: Array
    Vh: Array


def cholesky(x: Array, /, *, upper: bool = False) -> Array:
    """Return L with x = L L^H, or U with x = U^H U if `upper`, of positive-definite matrices."""
    return fn.linalg_cholesky(own(x), upper=upper)


def cross(x1: Array, x2: Array, /, *, axis: int = -1) -> Array:
    """Return the cross product of vectors of 3 elements along an axis; other dims broadcast."""
    a, b = of_one_type(own(x1), own(x2))
    for x in (a, b):
        check_axis(axis, x.ndim)
        refuse(x.shape[axis] != 3, f"cross: axis {axis} must have 3 elements, got {x.shape[axis]}")
    if axis >= 0:  # counted in the shape that the two broadcast to
        axis -= max(a.ndim, b.ndim)
    a, b = fn.broadcast_tensors([a, b])
    return fn.linalg_cross(a, b, dim=axis)


def det(x: Array, /) -> Array:
    """Return the determinants of matrices."""
    return fn.linalg_det(own(x))


def diagonal(x: Array, /, *, offset: int = 0) -> Array:
    """Return a view of the diagonals of matrices, along a last axis."""
    return fn.diagonal(own(x), offset, -2, -1)


def eigh(x: Array, /) -> EighResult:
    """Return eigenvalues, ascending, and eigenvectors, in columns, of Hermitian matrices."""
    return EighResult(*fn.linalg_eigh(own(x)))


def eigvalsh(x: Array, /) -> Array:
    """Return the eigenvalues, ascending, of Hermitian matrices."""
    return fn.linalg_eigvalsh(own(x))


def inv(x: Array, /) -> Array:
    """Return the inverses of matrices."""
    return fn.linalg_inv(own(x))


def matrix_norm(x: Array, /, *, keepdims: bool = False, ord: Any = "fro") -> Array:
    """Return the norms of matrices: "fro", "nuc", 1, 2, inf and their negatives."""
    x = own(x)
    if ord is None:
        ord = "fro"
    if ord == "fro":
        return fn.linalg_vector_norm(x, 2, (-2, -1), keepdims)
    if 0 in x.shape[-2:]:  # as numpy: the sums of nothing
        refuse(ord != "nuc" and ord < 0, "matrix_norm: an empty matrix has no smallest")
        zero = fn.linalg_vector_norm(x, 1, (-2, -1), keepdims)
        return zero
    return fn.linalg_matrix_norm(x, ord, (-2, -1), keepdims)


def matrix_power(x: Array, n: int, /) -> Array:
    """Return the n-th powers of square matrices; of the inverse if n is negative."""
    return array_of(fn.linalg_matrix_power(own(x), n))


def _tolerance(rtol: Any, x: Array) -> Any:
    """Return a relative tolerance as it broadcasts with x's singular values."""
    return rtol if isinstance(rtol, (int, float)) else fn.unsqueeze(own(rtol), -1)


def matrix_rank(x: Array, /, *, rtol: float | Array | None = None) -> Array:
    """Return how many singular values exceed `rtol` times the largest; default max(M, N) * eps."""
    x = own(x)
    refuse(x.ndim < 2, "matrix_rank: x must be a matrix or a stack of them")
    values = fn.linalg_svdvals(x)
    if 0 in x.shape[-2:]:
        return sum(cast(values, bool_), axis=-1)
    if rtol is None:
        rtol = max(x.shape[-2:]) * _eps(x.dtype)
    bound = fn.mul(fn.amax(values, (-1,), True), _tolerance(rtol, x))
    return sum(fn.gt(values, bound), axis=-1)


def _eps(dtype: DType) -> float:
    from .._typeinfo import finfo

    return finfo(dtype).eps


def outer(x1: Array, x2: Array, /) -> Array:
    """Return the products of all pairs of elements of two vectors."""
    a, b = of_one_type(own(x1), own(x2))
    return fn.outer(a, b)


def pinv(x: Array, /, *, rtol: float | Array | None = None) -> Array:
    """Return pseudo-inverses; singular values up to `rtol` times the largest count as zero."""
    x = own(x)
    if rtol is None:
        rtol = max(x.shape[-2:]) * _eps(x.dtype)
    if not isinstance(rtol, Tensor):
        return fn.linalg_pinv(x, rtol=rtol)
    u, values, vh = fn.linalg_svd(x, False)
    if 0 in x.shape[-2:]:
        bound = values  # no value has to be compared
    else:
        bound = fn.mul(fn.amax(values, (-1,), True), _tolerance(rtol, x))
    inverse = fn.where(fn.gt(values, bound), fn.reciprocal(values), 0.0)
    scaled = fn.mul(fn.mH(vh), fn.unsqueeze(inverse, -2))
    return fn.matmul(scaled, cast(fn.mH(u), scaled.dtype))


def qr(x: Array, /, *, mode: str = "reduced") -> QRResult:
    """Return Q with orthonormal columns and upper triangular R with x = Q R."""
    if mode not in ("reduced", "complete"):
        raise BadValueError(f"qr: mode must be 'reduced' or 'complete', got {mode!r}")
    return QRResult(*fn.linalg_qr(own(x), mode))


def slogdet(x: Array, /) -> SlogdetResult:
    """Return the sign and the logarithm of the absolute value of determinants."""
    return SlogdetResult(*fn.linalg_slogdet(own(x)))


def solve(x1: Array, x2: Array, /) -> Array:
    """Return x with x1 x = x2; x2 is one vector or a stack of matrices."""
    a, b = of_one_type(own(x1), own(x2))
    if b.ndim == 1:
        return fn.squeeze(fn.linalg_solve(a, fn.unsqueeze(b, -1)), -1)
    if b.ndim == a.ndim - 1:  # torch would take it for a stack of vectors
        b = fn.unsqueeze(b, 0)
    return fn.linalg_solve(a, b)


def svd(x: Array, /, *, full_matrices: bool = True) -> SVDResult:
    """Return U, singular values S, descending, and Vh with x = U diag(S) Vh."""
    return SVDResult(*fn.linalg_svd(own(x), full_matrices))


def svdvals(x: Array, /) -> Array:
    """Return the singular values of matrices, descending."""
    return fn.linalg_svdvals(own(x))


def trace(x: Array, /, *, offset: int = 0, dtype: DType | None = None) -> Array:
    """Return the sums of the diagonals of matrices; of integers in 64 bits."""
    return sum(diagonal(x, offset=offset), axis=-1, dtype=dtype)


def vector_norm(
    x: Array,
    /,
    *,
    axis: int | tuple[int, ...] | None = None,
    keepdims: bool = False,
    ord: float = 2,
) -> Array:
    """Return the norm of vectors along axes, by default all: sum(|x|**ord) ** (1 / ord)."""
    x = own(x)
    if axis == ():
        if ord == 0:
            return fn._cast(fn.ne(x, 0), x.dtype.to_real())
        return fn.abs(x)
    if not x.numel() and (math.isinf(ord) or ord < 0):
        ord = 2  # of nothing: 0, as numpy has it
    return fn.linalg_vector_norm(x, ord, axis, keepdims)
