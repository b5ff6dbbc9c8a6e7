"""Tensors from what others hold: buffers, files, DLPack; ``asarray`` takes any of them.

On `local:` a tensor shares the memory where it may; over a wire it holds a copy.
"""

from __future__ import annotations

import os
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np

from ._creation import _place, _session_for, from_numpy, tensor, upload
from .core.call import fn
from .core.dtype import Defaults, DType
from .core.dtype import from_numpy as _dtype_of
from .core.errors import (
    ArgumentError,
    BadValueError,
    ParameterError,
    ShapeError,
    UnsupportedError,
)

if TYPE_CHECKING:
    from ._tensor import Tensor


def _adopted(array: np.ndarray[Any, Any], dtype: DType) -> Tensor:
    """Return a tensor on the array's memory, or of its values where that cannot be."""
    if array.flags.writeable and dtype.name != "bfloat16":
        return from_numpy(array)
    session = _session_for(None)
    return upload(session, array, dtype, _place(session, None))


def frombuffer(
    buffer: Any, *, dtype: DType, count: int = -1, offset: int = 0, requires_grad: bool = False
) -> Tensor:
    """Return a vector of the bytes of an object, read as `dtype`.

    count: elements to take, -1 for all; offset: bytes to skip. ValueError where they do not fit.
    """
    try:
        data = memoryview(buffer).cast("B")
    except TypeError:
        raise BadValueError("object does not implement Python buffer protocol.") from None
    size, each = len(data), dtype.itemsize
    if not size or not count:
        raise BadValueError(f"both buffer length ({size}) and count ({count}) must not be 0")
    if not 0 <= offset < size:
        raise BadValueError(
            f"offset ({offset} bytes) must be non-negative and no greater than buffer length "
            f"({size} bytes) minus 1"
        )
    left = size - offset
    if count < 0 and left % each:
        raise BadValueError(
            f"buffer length ({size} bytes) after offset ({offset} bytes) must be a multiple of "
            f"element size ({each})"
        )
    if count > 0 and count * each > left:
        raise BadValueError(
            f"requested buffer length ({count} * {each} bytes) after offset ({offset} bytes) must "
            f"not be greater than actual buffer length ({size} bytes)"
        )
    if data.readonly:
        warnings.warn(
            "The given buffer is not writable, and PyTorch does not support non-writable tensors. "
            "The tensor holds a copy of it.",
            UserWarning,
            stacklevel=2,
        )
    taken = data[offset : offset + (count * each if count > 0 else left)]
    made = _adopted(np.frombuffer(taken, np.uint8).view(dtype.numpy), dtype)
    return made.requires_grad_() if requires_grad else made


