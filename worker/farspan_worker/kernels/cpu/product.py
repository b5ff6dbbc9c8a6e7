"""Products of matrices by oneDNN: the table's own kernels over a namespace whose matmul is faster.

Measured by benchmarks/kernels.py, fast / OpenBLAS / torch's MKL in ms, on AVX-512 of AMD's, for
which both of these take AVX2: 1024^3 10.0 / 18.2 / 21.4; a linear layer 784 -> 512 of 64 rows 0.26
/ 0.48 / 0.53; 32 of 128 x 64 x 128 0.30 / 0.63 / 0.77, and as heads of (8, 128, 4, 64), where they
lie, 0.36 / 0.66 / 1.06. On Intel's the three were within 7%.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from farspan.core.op import table

from .. import Fast, Registry, single
from .onednn import BIAS, DST, SRC, WEIGHTS, Kind, Route, cached, plain

#: Multiplications below which a call of BLAS is done before oneDNN's has begun.
_SMALL: Final = 1 << 20
_NARROW: Final = 8  # columns
_NAMES: Final = ("mm", "bmm", "_batched_mm", "addmm", "baddbmm", "_contract")
DIMS_MAX: Final = 6  # of batches and matrices that the library is asked to multiply


class _Namespace:
    """numpy, but for matmul."""

    def __getattr__(self, name: str) -> Any:
        return getattr(np, name)

    @staticmethod
    def matmul(a: Any, b: Any) -> Any:
        """Return a @ b, of matrices or equally many of them; float32 goes to oneDNN if large."""
        if a.ndim != b.ndim or a.dtype != np.float32 or b.dtype != np.float32:
            return np.matmul(a, b)
        if not 2 <= a.ndim <= DIMS_MAX or a.shape[:-2] != b.shape[:-2]:
            return np.matmul(a, b)
        if not is_large(a.shape, b.shape):
            return np.matmul(a, b)
        return multiply(a, b)


FAST_NUMPY: Final = _Namespace()


def is_large(a: Sequence[int], b: Sequence[int]) -> bool:
    """Return whether oneDNN multiplies matrices of these shapes sooner than BLAS does.

    Measured by benchmarks/gemm.py: eagerly from a million multiplications on (bound to addresses at
    any size, at half of BLAS's time); by a vector never (2.5 to 6 times), by 8 columns hardly.
    """
    return math.prod(a) * b[-1] >= _SMALL and a[-2] > 1 and b[-1] > _NARROW


def folded(shape: Sequence[int]) -> tuple[int, int]:
    """Return the shape of a linear layer's input as rows."""
    return math.prod(shape[:-1]), shape[-1]


def multiply(a: Any, b: Any, bias: Any = None) -> Any:
    """Return a @ b (+ bias, a row) for float32 arrays with equal batches, none empty.

    Batches may lie at any steps: heads of attention are multiplied where they are.
    """
    a, b = _placed(a), _placed(b)
    out = np.empty((*a.shape[:-1], b.shape[-1]), np.float32)
    route = _route(a.shape, a.strides, b.shape, b.strides, bias is not None)
    if bias is None:
        route(a, b, out)
    else:
        route(a, b, np.ascontiguousarray(bias), out)
    return out


def _placed(x: Any) -> Any:
    """Return x, or a copy, as matrices of dense rows or dense columns that do not overlap."""
    rows, columns = x.strides[-2:]
    size = x.itemsize
    if not all(x.strides[:-2]):  # an expanded batch
        return np.ascontiguousarray(x)
    if columns == size and rows >= size * x.shape[-1]:
        return x
    if rows == size and columns >= size * x.shape[-2]:
        return x
    return np.ascontiguousarray(x)


@cached
def _route(
    a: Sequence[int], a_strides: Sequence[int], b: Sequence[int], b_strides: Sequence[int],
    has_bias: bool,
) -> Route:  # fmt: skip
    left, right = plain(a, [s // 4 for s in a_strides]), plain(b, [s // 4 for s in b_strides])
    shape = (*a[:-1], b[-1])
    out = plain(shape)
    row = plain((*[1] * (len(a) - 1), b[-1])) if has_bias else None
    kind = Kind("matmul", left, right, row, out)
    bias = [(BIAS, row)] if row is not None else []
    return Route(kind, [(SRC, left), (WEIGHTS, right), *bias], [(DST, out)])


def _linear(xp: Any, input: Any, weight: Any, bias: Any) -> Any:
    """As the table's, with a bias added while the product is in cache."""
    rows = input.reshape(-1, input.shape[-1])
    if bias is not None and bias.shape == weight.shape[:1]:
        out = multiply(rows, weight.T, bias)
    else:
        out = multiply(rows, weight.T)
    out = out.reshape(*input.shape[:-1], weight.shape[0])
    if bias is not None and bias.shape != weight.shape[:1]:
        out += bias
    return out


def register(registry: Registry) -> None:
    """Enter the products; a small one goes to BLAS, which is done before oneDNN has begun."""
    ops = table()
    for name in _NAMES:
        kernel = ops[name].kernel
        registry[name] = Fast(
            lambda xp, *args, kernel=kernel: kernel(FAST_NUMPY, *args),
            lambda *args: single(*[a for a in args if hasattr(a, "dtype")]),
        )
    registry["linear"] = Fast(
        _linear,
        lambda input, weight, bias: (
            single(input, weight, bias)
            and weight.ndim == 2
            and is_large(folded(input.shape), weight.shape[::-1])
        ),
    )
