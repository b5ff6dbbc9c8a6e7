"""Kernels for NVIDIA GPUs: the table's own over cupy, fast ones beside them, the rest on the host.

`backend(index)` opens a device; cupy is imported then and not before. Nothing here runs without a
GPU but what is given another namespace, as tests do. Read device.py next.
"""

from __future__ import annotations

from typing import Any

from farspan.core.errors import UnsupportedError

from .device import Cuda


def backend(index: int, memory_bytes_max: int | None = None, module: Any = None) -> Cuda:
    """Return the backend of one session on GPU `index`.

    module: what to use in the place of cupy. UnsupportedError if there is no cupy, or no such GPU.
    """
    return Cuda(module or _cupy(index), index, memory_bytes_max)


def _cupy(index: int) -> Any:
    try:
        import cupy
    except ImportError as e:
        raise UnsupportedError(
            f"cuda:{index} needs cupy, and importing it failed ({e}); install it on the worker "
            'with `pip install "farspan[worker,cuda]"`, or ask for devices="cpu:N"'
        ) from None
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except cupy.cuda.runtime.CUDARuntimeError as e:
        raise UnsupportedError(
            f"cuda:{index}: this worker sees no NVIDIA GPU ({e}); docs/gpu.md says what it needs"
        ) from None
    if index >= count:
        raise UnsupportedError(f"cuda:{index}: this worker has {count} GPUs, counted from 0")
    return cupy
