"""Questions about tensors that need no values, and the parts of torch that farspan has not.

What is sparse, quantized or nested is not there: its names are, and say so.
"""

from __future__ import annotations

import itertools
from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import _state
from .core.call import Value, unsupported
from .core.dtype import Device
from .core.errors import DTypeError, ShapeError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._tensor import Tensor
    from .core.dtype import DType


def is_conj(input: Tensor) -> bool:
    """Return False: conjugates are computed, no tensor is one by a mark only."""
    return False


def is_neg(input: Tensor) -> bool:
    """Return False: negatives are computed, no tensor is one by a mark only."""
    return False


def is_inference(input: Tensor) -> bool:
    """Return whether the tensor was made in inference mode."""
    return input.is_inference()


def is_nonzero(input: Tensor) -> bool:
    """Return whether the one element is not zero. Waits. RuntimeError for more or none."""
    return bool(input)


def is_same_size(input: Tensor, other: Tensor) -> bool:
    """Return whether both have one shape."""
    return input._spec.shape == other._spec.shape


def is_signed(input: Tensor) -> bool:
    """Return whether the dtype has negative numbers."""
    return input.is_signed()


def is_set_to(self: Tensor, tensor: Tensor) -> bool:
    """Return whether both show the same elements of the same memory in the same way."""
    return (
        self._storage.memory is tensor._storage.memory
        and self._offset == tensor._offset
        and self._spec.shape == tensor._spec.shape
        and self._spec.stride == tensor._spec.stride
    )


def get_device(input: Tensor) -> int:
    """Return the index of the GPU that holds the tensor, -1 for a CPU."""
    return input.get_device()


def typename(obj: Any) -> str:
    """Return the name of an object's type, with its module; of a tensor, as ``x.type()`` says."""
    if isinstance(obj, Value):
        return obj.type()  # type: ignore[attr-defined, no-any-return]
    cls = obj if isinstance(obj, type) else type(obj)
    module = getattr(obj, "__module__", None) or cls.__module__
    name = getattr(obj, "__qualname__", None) or cls.__qualname__
    return name if module in ("builtins", "__builtin__") else f"{module}.{name}"


def _is_shared(self: Tensor) -> bool:
    """Return whether processes may share the tensor: ``share_memory_`` was called."""
    return bool(getattr(self, "_shared", False)) or self.device.type == "cuda"


def _share_memory_(self: Tensor) -> Tensor:
    """Return the tensor: every process of the session reaches it by its name already."""
    self._shared = True  # type: ignore[attr-defined]
    return self


def _is_pinned(self: Tensor, device: Any = None) -> bool:
    """Return False: the values are not in this process's memory."""
    return False


def _pin_memory(self: Tensor, device: Any = None) -> Tensor:
    """Return the tensor: its values are not in this process, so there is nothing to pin."""
    return self


def _record_stream(self: Tensor, s: Any) -> None:
    """Do nothing: a worker runs its commands in one order, and frees in that order too."""


def _as_subclass(self: Tensor, cls: type) -> Any:
    """Return the tensor as an object of a subclass of Tensor; both share memory and history."""
    from ._tensor import Tensor
    from .core.call import fn

    if not (isinstance(cls, type) and issubclass(cls, Tensor)):
        raise TypeError("as_subclass(): cls must be a subclass of Tensor")
    seen = fn.alias(self)
    seen.__class__ = cls
    return seen


def _dim_order(self: Tensor, *, ambiguity_check: Any = False) -> tuple[int, ...]:
    """Return the dims from the slowest in memory to the fastest.

    ambiguity_check: True raises RuntimeError where strides allow several orders.
    """
    shape, stride = self._spec.shape, self._spec.stride
    order = sorted(range(len(shape)), key=lambda d: (-stride[d], -shape[d], d))
    if ambiguity_check is True:
        if 1 in shape or any(a == b for a, b in itertools.pairwise(stride)):
            raise ShapeError(
                "The tensor does not have unique dim order, or cannot map to exact one of the "
                "given memory formats."
            )
        if 0 in stride and len(stride) > 1:
            raise ShapeError("The tensor does not have unique dim order.")
    return tuple(order)


def get_device_module(device: Any = None) -> Any:
    """Return ``farspan.cuda`` or ``farspan.cpu``, whichever is of the device's type.

    None stands for the GPU if the session has one.
    """
    if device is None:
        device = "cuda" if any(d.type == "cuda" for d in _state.current().devices) else "cpu"
    return import_module(f"farspan.{Device(device).type}")


