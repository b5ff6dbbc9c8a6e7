"""Products of Householder reflectors, and symmetric indefinite systems (LDL).

A reflector is H = I - tau v v^H, v being a column below the diagonal with a one on it, as LAPACK
keeps them. The factorization is that of Bunch and Kaufman 1977, in the form of LAPACK's sytf2.
"""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..dtype import int32
from ..errors import DTypeError, LinalgError, ShapeError, UnsupportedError
from ..family import common_device, composite, structured
from ..spec import Spec, broadcast_shapes
from .decompose import batch_of, by_columns, check_matrix
from .linalg import mH


# ----------------------------------------------------------------------------------- reflectors --
def _vectors(xp: Any, a: Any, count: int) -> Any:
    """Return the vectors of the reflectors, as columns."""
    m = a.shape[-2]
    return xp.tril(a[..., :count], -1) + xp.eye(m, count, dtype=a.dtype)


def _reflect(xp: Any, a: Any, tau: Any, x: Any, adjoint: bool) -> Any:
    """Return H_1 H_2 ... x, or the adjoint of that product times x."""
    count = tau.shape[-1]
    v = _vectors(xp, a, count)
    x = x.copy()
    for i in range(count) if adjoint else range(count - 1, -1, -1):
        column = v[..., i : i + 1]
        t = tau[..., i, None, None]
        inner = xp.matmul(xp.conj(column.swapaxes(-1, -2)), x)
        x -= (xp.conj(t) if adjoint else t) * column * inner
    return x


def _unit(like: Any, m: int, n: int) -> Any:
    """Return ones on the diagonal, where `like` is."""
    return fn.tril(fn.triu(fn.new_ones(like, (m, n))))


def _reflect_grads(g: Any, a: Any, tau: Any, x: Any, adjoint: bool) -> tuple[Any, Any, Any]:
    """Return the gradients of a, tau and x.

    With H_i between the product L of those before and R of x with those after, and K = L^H g, the
    gradient of H_i is K R^H; from it come those of tau_i and v_i.
    """
    (*_, m, n), count = a._spec.shape, tau._spec.shape[-1]
    V = fn.add(fn.tril(fn.narrow(a, -1, 0, count), -1), _unit(a, m, count))
    order = list(range(count))[:: -1 if adjoint else 1]
    v = [fn.narrow(V, -1, i, 1) for i in range(count)]
    t = [fn.unsqueeze(fn.narrow(tau, -1, i, 1), -1) for i in range(count)]
    if adjoint:
        t = [fn.conj(s) for s in t]
    before, K = {}, g
    for i in order:
        before[i] = K
        K = fn.sub(K, fn.mul(fn.mul(fn.conj(t[i]), v[i]), fn.matmul(mH(v[i]), K)))
    gx, R = K, x
    gv: list[Any] = [None] * count
    gt: list[Any] = [None] * count
    for i in order[::-1]:
        Mv = fn.matmul(before[i], fn.matmul(mH(R), v[i]))
        Mhv = fn.matmul(R, fn.matmul(mH(before[i]), v[i]))
        gt[i] = fn.neg(fn.squeeze(fn.matmul(mH(v[i]), Mv), -1))
        gv[i] = fn.neg(fn.add(fn.mul(fn.conj(t[i]), Mv), fn.mul(t[i], Mhv)))
        R = fn.sub(R, fn.mul(fn.mul(t[i], v[i]), fn.matmul(mH(v[i]), R)))
    if not count:
        return fn.zeros_like(a), fn.zeros_like(tau), gx
    if n > count:
        gv.append(fn.new_zeros(g, (*a._spec.shape[:-1], n - count)))
    gtau = fn.cat(gt, -1)
    return fn.tril(fn.cat(gv, -1), -1), (fn.conj(gtau) if adjoint else gtau), gx


