"""Where tensors meet numpy and the terminal: sharing memory on `local:`, and printing."""

from __future__ import annotations

import warnings
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _format
from .core.call import fn
from .core.dtype import Defaults
from .core.errors import ProgramError

if TYPE_CHECKING:
    from ._dispatch import Storage
    from ._tensor import Tensor


_writable = _told = False


def copies_are_writable() -> None:
    """Let `numpy()` over a wire return writable copies, with one warning at the first.

    For programs that were written for torch, where the array is the tensor's own memory.
    """
    global _writable
    _writable = True


def guard(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the private copy that stands for an array torch would share with the tensor.

    It is read-only, so that a write that cannot reach the tensor fails where it is made.
    """
    if not _writable:
        array.flags.writeable = False
        return array
    global _told
    if not _told:
        _told = True
        warnings.warn(
            "numpy() of a remote tensor is a copy: what is written to it stays on this machine",
            stacklevel=3,
        )
    return array if array.flags.writeable else array.copy()


def export(x: Tensor) -> np.ndarray[Any, Any] | None:
    """Return an array that shares the tensor's memory, or None if that is in another process.

    Waits. While such an array lives, every command of the session has run when its call returns,
    so that neither side sees the other's memory late.
    """
    array = _local_array(x)
    if array is None:
        return None
    transport = x._ref.session.transport
    window = _Window(array)
    transport.exported += 1
    x._ref.session.look_at_all()
    weakref.finalize(window, _hide, transport)
    return np.asarray(window)


def _local_array(x: Tensor) -> np.ndarray[Any, Any] | None:
    session = x._ref.session
    engines = getattr(session.transport, "engines", None)
    if engines is None:
        return None
    session.wait_for(x._ref)
    array: np.ndarray[Any, Any] = engines[x._ref.device].tensors[x._ref.id].array
    return array


def _mirror(memory: Storage) -> np.ndarray[Any, Any]:
    """Return bytes set aside here for a copy of remote memory; untouched they are free."""
    if getattr(memory, "mirror", None) is None or memory.mirror.nbytes < memory.nbytes:
        memory.mirror = np.empty(memory.nbytes, np.uint8)
    return memory.mirror


def base_address(x: Tensor) -> int:
    """Return where the memory that x is on begins, or would begin here if it were copied."""
    memory = x._storage.memory
    if not memory.nbytes:
        return 0
    array = _local_array(x) if x._spec.numel else None
    if array is not None:
        return int(array.__array_interface__["data"][0]) - x._offset * x.itemsize
    return int(_mirror(memory).__array_interface__["data"][0])


def address(x: Tensor) -> int:
    """Return where x's first element is, or its copy on this machine: see `Tensor.data_ptr`."""
    if not x._spec.numel:
        return 0
    array = _local_array(x)
    if array is None:
        memory = _mirror(x._storage.memory)
        steps = tuple(step * x.itemsize for step in x._spec.stride)
        array = np.ndarray(x._spec.shape, x.dtype.numpy, memory.data, x._offset * x.itemsize, steps)
        array[...] = x._fetch()
    return int(array.__array_interface__["data"][0])


def adopt(session: Any, array: np.ndarray[Any, Any], ref: Any, spec: Any, storage: Storage) -> bool:
    """Let a tensor of a local session live in the array's own memory; False if it cannot.

    While any tensor is on this storage, every command has run when its call returns: whoever
    holds the array may look at any time.
    """
    engines = getattr(session.transport, "engines", None)
    if engines is None or not array.flags.writeable:
        return False
    session.flush()
    engines[ref.device].adopt(ref.id, array, spec)
    session.transport.exported += 1
    session.look_at_all()
    weakref.finalize(storage, _hide, session.transport)
    return True


def dlpack(x: Tensor, stream: Any, max_version: Any, dl_device: Any, copy: bool | None) -> Any:
    """Return a DLPack capsule of the tensor's memory, or of a copy if `copy`. Waits.

    BufferError, as the protocol has it, if the memory is elsewhere or a gradient would be lost.
    """
    if x.requires_grad:
        raise ExportError("Can't export tensors that require gradient, use tensor.detach()")
    if copy:
        array: Any = x._fetch().copy()
    else:
        array = export(x)
    if array is None:
        raise ExportError(
            "DLPack shares memory; only tensors of a local: session can. Pass copy=True for a copy"
        )
    return array.__dlpack__(
        stream=stream, max_version=max_version, dl_device=dl_device, copy=copy or None
    )


class ExportError(ProgramError, BufferError):
    """A tensor whose memory cannot be shared."""


class _Window:
    """Lives as long as any array of a tensor's memory; numpy forgets arrays in between views."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self._array = array
        self.__array_interface__ = array.__array_interface__


def _hide(transport: Any) -> None:
    transport.exported -= 1


def show(x: Tensor) -> str:
    """Return the tensor as torch prints it; only the elements shown are moved. Waits."""
    from .nn.parameter import Parameter

    edge = x.grad_fn
    device = x.device
    plain = device.type == "cpu" and device.index is None
    return _format.format_tensor(
        tuple(x._spec.shape),
        x.dtype.name,
        lambda indices: _fetch_some(x, indices),
        device_suffix="" if plain else str(device),
        requires_grad=x.requires_grad,
        grad_fn=None if edge is None else edge.name(),
        is_parameter=isinstance(x, Parameter),
        default_dtype=Defaults.dtype.name,
    )


def _fetch_some(x: Tensor, indices: Any) -> np.ndarray[Any, Any]:
    """Return the elements at the product of the indices of each dim."""
    from ._dispatch import mode
    from .core.dtype import float32

    before, mode.grad = mode.grad, False
    try:
        part = fn.detach(x)
        for dim, wanted in enumerate(indices):
            n = x._spec.shape[dim]
            if len(wanted) == n:
                continue
            edge = next((i for i, k in enumerate(wanted) if k != i), len(wanted))
            head = fn.narrow(part, dim, 0, edge)
            tail = fn.narrow(part, dim, n - (len(wanted) - edge), len(wanted) - edge)
            part = fn.cat([head, tail], dim)
        if part.dtype.is_reduced:
            part = fn._cast(part, float32)
        return part._fetch()
    finally:
        mode.grad = before
