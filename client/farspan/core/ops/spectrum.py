"""Orthogonal factors: QR, singular values, eigenvalues, and what is made of them.

Kernels are LAPACK through numpy. Signs and phases of singular and eigenvectors are LAPACK's choice
and may differ from torch's build of it; a loss that depends on them has no derivative.
Sources of the formulas: Giles 2008, Townsend 2016, and torch's FunctionsManual.cpp.
"""

from __future__ import annotations

from typing import Any

from ..call import fn
from ..dtype import int64
from ..errors import LinalgError, ShapeError
from ..family import common_device, composite, structured
from ..spec import Spec
from .decompose import by_columns, check_matrix, check_one_dtype
from .linalg import mH

_EPS = {"float32": 2.0**-23, "complex64": 2.0**-23, "float64": 2.0**-52, "complex128": 2.0**-52}


def _row(x: Any) -> Any:
    return fn.unsqueeze(x, -2)


def _column(x: Any) -> Any:
    return fn.unsqueeze(x, -1)


def _gaps(values: Any) -> Any:
    """Return E with E[i, j] = values[j] - values[i], and 1 on the diagonal."""
    eye = fn.diag_embed(fn.ones_like(values))
    return fn.add(fn.sub(_row(values), _column(values)), eye)


def _product_of(*factors: Any) -> Any:
    made = factors[0]
    for x in factors[1:]:
        made = fn.matmul(made, x)
    return made


# ------------------------------------------------------------------------------------------ QR --
def _qr_meta(A: Spec, mode: str) -> tuple[Spec, Spec]:
    if mode not in ("reduced", "complete", "r"):
        raise ShapeError(
            f"qr received unrecognized mode '{mode}' but expected one of 'reduced' (default), 'r', "
            "or 'complete'"
        )
    check_matrix("linalg.qr", A, square=False)
    *batch, m, n = A.shape
    k = m if mode == "complete" else min(m, n)
    Q = A.with_(shape=(0,)) if mode == "r" else by_columns(A, (*batch, m, k))
    return Q, by_columns(A, (*batch, k, n))


def _qr(xp: Any, A: Any, mode: str) -> Any:
    if mode == "r":
        return xp.zeros((0,), A.dtype), xp.linalg.qr(A, "r")
    return tuple(xp.linalg.qr(A, mode))


def _qr_grad(g: Any, out: Any, A_spec: Spec, mode: str) -> Any:
    m, n = A_spec.shape[-2:]
    if mode == "r":
        raise ShapeError(
            "The derivative of linalg.qr depends on Q, which is not computed when mode='r'. "
            "Please use linalg.qr(A, mode='reduced') if you are going to require gradients."
        )
    if mode == "complete" and m > n:
        raise ShapeError(
            "The QR decomposition is not differentiable when mode='complete' and nrows > ncols."
        )
    Q, R, gQ, gR = out[0], out[1], g[0], g[1]
    inner = fn.sub(fn.matmul(gR, mH(R)), fn.matmul(mH(Q), gQ))
    if m >= n:
        upper = fn.triu(inner)
        both = fn.add(upper, mH(upper))
        # The diagonal was counted twice where it is real.
        inner = fn.sub(both, fn.mul(fn.triu(fn.tril(both)), 0.5))
        return fn.linalg_solve_triangular(
            mH(R), fn.add(fn.matmul(Q, inner), gQ), upper=False, left=False
        )
    skew = fn.tril(fn.sub(mH(inner), inner))
    skew = fn.matmul(Q, fn.sub(skew, fn.mul(fn.triu(skew), 0.5)))
    square = fn.narrow(R, -1, 0, m)
    left = fn.linalg_solve_triangular(mH(square), skew, upper=False, left=False)
    zeros = fn.new_zeros(left, (*A_spec.shape[:-1], n - m))
    return fn.add(fn.cat([left, zeros], -1), fn.matmul(Q, gR))


structured(
    'linalg_qr(Tensor A, str mode="reduced") -> (Tensor Q, Tensor R)',
    meta=_qr_meta,
    kernel=_qr,
    vjp={"A": _qr_grad},
)


@composite("qr(Tensor self, bool some=True) -> (Tensor Q, Tensor R)")
def qr(self: Any, some: bool = True) -> Any:
    return fn.linalg_qr(self, "reduced" if some else "complete")