def _check_reflectors(name: str, input: Spec, tau: Spec) -> None:
    if input.ndim < 2:
        raise ShapeError(f"{name}: input must have at least 2 dimensions.")
    if input.ndim - tau.ndim != 1:
        raise ShapeError(
            f"{name}: Expected tau to have one dimension less than input, but got tau.ndim equal "
            f"to {tau.ndim} and input.ndim is equal to {input.ndim}"
        )
    if tau.shape[:-1] != input.shape[:-2]:
        raise ShapeError(
            f"{name}: Expected batch dimensions of tau to be equal to input.shape[:-2], but got "
            f"{list(tau.shape[:-1])}"
        )
    if tau.dtype is not input.dtype:
        raise DTypeError(
            f"{name}: tau dtype {tau.dtype.c_name} does not match input dtype {input.dtype.c_name}"
        )
    if input.dtype.category < 2 or input.dtype.is_reduced:
        raise UnsupportedError(f'"orgqr_cpu" not implemented for {input.dtype.c_name!r}')
    common_device((input, tau))


def _product_meta(input: Spec, tau: Spec) -> Spec:
    name = "torch.linalg.householder_product"
    if input.ndim > 1 and input.shape[-2] < input.shape[-1]:
        raise ShapeError(
            f"{name}: input.shape[-2] must be greater than or equal to input.shape[-1]"
        )
    if input.ndim > 1 and tau.ndim and input.shape[-1] < tau.shape[-1]:
        raise ShapeError(f"{name}: input.shape[-1] must be greater than or equal to tau.shape[-1]")
    _check_reflectors(name, input, tau)
    return by_columns(input, input.shape)


def _product(xp: Any, input: Any, tau: Any) -> Any:
    m, n = input.shape[-2:]
    eye = xp.broadcast_to(xp.eye(m, n, dtype=input.dtype), input.shape)
    return _reflect(xp, input, tau, eye, False)


def _product_grad(g: Any, input: Any, tau: Any) -> Any:
    shape = input._spec.shape
    eye = fn.expand(_unit(input, *shape[-2:]), shape)
    return _reflect_grads(g, input, tau, eye, False)[:2]


structured(
    "farspan::_linalg_householder_product(Tensor input, Tensor tau) -> Tensor",
    meta=_product_meta,
    kernel=_product,
    vjp={"input tau": _product_grad},
)


@composite("linalg_householder_product(Tensor input, Tensor tau) -> Tensor")
def linalg_householder_product(input: Any, tau: Any) -> Any:
    if tau._spec.numel:
        return fn._linalg_householder_product(input, tau)
    return fn._linalg_householder_product(fn.detach(input), fn.detach(tau))  # nothing reflects


@composite("orgqr(Tensor self, Tensor input2) -> Tensor")
def orgqr(self: Any, input2: Any) -> Any:
    return fn.linalg_householder_product(self, input2)


def _ormqr_meta(self: Spec, input2: Spec, input3: Spec, left: bool, transpose: bool) -> Spec:
    name = "torch.ormqr"
    if self.ndim < 2:
        raise ShapeError(f"{name}: input must have at least 2 dimensions.")
    if input3.ndim < 2:
        raise ShapeError(f"{name}: other must have at least 2 dimensions.")
    side = -2 if left else -1
    if input3.shape[side] < input2.shape[-1]:
        raise ShapeError(
            f"{name}: other.shape[{side}] must be greater than or equal to tau.shape[-1]"
        )
    if input3.shape[side] != self.shape[-2]:
        raise ShapeError(f"{name}: other.shape[{side}] must be equal to input.shape[-2]")
    if input2.shape[-1] > self.shape[-1]:
        raise ShapeError(f"{name}: tau.shape[-1] must be less than or equal to input.shape[-1]")
    _check_reflectors(name, self, input2)
    if input3.ndim != self.ndim:
        raise ShapeError(
            f"{name}: Expected other to have the same number of dimensions as input, but got "
            f"other.ndim equal to {input3.ndim} and input.ndim is equal to {self.ndim}"
        )
    if input3.shape[:-2] != self.shape[:-2]:
        raise ShapeError(
            f"{name}: Expected batch dimensions of other to be equal to input.shape[:-2], but got "
            f"{list(input3.shape[:-2])}"
        )
    if input3.dtype is not self.dtype:
        raise DTypeError(
            f"{name}: Expected input and other to have the same dtype, but input has dtype "
            f"{self.dtype.c_name} and other has dtype {input3.dtype.c_name}"
        )
    return by_columns(input3, input3.shape)


