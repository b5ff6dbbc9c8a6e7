"""Triangular factors: LU, Cholesky, and solving with triangles.

Kernels are LAPACK through numpy. What only the values can tell (singular, not positive definite) is
raised by the kernel in torch's words. Results are laid out by columns, as LAPACK leaves them in
torch. Inverse and determinant are in `solve.py`, QR, eigen- and singular values in `spectrum.py`.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from ..call import fn
from ..dtype import int32
from ..errors import DTypeError, LinalgError, ShapeError
from ..family import common_device, composite, structured
from ..spec import Spec, broadcast_shapes, contiguous_stride
from .linalg import mH, mT

if TYPE_CHECKING:
    from collections.abc import Sequence


def check_matrix(name: str, spec: Spec, *, square: bool = True, what: str = "A") -> None:
    """Raise unless `spec` is one or a batch of (square) matrices that LAPACK takes."""
    if spec.ndim < 2:
        raise ShapeError(f"{name}: The input tensor {what} must have at least 2 dimensions.")
    if square and spec.shape[-1] != spec.shape[-2]:
        raise ShapeError(
            f"{name}: {what} must be batches of square matrices, but they are "
            f"{spec.shape[-2]} by {spec.shape[-1]} matrices"
        )
    if spec.dtype.category < 2:
        raise DTypeError(
            f"{name}: Expected a floating point or complex tensor as input. Got {spec.dtype.c_name}"
        )
    if spec.dtype.is_reduced:
        raise DTypeError(f"{name}: Low precision dtypes not supported. Got {spec.dtype.c_name}")


def by_columns(spec: Spec, shape: Sequence[int]) -> Spec:
    """Return the spec of matrices of this shape whose columns are contiguous."""
    *batch, rows, columns = shape
    stride = contiguous_stride((*batch, columns, rows))
    return spec.with_(shape=tuple(shape), stride=(*stride[:-2], stride[-1], stride[-2]))


def batch_of(info: Any) -> tuple[str, int]:
    """Return torch's words for the first failing matrix of a batch, and its info."""
    if not info.ndim:
        return "", int(info)
    first = int(info.reshape(-1).nonzero()[0][0])
    return f"(Batch element {first}): ", int(info.reshape(-1)[first])


# ------------------------------------------------------------------------------------------ LU --
def lu_of(xp: Any, a: Any, pivot: bool = True) -> tuple[Any, Any, Any]:
    """Return LU packed in one matrix, row swaps counted from 1, and the first zero pivot or 0.

    numpy has no LU. All matrices of a batch advance together, a column a step.
    """
    *batch, m, n = a.shape
    k, count = min(m, n), math.prod(batch)
    lu = a.reshape(count, m, n).copy()
    every = xp.arange(count)
    pivots = xp.tile(xp.arange(1, k + 1, dtype="int32"), (count, 1))
    info = xp.zeros(count, "int32")
    for j in range(k):
        if pivot and count:
            left = lu[:, j:, j]
            p = j + xp.argmax(abs(left.real) + abs(left.imag), axis=1)  # LAPACK's size of a complex
            pivots[:, j] = p + 1
            rows = lu[every, p].copy()
            lu[every, p] = lu[:, j]
            lu[:, j] = rows
        top = lu[:, j, j]
        zero = top == 0
        info = xp.where((info == 0) & zero, j + 1, info)
        lu[:, j + 1 :, j] /= xp.where(zero, 1, top)[:, None]
        lu[:, j + 1 :, j + 1 :] -= lu[:, j + 1 :, j, None] * lu[:, j, None, j + 1 :]
    return lu.reshape(a.shape), pivots.reshape(*batch, k), info.reshape(batch).astype("int32")