# ----------------------------------------------------------------------------------------- SVD --
def _svd_meta(A: Spec, full: bool, vectors: bool, driver: str | None) -> tuple[Spec, ...]:
    check_matrix("linalg.svd", A, square=False)
    if driver is not None:
        raise ShapeError("torch.linalg.svd: keyword argument `driver=` is only supported on CUDA "
                         "inputs with cuSOLVER backend.")  # fmt: skip
    *batch, m, n = A.shape
    k = min(m, n)
    S = Spec.make((*batch, k), A.dtype.to_real(), A.device)
    if not vectors:
        return A.with_(shape=(0,)), S, A.with_(shape=(0,))
    U, Vh = ((m, m), (n, n)) if full else ((m, k), (k, n))
    return by_columns(A, (*batch, *U)), S, by_columns(A, (*batch, *Vh))


def _check_finite(xp: Any, A: Any) -> None:
    """Raise LinalgError, as torch does: of such a matrix LAPACK may never come back."""
    if not xp.isfinite(A).all():
        raise LinalgError(
            "linalg.svd: The algorithm failed to converge because the input matrix contained "
            "non-finite values."
        )


def _svd(xp: Any, A: Any, full: bool, vectors: bool, driver: Any) -> Any:
    _check_finite(xp, A)
    if not vectors:
        nothing = xp.zeros((0,), A.dtype)
        return nothing, xp.linalg.svd(A, compute_uv=False), nothing
    return tuple(xp.linalg.svd(A, full_matrices=full))


def _svd_grad(g: Any, out: Any, A: Any, A_spec: Spec, full_matrices: bool, compute_uv: bool) -> Any:
    U, S, Vh = out
    gU, gS, gVh = g
    if not compute_uv:  # the vectors are needed all the same
        U, _, Vh = fn._linalg_svd(A)
        return _product_of(fn.mul(U, _row(gS)), Vh)
    m, n = A_spec.shape[-2:]
    k = min(m, n)
    if full_matrices:
        U, gU = fn.narrow(U, -1, 0, k), fn.narrow(gU, -1, 0, k)
        Vh, gVh = fn.narrow(Vh, -2, 0, k), fn.narrow(gVh, -2, 0, k)
    uu, vv = fn.matmul(mH(U), gU), fn.matmul(Vh, mH(gVh))
    uu, vv = fn.sub(uu, mH(uu)), fn.sub(vv, mH(vv))
    E = _gaps(fn.mul(S, S))
    inner = fn.add(fn.mul(fn.div(uu, E), _row(S)), fn.mul(_column(S), fn.div(vv, E)))
    if A_spec.dtype.is_complex:  # the phases, which U and V share
        turn = fn.div(fn.diagonal(uu, 0, -2, -1), fn.mul(S, 2))
        inner = fn.add(fn.sub(inner, fn.triu(fn.tril(inner))), fn.diag_embed(turn))
    inner = fn.add(inner, fn.diag_embed(gS))
    if m > k:
        outside = fn.div(gU, _row(S))
        outside = fn.sub(outside, _product_of(U, fn.matmul(mH(U), outside)))
        return fn.matmul(fn.add(fn.matmul(U, inner), outside), Vh)
    if n > k:
        outside = fn.div(gVh, _column(S))
        outside = fn.sub(outside, fn.matmul(fn.matmul(outside, mH(Vh)), Vh))
        return fn.matmul(U, fn.add(fn.matmul(inner, Vh), outside))
    return _product_of(U, inner, Vh)


structured(
    "_linalg_svd(Tensor A, bool full_matrices=False, bool compute_uv=True, *, str? driver=None)"
    " -> (Tensor U, Tensor S, Tensor Vh)",
    meta=_svd_meta,
    kernel=_svd,
    vjp={"A": _svd_grad},
)


@composite(
    "linalg_svd(Tensor A, bool full_matrices=True, *, str? driver=None)"
    " -> (Tensor U, Tensor S, Tensor Vh)"
)
def linalg_svd(A: Any, full_matrices: bool = True, *, driver: str | None = None) -> Any:
    return fn._linalg_svd(A, full_matrices, True, driver=driver)


@composite("linalg_svdvals(Tensor A, *, str? driver=None) -> Tensor")
def linalg_svdvals(A: Any, *, driver: str | None = None) -> Any:
    return fn._linalg_svd(A, False, False, driver=driver)[1]


