"""Inputs for quantiles, covariance and histograms."""

import numpy as np

from samples import Strided, call, samples

FLOATS = ("float32", "float64")


def with_nan(make, *shape):
    x = make(*shape)
    x.reshape(-1)[1] = np.nan
    return x


def levels(make):
    return np.array([0.1, 0.5, 1.0]).astype(make.dtype)


@samples("quantile", "nanquantile", dtypes=FLOATS)
def _quantile(make):
    q = levels(make)
    return [
        call(make(7), q), call(make(3, 4), q, 1), call(make(3, 4), q, 0, True), call(make(3, 4), q, None, True),
        call(make(3, 4), q[1].reshape(()), -1), call(with_nan(make, 3, 4), q, 1), call(make(), q),
        call(Strided(make(3, 4)), q, 0), *[call(make(3, 4), q, 1, interpolation=i) for i in
                                           ("lower", "higher", "midpoint", "nearest")],
    ]  # fmt: skip


@samples("quantile.scalar", "nanquantile.scalar", dtypes=FLOATS)
def _quantile_scalar(make):
    return [call(make(7), 0.25), call(make(2, 3, 4), 0.5, 1), call(make(3, 4), 0.9, 0, True),
            call(make(3, 4), 0.3, None, True), call(with_nan(make, 3, 4), 0.5, 1), call(make(), 0.5)]  # fmt: skip


@samples("cov", dtypes=("uint8", "int64", "float32", "float64", "complex64"), rtol=1e-4, atol=1e-5,
         second=False, reason="with one sample all is zero by zero")  # fmt: skip
def _cov(make):
    weights = np.array([0.5, 1, 2, 0.25])
    return [
        call(make(4)), call(make(3, 4)), call(make(3, 4), correction=0), call(make(3, 4), correction=2),
        call(make(3, 4), fweights=np.array([1, 0, 2, 3])), call(make(3, 4), aweights=weights),
        call(make(3, 4), fweights=np.array([1, 0, 2, 3]), aweights=weights), call(make()),
        call(Strided(make(3, 4))),
    ]  # fmt: skip


@samples("corrcoef", dtypes=("int64", "float32", "float64", "complex64"), rtol=1e-4, atol=1e-5)
def _corrcoef(make):
    return [call(make(4)), call(make(3, 5)), call(Strided(make(3, 4)))]


@samples("histc", dtypes=FLOATS)
def _histc(make):
    return [call(make(30)), call(make(30), 7), call(make(4, 5), 5, -1, 2), call(make(0), 3),
            call(np.ones(3, make.dtype), 4), call(make(9), 3, 2, 2)]  # fmt: skip


def edges(make):
    return np.array([-3, -1, 0, 0.5, 2], make.dtype)


@samples(
    "histogram.bins_tensor", dtypes=FLOATS, grad=False, reason="torch has no derivative either"
)
def _histogram(make):
    return [call(make(20), edges(make)), call(make(4, 5), edges(make), density=True),
            call(make(20), edges(make), weight=make(20))]  # fmt: skip


@samples("histogram.bin_ct", dtypes=FLOATS, grad=False, reason="torch has no derivative either")
def _histogram_count(make):
    return [call(make(20)), call(make(20), 5), call(make(4, 5), 5, range=(-1.0, 2.0)), call(make(0), 2),
            call(make(20), 5, weight=make(20), density=True), call(np.ones(3, make.dtype), 2)]  # fmt: skip


POINTS = {"dtypes": FLOATS, "grad": False, "reason": "torch has no derivative either"}


@samples("histogramdd", "_histogramdd_from_bin_cts", **POINTS)
def _histogramdd(make):
    return [call(make(9, 2), (2, 3)), call(make(2, 5, 2), (3, 1), range=(-1.0, 1.0, 0.0, 2.0)),
            call(make(9, 2), (2, 3), weight=make(9), density=True)]  # fmt: skip


@samples("_histogramdd_bin_edges", **POINTS)
def _edges(make):
    return [call(make(9, 2), (2, 30)), call(make(9, 2), (2, 3), range=(-1.0, 1.0, 0.0, 2.0))]


@samples("histogramdd.int_bins", **POINTS)
def _histogramdd_int(make):
    return [call(make(9, 2), 3)]


@samples("histogramdd.TensorList_bins", "_histogramdd_from_bin_tensors", **POINTS)
def _histogramdd_edges(make):
    return [call(make(9, 2), [edges(make), edges(make)[1:]]),
            call(make(9, 2), [edges(make), edges(make)[1:]], weight=make(9), density=True)]  # fmt: skip


@samples("_functional_assert_async.msg", dtypes=("float32",))
def _asserted(make):
    return [call(np.array(True), "never", make(3))]


@samples("hash_tensor", dtypes=("float32", "float64", "bfloat16", "int64", "bool", "uint8"))
def _hash_tensor(make):
    x = make(2, 3)
    return [call(x), call(x, [0]), call(x, [-1], keepdim=True), call(make()), call(make(2, 0), [0]),
            call(Strided(x)), call(x, [0, 1], mode=0)]  # fmt: skip