def _ormqr(xp: Any, self: Any, input2: Any, input3: Any, left: bool, transpose: bool) -> Any:
    if left:
        return _reflect(xp, self, input2, input3, transpose)
    turned = xp.conj(input3.swapaxes(-1, -2))  # C Q is the adjoint of Q^H C^H
    return xp.conj(_reflect(xp, self, input2, turned, not transpose).swapaxes(-1, -2))


def _ormqr_grad(
    g: Any, self: Any, input2: Any, input3: Any, left: bool, transpose: bool
) -> tuple[Any, Any, Any]:
    if left:
        return _reflect_grads(g, self, input2, input3, transpose)
    ga, gtau, gx = _reflect_grads(mH(g), self, input2, mH(input3), not transpose)
    return ga, gtau, mH(gx)


structured(
    "farspan::_ormqr(Tensor self, Tensor input2, Tensor input3, bool left=True, bool"
    " transpose=False) -> Tensor",
    meta=_ormqr_meta,
    kernel=_ormqr,
    vjp={"self input2 input3": _ormqr_grad},
)


@composite(
    "ormqr(Tensor self, Tensor input2, Tensor input3, bool left=True, bool transpose=False)"
    " -> Tensor"
)
def ormqr(self: Any, input2: Any, input3: Any, left: bool = True, transpose: bool = False) -> Any:
    if not input2._spec.numel:  # nothing reflects
        self, input2 = fn.detach(self), fn.detach(input2)
    return fn._ormqr(self, input2, input3, left, transpose)


def _geqrf_meta(self: Spec) -> tuple[Spec, Spec]:
    if self.ndim < 2:
        raise ShapeError("torch.geqrf: input must have at least 2 dimensions.")
    if self.dtype.category < 2 or self.dtype.is_reduced:
        raise UnsupportedError(f'"geqrf_cpu" not implemented for {self.dtype.c_name!r}')
    tau = self.with_(shape=(*self.shape[:-2], min(self.shape[-2:])))
    return by_columns(self, self.shape), tau


def _geqrf(xp: Any, self: Any) -> Any:
    if not self.size:
        return self, xp.zeros((*self.shape[:-2], min(self.shape[-2:])), self.dtype)
    h, tau = xp.linalg.qr(self, mode="raw")
    return h.swapaxes(-1, -2), tau


structured("geqrf(Tensor self) -> (Tensor a, Tensor tau)", meta=_geqrf_meta, kernel=_geqrf)


# ------------------------------------------------------------------------------------------ LDL --
_ALPHA = (1 + math.sqrt(17)) / 8


def _size(x: Any) -> Any:
    """Return LAPACK's size of numbers: of complex ones, without a root."""
    return abs(x.real) + abs(x.imag)


def _pick_pivot(xp: Any, a: Any, k: int) -> tuple[int, int]:
    """Return the row to swap in and whether 1 or 2 rows make the pivot; (-1, 1) if all is zero."""
    own = float(_size(a[k, k]))
    column = _size(a[k + 1 :, k])
    most = float(column.max()) if column.size else 0.0
    if max(own, most) == 0 or math.isnan(own):
        return -1, 1
    if own >= _ALPHA * most:
        return k, 1
    row = k + 1 + int(column.argmax())
    others = _size(a[row, k:])
    others[row - k] = 0
    widest = float(others.max())
    if own >= _ALPHA * most * (most / widest):
        return k, 1
    return (row, 1) if float(_size(a[row, row])) >= _ALPHA * widest else (row, 2)