def _permutation(xp: Any, pivots: Any, m: int) -> Any:
    """Return P with P @ L @ U == A from row swaps."""
    flat = pivots.reshape(math.prod(pivots.shape[:-1]), pivots.shape[-1])
    order = xp.tile(xp.arange(m), (len(flat), 1))
    every = xp.arange(len(flat))
    for j in range(flat.shape[1]):
        p = flat[:, j] - 1
        moved = order[every, p].copy()
        order[every, p] = order[:, j]
        order[:, j] = moved
    return (order[:, None, :] == xp.arange(m)[:, None]).reshape(*pivots.shape[:-1], m, m)


def _lu_factor_meta(A: Spec, pivot: bool, check_errors: bool) -> tuple[Spec, ...]:
    check_matrix("torch.linalg.lu_factor", A, square=False)
    batch, k = A.shape[:-2], min(A.shape[-2:])
    return (
        by_columns(A, A.shape),
        Spec.make((*batch, k), int32, A.device),
        Spec.make(batch, int32, A.device),
    )


def _lu_factor(xp: Any, A: Any, pivot: bool, check_errors: bool) -> tuple[Any, ...]:
    lu, pivots, info = lu_of(xp, A, pivot)
    if check_errors and info.any():
        where, at = batch_of(info)
        raise LinalgError(
            f"torch.linalg.lu_factor: {where}U[{at},{at}] is zero and using it on lu_solve would "
            "result in a division by zero. If you still want to perform the factorization, "
            "consider calling linalg.lu(A, pivot) or linalg.lu_factor_ex(A, pivot)"
        )
    return lu, pivots, info


def _lu_grad(gL: Any, gU: Any, P: Any, L: Any, U: Any) -> Any:
    """P L^-H (tril(L^H gL - gU2 U2^H, -1) + triu(gU U^H - L2^H gL2)) U^-H, of the square part.

    L2 are the rows below it, U2 the columns beside it; their own gradients follow from
    A2 = L2 U and A2 = L U2.
    """
    m, k, n = L._spec.shape[-2], L._spec.shape[-1], U._spec.shape[-1]
    L1, gL1, U1, gU1 = (fn.narrow(x, d, 0, k) for x, d in ((L, -2), (gL, -2), (U, -1), (gU, -1)))
    left, right = fn.matmul(mH(L1), gL1), fn.matmul(gU1, mH(U1))
    if m > k:
        gL2 = fn.narrow(gL, -2, k, m - k)
        right = fn.sub(right, fn.matmul(mH(fn.narrow(L, -2, k, m - k)), gL2))
    if n > k:
        gU2 = fn.narrow(gU, -1, k, n - k)
        left = fn.sub(left, fn.matmul(gU2, mH(fn.narrow(U, -1, k, n - k))))
    inner = fn.add(fn.tril(left, -1), fn.triu(right))
    inner = fn.linalg_solve_triangular(mH(L1), inner, upper=True, unitriangular=True)
    made = fn.linalg_solve_triangular(mH(U1), inner, upper=False, left=False)
    if m > k:
        below = fn.linalg_solve_triangular(mH(U1), gL2, upper=False, left=False)
        made = fn.cat([made, below], -2)
    if n > k:
        beside = fn.linalg_solve_triangular(mH(L1), gU2, upper=True, unitriangular=True)
        made = fn.cat([made, beside], -1)
    return fn.matmul(P, made)


def _lu_factor_grad(g: Any, out: Any) -> Any:
    P, L, U = fn.lu_unpack(out[0], out[1])
    k = L._spec.shape[-1]
    gL, gU = fn.narrow(g[0], -1, 0, k), fn.narrow(g[0], -2, 0, k)
    return _lu_grad(fn.tril(gL, -1), fn.triu(gU), P, L, U)


structured(
    "linalg_lu_factor_ex(Tensor A, *, bool pivot=True, bool check_errors=False) -> "
    "(Tensor LU, Tensor pivots, Tensor info)",
    meta=_lu_factor_meta,
    kernel=_lu_factor,
    vjp={"A": _lu_factor_grad},
)


@composite("linalg_lu_factor(Tensor A, *, bool pivot=True) -> (Tensor LU, Tensor pivots)")
def linalg_lu_factor(A: Any, *, pivot: bool = True) -> Any:
    return fn.linalg_lu_factor_ex(A, pivot=pivot, check_errors=True)[:2]


