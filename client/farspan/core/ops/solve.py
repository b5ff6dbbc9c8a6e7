"""The inverse, linear systems and the determinant of square matrices.

Kernels are LAPACK through numpy; a singular matrix is found by its value and reported in torch's
words. The derivatives need no factors: they invert or solve again.
"""

from __future__ import annotations

from typing import Any

from ..call import fn
from ..dtype import int32
from ..errors import LinalgError
from ..family import common_device, composite, structured
from ..spec import Spec, broadcast_shapes
from .decompose import batch_of, by_columns, check_matrix, check_one_dtype, lu_of, refuse_shapes
from .linalg import mH, mT


# ---------------------------------------------------------------------------- inverse and solve --
def _first_zeros(xp: Any, a: Any) -> Any:
    """Return for each matrix the first zero pivot of its LU, or 0; at least one is singular."""
    lu, _, info = lu_of(xp, a)
    if not info.any():  # rounded otherwise than LAPACK did: take the smallest pivot of all
        diagonal = abs(xp.diagonal(lu, axis1=-2, axis2=-1))
        flat = info.reshape(-1)
        worst = int(diagonal.reshape(len(flat), -1).min(axis=1).argmin())
        flat[worst] = int(diagonal.reshape(len(flat), -1)[worst].argmin()) + 1
    return info


def _inv_meta(A: Spec, check_errors: bool) -> tuple[Spec, Spec]:
    check_matrix("linalg.inv", A)
    return by_columns(A, A.shape), Spec.make(A.shape[:-2], int32, A.device)


def _inv(xp: Any, A: Any, check_errors: bool) -> tuple[Any, Any]:
    try:
        return xp.linalg.inv(A), xp.zeros(A.shape[:-2], "int32")
    except xp.linalg.LinAlgError:
        info = _first_zeros(xp, A)
    if check_errors:
        where, at = batch_of(info)
        raise LinalgError(
            f"linalg.inv: {where}The diagonal element {at} is zero, the inversion could not be "
            "completed because the input matrix is singular."
        )
    return _inv(xp, xp.where(info[..., None, None] > 0, xp.eye(A.shape[-1], dtype=A.dtype), A),
                False)[0], info  # fmt: skip


structured(
    "linalg_inv_ex(Tensor A, *, bool check_errors=False) -> (Tensor inverse, Tensor info)",
    meta=_inv_meta,
    kernel=_inv,
    vjp={
        "A": lambda g, out: fn.neg(fn.matmul(mH(out[0]), fn.matmul(g[0], mH(out[0])))),
    },
)


@composite("linalg_inv(Tensor A) -> Tensor")
def linalg_inv(A: Any) -> Any:
    return fn.linalg_inv_ex(A, check_errors=True)[0]


@composite("inverse(Tensor self) -> Tensor")
def inverse(self: Any) -> Any:
    return fn.linalg_inv(self)


def _is_vector(A: Spec, B: Spec) -> bool:
    """Whether B holds a vector for each matrix: torch's rule looks at shapes alone."""
    return B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1])


def _solve_meta(A: Spec, B: Spec, left: bool, check_errors: bool) -> tuple[Spec, Spec]:
    name = "linalg.solve"
    check_matrix(name, A)
    check_one_dtype(name, A, B)
    common_device((A, B))
    vector = _is_vector(A, B)
    shape = (*B.shape, 1) if vector else B.shape
    if len(shape) < 2 or shape[-2 if left else -1] != A.shape[-1]:
        refuse_shapes(name, A.shape, shape, left)
    batch = broadcast_shapes(A.shape[:-2], shape[:-2])
    info = Spec.make(A.shape[:-2], int32, A.device)
    if vector:
        result = (*batch, shape[-2])
        if len(result) == 1:
            return Spec.make(result, A.dtype, A.device), info
        return by_columns(A, result), info  # torch takes the vectors for columns
    if not left:
        return Spec.make((*batch, *shape[-2:]), A.dtype, A.device), info
    return by_columns(A, (*batch, *shape[-2:])), info


def _solve(xp: Any, A: Any, B: Any, left: bool, check_errors: bool) -> tuple[Any, Any]:
    vector = B.ndim == 1 or (A.ndim - 1 == B.ndim and B.shape == A.shape[:-1])
    a = A if left else A.swapaxes(-1, -2)
    b = B[..., None] if vector else B if left else B.swapaxes(-1, -2)
    info = xp.zeros(A.shape[:-2], "int32")
    try:
        x = xp.linalg.solve(a, b)
    except xp.linalg.LinAlgError:
        info = _first_zeros(xp, A)
        if check_errors:
            where, _ = batch_of(info)
            raise LinalgError(
                f"torch.linalg.solve: {where}The solver failed because the input matrix is "
                "singular."
            ) from None
        eye = xp.eye(A.shape[-1], dtype=A.dtype)
        x = xp.linalg.solve(xp.where(info[..., None, None] > 0, eye, a), b)
    return (x[..., 0] if vector else x if left else x.swapaxes(-1, -2)), info


