"""Tensors from Python data and numpy, and the plain objects that go with them."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _interop, _state
from ._data import as_array
from ._dispatch import Storage, wrap
from ._gather import Ref
from .core import dtype as dtypes
from .core.call import fn
from .core.dtype import PLACES, Device, DType
from .core.errors import ArgumentError, BadValueError
from .core.spec import Spec

if TYPE_CHECKING:
    from ._session import Session
    from ._tensor import Tensor


class layout:
    """How elements are arranged; a tensor's is `strided`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return f"torch.{self.name}"


class memory_format:
    """An order of dims in memory, by its code on the wire."""

    def __init__(self, name: str, code: int) -> None:
        self.name, self.code = name, code

    def __repr__(self) -> str:
        return f"torch.{self.name}"


strided = layout("strided")
contiguous_format = memory_format("contiguous_format", 0)
preserve_format = memory_format("preserve_format", 1)
channels_last = memory_format("channels_last", 2)
channels_last_3d = memory_format("channels_last_3d", 3)


def tensor(
    data: Any,
    *more: Any,
    dtype: DType | None = None,
    device: Any = None,
    requires_grad: bool = False,
    pin_memory: bool = False,
) -> Tensor:
    """Return a tensor holding a copy of `data`: numbers, nested lists, arrays or tensors.

    Floats become the default dtype, ints int64. Does not wait. Raises ValueError for ragged lists.

    >>> import farspan
    >>> farspan.tensor([[1.0, 2.0], [3.0, 4.0]])
    tensor([[1., 2.],
            [3., 4.]])
    """
    from ._tensor import Tensor

    if more:
        shape = ", ".join(map(repr, (data, *more)))
        raise ArgumentError(
            f"tensor() takes the data as its one positional argument, got {1 + len(more)}; for a "
            f"tensor of shape ({shape}) write torch.empty({shape}), zeros, ones or rand"
        )
    if isinstance(data, Tensor):
        warnings.warn(
            "To copy construct from a tensor, it is recommended to use "
            "sourceTensor.detach().clone() or sourceTensor.detach().clone().requires_grad_(True), "
            "rather than torch.tensor(sourceTensor).",
            UserWarning,
            stacklevel=2,
        )
        result = fn.clone(fn.detach(data)).to(dtype=dtype or data.dtype, device=device)
    else:
        array, found = as_array(data, dtype)
        session = _session_for(device)
        result = upload(session, array, found, _place(session, device))
    return result.requires_grad_() if requires_grad else result


def _session_for(device: Any) -> Session:
    return _state.current()


def _place(session: Session, device: Any) -> Device:
    wanted = PLACES.device if device is None else Device(device)
    return session.default_device if wanted is None else session.devices[session.index_of(wanted)]


def upload(session: Session, array: np.ndarray[Any, Any], dtype: DType, device: Device) -> Tensor:
    """Return a tensor with a copy of the array's values, cast to `dtype`."""
    with np.errstate(all="ignore"):
        values = np.ascontiguousarray(array.astype(dtype.numpy, copy=False)).reshape(array.shape)
    index = session.index_of(device)
    spec = Spec.make(tuple(array.shape), dtype, device)
    id_ = session.new_id()
    result = wrap(Ref(session, index, id_, spec.nbytes), spec)
    data = memoryview(values.reshape(-1).view(np.uint8)) if values.size else memoryview(b"")
    session.put(index, id_, dtype.code, spec.shape, data)
    return result


def from_numpy(array: np.ndarray[Any, Any]) -> Tensor:
    """Return a tensor of the array's values. On `local:` both share the array's memory."""
    if not isinstance(array, np.ndarray):
        raise ArgumentError(f"expected np.ndarray (got {type(array).__name__})")
    if any(s < 0 for s in array.strides):
        raise BadValueError(
            "At least one stride in the given numpy array is negative, and tensors with negative "
            "strides are not currently supported. (You can probably work around this by making a "
            "copy of your array with array.copy().)"
        )
    found = dtypes.from_numpy(array.dtype)
    session = _state.current()
    size = array.dtype.itemsize
    if array.flags.writeable and array.size and not any(s % size for s in array.strides):
        spec = Spec.make(
            tuple(array.shape), found, session.default_device,
            tuple(s // size for s in array.strides),
        )  # fmt: skip
        index = session.index_of(session.default_device)
        ref = Ref(session, index, session.new_id(), spec.nbytes)
        storage = Storage(spec.span() * size, borrowed=True)
        if _interop.adopt(session, array, ref, spec, storage):
            return wrap(ref, spec, 0, storage)
    copied = upload(session, array, found, session.default_device)
    copied._storage.borrowed = True
    return copied


def as_tensor(data: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Return `data` as a tensor; itself, or its memory, where nothing has to change."""
    from ._tensor import Tensor

    if isinstance(data, Tensor):
        return data.to(dtype=dtype, device=device)  # type: ignore[attr-defined, no-any-return]
    if isinstance(data, np.ndarray) and dtype is None and device is None:
        return from_numpy(data)
    return tensor(data, dtype=dtype, device=device)
