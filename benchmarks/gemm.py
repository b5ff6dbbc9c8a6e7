"""Which library multiplies matrices sooner, by shape? BLAS, or oneDNN by eager routes and bound.

Microseconds of the thread's CPU, one thread, medians of alternating rounds. `_SMALL` in
kernels/cpu/product.py, the multiplications from which oneDNN is asked, follows from this table.

    python benchmarks/gemm.py [--rounds 15]
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from farspan_worker.kernels.cpu import product
from farspan_worker.kernels.cpu.bound import Binding, Operand
from farspan_worker.kernels.cpu.onednn import DST, SRC, WEIGHTS, Kind, plain
from in_turn import in_turn, microseconds, rounds

SHAPES = [
    (32, 64, 128), (128, 32, 64), (32, 128, 10), (64, 512, 10), (64, 64, 64), (512, 64, 10),
    (32, 128, 128), (1, 1024, 1024), (2, 1024, 1024), (4, 1024, 1024), (8, 1024, 1024),
    (1024, 1024, 1), (1024, 1024, 4), (1024, 1024, 8), (32, 128, 512), (512, 32, 128),
    (64, 512, 512), (512, 64, 784), (1024, 16, 64), (2000, 64, 64),
    (1024, 256, 256), (1024, 1024, 256), (512, 512, 512),
]  # fmt: skip
_SECONDS = 0.002  # a cell repeats its call until it has taken this long


def bound(a: Any, b: Any, out: Any) -> Callable[[], Any]:
    """Return the product as a program's step has it."""
    arrays = (a, b, out)
    operands = [
        Operand(plain(x.shape, [s // 4 for s in x.strides]), i, shape=x.shape)
        for i, x in enumerate(arrays)
    ]
    binding = Binding(operands[:2], operands[2:])
    x, y, z = (o.desc for o in operands)
    kind = Kind("matmul", x, y, None, z)
    binding.add(kind, {SRC: operands[0], WEIGHTS: operands[1]}, {DST: operands[2]})
    made = binding.bound()
    scratch = np.empty(made.scratch_bytes + 64, np.uint8)
    for slot, array in enumerate(arrays):
        made.place(slot, array.ctypes.data)
    made.place_scratch(scratch.ctypes.data + -scratch.ctypes.data % 64)
    function, arguments = made.steps[-1]
    return lambda: (function(*arguments), scratch, made)


def main() -> None:
    count = rounds(__doc__)
    print(f"{'m x k x n (b as b.T)':26}{'millions':>9}{'numpy':>9}{'oneDNN':>9}{'bound':>9}"
          f"{'/numpy':>8}{'/numpy':>8}")  # fmt: skip
    for turned in (False, True):
        for m, k, n in SHAPES:
            a, out = np.ones((m, k), np.float32), np.empty((m, n), np.float32)
            b = np.ones((n, k), np.float32).T if turned else np.ones((k, n), np.float32)
            calls = [
                lambda a=a, b=b, out=out: np.matmul(a, b, out),
                lambda a=a, b=b: product.multiply(a, b),
                bound(a, b, out),
            ]
            repeat = [max(1, int(_SECONDS * 1e6 / max(microseconds(c, 3), 0.1))) for c in calls]
            times = in_turn(calls, repeat, count)
            blas, route, fixed = map(statistics.median, times)
            label = f"{m} x {k} x {n}{' T' if turned else ''}"
            print(f"{label:26}{m * k * n / 1e6:9.2f}{blas:9.1f}{route:9.1f}{fixed:9.1f}"
                  f"{route / blas:8.2f}{fixed / blas:8.2f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
