"""Backend: where a session's arrays live - which namespace computes, how bytes come and go.

`Host` is numpy and the process's memory; `kernels/cuda/` has the one of GPUs. Engine, plans and
stores reach arrays through it and name no library. It keeps plans, and no tensor.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core.errors import ShapeError
from farspan.core.random import Generator

from . import kernels, process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from farspan.core.dtype import Device
    from farspan.core.op import Op
    from farspan.core.spec import Spec


class Host:
    """Arrays of numpy in this process's memory."""

    xp: Any = np
    plans: dict[Any, Any]  # those of `plan.py`, by op and metadata
    planned: int  # their weight
    remote = False  # whether arrays are out of numpy's reach
    halves: frozenset[str] = frozenset()  # ops whose kernels take half precision as it is

    def __init__(self) -> None:
        self.plans = {}
        self.planned = 0

    def turn(self) -> AbstractContextManager[Any]:
        """Return the context in which a frame runs: no warnings about infinities."""
        return np.errstate(all="ignore")

    def kernel(self, op: Op, args: Sequence[Any]) -> Callable[..., Any] | None:
        """Return the kernel that computes the op here; args in schema order, Specs for tensors."""
        return kernels.choose(op.name, args) or op.kernel

    def into(self, op: Op) -> Callable[..., None] | None:
        """Return the op's kernel that writes to self, if it can be used here."""
        return op.into

    def upload(self, flat: Any, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Any:
        """Return an array of bytes that are ours to keep, a numpy array of uint8."""
        return flat.view(dtype).reshape(shape)

    def download(self, array: Any, outlet: Any = None) -> np.ndarray[Any, Any]:
        """Return a copy in C order, in memory of its own. Waits for what computes the array.

        outlet(nbytes): room where the bytes are wanted, or None if there is none.
        """
        room = None if outlet is None else outlet(array.nbytes)
        if room is None:
            return np.array(array, order="C", copy=True)
        copied: np.ndarray[Any, Any] = room.view(array.dtype).reshape(array.shape)
        np.copyto(copied, array)
        return copied

    def lay_out(self, result: Any, spec: Spec, inputs: Sequence[Any]) -> Any:
        """Return `result` as a fresh array with the dtype and strides of `spec`.

        Kernels may return any layout, a scalar, or a view of an input; none of it shows.
        """
        dtype = spec.dtype.numpy
        if type(result) is not np.ndarray:
            result = np.asarray(result)
        if result.shape != spec.shape:
            raise ShapeError(f"a kernel returned shape {result.shape}, not {spec.shape}")
        if result.dtype != dtype:
            result = result.astype(dtype)
        elif any(result is a for a in inputs) or (
            result.base is not None and any(np.may_share_memory(result, a) for a in inputs)
        ):
            result = result.copy()
        if spec.contiguous:
            if result.flags.c_contiguous and result.flags.writeable:
                return result
            return np.array(result, order="C")
        wanted = tuple([s * dtype.itemsize for s in spec.stride])
        if result.strides == wanted and result.flags.writeable:
            return result
        out = self.empty(spec)
        out[...] = result
        return out

    def empty(self, spec: Spec) -> Any:
        """Return uninitialised memory with the strides of a dense spec."""
        order = sorted(range(spec.ndim), key=lambda d: (-spec.stride[d], -spec.shape[d]))
        back = [0] * spec.ndim
        for place, d in enumerate(order):
            back[d] = place
        shape = tuple([spec.shape[d] for d in order])
        return self.xp.empty(shape, spec.dtype.numpy).transpose(back)

    def window(self, flat: Any, spec: Spec, start: int, strides: tuple[int, ...]) -> Any:
        """Return the array over memory given as bytes; start and strides count bytes."""
        return np.ndarray(spec.shape, spec.dtype.numpy, flat, start, strides)

    def write(self, target: Any, result: Any) -> None:
        """Copy a result, which may overlap the target, over the target's elements, cast to it."""
        np.copyto(target, result, casting="unsafe")

    def generator(self, seed: int) -> Generator:
        """Return a generator of random numbers, torch's for this kind of device."""
        return Generator(seed)

    def memory_bytes(self) -> int | None:
        """Return the budget of a session that was given none, if the device knows it."""
        return None

    def stats(self) -> dict[str, int]:
        """Return counts beyond those of every engine."""
        return {}

    def release(self) -> None:
        """Give freed memory back to the system, or to others of the device."""
        process.give_back_freed_memory()

    def modes(self) -> list[Any]:
        """Return as JSON what commands have set that changes bits; here that is nothing."""
        return []

    def set_modes(self, modes: list[Any]) -> None:
        """Set what `modes` returned elsewhere. ValueError: it did not."""
        if modes:
            raise ValueError("modes of another kind of device")

    def close(self) -> None:
        """Give back what the device holds for this session; here that is nothing."""


HOST = Host()


def open_backend(device: Device, memory_bytes_max: int | None, xp: Any) -> Host:
    """Return where a session on this device computes; UnsupportedError if there is no such GPU."""
    if device.type == "cpu":
        return HOST
    from .kernels import cuda

    return cuda.backend(device.index or 0, memory_bytes_max, xp)
