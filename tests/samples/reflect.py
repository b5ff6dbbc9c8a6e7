"""Inputs for Householder reflectors and symmetric indefinite systems."""

import numpy as np

from samples import Strided, call, samples
from samples.decompose import LOOSE


def symmetric(make, *shape):
    a = make(*shape)
    return a + np.swapaxes(a, -1, -2)


@samples("linalg_householder_product", "_linalg_householder_product", "orgqr", **LOOSE)
def _product(make):
    return [call(make(4, 3), make(3)), call(make(4, 3), make(2)), call(make(2, 3, 3), make(2, 3)),
            call(make(3, 2), make(0)), call(make(0, 0), make(0)), call(Strided(make(3, 3)), make(3))]  # fmt: skip


@samples("ormqr", "_ormqr", **LOOSE)
def _ormqr(make):
    return [
        call(make(4, 3), make(3), make(4, 2)),
        call(make(4, 3), make(3), make(4, 2), True, True),
        call(make(4, 3), make(3), make(2, 4), False),
        call(make(4, 3), make(3), make(2, 4), False, True),
        call(make(2, 3, 3), make(2, 3), make(2, 3, 3)),
    ]


@samples("geqrf", **LOOSE)
def _geqrf(make):
    return [call(make(4, 3)), call(make(2, 3, 4)), call(make(0, 3)), call(Strided(make(3, 3)))]


@samples("linalg_ldl_factor", "linalg_ldl_factor_ex", **LOOSE)
def _ldl(make):
    zeros = np.zeros((3, 3), make.dtype)
    zeros[2, 0] = zeros[0, 2] = 2
    return [call(symmetric(make, 4, 4)), call(symmetric(make, 2, 3, 3)), call(make(3, 3), hermitian=True),
            call(make(0, 0)), call(symmetric(make, 6, 6)), call(make(2, 0, 0))]  # fmt: skip


@samples("linalg_ldl_solve", **LOOSE)
def _ldl_solve(make):
    own = np.array([1, 2, 3], "int32")
    pairs = np.array([-3, -3, 3], "int32")
    return [call(make(3, 3), p, make(3, 2), hermitian=h) for p in (own, pairs) for h in (False, True)] + [
        call(make(2, 3, 3), np.stack([own, pairs]), make(2, 3, 1)), call(make(3, 3), own, make(2, 3, 2)),
        call(make(3, 3), own, make(3, 0))]  # fmt: skip


@samples("lu_solve", **LOOSE)
def _lu_solve(make):
    lu, pivots = make(3, 3) + 4 * np.eye(3, dtype=make.dtype), np.array([2, 3, 3], "int32")
    return [call(make(3, 2), lu.astype(make.dtype), pivots)]


@samples("_lu_with_info", **LOOSE)
def _lu_with_info(make):
    return [call(make(3, 3)), call(make(2, 3, 4))]


def definite(make, n):
    a = make(n, n)
    return (a @ a.T + np.diag(np.arange(n) * 3)).astype(make.dtype)


@samples(
    "_lobpcg",
    dtypes=("float64",),
    values=False,
    strides=False,
    differences=False,
    reason="signs are open and the matrix is symmetric: see tests/test_leftovers.py",
)
def _lobpcg(make):
    return [call(definite(make, 12), None, make(12, 2), None, 2, 100, 1e-12, True)]