def from_file(
    filename: str,
    shared: bool | None = None,
    size: int | None = 0,
    *,
    dtype: DType | None = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Return `size` elements of a file of this machine.

    shared: what is written to the tensor goes to the file, which is made if need be; on `local:`
    only, since elsewhere the memory is another machine's.
    """
    kind = dtype or Defaults.dtype
    count = size or 0
    try:
        if shared:
            made = _mapped(filename, kind, count)
        else:
            array = np.fromfile(filename, kind.numpy, count)
            if array.size < count:
                raise ShapeError(
                    f"file <{filename}> has {array.nbytes} bytes, fewer than "
                    f"{count * kind.itemsize}"
                )
            session = _session_for(device)
            made = upload(session, array, kind, _place(session, device))
    except OSError as e:
        raise ParameterError(
            f"unable to open file <{filename}> in {'read-write' if shared else 'read-only'} mode: "
            f"{e.strerror} ({e.errno})"
        ) from None
    return made.requires_grad_() if requires_grad else made


def _mapped(filename: str, dtype: DType, count: int) -> Tensor:
    from . import _state

    if getattr(_state.current().transport, "engines", None) is None:
        raise UnsupportedError(
            "from_file(shared=True) maps a file into memory, which only a local: session shares "
            "with its tensors; write shared=False"
        )
    have = os.path.getsize(filename) if os.path.exists(filename) else 0
    if have < count * dtype.itemsize:
        with open(filename, "ab") as f:
            f.truncate(count * dtype.itemsize)
    return from_numpy(np.memmap(filename, dtype.numpy, "r+", shape=(count,)).view(np.ndarray))


# --------------------------------------------------------------------------------------- DLPack --
class _Capsule:
    """A DLPack capsule of memory of this machine, for readers that ask an object for one."""

    def __init__(self, capsule: Any) -> None:
        self._capsule = capsule

    def __dlpack__(self, **kwargs: Any) -> Any:
        return self._capsule

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def from_dlpack(ext_tensor: Any, *, device: Any = None, copy: bool | None = None) -> Tensor:
    """Return a tensor of an object of another library, or of a DLPack capsule."""
    source = ext_tensor
    if not hasattr(source, "__dlpack__"):
        if type(source).__name__ != "PyCapsule":
            raise ShapeError(
                "from_dlpack received an invalid capsule. Note that DLTensor capsules can be "
                "consumed only once, so you might have already constructed a tensor from it once."
            )
        source = _Capsule(source)
    array = np.from_dlpack(source)
    if copy:
        array = array.copy()
    elif not array.flags.writeable and copy is False:
        raise BadValueError("cannot share the memory of a read-only array; write copy=None")
    made = from_numpy(array if array.flags.writeable else array.copy())
    return made if device is None else made.to(device)  # type: ignore[attr-defined, no-any-return]


def to_dlpack(tensor: Tensor) -> Any:
    """Return a DLPack capsule of the tensor's memory; on `local:` only."""
    return tensor.__dlpack__()


# -------------------------------------------------------------------------------------- asarray --
_C_NAMES = {"float32": "Float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
            "int64": "Long", "int32": "Int", "int16": "Short", "int8": "Char", "uint8": "Byte",
            "bool": "Bool", "complex64": "ComplexFloat", "complex128": "ComplexDouble"}  # fmt: skip


def asarray(
    obj: Any,
    *,
    dtype: DType | None = None,
    device: Any = None,
    copy: bool | None = None,
    requires_grad: bool | None = None,
) -> Tensor:
    """Return a tensor of a tensor, array, buffer, DLPack object, number or sequence.

    It shares memory where it can, unless `copy` is True; with False it must, or ValueError.
    requires_grad: None keeps what a tensor has.
    """
    from ._resize import UntypedStorage
    from ._tensor import Tensor

    if isinstance(obj, UntypedStorage):
        obj = obj._bytes()
    if isinstance(obj, Tensor):
        made = _cast(obj, dtype, device, copy)
        if requires_grad and not made.requires_grad:
            return made.requires_grad_()
        if requires_grad is False and made.requires_grad:
            return fn.detach(made)  # type: ignore[no-any-return]
        return made
    found = _shared_with(obj, dtype)
    if found is not None:
        made = _cast(found, dtype, device, copy)
    elif copy is False:
        raise BadValueError("can't alias arbitrary sequence into a tensor.")
    elif isinstance(obj, str):
        raise ArgumentError("new(): invalid data type 'str'")
    else:
        made = tensor(obj, dtype=dtype, device=device)
    return made.requires_grad_() if requires_grad else made


def _shared_with(obj: Any, dtype: DType | None) -> Tensor | None:
    """Return a tensor on the object's memory, or None if it has none to share."""
    if isinstance(obj, np.generic):
        return from_numpy(np.array(obj))
    if isinstance(obj, np.ndarray):
        return _adopted(obj, _dtype_of(obj.dtype))
    if hasattr(obj, "__dlpack__"):
        return from_dlpack(obj)
    if isinstance(obj, (str, list, tuple, int, float, complex)):
        return None
    try:
        view = memoryview(obj)
    except TypeError:
        return None
    if not view.nbytes:
        return fn.empty((0,), dtype=dtype)  # type: ignore[no-any-return]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return frombuffer(obj, dtype=dtype or Defaults.dtype)


def _cast(x: Tensor, dtype: DType | None, device: Any, copy: bool | None) -> Tensor:
    if copy is False:
        if dtype is not None and dtype is not x.dtype:
            raise BadValueError(
                f"can't alias tensor with dtype '{_C_NAMES[x.dtype.name]}' into dtype "
                f"'{_C_NAMES[dtype.name]}'."
            )
        moved = x.to(device)  # type: ignore[attr-defined]
        if moved is not x:
            raise BadValueError(
                f"can't alias tensor on device '{x.device}' into device '{device}'."
            )
    made = x.to(dtype=dtype, device=device)  # type: ignore[attr-defined]
    return fn.clone(made) if copy and made is x else made  # type: ignore[no-any-return]
