"""Where a program's own memories lie: one block, places shared by what is never alive together.

A memory is alive from the first step that fills it to the last that looks at it. Larger ones are
placed first, each at the lowest place that no memory alive at the same time has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from .graph import Memory, Step

ALIGNMENT: Final = 64  # bytes: a cache line, and a vector of AVX-512


@dataclass(frozen=True, slots=True)
class Life:
    """The first and the last step that touch a memory."""

    first: int
    last: int


def lives(steps: Sequence[Step]) -> dict[Memory, Life]:
    """Return when each of the program's own memories is needed, those of outputs left out."""
    found: dict[Memory, Life] = {}
    for k, step in enumerate(steps):
        for memory in (*step.reads, *step.writes):
            if memory.input < 0 and not memory.output:
                first = found[memory].first if memory in found else k
                found[memory] = Life(first, k)
    return found


def places(steps: Sequence[Step]) -> tuple[dict[Memory, int], int]:
    """Return the offset of each memory in the block, and the block's size, in bytes."""
    alive = lives(steps)
    order = sorted(alive, key=lambda m: (-m.nbytes, alive[m].first))
    at: dict[Memory, int] = {}
    size = 0
    for memory in order:
        life = alive[memory]
        taken = sorted(
            (at[m], at[m] + _rounded(m.nbytes))
            for m in at
            if alive[m].first <= life.last and life.first <= alive[m].last
        )
        offset = 0
        for begin, end in taken:
            if offset + memory.nbytes <= begin:
                break
            offset = max(offset, end)
        at[memory] = offset
        size = max(size, offset + _rounded(memory.nbytes))
    return at, size


def _rounded(nbytes: int) -> int:
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def block(nbytes: int) -> np.ndarray:
    """Return uninitialised bytes whose first address is a multiple of ALIGNMENT."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    return raw[begin : begin + nbytes]
