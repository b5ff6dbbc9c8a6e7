"""Inputs for factorizations and solvers: matrices far from singular, in batches, empty."""

import numpy as np

from samples import Strided, call, samples

REAL = ("float32", "float64", "complex64", "complex128")
LOOSE = {"dtypes": REAL, "rtol": 1e-3, "atol": 1e-4, "reason": "two LAPACKs, ill conditioned sums"}


def square(make, *shape):
    """Return matrices whose diagonal dominates."""
    n = shape[-1]
    return (make(*shape, low=-1, high=1) + np.eye(n) * (n + 1)).astype(make.dtype)


def positive(make, *shape):
    """Return Hermitian positive definite matrices."""
    a = make(*shape, low=-1, high=1)
    n = shape[-1]
    return (a @ np.conj(np.swapaxes(a, -1, -2)) + np.eye(n)).astype(make.dtype)


@samples("linalg_inv", "inverse", "linalg_inv_ex", **LOOSE)
def _inverse(make):
    return [
        call(square(make, 3, 3)),
        call(make(3, 3)),
        call(square(make, 2, 3, 3)),
        call(square(make, 0, 3, 3)),
        call(square(make, 0, 0)),
        call(Strided(square(make, 3, 3))),
    ]


@samples("linalg_det", "det", "linalg_slogdet", "slogdet", "logdet", **LOOSE)
def _determinant(make):
    return [call(square(make, 3, 3)), call(square(make, 2, 3, 3)), call(square(make, 0, 3, 3))]


@samples("_cofactors", **LOOSE)
def _cofactors(make):
    return [call(square(make, 3, 3)), call(square(make, 2, 3, 3))]


@samples("linalg_solve", "linalg_solve_ex", **LOOSE)
def _solve(make):
    return [
        call(square(make, 3, 3), make(3)),
        call(square(make, 3, 3), make(3, 2)),
        call(square(make, 2, 3, 3), make(2, 3)),
        call(square(make, 2, 3, 3), make(2, 3, 2)),
        call(square(make, 2, 3, 3), make(3, 2)),
        call(square(make, 3, 3), make(4, 3), left=False),
        call(square(make, 3, 3), make(3, 0)),
    ]


@samples("linalg_solve_triangular", **LOOSE)
def _triangular(make):
    a = square(make, 3, 3)
    return [
        call(np.triu(a), make(3, 2), upper=True),
        call(np.tril(a), make(3, 2), upper=False),
        call(np.triu(a), make(2, 3), upper=True, left=False),
        call(np.tril(a), make(2, 3), upper=False, left=False),
        call(np.tril(a), make(3, 2), upper=False, unitriangular=True),
        call(np.triu(square(make, 2, 3, 3)), make(3, 2), upper=True),
        call(np.triu(a), make(3, 0), upper=True),
    ]


@samples("triangular_solve", **LOOSE)
def _triangular_solve(make):
    a = square(make, 3, 3)
    return [
        call(make(3, 2), np.triu(a)),
        call(make(3, 2), np.triu(a), transpose=True),
        call(make(3, 2), np.tril(a), upper=False),
    ]


@samples("linalg_cholesky", "linalg_cholesky_ex", differences=False, **LOOSE)
def _cholesky(make):
    return [
        call(positive(make, 3, 3)),
        call(positive(make, 3, 3), upper=True),
        call(positive(make, 2, 3, 3)),
        call(positive(make, 0, 0)),
    ]


@samples("cholesky", **LOOSE)
def _old_cholesky(make):
    return [call(positive(make, 3, 3)), call(positive(make, 2, 3, 3), True)]


#: torch gives a gradient to the triangle that is not read too.
ONE_TRIANGLE = {**LOOSE, "grad": False}


@samples("cholesky_solve", **ONE_TRIANGLE)
def _cholesky_solve(make):
    L = np.linalg.cholesky(positive(make, 3, 3))
    return [call(make(3, 2), L), call(make(3, 2), np.conj(L.T).copy(), True)]


@samples("cholesky_inverse", **ONE_TRIANGLE)
def _cholesky_inverse(make):
    L = np.linalg.cholesky(positive(make, 3, 3))
    return [call(L), call(np.conj(L.T).copy(), True)]


@samples("linalg_lu_factor", "linalg_lu_factor_ex", "linalg_lu", **LOOSE)
def _lu(make):
    return [call(make(3, 3)), call(make(2, 4, 4)), call(square(make, 3, 3)), call(make(0, 0)),
            call(make(2, 4, 3)), call(make(3, 5))]  # fmt: skip


@samples("lu_unpack", "_lu_unpack", grad=False, **LOOSE)
def _lu_unpack(make):
    return [
        call(make(3, 3), np.array([2, 3, 3], "int32")),
        call(make(2, 4, 3), np.array([[2, 3, 4], [1, 2, 3]], "int32")),
        call(make(2, 3), np.array([2, 2], "int32")),
    ]


@samples("linalg_lu_solve", **LOOSE)
def _lu_solve(make):
    lu, pivots = square(make, 3, 3), np.array([2, 3, 3], "int32")
    return [
        call(lu, pivots, make(3, 2)),
        call(lu, pivots, make(3, 2), adjoint=True),
        call(lu, pivots, make(2, 3), left=False),
    ]
