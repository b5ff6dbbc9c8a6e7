"""Inputs for factories."""

import farspan

from samples import Strided, call, samples

ANY = ("float32",)
_FILLS = {"grad": False, "reason": "a constant has no gradient"}


@samples("zeros", "ones", dtypes=ANY, **_FILLS)
def _sizes(make):
    return [call([2, 3]), call([]), call([0, 2]), call([2], dtype=farspan.int64),
            call([2], dtype=farspan.bfloat16)]  # fmt: skip


@samples("empty.memory_format", dtypes=ANY, values=False, **_FILLS)
def _empty(make):
    return _sizes(make)


@samples("zeros_like", "ones_like", **_FILLS)
def _like(make):
    return [
        call(make(2, 3)),
        call(make()),
        call(Strided(make(2, 3))),
        call(make(2), dtype=farspan.int32),
    ]


@samples("empty_like", values=False, **_FILLS)
def _empty_like(make):
    return _like(make)


@samples("new_zeros", "new_ones", **_FILLS)
def _new(make):
    return [call(make(2, 3), [4]), call(make(), []), call(make(2), [2, 2], dtype=farspan.int32)]


@samples("new_empty", values=False, **_FILLS)
def _new_empty(make):
    return _new(make)


@samples("full", dtypes=ANY, **_FILLS)
def _full(make):
    return [call([2, 3], v) for v in (1, 2.5, True, 1 + 2j)] + [
        call([2], 2.7, dtype=farspan.int64), call([], 3, dtype=farspan.float16)]  # fmt: skip


@samples("full_like", **_FILLS)
def _full_like(make):
    return [
        call(make(2, 3), 2),
        call(Strided(make(2, 3)), 1),
        call(make(2), 2.5, dtype=farspan.float64),
    ]


@samples("new_full", **_FILLS)
def _new_full(make):
    return [call(make(2, 3), [2], 2), call(make(2), [], 2.5, dtype=farspan.float64)]


@samples("scalar_tensor", dtypes=ANY, **_FILLS)
def _scalar_tensor(make):
    return [call(3), call(2.5), call(True), call(3, dtype=farspan.int64)]


@samples("empty_strided", dtypes=ANY, values=False, **_FILLS)
def _empty_strided(make):
    return [call([2, 3], [1, 2]), call([2, 3], [3, 1]), call([], []),
            call([5], [4]), call([2, 3], [0, 1]), call([2, 0], [3, 4]), call([3, 2], [1, 1])]  # fmt: skip


@samples("new_empty_strided", dtypes=ANY, values=False, **_FILLS)
def _new_empty_strided(make):
    return [call(make(2), [2, 3], [1, 2]), call(make(2), [2], [1], dtype=farspan.int32),
            call(make(2), [2, 0], [3, 4])]  # fmt: skip


@samples("empty_permuted", dtypes=ANY, values=False, **_FILLS)
def _empty_permuted(make):
    return [call([2, 3, 4], [2, 0, 1]), call([], []), call([2, 3], [0, 1], dtype=farspan.int32)]


@samples("fill.Scalar")
def _fill(make):
    return [call(make(2, 3), 2), call(make(), 1), call(Strided(make(2, 3)), 2.5)]


@samples("fill.Tensor")
def _fill_tensor(make):
    return [call(make(2, 3), make()), call(make(), make())]


@samples("zero")
def _zero(make):
    return [call(make(2, 3)), call(make()), call(Strided(make(2, 3)))]


@samples("arange", dtypes=ANY, **_FILLS)
def _arange(make):
    return [call(5), call(0), call(4.5), call(3, dtype=farspan.float32), call(2.7, dtype=farspan.int64),
            call(5, dtype=farspan.bfloat16), call(2.7, dtype=farspan.int32)]  # fmt: skip


@samples("arange.start", dtypes=ANY, **_FILLS)
def _arange_start(make):
    return [call(2, 5), call(0.5, 3), call(-2, 2, dtype=farspan.float64)]


@samples("arange.start_step", dtypes=ANY, **_FILLS)
def _arange_step(make):
    return [call(0, 10, 3), call(0, 1, 0.1), call(5, 0, -2), call(1.0, 2.0, 0.25), call(3, 3, 1),
            call(0, 5, 0), call(5, 0, 1), call(0, 5, 2.5, dtype=farspan.int64)]  # fmt: skip


@samples("linspace", dtypes=ANY, **_FILLS)
def _linspace(make):
    return [call(0, 1, 5), call(0, 10, 1), call(3.0, -2.0, 7), call(0, 1, 0), call(0, 7, 4, dtype=farspan.int64),
            call(-5, 5, 4, dtype=farspan.int32), call(0, 1, 50, dtype=farspan.float64)]  # fmt: skip


@samples("logspace", dtypes=ANY, **_FILLS)
def _logspace(make):
    return [call(0, 2, 5), call(-1, 1, 4, 2.0), call(0, 3, 4, dtype=farspan.int64), call(1, 2, 1)]


@samples("eye", dtypes=ANY, **_FILLS)
def _eye(make):
    return [call(3), call(0), call(2, dtype=farspan.int64)]


@samples("eye.m", dtypes=ANY, **_FILLS)
def _eye_m(make):
    return [call(3, 2), call(2, 4, dtype=farspan.bool)]


@samples("tril_indices", "triu_indices", dtypes=ANY, **_FILLS)
def _tril_indices(make):
    return [call(r, c, o) for r in (0, 1, 3, 5) for c in (0, 1, 4) for o in (-7, -2, -1, 0, 1, 2, 6)] + [
        call(3, 3, dtype=farspan.int32)]  # fmt: skip
