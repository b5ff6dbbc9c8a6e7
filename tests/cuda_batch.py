"""Many kernels as one text: compiled once, each run by its number."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import cuda_host
import numpy as np
from farspan_worker.kernels.cuda.fused import Fused
from farspan_worker.kernels.cuda.fused.text import PRELUDE


class Batch:
    """Texts of fused groups, renamed so that they stand side by side."""

    def __init__(self) -> None:
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
            cuda_host.launch(self.text, f"{launch.name}_{k}", launch.grid, launch.threads, args)
        return outs


def _renamed(text: str, k: int) -> str:
    for name in ("map", "reduce", "finish"):
        text = text.replace(f"\n{name}(", f"\n{name}_{k}(")
    return text


def _output(spec: Any) -> Any:
    flat = np.full(max(1, spec.span()), 0x5A, spec.dtype.numpy)
    strides = tuple([s * spec.dtype.itemsize for s in spec.stride])
    return np.lib.stride_tricks.as_strided(flat, spec.shape, strides)
