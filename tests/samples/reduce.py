"""Inputs for reductions, scans and softmax that the defaults do not suit."""

from __future__ import annotations

import numpy as np
from farspan.core.op import table

from samples import FLOATS, BFloat16, Strided, call, reduction_calls, samples


def distinct(make, *shape):
    """Return an array without ties, in no order."""
    n = int(np.prod(shape))
    values = np.random.default_rng(11).permutation(n).reshape(shape)
    if make.dtype == "bfloat16":
        return BFloat16(values.astype("float32"))
    return np.asarray(values / 4 if make.is_floating else values).astype(make.dtype)


@samples("cumsum", "cumprod")
def _scans(make):
    return [
        call(make(3, 4), 0), call(make(3, 4), -1), call(make(2, 3, 4), 1), call(make(), 0),
        call(make(0, 3), 0), call(Strided(make(3, 4)), 1), call(make(3, 4), 0, dtype=None),
    ]  # fmt: skip


@samples("_reversed_cumsum", dtypes=("int64", *FLOATS, "complex64"))
def _reversed_scan(make):
    return [call(make(3, 4), 0), call(make(2, 3, 4), -2), call(make(0, 3), 1)]


@samples("cummax", "cummin")
def _plain_scans(make):
    return [
        call(make(3, 4), 0), call(make(3, 4), -1), call(make(2, 3, 4), 1), call(make(), 0),
        call(make(0, 3), 1), call(Strided(make(3, 4)), 1),
    ]  # fmt: skip


@samples(
    "logcumsumexp",
    dtypes=(*FLOATS, "complex64"),
    reason="torch rounds half precision after each step",
)
def _logcumsumexp(make):
    return [call(make(3, 4), 0), call(make(3, 4), -1), call(make(), 0), call(make(2, 3, 2), 1),
            call(Strided(make(3, 4)), 1)]  # fmt: skip


@samples(
    "_softmax",
    "_log_softmax",
    dtypes=("bfloat16", *FLOATS),
    reason="torch rounds the logarithm of float16 sums before it subtracts it",
)
def _softmax(make):
    return [
        call(make(3, 4), 1, False), call(make(3, 4), 0, False), call(make(2, 3, 4), -2, False),
        call(make(), 0, False), call(make(0, 3), 1, False), call(Strided(make(3, 4)), 1, False),
    ]  # fmt: skip


@samples("softmax.int", "log_softmax.int", dtypes=("bfloat16", *FLOATS))
def _softmax_int(make):
    return [call(make(3, 4), 1), call(make(2, 3, 4), 1), call(make(), -1)]


@samples("_softmax_backward_data", "_log_softmax_backward_data", dtypes=FLOATS)
def _softmax_backward(make):
    import farspan

    dtype = getattr(farspan, make.dtype)
    return [
        call(make(3, 4), make(3, 4, low=0.1, high=0.9), 1, dtype),
        call(make(2, 3, 4), make(2, 3, 4, low=0.1, high=0.9), 1, dtype),
        call(make(), make(), 0, dtype),
    ]


@samples("value_selecting_reduction_backward")
def _selecting(make):
    return [
        call(make(3), 1, make.ints(3, high=4), (3, 4), False),
        call(make(1, 4), 0, make.ints(1, 4, high=3), (3, 4), True),
        call(make(), 0, make.ints(high=1), (), False),
    ]


@samples("median.dim", "nanmedian.dim", "max.dim", "min.dim")
def _indexed(make):
    return [
        call(distinct(make, 3, 4), 0), call(distinct(make, 3, 4), -1, True),
        call(distinct(make, 2, 3, 5), 1), call(distinct(make), 0),
        call(Strided(distinct(make, 3, 5)), 1), call(distinct(make, 0, 3), 1),
    ]  # fmt: skip


@samples("norm.Scalar")
def _norm(make):
    return [call(make(3, 4), p) for p in (2, 1, 3, 0.5, 0, np.inf)] + [call(make()), call(make(5))]


@samples("norm.ScalarOpt_dim")
def _norm_dim(make):
    return [call(make(2, 3, 4), p, d, k) for p in (2, None, 1, np.inf) for d in ((1,), (0, 2))
            for k in (False, True)]  # fmt: skip


@samples("norm.ScalarOpt_dim_dtype", dtypes=("float32",))
def _norm_dim_dtype(make):
    import farspan

    return [call(make(3, 4), 2, (1,), False, dtype=farspan.float64)]


@samples("norm.ScalarOpt_dtype", dtypes=("float32",))
def _norm_dtype(make):
    import farspan

    return [call(make(3, 4), 1, dtype=farspan.float64)]


@samples("linalg_vector_norm")
def _vector_norm(make):
    ords = (2, 1, 0, 3, 1.5, 0.5, np.inf, -np.inf)
    return [call(make(2, 3, 4), p, dim, k) for p in ords for dim, k in ((None, False), (1, True))] + [
        call(make()), call(make(3, 4), 2, (0, 1), True), call(Strided(make(3, 4)), 2, (1,)),
        call(make(0)),
    ]  # fmt: skip


@samples("dist")
def _dist(make):
    return [call(make(3, 4), make(3, 4), p) for p in (2, 1, np.inf)] + [call(make(3, 4), make(4))]


@samples("var", "std", "var_mean", "std_mean")
def _var(make):
    return [call(make(3, 4)), call(make(5), False), call(make(2, 3), unbiased=True)]


@samples("var.dim", "std.dim", "var_mean.dim", "std_mean.dim")
def _var_dim(make):
    return [
        call(make(3, 4), (1,)),
        call(make(2, 3, 4), (0, 2), False, True),
        call(make(3, 4), None),
    ]


@samples("var.correction", "std.correction", "var_mean.correction", "std_mean.correction")
def _var_correction(make):
    return [
        call(make(3, 4)), call(make(3, 4), (1,), correction=0), call(make(3, 4), (0,), keepdim=True),
        call(make(2, 3, 4), (0, 2), correction=2), call(Strided(make(3, 4)), (1,)),
        call(make(3, 4), None, correction=0.5),
    ]  # fmt: skip


@samples("nanmean")
def _nanmean(make):
    return [call(make(3, 4)), call(make(3, 4), (1,), True), call(make())]


@samples("max.other", "min.other")
def _other(make):
    return [call(make(3, 4), make(4)), call(make(), make())]


@samples("count_nonzero.dim_IntList")
def _count(make):
    return [call(make(3, 4), (0, 1)), call(make(2, 3, 4), (1,)), call(make(0, 3), (0,))]


@samples(
    "logsumexp",
    dtypes=("int64", *FLOATS, "complex64"),
    reason="torch rounds half precision between its steps",
)
@samples("amax", "amin", dtypes=("bool", "uint8", "int64", "float16", "bfloat16", *FLOATS))
@samples("mean.dim", "sum.dim_IntList")
def _with_edges(make):
    name = "sum.dim_IntList"
    return [*reduction_calls(table()[name], make), call(make(), 0), call(make(0, 3), 1),
            call(make(2, 0), 1), call(make(3, 4), ())]  # fmt: skip
