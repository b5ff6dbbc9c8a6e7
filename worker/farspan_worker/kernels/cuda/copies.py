"""Copies between the host and a GPU through page-locked blocks, a piece at a time.

Only from page-locked memory does the GPU copy while the host goes on. Two blocks take turns: while
one is on its way the host fills, or empties, the other. Memory is bounded by the two.
"""

from __future__ import annotations

from typing import Any, Final

import numpy as np

BLOCK_BYTES: Final = 4 << 20  # page-locked bytes of each of the two blocks


class Staging:
    """Two page-locked blocks of one session, made when they are first needed."""

    def __init__(self, module: Any) -> None:
        self._cuda = module.cuda
        self._blocks: list[Any] = []  # numpy arrays of uint8
        self._busy: list[Any] = [None, None]  # the event after which a block is free
        self.moved = 0  # bytes copied, both ways

    def upload(self, host: Any, device: Any, stream: Any) -> None:
        """Copy bytes into a device array of uint8. Returns when the host's array may be reused."""
        self._make()
        for turn, start in enumerate(range(0, host.size, BLOCK_BYTES)):
            part = host[start : start + BLOCK_BYTES]
            block = self._free(turn % 2)[: part.size]
            block[:] = part
            device[start : start + part.size].set(block, stream)
            self._busy[turn % 2] = stream.record()
        self.moved += host.size

    def download(self, device: Any, host: Any, stream: Any) -> None:
        """Copy a device array of uint8 into bytes. Waits until they are there."""
        self._make()
        waiting: list[tuple[int, int, int]] = []
        for turn, start in enumerate(range(0, host.size, BLOCK_BYTES)):
            size = min(BLOCK_BYTES, host.size - start)
            block = self._free(turn % 2)[:size]
            device[start : start + size].get(stream=stream, out=block, blocking=False)
            self._busy[turn % 2] = stream.record()
            waiting.append((turn % 2, start, size))
            if len(waiting) == 2:
                self._empty(host, *waiting.pop(0))
        for one in waiting:
            self._empty(host, *one)
        self.moved += host.size

    def _empty(self, host: Any, at: int, start: int, size: int) -> None:
        host[start : start + size] = self._free(at)[:size]

    def _free(self, at: int) -> Any:
        """Return a block that no copy uses any more."""
        if self._busy[at] is not None:
            self._busy[at].synchronize()
            self._busy[at] = None
        return self._blocks[at]

    def _make(self) -> None:
        while len(self._blocks) < 2:
            memory = self._cuda.alloc_pinned_memory(BLOCK_BYTES)
            self._blocks.append(np.frombuffer(memory, np.uint8, BLOCK_BYTES))
