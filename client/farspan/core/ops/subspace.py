"""A few eigenpairs of large symmetric matrices: LOBPCG (Knyazev 2001).

The kernel iterates until the residuals are small, so a caller never waits for each step's values.
"""

from __future__ import annotations

import math
from typing import Any, Final

from ..call import fn
from ..errors import AutogradError, LinalgError
from ..family import common_device, structured
from ..spec import Spec
from .decompose import check_matrix, check_one_dtype
from .linalg import mH


def _basis(xp: Any, S: Any, B: Any) -> Any:
    """Return a B-orthonormal basis of what the columns of S span; nearly dependent ones go."""
    length = xp.sqrt(xp.maximum((S * (S if B is None else B @ S)).sum(0), 0))
    S = S[:, length > 0] / length[length > 0]
    for _ in range(2):  # twice is enough
        gram = S.T @ (S if B is None else B @ S)
        values, vectors = xp.linalg.eigh((gram + gram.T) / 2)
        kept = values > values[-1] * 1e-14
        S = S @ (vectors[:, kept] / xp.sqrt(values[kept]))
    return S


#: It has stood still when the residuals have not fallen by a thousandth for so many steps: rounding
#: holds them up, or there is a NaN. Without it, a tolerance out of reach takes all steps.
_STILL: Final = 200


def _iterate(
    xp: Any, A: Any, B: Any, iK: Any, X: Any, niter: int, tol: float, largest: bool
) -> tuple[Any, Any]:
    """Minimise (or maximise) the Rayleigh quotient over X, the residuals and the last steps."""
    n = X.shape[1]
    sign = -1 if largest else 1
    scale = float(xp.linalg.norm(A))
    P = X[:, :0]
    X = _basis(xp, X, B)
    least, since = math.inf, 0
    for step in range(max(niter, 0) + 1):
        reduced = X.T @ A @ X
        E, turn = xp.linalg.eigh(sign * (reduced + reduced.T) / 2)
        X = X @ turn
        BX = X if B is None else B @ X
        R = A @ X - BX * (sign * E)
        weight = scale + abs(E) * (1 if B is None else float(xp.linalg.norm(B)))
        lengths = xp.linalg.norm(R, axis=0)
        left = float(lengths.max(initial=0))
        if left < 0.999 * least:
            least, since = left, step
        if (
            step == niter
            or step - since >= _STILL
            or (lengths <= tol * weight * xp.linalg.norm(X, axis=0)).all()
        ):
            break
        W = R if iK is None else iK @ R
        S = _basis(xp, xp.concatenate([X, W - X @ (BX.T @ W), P], 1), B)
        reduced = S.T @ A @ S
        _, turn = xp.linalg.eigh(sign * (reduced + reduced.T) / 2)
        best = S @ turn[:, :n]
        P = best - X @ (BX.T @ best)
        X = best
    return sign * E, X


def _lobpcg_meta(
    A: Spec, B: Any, X: Spec, iK: Any, k: int, niter: int, tol: float, largest: bool
) -> tuple[Spec, Spec]:
    check_matrix("lobpcg", A)
    others = [x for x in (B, X, iK) if x is not None]
    for x in others:
        check_one_dtype("lobpcg", A, x)
    common_device((A, *others))
    batch, m = A.shape[:-2], A.shape[-1]
    return A.with_(shape=(*batch, k)), A.with_(shape=(*batch, m, k))


def _lobpcg(
    xp: Any, A: Any, B: Any, X: Any, iK: Any, k: int, niter: int, tol: float, largest: bool
) -> tuple[Any, Any]:
    batch, m = A.shape[:-2], A.shape[-1]
    count = math.prod(batch)

    def rows(x: Any) -> Any:
        if x is None:
            return [None] * count
        return xp.broadcast_to(x, batch + x.shape[-2:]).reshape(count, *x.shape[-2:])

    E, V = xp.empty((count, k), A.dtype), xp.empty((count, m, k), A.dtype)
    try:
        for i, (a, b, x, p) in enumerate(zip(rows(A), rows(B), rows(X), rows(iK), strict=True)):
            wide: Any = [None if t is None else t.astype("float64") for t in (a, b, p, x)]
            found, vectors = _iterate(xp, *wide, niter, tol, largest)  # type: ignore[call-arg]
            E[i], V[i] = found[:k], vectors[:, :k]
    except xp.linalg.LinAlgError:
        raise LinalgError("lobpcg: the iteration broke down on a degenerate subspace") from None
    return E.reshape(*batch, k), V.reshape(*batch, m, k)


def _lobpcg_grad(g: Any, A: Any, B: Any, out: Any) -> Any:
    """V (F * (V^H gX)) X^H + X diag(gE) X^H, with all eigenvectors V and F = 1 / (e_j - l_i)."""
    if B is not None:
        raise AutogradError("lobpcg: the derivative is there for B=None only")
    E, X = out
    values, V = fn.linalg_eigh(A)
    apart = fn.sub(fn.unsqueeze(E, -2), fn.unsqueeze(values, -1))
    scale = fn.unsqueeze(fn.amax(fn.abs(values), [-1], True), -1)
    own = fn.le(fn.abs(apart), fn.mul(scale, 1e-5))
    weight = fn.masked_fill(fn.reciprocal(fn.masked_fill(apart, own, 1)), own, 0)
    turned = fn.matmul(V, fn.mul(weight, fn.matmul(mH(V), g[1])))
    whole = fn.matmul(fn.add(turned, fn.mul(X, fn.unsqueeze(g[0], -2))), mH(X))
    return fn.mul(fn.add(whole, mH(whole)), 0.5)


structured(
    "farspan::_lobpcg(Tensor A, Tensor? B, Tensor X, Tensor? iK, int k, int niter, float tol,"
    " bool largest) -> (Tensor E, Tensor V)",
    meta=_lobpcg_meta,
    kernel=_lobpcg,
    vjp={"A": _lobpcg_grad},
)
