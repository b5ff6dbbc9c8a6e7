"""From which size on does a primitive gain by a second thread? Each size with one thread and two.

Wall time in us, medians of alternating rounds; a ratio below 1 says that two threads win. The bound
that follows is `ALONE` in kernels/cpu/onednn.py.

    python benchmarks/threads.py [--rounds 15]
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ["OMP_NUM_THREADS"] = "2"
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ["OPENBLAS_NUM_THREADS"] = "1"

import numpy as np
from farspan_worker.kernels.cpu import onednn
from farspan_worker.kernels.cpu.onednn import DST, INFERENCE, SRC, WEIGHTS, Kind, Route, plain
from in_turn import in_turn, rounds

_REPEAT = 20
_GELU = 49


def products() -> Iterator[tuple[str, int, Callable[[], tuple[Kind, list[Any]]]]]:
    """Yield products of matrices: label, elements, and what makes one."""
    for m, k, n in ((32, 64, 128), (32, 128, 512), (64, 512, 128), (64, 512, 512), (512, 512, 512)):

        def made(m: int = m, k: int = k, n: int = n) -> tuple[Kind, list[Any]]:
            a, b, c = plain((m, k)), plain((k, n)), plain((m, n))
            return Kind("matmul", a, b, None, c), [(SRC, a), (WEIGHTS, b), (DST, c)]

        yield f"matmul {m} x {k} x {n}", m * k + k * n + m * n, made


def maps() -> Iterator[tuple[str, int, Callable[[], tuple[Kind, list[Any]]]]]:
    """Yield maps of elements and softmaxes of rows."""
    for n in (1 << 14, 1 << 16, 1 << 18, 1 << 20):

        def gelu(n: int = n) -> tuple[Kind, list[Any]]:
            row, none = plain((n,)), onednn.number(0)
            kind = Kind("eltwise_forward", INFERENCE, _GELU, row, row, none, none)
            return kind, [(SRC, row), (DST, row)]

        def softmax(n: int = n) -> tuple[Kind, list[Any]]:
            x = plain((n // 128, 128, 1))
            kind = Kind("softmax_forward", INFERENCE, 0x30000, x, x, 1)
            return kind, [(SRC, x), (DST, x)]

        yield f"gelu {n:,}", 2 * n, gelu
        yield f"softmax {n:,}", 2 * n, softmax


def route(made: Callable[[], tuple[Kind, list[Any]]], alone: bool) -> Callable[[], None]:
    """Return a call of the primitive with one thread or all."""
    onednn.ALONE = (1 << 62, 1 << 62) if alone else (0, 0)  # type: ignore[misc]
    kind, slots = made()
    found = Route(kind, slots[:-1], slots[-1:])
    arrays = [np.ones(max(1, desc.numel), np.float32) for _, desc in slots]
    return lambda: found(*arrays)


def main() -> None:
    count = rounds(__doc__)
    print(f"{'primitive':28}{'elements':>10}{'one us':>9}{'two us':>9}{'two/one':>9}")
    for label, size, made in (*products(), *maps()):
        calls = [route(made, alone) for alone in (True, False)]
        times = in_turn(calls, [_REPEAT] * 2, count, time.perf_counter)
        one, two = map(statistics.median, times)
        ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
        print(f"{label:28}{size:10,}{one:9.1f}{two:9.1f}{ratio:9.2f}", flush=True)


if __name__ == "__main__":
    main()
