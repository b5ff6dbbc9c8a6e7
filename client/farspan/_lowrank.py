"""Approximations of low rank, by random projections (Halko, Martinsson, Tropp 2009); lobpcg."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.call import fn
from .core.errors import BadValueError, DTypeError
from .core.ops.linalg import mH

if TYPE_CHECKING:
    from ._tensor import Tensor


def _product(A: Tensor, M: Tensor | None, x: Any) -> Any:
    made = fn.matmul(A, x)
    return made if M is None else fn.sub(made, fn.matmul(M, x))


def _range_of(A: Tensor, q: int, niter: int, M: Tensor | None) -> Any:
    """Return q orthonormal columns that nearly span what A - M maps onto (algorithm 4.4)."""
    R = fn.randn((A._spec.shape[-1], q), dtype=A.dtype, device=A.device)
    Q = fn.linalg_qr(_product(A, M, R))[0]
    turned = mH(A), None if M is None else mH(M)
    for _ in range(niter):
        Q = fn.linalg_qr(_product(*turned, Q))[0]
        Q = fn.linalg_qr(_product(A, M, Q))[0]
    return Q


def svd_lowrank(
    A: Tensor, q: int | None = 6, niter: int | None = 2, M: Tensor | None = None
) -> tuple[Any, Any, Any]:
    """Return U, S, V with A - M close to U diag(S) V^H, of rank q (algorithm 5.1).

    A: (..., m, n); M broadcasts to it. The basis is drawn from the default generator.
    """
    q = 6 if q is None else q
    m, n = A._spec.shape[-2:]
    if M is not None:
        M = fn.expand(M, A._spec.shape)
    wide = m < n
    if wide:  # the projection is of the shorter side
        A, M = mH(A), None if M is None else mH(M)
    Q = _range_of(A, q, 2 if niter is None else niter, M)
    small = fn.matmul(mH(Q), A)
    if M is not None:
        small = fn.sub(small, fn.matmul(mH(Q), M))
    U, S, Vh = fn.linalg_svd(small, full_matrices=False)
    U, V = fn.matmul(Q, U), mH(Vh)
    return (V, S, U) if wide else (U, S, V)


def pca_lowrank(
    A: Tensor, q: int | None = None, center: bool = True, niter: int = 2
) -> tuple[Any, Any, Any]:
    """Return the principal components of the rows of A: svd_lowrank of what is centred.

    q: how many, by default 6 or as many as there are. ValueError where q or niter cannot be.
    """
    m, n = A._spec.shape[-2:]
    if q is None:
        q = min(6, m, n)
    elif not 0 <= q <= min(m, n):
        raise BadValueError(
            f"q(={q}) must be non-negative integer and not greater than min(m, n)={min(m, n)}"
        )
    if niter < 0:
        raise BadValueError(f"niter(={niter}) must be non-negative integer")
    if center:
        A = fn.sub(A, fn.mean(A, [-2], True))
    return svd_lowrank(A, q, niter)


def lobpcg(
    A: Tensor,
    k: int | None = None,
    B: Tensor | None = None,
    X: Tensor | None = None,
    n: int | None = None,
    iK: Tensor | None = None,
    niter: int | None = None,
    tol: float | None = None,
    largest: bool | None = None,
    method: str | None = None,
    tracker: Any = None,
    ortho_iparams: Any = None,
    ortho_fparams: Any = None,
    ortho_bparams: Any = None,
) -> tuple[Any, Any]:
    """Return the k largest (or smallest) eigenvalues of A x = e B x, and their vectors.

    A, B: symmetric (..., m, m), B positive definite; X: where to start, (..., m, n), drawn if None;
    iK: a preconditioner. `tracker` is not called, since the steps run in the worker. Does not wait.
    """
    if A.dtype.name not in ("float32", "float64"):
        raise DTypeError(f"lobpcg: expected a real floating point tensor, got {A.dtype}")
    m = A._spec.shape[-1]
    k = (1 if X is None else X._spec.shape[-1]) if k is None else k
    n = (k if n is None else n) if X is None else X._spec.shape[-1]
    if m < 3 * n:
        raise BadValueError(
            f"LPBPCG algorithm is not applicable when the number of A rows (={m}) is smaller than "
            f"3 x the number of requested eigenpairs (={n})"
        )
    if method not in (None, "basic", "ortho"):
        raise BadValueError(f"Unknown method {method!r}: write 'basic' or 'ortho'")
    if X is None:
        X = fn.randn((*A._spec.shape[:-2], m, n), dtype=A.dtype, device=A.device)
    eps = {"float32": 1.2e-07, "float64": 2.23e-16}[A.dtype.name]
    steps = 1_000 if niter is None or niter < 0 else niter
    return fn._lobpcg(  # type: ignore[no-any-return]
        A, B, X, iK, k, steps, eps**0.5 if tol is None else tol, largest is not False
    )
