"""Philox: the generator of sessions on a GPU - a key and a counter, and nothing else to keep.

Philox4x32-10 of Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011): word i of
a seed is a function of i, so that every element of a tensor can be made on its own. The numbers
are not torch's on a GPU, whose order follows from its launch sizes; the state is as small.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np
from farspan.core.random import STATE_BYTES, Generator

_MULTIPLIERS: Final = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL: Final = (np.uint32(0x9E3779B9), np.uint32(0xBB67AE85))
_LOW: Final = np.uint64(0xFFFFFFFF)
_HALF: Final = np.uint64(32)
_TAG: Final = b"philox4x32-10"
_BLOCK: Final = 1 << 16  # counters turned into words at a time


def philox(xp: Any, counter: Any, key: tuple[int, int], high: int = 0) -> Any:
    """Return the four 32-bit words of each counter, (n, 4) uint32.

    counter: (n,) uint64, the low half of the 128 bits; `high` is the other half.
    """
    c0, c1 = counter & _LOW, counter >> _HALF
    c2 = xp.full(counter.shape, high & 0xFFFFFFFF, np.uint64)
    c3 = xp.full(counter.shape, high >> 32, np.uint64)
    k0, k1 = key
    for _ in range(10):
        left, right = c0 * _MULTIPLIERS[0], c2 * _MULTIPLIERS[1]
        c0, c1, c2, c3 = (
            (right >> _HALF) ^ c1 ^ np.uint64(k0),
            right & _LOW,
            (left >> _HALF) ^ c3 ^ np.uint64(k1),
            left & _LOW,
        )
        k0, k1 = (k0 + int(_WEYL[0])) & 0xFFFFFFFF, (k1 + int(_WEYL[1])) & 0xFFFFFFFF
    return xp.stack([c0, c1, c2, c3], 1).astype(np.uint32)


class Philox(Generator):
    """A generator whose state is a seed and how many words have been drawn."""

    __slots__ = ("_drawn",)

    def manual_seed(self, seed: int) -> Philox:
        """Return the generator itself after restarting it from seed, in [-2**63, 2**64)."""
        if not -(2**63) <= seed < 2**64:
            raise ValueError(f"manual_seed(seed): {seed} is outside [-2**63, 2**64)")
        self._seed = seed % 2**64
        self._drawn = 0
        self.next_double_normal = None
        self.next_float_normal = None
        return self

    def clone(self) -> Philox:
        twin = Philox(self._seed)
        twin.set_state(self.get_state())
        return twin

    def get_state(self) -> Any:
        """Return the state: a tag, the seed and the count of words; as long as a CPU's."""
        state = np.zeros(STATE_BYTES, np.uint8)
        state[: len(_TAG)] = np.frombuffer(_TAG, np.uint8)
        state[16:32].view("<u8")[:] = [self._seed, self._drawn]
        for at, kept in ((32, self.next_double_normal), (48, self.next_float_normal)):
            if kept is not None:
                state[at : at + 8].view("<f8")[:] = kept
                state[at + 8] = 1
        return state

    def set_state(self, state: Any) -> None:
        """Continue from a state of `get_state`. ValueError, and no change, if it is none."""
        data = np.frombuffer(bytes(state), np.uint8)
        if data.size != STATE_BYTES or bytes(data[: len(_TAG)]) != _TAG:
            raise ValueError("set_state(state): the bytes are not the state of a Philox generator")
        self._seed, self._drawn = (int(n) for n in data[16:32].view("<u8"))
        self.next_double_normal = float(data[32:40].view("<f8")[0]) if data[40] else None
        self.next_float_normal = float(data[48:56].view("<f8")[0]) if data[56] else None

    def mark(self) -> Any:
        return self._drawn

    def rewind(self, mark: Any) -> None:
        self._drawn = mark

    def words32(self, n: int) -> Any:
        """Return the next n words."""
        first = self._drawn
        self._drawn += n
        key = (self._seed & 0xFFFFFFFF, self._seed >> 32)
        out = np.empty(n, np.uint32)
        done = 0
        while done < n:
            block, skip = divmod(first + done, 4)
            count = min(_BLOCK, (skip + n - done + 3) // 4)
            counters = np.arange(count, dtype=np.uint64) + np.uint64(block)
            words = philox(np, counters, key).reshape(-1)[skip : skip + n - done]
            out[done : done + words.size] = words
            done += words.size
        return out
