"""Inputs for reductions by index and segment, renorm, norms, nonzero_static."""

import numpy as np

from samples import Strided, call, samples
from samples.decompose import LOOSE

FLOATS = ("float32", "float64")


@samples("index_reduce", rtol=1e-4, atol=1e-5, half=(1e-2, 1e-2),
         reason="torch rounds halves after each of several elements")  # fmt: skip
def _index_reduce(make):
    index = np.array([2, 0, 2])
    calls = []
    for reduce in ("prod", "mean", "amax", "amin"):
        for kept in (True, False):
            calls.append(call(make(4, 3), 0, index, make(3, 3), reduce, include_self=kept))
    return [*calls, call(Strided(make(3, 4)), -1, index, make(3, 3), "amax"),
            call(make(), 0, np.array(0), make(), "prod"), call(make(3, 2), 0, index[:0], make(0, 2), "amin")]  # fmt: skip


@samples("segment_reduce", dtypes=FLOATS, second=False, reason="torch has no second derivative")
def _segment_reduce(make):
    lengths = np.array([2, 0, 3])
    calls = []
    for reduce in ("sum", "mean", "max", "min", "prod"):
        calls += [
            call(make(5, 2), reduce, lengths=lengths[[0, 2]]),
            call(make(5), reduce, lengths=lengths, initial=10 if reduce == "max" else -10),
            call(make(2, 3), reduce, lengths=np.array([[1, 2], [3, 0]]), axis=1, initial=1.5),
            call(make(5), reduce, offsets=np.array([0, 2, 5])),
        ]
    return [*calls, call(make(5), "sum", lengths=lengths[:1], unsafe=True),
            call(make(5), "mean", lengths=lengths), call(make(5), "sum", offsets=np.array([1, 2, 4]))]  # fmt: skip


@samples("_segment_ids", dtypes=("int64", "int32"))
def _segment_ids(make):
    lengths = np.array([[2, 0, 3], [1, 4, 0]], make.dtype)
    return [call(lengths, 5, False, False), call(np.array([1, 2, 4], make.dtype), 6, True, True)]


@samples(
    "renorm",
    dtypes=("float16", "bfloat16", "float32", "float64", "complex64"),
    rtol=1e-4,
    atol=1e-5,
)
def _renorm(make):
    return [call(make(3, 4), 2, 0, 2.5), call(make(2, 3, 4), 1, 1, 5), call(make(3, 4), 3.5, -1, 100),
            call(Strided(make(3, 4)), 2, 1, 0.5), call(make(3, 0), 2, 0, 1)]  # fmt: skip


@samples("nuclear_norm", **LOOSE)
def _nuclear(make):
    return [call(make(3, 4)), call(make(3, 4), True)]


@samples("nuclear_norm.dim", **LOOSE)
def _nuclear_dim(make):
    return [call(make(2, 3, 4), (0, 1)), call(make(2, 3, 4), (0, 2), True)]


@samples("frobenius_norm.dim", **LOOSE)
def _frobenius(make):
    return [call(make(3, 4), (0, 1)), call(make(3, 4), (1,), True), call(make(3, 4), ())]


@samples("nonzero_static")
def _nonzero_static(make):
    return [call(make(3, 4), size=2), call(make(3, 4), size=20, fill_value=7), call(make(), size=2),
            call(make(0), size=1), call(make(3), size=0)]  # fmt: skip
