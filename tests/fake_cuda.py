"""The part of the stand-in for cupy that is the device's: streams, graphs, pools, modules.

A stream that captures notes what is done and does none of it, as CUDA's; reading a value then is
an error. Kernels of a RawModule are their own text, compiled for the host (cuda_host.py).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import cuda_host
import numpy as np


class _Tape:
    """What a captured graph does, in order; None while nothing is captured."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], Any]] | None = None

    def note(self, f: Callable[[], Any], result: Any) -> None:
        """A value was made (of garbage, while capturing): a launch makes it in the same memory."""
        if self.calls is None:
            return
        leaves = list(result) if isinstance(result, (list, tuple)) else [result]

        def again() -> None:
            made = f()
            for leaf, new in zip(leaves, made if len(leaves) > 1 else [made], strict=True):
                if hasattr(leaf, "_a"):
                    np.copyto(leaf._a, new)

        self.calls.append(again)

    def store(self, f: Callable[[], Any]) -> Any:
        """A store into memory: done now, or at each launch of what is captured."""
        if self.calls is None:
            return f()
        self.calls.append(f)
        return None

    def read(self) -> None:
        """A value goes to the host, which cannot be captured."""
        if self.calls is not None:
            raise RuntimeError("cudaErrorStreamCaptureUnsupported: a read while capturing")


tape = _Tape()


class Graph:
    def __init__(self, calls: list[Callable[[], Any]]) -> None:
        self.calls = calls

    def launch(self, stream: Any = None) -> None:
        assert tape.calls is None
        for f in self.calls:
            f()


class _Context(contextlib.AbstractContextManager[Any]):
    def __exit__(self, *exc: Any) -> None:
        return None


class _Event:
    def synchronize(self) -> None:
        return None


class _Stream(_Context):
    def __init__(self, non_blocking: bool = False) -> None:
        self.waited = 0
        self.ptr = 1

    def record(self, event: Any = None) -> _Event:
        return event or _Event()

    def wait_event(self, event: Any) -> None:
        assert isinstance(event, _Event)

    def synchronize(self) -> None:
        tape.read()
        self.waited += 1

    def is_capturing(self) -> bool:
        return tape.calls is not None

    def begin_capture(self, mode: Any = None) -> None:
        assert tape.calls is None
        tape.calls = []

    def end_capture(self) -> Graph:
        calls, tape.calls = tape.calls, None
        assert calls is not None
        return Graph(calls)


class _Device(_Context):
    compute_capability = "90"

    def __init__(self, index: int = 0) -> None:
        self.id = index

    def synchronize(self) -> None:
        tape.read()


class _Pool:
    def __init__(self) -> None:
        self.limit = 0

    def malloc(self, size: int) -> Any:
        raise NotImplementedError

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size or 0

    def get_limit(self) -> int:
        return self.limit

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        return None


class CUDA:
    Device, Stream, MemoryPool, Event = _Device, _Stream, _Pool, _Event

    class runtime:
        @staticmethod
        def memGetInfo() -> tuple[int, int]:
            return 1 << 30, 1 << 31

    @staticmethod
    def using_allocator(allocator: Any) -> Any:
        return contextlib.nullcontext()

    @staticmethod
    def alloc_pinned_memory(size: int) -> bytearray:
        return bytearray(size)


class RawModule:
    """A text of kernels; each runs on the host, over the fake's memory."""

    def __init__(self, code: str, *, options: tuple[str, ...] = (), backend: str = "nvrtc") -> None:
        assert backend == "nvrtc" and all(o.startswith("-") for o in options)
        if not cuda_host.COMPILER:
            raise RuntimeError("no compiler on this host")
        self.code = code
        cuda_host.build(code)

    def get_function(self, name: str) -> Any:
        def kernel(grid: Any, block: Any, args: Any, shared_mem: int = 0) -> None:
            assert isinstance(args, tuple) and len(block) == 1
            given = [getattr(a, "_a", a) for a in args]
            tape.store(lambda: cuda_host.launch(self.code, name, grid, block[0], given))

        return kernel