def _unpack_meta(lu: Spec, pivots: Spec, data: bool, swaps: bool) -> tuple[Spec, ...]:
    *batch, m, n = lu.shape
    k = min(m, n)
    return (
        lu.with_(shape=(*batch, m, m) if swaps else (0,)),
        lu.with_(shape=(*batch, m, k) if data else (0,)),
        lu.with_(shape=(*batch, k, n) if data else (0,)),
    )


def _unpack(xp: Any, lu: Any, pivots: Any, data: bool, swaps: bool) -> tuple[Any, ...]:
    m, n = lu.shape[-2:]
    k = min(m, n)
    nothing = xp.zeros((0,), lu.dtype)
    P = _permutation(xp, pivots, m).astype(lu.dtype) if swaps else nothing
    if not data:
        return P, nothing, nothing
    return P, xp.tril(lu[..., :k], -1) + xp.eye(m, k, dtype=lu.dtype), xp.triu(lu[..., :k, :])


structured(
    "farspan::_lu_unpack(Tensor LU_data, Tensor LU_pivots, bool unpack_data=True,"
    " bool unpack_pivots=True) -> (Tensor P, Tensor L, Tensor U)",
    meta=_unpack_meta,
    kernel=_unpack,
    vjp={"LU_data": lambda g: _packed(fn.tril(g[1], -1), fn.triu(g[2]))},
)


@composite(
    "lu_unpack(Tensor LU_data, Tensor LU_pivots, bool unpack_data=True, bool unpack_pivots=True)"
    " -> (Tensor P, Tensor L, Tensor U)"
)
def lu_unpack(
    LU_data: Any, LU_pivots: Any, unpack_data: bool = True, unpack_pivots: bool = True
) -> Any:
    P, L, U = fn._lu_unpack(LU_data, LU_pivots, unpack_data, unpack_pivots)
    return fn.detach(P), L, U  # a permutation has no derivative


def _packed(L: Any, U: Any) -> Any:
    """Return L and U of a rectangular LU over each other."""
    rows, columns = L._spec.shape[-2], U._spec.shape[-1]
    k = L._spec.shape[-1]
    if columns > k:
        L = fn.cat([L, fn.new_zeros(L, (*L._spec.shape[:-1], columns - k))], -1)
    if rows > k:
        U = fn.cat([U, fn.new_zeros(U, (*U._spec.shape[:-2], rows - k, columns))], -2)
    return fn.add(L, U)


@composite("linalg_lu(Tensor A, *, bool pivot=True) -> (Tensor P, Tensor L, Tensor U)")
def linalg_lu(A: Any, *, pivot: bool = True) -> Any:
    lu, pivots, _ = fn.linalg_lu_factor_ex(A, pivot=pivot)
    return fn.lu_unpack(lu, pivots)


@composite(
    "linalg_lu_solve(Tensor LU, Tensor pivots, Tensor B, *, bool left=True, bool adjoint=False)"
    " -> Tensor"
)
def linalg_lu_solve(
    LU: Any, pivots: Any, B: Any, *, left: bool = True, adjoint: bool = False
) -> Any:
    """Solve with P L U; from the right, or with the adjoint, it is the adjoint of that."""
    P, L, U = fn.lu_unpack(LU, pivots)
    if not left:
        return mH(fn.linalg_lu_solve(LU, pivots, mH(B), adjoint=not adjoint))
    if adjoint:
        y = fn.linalg_solve_triangular(mH(U), B, upper=False)
        return fn.matmul(P, fn.linalg_solve_triangular(mH(L), y, upper=True, unitriangular=True))
    y = fn.linalg_solve_triangular(L, fn.matmul(mT(P), B), upper=False, unitriangular=True)
    return fn.linalg_solve_triangular(U, y, upper=True)