def _ldl_of(xp: Any, lower: Any, hermitian: bool) -> tuple[Any, Any, int]:
    """Return L and D over each other, the swaps counted from 1 (negative for pairs), and info."""
    turn = xp.conj if hermitian else lambda x: x
    a = xp.tril(lower) + turn(xp.tril(lower, -1)).T
    if hermitian and a.dtype.kind == "c":
        diagonal = xp.arange(len(a))
        a[diagonal, diagonal] = a[diagonal, diagonal].real
    n, k, info = len(a), 0, 0
    pivots = xp.zeros(n, "int32")
    while k < n:
        row, step = _pick_pivot(xp, a, k)
        if row < 0:
            info = info or k + 1
            pivots[k] = k + 1
            k += 1
            continue
        at = k + step - 1
        if row != at:  # rows, then columns, of what is left
            a[[at, row], k:] = a[[row, at], k:]
            a[k:, [at, row]] = a[k:, [row, at]]
        below = a[k + step :, k : k + step].copy()
        pivot = a[k : k + step, k : k + step]
        factor = below / pivot[0, 0] if step == 1 else xp.linalg.solve(pivot.T, below.T).T
        a[k + step :, k + step :] -= factor @ turn(below).T
        a[k + step :, k : k + step] = factor
        pivots[k : k + step] = row + 1 if step == 1 else -(row + 1)
        k += step
    return xp.tril(a), pivots, info


def _ldl_meta(self: Spec, hermitian: bool, check_errors: bool) -> tuple[Spec, Spec, Spec]:
    check_matrix("torch.linalg.ldl_factor_ex", self)
    batch = self.shape[:-2]
    return (
        by_columns(self, self.shape),
        Spec.make(self.shape[:-1], int32, self.device),
        Spec.make(batch, int32, self.device),
    )


def _ldl(xp: Any, self: Any, hermitian: bool, check_errors: bool) -> Any:
    *batch, n, _ = self.shape
    found = [_ldl_of(xp, one, hermitian) for one in self.reshape(-1, n, n)] if self.size else []
    info = xp.asarray([f[2] for f in found], "int32")
    if not found:
        empty = xp.zeros(self.shape[:-1], "int32")
        return self, empty, xp.zeros(batch, "int32")
    info = info.reshape(batch)
    if check_errors and info.any():
        where, at = batch_of(info)
        raise LinalgError(
            f"torch.linalg.ldl_factor_ex: {where}The diagonal element {at} of D is exactly zero: "
            "using it to solve would divide by zero."
        )
    return (
        xp.stack([f[0] for f in found]).reshape(self.shape),
        xp.stack([f[1] for f in found]).reshape(self.shape[:-1]),
        info,
    )


structured(
    "linalg_ldl_factor_ex(Tensor self, *, bool hermitian=False, bool check_errors=False) ->"
    " (Tensor LD, Tensor pivots, Tensor info)",
    meta=_ldl_meta,
    kernel=_ldl,
)


@composite("linalg_ldl_factor(Tensor self, *, bool hermitian=False) -> (Tensor LD, Tensor pivots)")
def linalg_ldl_factor(self: Any, *, hermitian: bool = False) -> Any:
    return fn.linalg_ldl_factor_ex(self, hermitian=hermitian, check_errors=True)[:2]