def _map(self: Tensor, *others_and_function: Any) -> Tensor:
    """Replace each element by what a Python function makes of it and others. Waits."""
    import numpy as np

    from ._creation import from_numpy
    from .core.call import fn

    *others, function = others_and_function
    arrays = [np.broadcast_to(t._fetch(), self._spec.shape) for t in (self, *others)]
    values = np.vectorize(function, otypes=[self.dtype.numpy])(*arrays)
    return fn.copy_(self, from_numpy(values))  # type: ignore[no-any-return]


def _expects_sparse(name: str) -> Callable[..., Any]:
    def refuse(self: Tensor, *args: Any, **kwargs: Any) -> Any:
        raise DTypeError(f"{name} expected sparse coordinate tensor layout but got Strided")

    refuse.__name__ = name
    return refuse


def _not_there(name: str, what: str) -> Callable[..., Any]:
    return unsupported(name, f"farspan has no {what}; its tensors are strided")


def _dequantize(self: Tensor) -> Tensor:
    """Return the tensor as float32: it was never quantized."""
    from .core.call import fn
    from .core.dtype import float32

    return self if self.dtype is float32 else fn._cast(self, float32)  # type: ignore[no-any-return]


def _to_dense(
    self: Tensor, dtype: DType | None = None, *, masked_grad: bool | None = None
) -> Tensor:
    """Return the tensor, which is dense."""
    return self if dtype is None else self.to(dtype)  # type: ignore[attr-defined, no-any-return]


_SPARSE_ONLY = ("coalesce", "indices", "values", "is_coalesced", "crow_indices", "col_indices",
                "ccol_indices", "row_indices")  # fmt: skip
_SPARSE = ("to_sparse", "to_sparse_coo", "to_sparse_csr", "to_sparse_csc", "to_sparse_bsr",
           "to_sparse_bsc", "sparse_mask", "sparse_resize_", "sparse_resize_and_clear_", "smm",
           "sspaddmm", "resize_as_sparse_")  # fmt: skip
_QUANTIZED = ("int_repr", "q_scale", "q_zero_point", "q_per_channel_axis", "q_per_channel_scales",
              "q_per_channel_zero_points", "qscheme")  # fmt: skip
_REMOVED = {"eig": "linalg.eig", "symeig": "linalg.eigh", "solve": "linalg.solve",
            "lstsq": "linalg.lstsq"}  # fmt: skip


def _removed(name: str, instead: str) -> Callable[..., Any]:
    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(  # as torch's
            f"{name} was removed from PyTorch long ago; write torch.{instead} instead"
        )

    refuse.__name__ = name
    return refuse


def _reversed(self: Tensor) -> Tensor:
    """Return the tensor with its first dim turned around, as `reversed` does with a list."""
    from .core.call import fn

    return fn.flip(self, (0,)) if self._spec.shape else self  # type: ignore[no-any-return]


def _delete_item(self: Tensor, index: Any) -> None:
    raise TypeError("Tensor does not support deleting items")


METHODS: dict[str, Any] = {
    "__reversed__": _reversed, "__delitem__": _delete_item,
    "__div__": lambda self, other: self / other, "__rdiv__": lambda self, other: other / self,
    "__idiv__": lambda self, other: self.__itruediv__(other), "__long__": lambda self: int(self),
    "__nonzero__": lambda self: bool(self),
    "is_conj": is_conj, "is_neg": is_neg, "is_nonzero": is_nonzero, "is_same_size": is_same_size,
    "is_set_to": is_set_to, "is_shared": _is_shared, "share_memory_": _share_memory_,
    "is_pinned": _is_pinned, "pin_memory": _pin_memory, "record_stream": _record_stream,
    "as_subclass": _as_subclass, "dim_order": _dim_order, "map_": _map, "map2_": _map,
    "apply_": _map,
    "dequantize": _dequantize, "to_dense": _to_dense,
    "is_distributed": lambda self: False, "dense_dim": lambda self: len(self._spec.shape),
    "sparse_dim": lambda self: 0,
    **{name: _expects_sparse(name) for name in _SPARSE_ONLY},
    **{name: _not_there(name, "sparse tensors") for name in _SPARSE},
    **{name: _not_there(name, "quantized tensors") for name in _QUANTIZED},
    **{name: _removed(name, instead) for name, instead in _REMOVED.items()},
    "to_mkldnn": _not_there("to_mkldnn", "MKL-DNN tensors"),
    "to_padded_tensor": _not_there("to_padded_tensor", "nested tensors"),
    "storage": _not_there("storage", "typed storages"),
}  # fmt: skip
#: What tensors of torch say no to, as attributes.
FLAGS = ("is_sparse_csr", "is_ipu", "is_maia", "is_mps", "is_mtia", "is_vulkan", "is_xla", "is_xpu")
FUNCTIONS = ("is_conj", "is_neg", "is_inference", "is_nonzero", "is_same_size", "is_signed",
             "get_device", "typename")  # fmt: skip