# ------------------------------------------------------------------------------------ triangles --
def _triangle_meta(self: Spec, B: Spec, upper: bool, left: bool, uni: bool) -> Spec:
    name = "linalg.solve_triangular"
    check_matrix(name, self)
    check_matrix(name, B, square=False, what="B")
    check_one_dtype(name, self, B)
    side = B.shape[-2] if left else B.shape[-1]
    if self.shape[-1] != side:
        refuse_shapes(name, self.shape, B.shape, left)
    batch = broadcast_shapes(self.shape[:-2], B.shape[:-2])
    common_device((self, B))
    return by_columns(self, (*batch, *B.shape[-2:]))


def check_one_dtype(name: str, A: Spec, B: Spec) -> None:
    if A.dtype is not B.dtype:
        raise DTypeError(
            f"{name}: Expected A and B to have the same dtype, but found A of type "
            f"{A.dtype.c_name} and B of type {B.dtype.c_name} instead"
        )


def refuse_shapes(name: str, a: Sequence[int], b: Sequence[int], left: bool) -> None:
    raise ShapeError(
        f"{name}: Incompatible shapes of A and B for the equation {'AX = B' if left else 'XA = B'}"
        f" ({a[-2]}x{a[-1]} and {b[-2]}x{b[-1]})"
    )


def _solve_triangle(xp: Any, self: Any, B: Any, upper: bool, left: bool, uni: bool) -> Any:
    """Solve by LAPACK's LU, which leaves an upper triangle as it is and only substitutes back."""
    if not left:
        self, B, upper = self.swapaxes(-1, -2), B.swapaxes(-1, -2), not upper
    a = xp.triu(self) if upper else xp.tril(self)
    if uni:
        eye = xp.eye(a.shape[-1], dtype=a.dtype)
        a = a * (1 - eye) + eye
    if not upper:  # turned by half a circle, a lower triangle is an upper one
        a, B = a[..., ::-1, ::-1], B[..., ::-1, :]
    try:
        x = xp.linalg.solve(a, B)
    except xp.linalg.LinAlgError:
        x = _substitute(xp, a, B)
    x = x if upper else x[..., ::-1, :]
    return x if left else x.swapaxes(-1, -2)


def _substitute(xp: Any, a: Any, B: Any) -> Any:
    """Back substitution by rows: a zero on the diagonal divides to inf, as in torch."""
    batch = xp.broadcast_shapes(a.shape[:-2], B.shape[:-2])
    x = xp.broadcast_to(B, (*batch, *B.shape[-2:])).copy()
    for i in range(a.shape[-1] - 1, -1, -1):
        x[..., i, :] /= a[..., i, i, None]
        x[..., :i, :] -= a[..., :i, i, None] * x[..., i, None, :]
    return x


def _triangle_grad(
    g: Any, self: Any, out: Any, upper: bool, left: bool, unitriangular: bool, needed: Any
) -> Any:
    gB = fn.linalg_solve_triangular(
        mH(self), g, upper=not upper, left=left, unitriangular=unitriangular
    )
    if not needed[0]:
        return None, gB
    gA = fn.neg(fn.matmul(gB, mH(out)) if left else fn.matmul(mH(out), gB))
    off = int(unitriangular)
    return (fn.triu(gA, off) if upper else fn.tril(gA, -off)), gB


structured(
    "linalg_solve_triangular(Tensor self, Tensor B, *, bool upper, bool left=True,"
    " bool unitriangular=False) -> Tensor",
    meta=_triangle_meta,
    kernel=_solve_triangle,
    vjp={"self B": _triangle_grad},
)


@composite(
    "triangular_solve(Tensor self, Tensor A, bool upper=True, bool transpose=False,"
    " bool unitriangular=False) -> (Tensor solution, Tensor cloned_coefficient)"
)
def triangular_solve(
    self: Any, A: Any, upper: bool = True, transpose: bool = False, unitriangular: bool = False
) -> Any:
    """The older name, with the right side first."""
    a, up = (mT(A), not upper) if transpose else (A, upper)
    x = fn.linalg_solve_triangular(a, self, upper=up, unitriangular=unitriangular)
    return x, fn.clone(A)