def _ldl_solve_meta(LD: Spec, pivots: Spec, B: Spec, hermitian: bool) -> Spec:
    name = "torch.linalg.ldl_solve"
    check_matrix(name, LD)
    if B.ndim < 2:
        raise ShapeError(
            f"{name}: Expected B to have at least 2 dimensions, but it has {B.ndim} dimensions "
            "instead"
        )
    if pivots.shape != LD.shape[:-1]:
        raise ShapeError(
            f"{name}: Expected LD.shape[:-1] and pivots.shape to be the same, but got pivots with "
            f"shape {list(pivots.shape)} instead"
        )
    if pivots.dtype.category != 1:
        raise DTypeError(f"{name}: Expected pivots to be integers. Got {pivots.dtype.c_name}")
    if LD.dtype is not B.dtype:
        raise DTypeError(
            f"Expected b and A to have the same dtype, but found b of type {B.dtype.c_name} and "
            f"A of type {LD.dtype.c_name} instead."
        )
    if LD.shape[-1] != B.shape[-2]:
        raise ShapeError(
            f"{name}: Incompatible matrix sizes for ldl_solve: each A matrix is "
            f"{LD.shape[-1]} by {LD.shape[-1]} but each b matrix is {B.shape[-2]} by "
            f"{B.shape[-1]}"
        )
    common_device((LD, pivots, B))
    batch = broadcast_shapes(LD.shape[:-2], B.shape[:-2])
    return by_columns(LD, (*batch, *B.shape[-2:]))


def _ldl_solve_one(xp: Any, a: Any, pivots: Any, b: Any, hermitian: bool) -> Any:
    """Solve by the factors one after another: swap, eliminate, divide; then back."""
    turn = xp.conj if hermitian else lambda x: x
    n, x, k = len(a), b.copy(), 0
    blocks = []
    while k < n:
        step = 1 if pivots[k] > 0 else 2
        at, row = k + step - 1, abs(int(pivots[k])) - 1
        blocks.append((k, step, at, row))
        x[[at, row]] = x[[row, at]]
        x[k + step :] -= a[k + step :, k : k + step] @ x[k : k + step]
        pivot = a[k : k + step, k : k + step].copy()
        if step == 2:
            pivot[0, 1] = turn(pivot[1, 0])
        only = pivot[0, 0].real if hermitian else pivot[0, 0]
        x[k : k + step] = x[k] / only if step == 1 else xp.linalg.solve(pivot, x[k : k + 2])
        k += step
    for k, step, at, row in blocks[::-1]:
        x[k : k + step] -= turn(a[k + step :, k : k + step]).T @ x[k + step :]
        x[[at, row]] = x[[row, at]]
    return x


def _ldl_solve(xp: Any, LD: Any, pivots: Any, B: Any, hermitian: bool) -> Any:
    batch = broadcast_shapes(LD.shape[:-2], B.shape[:-2])
    shapes = (LD.shape[-2:], pivots.shape[-1:], B.shape[-2:])
    if not (LD.size and B.size):
        return xp.zeros((*batch, *B.shape[-2:]), LD.dtype)
    flat = [
        xp.broadcast_to(x, (*batch, *s)).reshape(-1, *s)
        for x, s in zip((LD, pivots, B), shapes, strict=True)
    ]
    each: Any = zip(*flat, strict=True)
    solved = [_ldl_solve_one(xp, a, p, b, hermitian) for a, p, b in each]
    return xp.stack(solved).reshape(*batch, *B.shape[-2:])


structured(
    "linalg_ldl_solve(Tensor LD, Tensor pivots, Tensor B, *, bool hermitian=False) -> Tensor",
    meta=_ldl_solve_meta,
    kernel=_ldl_solve,
)


@composite("lu_solve(Tensor self, Tensor LU_data, Tensor LU_pivots) -> Tensor")
def lu_solve(self: Any, LU_data: Any, LU_pivots: Any) -> Any:
    return fn.linalg_lu_solve(LU_data, LU_pivots, self)


@composite(
    "_lu_with_info(Tensor self, bool pivot=True, bool check_errors=True) ->"
    " (Tensor LU, Tensor pivots, Tensor info)"
)
def lu_with_info(self: Any, pivot: bool = True, check_errors: bool = True) -> Any:
    return fn.linalg_lu_factor_ex(self, pivot=pivot, check_errors=check_errors)