def _solve_grad(
    g: Any, A: Any, out: Any, A_spec: Spec, B_spec: Spec, left: bool, needed: Any
) -> Any:
    vector = _is_vector(A_spec, B_spec)
    gX, X = (fn.unsqueeze(x, -1) if vector else x for x in (g[0], out[0]))
    gB = fn.linalg_solve(mH(A), gX, left=left)
    gA = None
    if needed[0]:
        gA = fn.neg(fn.matmul(gB, mH(X)) if left else fn.matmul(mH(X), gB))
    return gA, (fn.squeeze(gB, -1) if vector else gB)


structured(
    "linalg_solve_ex(Tensor A, Tensor B, *, bool left=True, bool check_errors=False) -> "
    "(Tensor result, Tensor info)",
    meta=_solve_meta,
    kernel=_solve,
    vjp={"A B": _solve_grad},
)


@composite("linalg_solve(Tensor A, Tensor B, *, bool left=True) -> Tensor")
def linalg_solve(A: Any, B: Any, *, left: bool = True) -> Any:
    return fn.linalg_solve_ex(A, B, left=left, check_errors=True)[0]


# ---------------------------------------------------------------------------------- determinant --
def _square_to_scalar(A: Spec) -> Spec:
    check_matrix("linalg.det", A)
    return Spec.make(A.shape[:-2], A.dtype, A.device)


def _as_matrix(x: Any) -> Any:
    return fn.unsqueeze(fn.unsqueeze(x, -1), -1)


structured(
    "linalg_det(Tensor A) -> Tensor",
    meta=_square_to_scalar,
    kernel=lambda xp, A: xp.linalg.det(A),
    vjp={"A": lambda g, A: fn.mul(_as_matrix(g), fn.conj(fn._cofactors(A)))},
)


def _cofactors(xp: Any, A: Any) -> Any:
    """det(A) A^-T; of singular matrices too, by the factors of their SVD."""
    try:
        return xp.linalg.det(A)[..., None, None] * xp.linalg.inv(A).swapaxes(-1, -2)
    except xp.linalg.LinAlgError:
        if not xp.isfinite(A).all():  # of which LAPACK may never come back
            return xp.full_like(A, xp.nan)
        U, s, Vh = xp.linalg.svd(A)
    others = xp.ones(s.shape, s.dtype)
    for i in range(s.shape[-1]):
        others[..., i] = xp.prod(xp.delete(s, i, -1), axis=-1)
    turn = xp.linalg.det(U) * xp.linalg.det(Vh)
    return turn[..., None, None] * xp.matmul(xp.conj(U) * others[..., None, :], xp.conj(Vh))


def _cofactors_grad(g: Any, A: Any) -> Any:
    """From d(det(A) A^-T): conj(det) (sum(g W) W - W g^T W), W = A^-H."""
    W = mH(fn.linalg_inv(A))
    whole = fn.mul(fn.sum(fn.mul(g, W), [-2, -1], True), W)
    turned = fn.matmul(W, fn.matmul(mT(g), W))
    return fn.mul(_as_matrix(fn.conj(fn.linalg_det(A))), fn.sub(whole, turned))


structured(
    "farspan::_cofactors(Tensor A) -> Tensor",
    meta=lambda A: A.contiguous_,
    kernel=_cofactors,
    vjp={"A": _cofactors_grad},
)


@composite("det(Tensor self) -> Tensor")
def det(self: Any) -> Any:
    return fn.linalg_det(self)


def _slogdet_meta(A: Spec) -> tuple[Spec, Spec]:
    check_matrix("linalg.slogdet", A)
    sign = Spec.make(A.shape[:-2], A.dtype, A.device)
    return sign, sign.with_(dtype=A.dtype.to_real())


def _slogdet_grad(g: Any, A: Any, out: Any) -> Any:
    """(gl - i Im(conj(gs) sign)) A^-H: the log of the determinant has derivative A^-1."""
    weight = g[1]
    if A._spec.dtype.is_complex:
        turn = fn.mul(fn.conj(g[0]), out[0])
        weight = fn.sub(weight, fn.mul(fn.sub(turn, fn.conj(turn)), 0.5))
    return fn.mul(_as_matrix(weight), mH(fn.linalg_inv(A)))


structured(
    "linalg_slogdet(Tensor A) -> (Tensor sign, Tensor logabsdet)",
    meta=_slogdet_meta,
    kernel=lambda xp, A: tuple(xp.linalg.slogdet(A)),
    vjp={"A": _slogdet_grad},
)


@composite("slogdet(Tensor self) -> (Tensor sign, Tensor logabsdet)")
def slogdet(self: Any) -> Any:
    return fn.linalg_slogdet(self)


@composite("logdet(Tensor self) -> Tensor")
def logdet(self: Any) -> Any:
    sign, logabs = fn.linalg_slogdet(self)
    if self._spec.dtype.is_complex:
        return fn.add(logabs, fn.log(sign))
    return fn.where(fn.eq(sign, -1), float("nan"), logabs)
