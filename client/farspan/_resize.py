"""Changing what memory a tensor shows: ``resize_``, ``resize_as_``, ``set_``.

A tensor that still fits its memory only changes its metadata. Where it needs more, one command lets
the memory grow, with every tensor that is on it (docs/decisions/003).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._dispatch import mode
from .core import command as cmd
from .core.call import fn
from .core.coerce import integers
from .core.coerce import memory_format as format_code
from .core.dtype import CPP_NAMES
from .core.errors import ArgumentError, AutogradError, DeviceError, DTypeError, ShapeError
from .core.spec import Spec, contiguous_stride, format_stride

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._tensor import Tensor


def grow(x: Tensor, nbytes: int) -> None:
    """Make the memory that x is on at least `nbytes` long; a write to it. Does not wait."""
    memory = x._storage.memory
    if nbytes > memory.nbytes:
        if memory.borrowed:
            raise ShapeError("Trying to resize storage that is not resizable")
        memory._bytes = nbytes
    x._ref.session.issue(x._ref.device, cmd.GROW, 0, (x._ref.id,), (nbytes,), ())
    x._storage.version += 1


def _shown(x: Tensor, size: Sequence[int], stride: Sequence[int], offset: int) -> Tensor:
    """Return x's memory from element `offset` on as this shape, making it longer if need be."""
    spec = Spec.make(tuple(size), x.dtype, x.device, tuple(stride))
    if offset < 0:
        raise ShapeError(f"Tensor: invalid storage offset {offset}")
    grow(x, (offset + spec.span()) * spec.dtype.itemsize if spec.numel else 0)
    before, mode.grad = mode.grad, False
    try:
        return fn._as_strided(x, size, stride, offset - x._offset)  # type: ignore[no-any-return]
    finally:
        mode.grad = before


def _turn_into(self: Tensor, shown: Tensor) -> Tensor:
    """Let the tensor stand for what is shown, and be a view of what it was a view of."""
    base, generation = self._base, self._generation
    self._become(shown)
    self._base, self._generation = base, generation
    return self


def resize_(self: Tensor, *size: Any, memory_format: Any = None) -> Tensor:
    """Give the tensor another shape, its elements in memory's order; new ones are zero.

    ``x.resize_(2, 3)`` or ``x.resize_((2, 3))``. Raises AutogradError if x requires a gradient.
    """
    given = size[0] if len(size) == 1 and isinstance(size[0], (list, tuple)) else size
    shape = integers(given)
    if self.requires_grad:
        raise AutogradError("cannot resize variables that require grad")
    if shape == self._spec.shape and memory_format is None:
        return self
    stride = format_stride(shape, format_code(memory_format) or 0)
    return _turn_into(self, _shown(self, shape, stride, self._offset))


def resize_as_(self: Tensor, the_template: Tensor, *, memory_format: Any = None) -> Tensor:
    """Give the tensor the shape of another one, and its order in memory for preserve_format."""
    if memory_format is not None and memory_format.code == 1:
        memory_format = the_template._spec.suggested_format
    return resize_(self, the_template._spec.shape, memory_format=memory_format)


def set_(
    self: Tensor,
    source: Any = None,
    storage_offset: int = 0,
    size: Any = None,
    stride: Any = None,
) -> Tensor:
    """Let the tensor share the memory of `source`, whole or as this shape; without it, be empty."""
    from ._tensor import Tensor

    if isinstance(source, UntypedStorage):
        source, whole = source._tensor, source.nbytes() // self.element_size()
        size = (whole - storage_offset,) if size is None else size
    if source is None:
        self._become(fn.new_empty(self, (0,)))
        return self
    if not isinstance(source, Tensor):
        raise ArgumentError(
            f"set_(): source must be a Tensor or its untyped_storage(), not {type(source).__name__}"
        )
    if source.dtype is not self.dtype:
        raise DTypeError(
            f"Could not set tensor of type {CPP_NAMES[source.dtype.name]} to a tensor of type "
            f"{CPP_NAMES[self.dtype.name]}"
        )
    if source.device is not self.device:
        raise DeviceError(
            f"Attempted to set the storage of a tensor on device {self.device} to a storage on "
            f"different device {source.device}"
        )
    if size is None:
        self._become(fn.detach(source))
        return self
    shape = integers(size)
    steps = integers(stride) if stride else contiguous_stride(shape)
    self._become(fn.detach(_shown(source, shape, steps, storage_offset)))
    return self


class UntypedStorage:
    """The memory of a tensor: how long it is, and whether it is another one's too.

    Its bytes are in the worker; a slice of them is a copy there, one of them is read from there.
    """

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    @classmethod
    def from_file(cls, filename: str, shared: bool = False, nbytes: int = 0) -> UntypedStorage:
        """Return the first `nbytes` bytes of a file of this machine; see ``torch.from_file``."""
        from ._buffers import from_file
        from .core.dtype import uint8

        return cls(from_file(filename, shared, nbytes, dtype=uint8))

    def untyped(self) -> UntypedStorage:
        """Return itself."""
        return self

    def _bytes(self) -> Tensor:
        """Return all bytes, a uint8 vector on this memory."""
        from .core.dtype import uint8

        x = fn.detach(self._tensor)
        whole = self.nbytes() // x.itemsize
        return fn._as_strided(x, (whole,), (1,), -x._offset).view(uint8)  # type: ignore[no-any-return]

    def __getitem__(self, index: int | slice) -> Any:
        found = self._bytes()[index]
        return UntypedStorage(fn.clone(found)) if isinstance(index, slice) else found.item()

    def tolist(self) -> list[int]:
        """Return the bytes as ints. Waits."""
        return self._bytes().tolist()  # type: ignore[no-any-return]

    def nbytes(self) -> int:
        return self._tensor._storage.nbytes

    size = __len__ = nbytes

    def data_ptr(self) -> int:
        """Return the address of the first byte, 0 without bytes; `Tensor.data_ptr` fills it in."""
        from ._interop import base_address

        return base_address(self._tensor)

    @property
    def device(self) -> Any:
        return self._tensor.device

    def element_size(self) -> int:
        return 1

    def resize_(self, size: int) -> UntypedStorage:
        """Make the memory at least `size` bytes long."""
        grow(self._tensor, size)
        return self

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UntypedStorage) and other.data_ptr() == self.data_ptr()

    def __hash__(self) -> int:
        return hash(self.data_ptr())

    def __repr__(self) -> str:
        return f"[torch.storage.UntypedStorage(device={self.device}) of size {self.nbytes()}]"


def untyped_storage(self: Tensor) -> UntypedStorage:
    """Return the memory that the tensor is on."""
    return UntypedStorage(self)


METHODS = {
    "resize_": resize_,
    "resize_as_": resize_as_,
    "set_": set_,
    "untyped_storage": untyped_storage,
}
