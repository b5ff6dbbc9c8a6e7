"""Inputs for sorting, searching and counting. Distinct values where torch leaves ties open."""

import numpy as np

from samples import BFloat16, Strided, call, samples

REAL = ("uint8", "int32", "int64", "float16", "bfloat16", "float32", "float64")


def distinct(make, *shape):
    """Return an array without equal values, in a random order."""
    n = int(np.prod(shape))
    values = make.rng.permutation(n).reshape(shape)
    if make.dtype == "bfloat16":
        return BFloat16(values.astype(np.float32))
    return values.astype(make.dtype)


@samples("sort", "argsort", dtypes=REAL)
def _sort(make):
    return [call(distinct(make, 3, 5)), call(distinct(make, 3, 5), 0, True), call(make()), call(make(0)),
            call(Strided(distinct(make, 3, 4)), 1), call(distinct(make, 2, 3, 2), -2)]  # fmt: skip


@samples("sort.stable", "argsort.stable", dtypes=(*REAL, "bool"))
def _sort_stable(make):
    nan = [np.array([1, np.nan, -1, np.nan, 2], make.dtype)] if make.dtype == "float32" else []
    return [call(make(20), stable=True), call(make(20), stable=True, descending=True),
            call(make(3, 5), stable=True, dim=0, descending=True)] + [
        call(x, stable=True, descending=d) for x in nan for d in (False, True)]  # fmt: skip


@samples("msort", dtypes=REAL)
def _msort(make):
    return [call(distinct(make, 3, 5)), call(make(4))]


@samples("topk", dtypes=REAL)
def _topk(make):
    return [
        call(distinct(make, 3, 5), 2), call(distinct(make, 3, 5), 2, 0), call(distinct(make, 30), 3),
        call(distinct(make, 3, 5), 2, -1, False), call(distinct(make, 2, 20), 3, -1, False), call(make(), 1),
        call(distinct(make, 4), 4), call(distinct(make, 4), 0), call(Strided(distinct(make, 3, 5)), 1),
    ]  # fmt: skip


@samples("kthvalue", dtypes=REAL)
def _kthvalue(make):
    return [call(distinct(make, 3, 5), 2), call(distinct(make, 3, 5), 1, 0, True), call(make(), 1),
            call(Strided(distinct(make, 3, 5)), 2)]  # fmt: skip


BOUNDS = np.array([-2.0, -0.5, 0.0, 1.0, 1.0, 2.5])


@samples("bucketize.Tensor", dtypes=REAL)
def _bucketize(make):
    bounds = BOUNDS.astype(
        make.dtype if "int" in make.dtype[-5:] and make.dtype != "uint8" else "float32"
    )
    return [call(make(3, 4), bounds), call(make(5), bounds, right=True), call(make(5), bounds, out_int32=True),
            call(make(), bounds), call(Strided(make(2, 3)), bounds)]  # fmt: skip


@samples("bucketize.Scalar", dtypes=("float32",))
def _bucketize_scalar(make):
    return [call(1.0, BOUNDS), call(1, BOUNDS, right=True)]


@samples("searchsorted.Tensor", dtypes=("float32", "float64"))
def _searchsorted(make):
    rows = np.sort(np.random.default_rng(1).uniform(-3, 3, (2, 6)), -1).astype(make.dtype)
    one = BOUNDS.astype(make.dtype)
    return [call(one, make(3, 4)), call(rows, make(2, 3)), call(one, make(4), right=True),
            call(one, make(4), side="right"), call(rows, make(2, 3), out_int32=True),
            call(one[::-1].copy(), make(3), sorter=np.arange(6)[::-1].copy())]  # fmt: skip


@samples("searchsorted.Scalar", dtypes=("float64",))
def _searchsorted_scalar(make):
    return [call(BOUNDS, 1.0), call(BOUNDS, 1.0, side="right")]


@samples("isin.Tensor_Tensor", dtypes=REAL)
def _isin(make):
    return [
        call(make(3, 4), make(5)),
        call(make(3), make(2, 2), invert=True),
        call(make(), make(3)),
    ]


@samples("isin.Tensor_Scalar", dtypes=REAL)
def _isin_scalar(make):
    return [call(make(3, 4), 1), call(make(4), 0, invert=True)]


@samples("isin.Scalar_Tensor", dtypes=REAL)
def _scalar_isin(make):
    return [call(1, make(4))]


@samples("bincount", dtypes=("uint8", "int32", "int64"))
def _bincount(make):
    x = make.ints(9).astype(make.dtype)
    return [call(x), call(x, minlength=8), call(x, np.linspace(0, 1, 9).astype("float32")),
            call(x, np.arange(9)), call(x[:0])]  # fmt: skip


@samples("repeat_interleave.Tensor", dtypes=("int32", "int64"))
def _repeats(make):
    x = np.array([1, 0, 3]).astype(make.dtype)
    return [call(x), call(x, output_size=4)]


@samples("_unique2", dtypes=("bool", "uint8", "int64", "float32", "bfloat16"))
def _unique(make):
    return [call(make(3, 4), True, i, c) for i in (False, True) for c in (False, True)] + [
        call(make(0)),
        call(make()),
    ]


@samples("unique_dim", dtypes=("int64", "float32"), strides=False,
         reason="torch transposes in memory; a dynamic result of ours is contiguous")  # fmt: skip
def _unique_dim(make):
    x = make(4, 3)
    x[1] = x[3]
    return [call(x, 0, True, True, True), call(x, 1, True, True, True), call(x, 0)]


@samples("unique_consecutive", dtypes=("bool", "int64", "float32"))
def _unique_consecutive(make):
    x = make(4, 3)
    x[1] = x[2]
    return [
        call(make(9)),
        call(make(9), True, True),
        call(x, True, True, 0),
        call(x, True, True),
        call(make(0)),
    ]