@composite(
    "svd(Tensor self, bool some=True, bool compute_uv=True) -> (Tensor U, Tensor S, Tensor V)"
)
def svd(self: Any, some: bool = True, compute_uv: bool = True) -> Any:
    """The older name: V, not its adjoint; without vectors they are zeros."""
    U, S, Vh = fn._linalg_svd(self, not some, True)
    if compute_uv:
        return U, S, mH(Vh)
    return fn.zeros_like(U), S, fn.zeros_like(mH(Vh))


# ----------------------------------------------------------------------------------- eigenvalues --
def _eigh_meta(A: Spec, uplo: str, vectors: bool) -> tuple[Spec, Spec]:
    check_matrix("linalg.eigh", A)
    if uplo.upper() not in ("L", "U"):
        raise ShapeError(f"Expected UPLO argument to be 'L' or 'U', but got {uplo}")
    L = Spec.make(A.shape[:-1], A.dtype.to_real(), A.device)
    return L, by_columns(A, A.shape) if vectors else A.with_(shape=(0,))


def _eigh(xp: Any, A: Any, uplo: str, vectors: bool) -> Any:
    try:
        if vectors:
            return tuple(xp.linalg.eigh(A, uplo.upper()))
        return xp.linalg.eigvalsh(A, uplo.upper()), xp.zeros((0,), A.dtype)
    except xp.linalg.LinAlgError:
        raise LinalgError(
            "linalg.eigh: The algorithm failed to converge because the input matrix is "
            "ill-conditioned or has too many repeated eigenvalues."
        ) from None


def _eigh_grad(g: Any, out: Any, A: Any, UPLO: str, compute_v: bool) -> Any:
    """V (diag(gL) + skew(V^H gV) / E) V^H: Hermitian, as A is."""
    L, V = out
    if not compute_v:
        V = fn._linalg_eigh(A, UPLO)[1]
        return _product_of(fn.mul(V, _row(g[0])), mH(V))
    inner = fn.matmul(mH(V), g[1])
    inner = fn.div(fn.mul(fn.sub(inner, mH(inner)), 0.5), _gaps(L))
    inner = fn.sub(inner, fn.triu(fn.tril(inner)))
    return _product_of(V, fn.add(inner, fn.diag_embed(g[0])), mH(V))


structured(
    '_linalg_eigh(Tensor A, str UPLO="L", bool compute_v=True) ->'
    " (Tensor eigenvalues, Tensor eigenvectors)",
    meta=_eigh_meta,
    kernel=_eigh,
    vjp={"A": _eigh_grad},
)


@composite('linalg_eigh(Tensor self, str UPLO="L") -> (Tensor eigenvalues, Tensor eigenvectors)')
def linalg_eigh(self: Any, UPLO: str = "L") -> Any:
    return fn._linalg_eigh(self, UPLO, True)


@composite('linalg_eigvalsh(Tensor self, str UPLO="L") -> Tensor')
def linalg_eigvalsh(self: Any, UPLO: str = "L") -> Any:
    return fn._linalg_eigh(self, UPLO, False)[0]


def _eig_meta(self: Spec) -> tuple[Spec, Spec]:
    check_matrix("linalg.eig", self)
    made = self.with_(dtype=self.dtype.to_complex())
    return made.with_(shape=self.shape[:-1]), by_columns(made, self.shape)


def _eig(xp: Any, self: Any) -> Any:
    try:
        return tuple(xp.linalg.eig(self))
    except xp.linalg.LinAlgError:
        raise LinalgError(
            "torch.linalg.eig: input tensor should not contain infs or NaNs."
        ) from None


def _eig_grad(g: Any, out: Any) -> Any:
    """V^-H (diag(gL) + (V^H gV - V^H V diag(Re(V^H gV))) / conj(E)) V^H: columns have norm 1."""
    L, V = out
    inner = fn.matmul(mH(V), g[1])
    real = fn.real(fn.diagonal(inner, 0, -2, -1))
    inner = fn.sub(inner, fn.mul(fn.matmul(mH(V), V), _row(real)))
    inner = fn.div(inner, fn.conj(_gaps(L)))
    inner = fn.add(fn.sub(inner, fn.triu(fn.tril(inner))), fn.diag_embed(g[0]))
    return fn.linalg_solve(mH(V), fn.matmul(inner, mH(V)))


structured(
    "linalg_eig(Tensor self) -> (Tensor eigenvalues, Tensor eigenvectors)",
    meta=_eig_meta,
    kernel=_eig,
    vjp={"self": _eig_grad},
)


