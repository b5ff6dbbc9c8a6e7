"""Memory for tensor bytes that arrive: reused, so that it is not mapped and zeroed page by page.

Fresh pages cost more than the copy into them. A pool keeps what was given back, up to a bound;
bytes are given back when the last array that looks at them is gone. Nothing here waits.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any, Final

import numpy as np

from farspan.core import limits

_KEPT_BYTES_MIN: Final = limits.MiB  # malloc reuses what is smaller by itself


class Received(np.ndarray[Any, Any]):
    """Bytes that came for this process alone: whoever is handed them may keep and change them."""


class _Lease:
    """Lives as long as any array on a block; then the block goes back to its pool."""

    def __init__(self, block: np.ndarray[Any, Any], nbytes: int, pool: Pool) -> None:
        self._block, self._pool = block, pool
        self.__array_interface__ = {**block.__array_interface__, "shape": (nbytes,)}

    def __del__(self) -> None:
        self._pool.put_back(self._block)


class Pool:
    """Blocks of bytes; any thread may take some. bytes_max: how much it keeps while unused."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._kept: OrderedDict[int, np.ndarray[Any, Any]] = OrderedDict()  # by id, oldest
        self.kept_bytes = 0

    def take(self, nbytes: int) -> Received:
        """Return so many bytes of any content. MemoryError if there are none."""
        if nbytes < _KEPT_BYTES_MIN:
            return np.empty(nbytes, np.uint8).view(Received)
        # Eight sizes between a power of two and the next, so that similar tensors share blocks.
        step = 1 << max(nbytes.bit_length() - 4, 0)
        size = -(-nbytes // step) * step
        with self._lock:
            found = next((k for k in reversed(self._kept) if self._kept[k].nbytes == size), None)
            block = None if found is None else self._kept.pop(found)
            self.kept_bytes -= 0 if block is None else size
        if block is None:
            block = np.empty(size, np.uint8)
        return np.asarray(_Lease(block, nbytes, self)).view(Received)

    def put_back(self, block: np.ndarray[Any, Any]) -> None:
        """Keep a block for the next one who takes its size; the oldest go when there are many."""
        # Called by the garbage collector wherever it runs, perhaps inside of `take`: never wait.
        if block.nbytes > self._bytes_max or not self._lock.acquire(blocking=False):
            return
        try:
            self._kept[id(block)] = block
            self.kept_bytes += block.nbytes
            while self.kept_bytes > self._bytes_max:
                self.kept_bytes -= self._kept.popitem(last=False)[1].nbytes
        finally:
            self._lock.release()


def owned(data: Any) -> np.ndarray[Any, Any]:
    """Return bytes as an array of the caller's: themselves if they were received, or a copy."""
    flat = np.frombuffer(data, np.uint8)
    return flat if isinstance(getattr(data, "obj", None), Received) else flat.copy()


#: Of this process; for downloads in a client, for uploads in a worker.
POOL: Final = Pool(limits.RECEIVED_BYTES_KEPT_MAX)
