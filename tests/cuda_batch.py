"""Many kernels as one text: compiled once, each run by its number."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from typing import Any

import cuda_host
import numpy as np
from farspan_worker.kernels.cuda.fused import Fused
from farspan_worker.kernels.cuda.fused.compiled import options
from farspan_worker.kernels.cuda.fused.text import PRELUDE


class Batch:
    """Texts of fused groups, renamed so that they stand side by side."""

    def __init__(self) -> None:
        self._modules: dict[Any, Any] = {}
        self._numbers: dict[str, int] = {}

    def add(self, fused: Fused) -> int:
        return self._numbers.setdefault(fused.text, len(self._numbers))

    @property
    def text(self) -> str:
        return PRELUDE + "\n".join(
            _renamed(text.removeprefix(PRELUDE), k) for text, k in self._numbers.items()
        )

    def run(self, fused: Fused, arrays: Sequence[Any], numbers: Sequence[Any] = ()) -> list[Any]:
        """Return what a group's kernels make on the host."""
        k = self._numbers[fused.text]
        outs = [_output(spec) for _, spec in fused.group.outputs]
        scratch = np.full(fused.scratch_bytes, 0xA5, np.uint8)
        middle = [scratch] if fused.size is None else [np.int64(fused.size)]
        given = [np.float64(x) if isinstance(x, float) else np.int64(x) for x in numbers]
        for launch in fused.launches:
            args = [*arrays, *outs, *middle, *given]
            self._launch(f"{launch.name}_{k}", launch, args, fused.group.exact)
        return outs

    def _launch(self, name: str, launch: Any, args: list[Any], exact: bool) -> None:
        if not os.environ.get("FARSPAN_TEST_GPU"):
            cuda_host.launch(self.text, name, launch.grid, launch.threads, args)
            return
        import cupy

        key = self.text, exact
        if key not in self._modules:
            self._modules[key] = cupy.RawModule(code=self.text, options=options(exact))
        # The bytes go there and back, from the element at which each array begins.
        there = [_whole(a) if isinstance(a, np.ndarray) else a for a in args]
        sent = [cupy.asarray(w[0]) if isinstance(w, tuple) else w for w in there]
        given = [s.data + w[1] if isinstance(w, tuple) else s
                 for s, w in zip(sent, there, strict=True)]  # fmt: skip
        flat = [cupy.ndarray((1,), np.uint8, g) if isinstance(w, tuple) else g
                for g, w in zip(given, there, strict=True)]  # fmt: skip
        self._modules[key].get_function(name)(launch.grid, (launch.threads,), tuple(flat))
        for s, w in zip(sent, there, strict=True):
            if isinstance(w, tuple) and w[0].flags.writeable:
                w[0][...] = s.get()


def _renamed(text: str, k: int) -> str:
    for name in ("map", "reduce", "finish"):
        text = text.replace(f"\n{name}(", f"\n{name}_{k}(")
    return text


def _whole(a: Any) -> tuple[Any, int]:
    """Return the bytes from an array's first to its last one, and where its first element is."""
    if not a.size:
        return np.zeros(1, np.uint8), 0
    reach = [(n - 1) * s for n, s in zip(a.shape, a.strides, strict=True)]
    back = -sum(r for r in reach if r < 0)
    size = back + sum(r for r in reach if r > 0) + a.itemsize
    start = a.__array_interface__["data"][0] - back
    return np.frombuffer((ctypes.c_char * size).from_address(start), np.uint8), back


def _output(spec: Any) -> Any:
    flat = np.full(max(1, spec.span()), 0x5A, spec.dtype.numpy)
    strides = tuple([s * spec.dtype.itemsize for s in spec.stride])
    return np.lib.stride_tricks.as_strided(flat, spec.shape, strides)
