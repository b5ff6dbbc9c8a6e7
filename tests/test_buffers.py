"""Memory for bytes that arrive: handed out again, but never while somebody looks at it."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from farspan.core import limits
from farspan.core.buffers import Pool, Received, owned

MIB = limits.MiB


def address(array: np.ndarray) -> int:
    return array.ctypes.data


def test_memory_comes_back_when_its_last_view_is_gone() -> None:
    pool = Pool(8 * MIB)
    first = pool.take(2 * MIB)
    where = address(first)
    # As a tensor's values are handed on: through a memoryview, another dtype and shape, a part.
    view = np.frombuffer(memoryview(first), np.uint8).view(np.float32).reshape(2, -1)[1:, ::2]
    del first
    assert pool.kept_bytes == 0
    assert address(pool.take(2 * MIB)) != where
    del view
    assert pool.kept_bytes >= 2 * MIB
    again = pool.take(2 * MIB - 5)  # of about the same size
    assert address(again) == where
    assert again.nbytes == 2 * MIB - 5


@pytest.mark.parametrize("nbytes", [0, 1, MIB - 1, MIB, MIB + 1, 3 * MIB + 17, 33 * MIB])
def test_blocks_are_as_long_as_asked_and_little_longer(nbytes: int) -> None:
    pool = Pool(64 * MIB)
    taken = pool.take(nbytes)
    assert type(taken) is Received and taken.shape == (nbytes,) and taken.flags.writeable
    taken[:] = 7
    del taken
    assert nbytes >= MIB or pool.kept_bytes == 0
    assert nbytes < MIB or nbytes <= pool.kept_bytes <= nbytes * 9 / 8 + 1


def test_a_pool_keeps_no_more_than_its_bound_and_the_oldest_go() -> None:
    pool = Pool(4 * MIB)
    taken = [pool.take(MIB) for _ in range(6)]
    last = {address(t) for t in taken[2:]}
    while taken:
        taken.pop(0)
        assert pool.kept_bytes <= 4 * MIB
    assert pool.kept_bytes == 4 * MIB
    assert address(pool.take(MIB)) in last
    large = pool.take(5 * MIB)
    before = pool.kept_bytes
    del large
    assert pool.kept_bytes == before


def test_threads_never_hold_the_same_block() -> None:
    pool = Pool(8 * MIB)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for k in range(200):
            taken = pool.take(MIB)
            taken[:: 1 << 12] = seed + k % 10
            view = memoryview(taken)
            del taken
            wrong.extend([seed] * (view[0] != seed + k % 10 or view[-4096] != seed + k % 10))

    threads = [threading.Thread(target=work, args=(20 * seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert wrong == [] and pool.kept_bytes <= 8 * MIB


def test_only_received_bytes_are_kept_without_a_copy() -> None:
    taken = Pool(0).take(100)
    assert np.shares_memory(owned(memoryview(taken)), taken)
    mine = np.arange(100, dtype=np.uint8)
    for data in (memoryview(mine), mine.tobytes()):
        assert (owned(data) == mine).all() and not np.shares_memory(owned(data), mine)
