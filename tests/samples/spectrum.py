"""Inputs for orthogonal factors, norms and distances. Vectors up to a sign: tests/test_linalg.py."""

import numpy as np

from samples import Strided, call, samples
from samples.decompose import LOOSE, square

FACTORS = {
    **LOOSE,
    "values": False,
    "grad": False,
    "reason": "signs and phases are LAPACK's choice",
}


@samples("linalg_qr", **LOOSE)
def _qr(make):
    shapes = [(4, 3), (3, 3), (2, 4, 3), (3, 5)]
    calls = [call(make(*s)) for s in shapes]
    return [*calls, call(make(3, 4), "complete")]


@samples("qr", **LOOSE)
def _old_qr(make):
    return [call(make(4, 3)), call(make(3, 3), False)]


@samples("_linalg_svd", **FACTORS)
def _inner_svd(make):
    return [call(make(4, 3)), call(make(2, 3, 4), True), call(make(3, 4), False, False)]


@samples("linalg_svd", "svd", **FACTORS)
def _svd(make):
    return [call(make(4, 3)), call(make(2, 3, 4)), call(make(3, 3), False)]


@samples("linalg_svdvals", **LOOSE)
def _svdvals(make):
    return [call(make(4, 3)), call(make(2, 3, 4)), call(Strided(make(3, 3)))]


@samples("_linalg_eigh", "linalg_eigh", **FACTORS)
def _eigh(make):
    return [call(square(make, 3, 3)), call(square(make, 2, 3, 3), "U")]


@samples("linalg_eigvalsh", differences=False, **LOOSE)
def _eigvalsh(make):
    a = square(make, 2, 3, 3)
    return [call(a + np.conj(np.swapaxes(a, -1, -2)))]


@samples("linalg_eig", **FACTORS)
def _eig(make):
    return [call(make(3, 3)), call(make(2, 3, 3))]


@samples("linalg_eigvals", **FACTORS)
def _eigvals(make):
    return [call(make(3, 3))]


@samples("linalg_matrix_rank.atol_rtol_float", **LOOSE)
def _rank(make):
    low = np.ones((3, 4)).astype(make.dtype)
    hermitian = np.diag([1, 0, 2]).astype(make.dtype)
    return [
        call(make(2, 3, 4)),
        call(low),
        call(make(3, 4), rtol=0.9),
        call(hermitian, hermitian=True),
        call(make(0, 3)),
    ]


@samples("linalg_matrix_rank", **LOOSE)
def _old_rank(make):
    return [call(make(3, 4), 1.0)]


@samples("linalg_pinv.atol_rtol_float", **LOOSE)
def _pinv(make):
    return [call(make(3, 4)), call(make(2, 4, 3)), call(square(make, 3, 3)), call(make(0, 3))]


@samples("linalg_pinv", "pinverse", **LOOSE)
def _old_pinv(make):
    return [call(make(3, 4), 1e-7)]


@samples("linalg_lstsq", strides=False, **LOOSE)
def _lstsq(make):
    return [
        call(make(4, 3), make(4, 2)),
        call(make(3, 4), make(3, 2)),
        call(make(2, 4, 3), make(2, 4, 2)),
    ]


@samples("linalg_matrix_norm", **LOOSE)
def _matrix_norm(make):
    orders = (1, -1, 2, -2, float("inf"), -float("inf"))
    calls = [call(make(3, 4), p) for p in orders]
    calls += [call(make(2, 3, 4), p, (0, 2), True) for p in orders]
    return [*calls, call(make(2, 3, 4), 2, (2, 0))]


@samples("linalg_matrix_norm.str_ord", "linalg_norm.ord_str", **LOOSE)
def _named_norm(make):
    return [call(make(3, 4), "fro"), call(make(2, 3, 4), "nuc", (0, 1), True)]


@samples("linalg_norm", **LOOSE)
def _norm(make):
    return [
        call(make(2, 3, 4)),
        call(make(2, 3, 4), keepdim=True),
        call(make(3, 4), None, 1),
        call(make(3, 4), 1),
        call(make(3), 3),
        call(make(2, 3, 4), 2, (0, 1)),
        call(make(2, 3, 4), float("inf"), 1),
    ]


@samples("linalg_cond", **LOOSE)
def _cond(make):
    return [
        call(square(make, 3, 3)),
        call(make(3, 4), -2),
        call(square(make, 2, 3, 3), 1),
        call(square(make, 3, 3), float("inf")),
    ]


@samples("linalg_cond.p_str", **LOOSE)
def _named_cond(make):
    return [call(square(make, 3, 3), "fro"), call(square(make, 3, 3), "nuc")]


@samples("cdist", dtypes=("float32", "float64"), rtol=1e-4, atol=1e-4, reason="one product")
def _cdist(make):
    calls = [call(make(3, 4), make(2, 4), p) for p in (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)]
    calls.append(call(make(3, 4), make(2, 4), float("inf")))
    calls += [call(make(30, 4), make(5, 4)), call(make(2, 3, 4), make(5, 4))]
    return calls


@samples("_cdist_forward", dtypes=("float32", "float64"), second=False, rtol=1e-4, atol=1e-4,
         reason="torch has no second derivative")  # fmt: skip
def _cdist_forward(make):
    return [call(make(3, 4), make(2, 4), p, None) for p in (1.0, 1.5, 2.0, 3.0)]


@samples("cosine_similarity", dtypes=("float32", "float64"))
def _cosine_similarity(make):
    return [call(make(3, 4), make(3, 4)), call(make(3, 4), make(4), -1), call(make(3), make(3), 0)]


@samples("pairwise_distance", dtypes=("float32", "float64"))
def _pairwise_distance(make):
    return [call(make(3, 4), make(3, 4)), call(make(3, 4), make(4), 1.0, keepdim=True)]


@samples("trace")
def _trace(make):
    return [call(make(3, 3)), call(make(2, 4)), call(make(0, 3))]


@samples("linalg_diagonal")
def _diagonal(make):
    return [call(make(2, 3, 4)), call(make(2, 3, 4), offset=1, dim1=0, dim2=1)]


@samples("linalg_tensorsolve", **LOOSE)
def _tensorsolve(make):
    return [call(make(2, 3, 6), make(2, 3)), call(make(6, 2, 3), make(2, 3), (0,))]


@samples("linalg_tensorinv", **LOOSE)
def _tensorinv(make):
    return [call(make(2, 3, 6)), call(make(6, 2, 3), 1)]


@samples("linalg_matrix_exp", "matrix_exp", **LOOSE)
def _matrix_exp(make):
    return [call(make(3, 3)), call(make(2, 3, 3)), call(make(2, 2, low=-9, high=9)),
            call(make(0, 0))]  # fmt: skip
