"""What benchmarks of single kernels share: their option, and calls that are timed in turn."""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from typing import Any

from farspan_worker import kernels


def rounds(doc: str | None) -> int:
    """Return the option --rounds; end the program where there are no fast kernels to measure."""
    parser = argparse.ArgumentParser(description=(doc or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    if kernels.missing():
        raise SystemExit(f"nothing to measure: {kernels.missing()}")
    return int(options.rounds)


def microseconds(
    call: Callable[[], Any], repeat: int, clock: Callable[[], float] = time.thread_time
) -> float:
    """Return the us of a call, of `repeat` in a row; of CPU time unless the clock is another."""
    begun = clock()
    for _ in range(repeat):
        call()
    return (clock() - begun) / repeat * 1e6


def in_turn(
    calls: Sequence[Callable[[], Any]],
    repeats: Sequence[int],
    count: int,
    clock: Callable[[], float] = time.thread_time,
) -> list[list[float]]:
    """Return the us of each call in `count` rounds, in which all of them run."""
    times: list[list[float]] = [[] for _ in calls]
    for _ in range(count):
        for call, repeat, each in zip(calls, repeats, times, strict=True):
            each.append(microseconds(call, repeat, clock))
    return times