@composite("linalg_eigvals(Tensor self) -> Tensor")
def linalg_eigvals(self: Any) -> Any:
    return fn.linalg_eig(self)[0]


# ---------------------------------------------------------------------- ranks, inverses, fitting --
def _cutoff(S: Any, spec: Spec, atol: float | None, rtol: float | None) -> Any:
    """Return the size below which singular values count as zero, one a matrix."""
    if rtol is None:
        rtol = 0.0 if atol else _EPS[spec.dtype.name] * max(spec.shape[-2:])
    return fn.clamp_min(fn.mul(fn.amax(S, [-1], True), rtol), atol or 0.0)


@composite(
    "linalg_matrix_rank.atol_rtol_float(Tensor self, *, float? atol=None, float? rtol=None,"
    " bool hermitian=False) -> Tensor"
)
def linalg_matrix_rank(
    self: Any, *, atol: float | None = None, rtol: float | None = None, hermitian: bool = False
) -> Any:
    spec = self._spec
    check_matrix("linalg.matrix_rank", spec, square=False)
    if not spec.numel:
        return fn.new_zeros(self, spec.shape[:-2], dtype=int64)
    S = fn.abs(fn.linalg_eigvalsh(self)) if hermitian else fn.linalg_svdvals(self)
    return fn.sum(fn.gt(S, _cutoff(S, spec, atol, rtol)), [-1])


@composite("linalg_matrix_rank(Tensor self, float tol, bool hermitian=False) -> Tensor")
def matrix_rank_of_tol(self: Any, tol: float, hermitian: bool = False) -> Any:
    return fn.linalg_matrix_rank(self, atol=tol, rtol=0.0, hermitian=hermitian)


def _pinv_meta(self: Spec, atol: Any, rtol: Any, hermitian: bool) -> Spec:
    check_matrix("linalg.pinv", self, square=hermitian)
    return self.with_(shape=(*self.shape[:-2], self.shape[-1], self.shape[-2]))


def _pinv(xp: Any, self: Any, atol: Any, rtol: Any, hermitian: bool) -> Any:
    if not self.size:
        return xp.zeros((*self.shape[:-2], self.shape[-1], self.shape[-2]), self.dtype)
    if rtol is None:
        rtol = 0.0 if atol else _EPS[self.dtype.name] * max(self.shape[-2:])
    if hermitian:
        values, U = xp.linalg.eigh(self)
        Vh, size = xp.conj(U.swapaxes(-1, -2)), abs(values)
    else:
        _check_finite(xp, self)
        U, values, Vh = xp.linalg.svd(self, full_matrices=False)
        size = values
    kept = size > xp.maximum(size.max(-1, keepdims=True) * rtol, atol or 0.0)
    inverse = xp.where(kept, 1 / xp.where(kept, values, 1), 0).astype(values.dtype)
    return xp.matmul(xp.conj(Vh.swapaxes(-1, -2)) * inverse[..., None, :],
                     xp.conj(U.swapaxes(-1, -2)))  # fmt: skip


def _pinv_grad(g: Any, self: Any, out: Any, self_spec: Spec) -> Any:
    """Golub and Pereyra 1973, with the shorter side inside."""
    P, A, gh = out, self, mH(g)
    m, n = self_spec.shape[-2:]
    if m <= n:
        K = fn.matmul(gh, P)
        KPh = fn.matmul(K, mH(P))
        a = fn.sub(KPh, mH(fn.matmul(P, K)))
        b = fn.matmul(fn.matmul(A, P), KPh)
        c = fn.matmul(fn.matmul(mH(P), P), fn.sub(gh, fn.matmul(K, A)))
        return fn.add(fn.sub(a, b), c)
    K = fn.matmul(P, gh)
    PhK = fn.matmul(mH(P), K)
    a = fn.sub(PhK, mH(fn.matmul(K, P)))
    b = fn.matmul(fn.matmul(PhK, P), A)
    c = fn.matmul(fn.matmul(fn.sub(gh, fn.matmul(A, K)), P), mH(P))
    return fn.add(fn.sub(a, b), c)


structured(
    "linalg_pinv.atol_rtol_float(Tensor self, *, float? atol=None, float? rtol=None,"
    " bool hermitian=False) -> Tensor",
    meta=_pinv_meta,
    kernel=_pinv,
    vjp={"self": _pinv_grad},
)