# ------------------------------------------------------------------------------------- Cholesky --
def _cholesky_meta(self: Spec, upper: bool, check_errors: bool) -> tuple[Spec, Spec]:
    check_matrix("linalg.cholesky", self)
    info = Spec.make(self.shape[:-2], int32, self.device)
    return by_columns(self, self.shape), info


def _cholesky(xp: Any, self: Any, upper: bool, check_errors: bool) -> tuple[Any, Any]:
    a = xp.conj(self.swapaxes(-1, -2)) if upper else self
    info = xp.zeros(a.shape[:-2], "int32")
    try:
        L = xp.linalg.cholesky(a)
    except xp.linalg.LinAlgError:
        flat = a.reshape(-1, *a.shape[-2:])
        found = [_bad_minor(xp, one) for one in flat]
        info = xp.array(found, "int32").reshape(info.shape)
        if check_errors:
            where, order = batch_of(info)
            raise LinalgError(
                f"linalg.cholesky: {where}The factorization could not be completed because the "
                f"input is not positive-definite (the leading minor of order {order} is not "
                "positive-definite)."
            ) from None
        safe = [
            one if not bad else xp.eye(a.shape[-1]) for one, bad in zip(flat, found, strict=True)
        ]
        L = xp.linalg.cholesky(xp.array(safe)).astype(a.dtype).reshape(a.shape)
    return (xp.conj(L.swapaxes(-1, -2)) if upper else L), info


def _bad_minor(xp: Any, a: Any) -> int:
    """Return the order of the first leading minor that is not positive definite, or 0."""
    good, bad = 0, a.shape[-1] + 1
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            xp.linalg.cholesky(a[:middle, :middle])
            good = middle
        except xp.linalg.LinAlgError:
            bad = middle
    return 0 if bad > a.shape[-1] else bad


def _cholesky_grad(g: Any, out: Any, upper: bool) -> Any:
    """L^-H sym(tril(L^H gL)) L^-1, where sym averages with the adjoint (Murray, 2016)."""
    L, gL = (mH(out[0]), mH(g[0])) if upper else (out[0], g[0])
    phi = fn.matmul(mH(L), gL)
    phi = fn.mul(fn.add(fn.tril(phi), mH(fn.tril(phi, -1))), 0.5)
    inner = fn.linalg_solve_triangular(L, phi, upper=False, left=False)
    return fn.linalg_solve_triangular(mH(L), inner, upper=True)


structured(
    "linalg_cholesky_ex(Tensor self, *, bool upper=False, bool check_errors=False) -> "
    "(Tensor L, Tensor info)",
    meta=_cholesky_meta,
    kernel=_cholesky,
    vjp={"self": _cholesky_grad},
)


@composite("linalg_cholesky(Tensor self, *, bool upper=False) -> Tensor")
def linalg_cholesky(self: Any, *, upper: bool = False) -> Any:
    return fn.linalg_cholesky_ex(self, upper=upper, check_errors=True)[0]


@composite("cholesky(Tensor self, bool upper=False) -> Tensor")
def cholesky(self: Any, upper: bool = False) -> Any:
    return fn.linalg_cholesky(self, upper=upper)


@composite("cholesky_solve(Tensor self, Tensor input2, bool upper=False) -> Tensor")
def cholesky_solve(self: Any, input2: Any, upper: bool = False) -> Any:
    L = mH(input2) if upper else input2
    y = fn.linalg_solve_triangular(L, self, upper=False)
    return fn.linalg_solve_triangular(mH(L), y, upper=True)


@composite("cholesky_inverse(Tensor self, bool upper=False) -> Tensor")
def cholesky_inverse(self: Any, upper: bool = False) -> Any:
    spec = self._spec
    eye = fn.eye(spec.shape[-1], dtype=spec.dtype, device=spec.device)
    return fn.cholesky_solve(eye, self, upper)
