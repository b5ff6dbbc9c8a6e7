"""Inputs for sliding blocks."""

from samples import FLOATS, Strided, call, samples

_TYPES = (*FLOATS, "complex64", "bfloat16")


@samples("im2col", dtypes=_TYPES)
def _im2col(make):
    return [
        call(make(2, 3, 5, 6), [2, 3], [1, 1], [0, 0], [1, 1]),
        call(make(3, 5, 6), [3, 2], [1, 2], [1, 1], [2, 3]),
        call(make(0, 2, 4, 4), [2, 2], [1, 1], [0, 0], [2, 2]),
        *([] if make.dtype == "bfloat16" else
          [call(Strided(make(2, 3, 4, 4)), [2, 2], [1, 1], [0, 0], [1, 1])]),
    ]  # fmt: skip


@samples("col2im", dtypes=_TYPES)
def _col2im(make):
    return [
        call(make(2, 18, 16), [5, 6], [2, 3], [1, 1], [0, 0], [1, 1]),
        call(make(18, 6), [5, 6], [3, 2], [1, 2], [1, 1], [2, 3]),
    ]