@composite("linalg_pinv(Tensor self, float rcond, bool hermitian=False) -> Tensor")
def linalg_pinv(self: Any, rcond: float, hermitian: bool = False) -> Any:
    return fn.linalg_pinv(self, atol=0.0, rtol=rcond, hermitian=hermitian)


@composite("pinverse(Tensor self, float rcond=1.0000000000000001e-15) -> Tensor")
def pinverse(self: Any, rcond: float = 1e-15) -> Any:
    return fn.linalg_pinv(self, rcond)


def _lstsq_meta(self: Spec, b: Spec, rcond: Any, driver: str | None) -> tuple[Spec, ...]:
    name = "torch.linalg.lstsq"
    check_matrix(name, self, square=False)
    check_one_dtype(name, self, b)
    common_device((self, b))
    if driver not in (None, "gels", "gelsy", "gelsd", "gelss"):
        raise ShapeError(f"{name}: parameter `driver` should be one of (gels, gelsy, gelsd, gelss)")
    vector = b.ndim == self.ndim - 1
    if b.shape[-1 if vector else -2] != self.shape[-2]:
        where = "other.size(-1)" if vector else "other.size(-2)"
        raise ShapeError(f"{name}: input.size(-2) should match {where}")
    *batch, m, n = self.shape
    columns = () if vector else (b.shape[-1],)
    real, nothing = self.dtype.to_real(), (0,)
    fits = m > n and driver in ("gels", "gelsd", "gelss")
    values = driver in ("gelsd", "gelss")
    return (
        self.with_(shape=(*batch, n, *columns)),
        Spec.make((*batch, *(columns or (1,))) if fits else nothing, real, self.device),
        Spec.make(nothing if driver == "gels" else tuple(batch), int64, self.device),
        Spec.make((*batch, min(m, n)) if values else nothing, real, self.device),
    )


def _lstsq(xp: Any, self: Any, b: Any, rcond: Any, driver: str | None) -> Any:
    m, n = self.shape[-2:]
    vector = b.ndim == self.ndim - 1
    right = b[..., None] if vector else b
    if rcond is None:
        rcond = _EPS[self.dtype.name] * max(m, n)
    _check_finite(xp, self)
    U, S, Vh = xp.linalg.svd(self, full_matrices=False)
    kept = xp.logical_and(S > rcond * S.max(-1, keepdims=True, initial=0), S > 0)
    inverse = xp.where(kept, 1 / xp.where(kept, S, 1), 0).astype(S.dtype)
    inside = xp.matmul(xp.conj(U.swapaxes(-1, -2)), right)
    x = xp.matmul(xp.conj(Vh.swapaxes(-1, -2)), inside * inverse[..., None])
    rest = right - xp.matmul(self, x)
    nothing = xp.zeros((0,), S.dtype)
    fits = m > n and driver in ("gels", "gelsd", "gelss")
    return (
        x[..., 0] if vector else x,
        (abs(rest) ** 2).sum(-2) if fits else nothing,
        nothing if driver == "gels" else kept.sum(-1),
        S if driver in ("gelsd", "gelss") else nothing,
    )


def _lstsq_grad(
    g: Any, self: Any, b: Any, self_spec: Spec, b_spec: Spec, out_spec: Any, needed: Any
) -> Any:
    """The solution is pinv(self) @ b. Residuals |b - self x|^2 change as if x, the best, stayed."""
    vector = b_spec.ndim == self_spec.ndim - 1
    gX, right = (_column(x) if vector else x for x in (g[0], b))
    P = fn.linalg_pinv(self)
    gb = fn.matmul(mH(P), gX)
    gA = _pinv_grad(fn.matmul(gX, mH(right)), self, P, self_spec) if needed[0] else None
    if out_spec[1].shape != (0,):
        X = fn.matmul(P, right)
        rest = fn.mul(fn.sub(right, fn.matmul(self, X)), _row(fn.mul(g[1], 2)))
        gb = fn.add(gb, rest)
        gA = fn.sub(gA, fn.matmul(rest, mH(X))) if needed[0] else None
    return gA, (fn.squeeze(gb, -1) if vector else gb)


structured(
    "linalg_lstsq(Tensor self, Tensor b, float? rcond=None, *, str? driver=None) ->"
    " (Tensor solution, Tensor residuals, Tensor rank, Tensor singular_values)",
    meta=_lstsq_meta,
    kernel=_lstsq,
    vjp={"self b": _lstsq_grad},
)
