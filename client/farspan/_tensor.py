"""Tensor: a proxy of values that live elsewhere - an id, a spec, and a place in the graph.

Operators and methods of the table are bound at the end of this file; what stands here is what the
table cannot say: metadata and Python's protocols. Reading values (the only waits) is in
`_tensor_values.py`, autograd's surface in `_tensor_autograd.py`, indexing in `_indexing.py`.
"""

from __future__ import annotations

import copy as copy_module
from typing import TYPE_CHECKING, Any

from . import _dispatch, _indexing
from ._dispatch import OwnStorage, Storage
from ._gather import Ref
from ._table import TableMethods
from ._tensor_autograd import AutogradMethods
from ._tensor_values import ValueMethods
from .core import tape
from .core.call import Value, fn, set_default
from .core.dtype import Device, DType
from .core.errors import AutogradError
from .core.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Sequence


class Size(tuple[int, ...]):
    """A shape. Prints as ``torch.Size([2, 3])``."""

    __slots__ = ()

    def numel(self) -> int:
        n = 1
        for i in self:
            n *= i
        return n

    def __repr__(self) -> str:
        return f"torch.Size({list(self)})"

    def __getitem__(self, i: Any) -> Any:
        got = tuple.__getitem__(self, i)
        return Size(got) if isinstance(i, slice) else got

    def __add__(self, other: Any) -> Any:
        return Size(tuple.__add__(self, other)) if isinstance(other, tuple) else NotImplemented

    def __radd__(self, other: Any) -> Any:
        return Size(tuple.__add__(other, self)) if isinstance(other, tuple) else NotImplemented

    def __mul__(self, times: Any) -> Size:
        return Size(tuple.__mul__(self, times))

    __rmul__ = __mul__


class TensorMeta(type):
    """Lets ``Tensor([1, 2])`` make values while proxies are made without ``__init__``."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        if cls is Tensor:
            from ._legacy import legacy_tensor

            return legacy_tensor(*args, **kwargs)
        return super().__call__(*args, **kwargs)


class Tensor(ValueMethods, AutogradMethods, Value, TableMethods, metaclass=TensorMeta):
    """A tensor on a device of a session, with torch.Tensor's interface."""

    _storage: Any = OwnStorage()  # of views and what they view; else made when asked for
    # Fields that most tensors never set stay on the class: a proxy then costs four stores.
    _offset = 0
    _index = 0
    _generation = 0
    _made_by = ""  # of a view that no recorded write may go through: "lists" or "function"
    _in_no_grad: bool | str = False  # a view made in no_grad mode, or of one; "inference"
    _inference = False  # made in inference mode
    _leaf: tape.Leaf | None = None  # its node while `requires_grad` is switched off
    _grad: Tensor | None = None
    _retains = False
    _grad_dtype: Any = False  # of its gradients; False: its own
    _hooks: Any = None
    _levels: tuple[Any, ...] = ()  # of vmap; only a BatchedTensor has some

    @classmethod
    def _new(cls, ref: Ref, spec: Spec, storage: Storage | None = None) -> Tensor:
        t = object.__new__(cls)
        t._ref = ref
        t._spec = spec
        t._node = t._base = None
        if storage is not None:
            t._storage = storage
        return t

    def _save(self) -> tuple[Ref, Spec, int, Storage]:
        if self._inference:
            raise AutogradError(
                "Inference tensors cannot be saved for backward. Please do not use Tensors created "
                "in inference mode in computation tracked by autograd. To work around this, you can"
                " make a clone to get a normal tensor and use it in autograd, or use "
                "`torch.no_grad()` instead of `torch.inference_mode()`."
            )
        return self._ref, self._spec, self._offset, self._storage

    @classmethod
    def _apply(
        cls, op: Any, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        return _dispatch.apply(Tensor, op, tensors, static, scalars, form)

    def _become(self, other: Tensor) -> None:
        """Stand for what `other` stands for (``.data =``, resizing `out=`)."""
        self._ref, self._spec, self._storage = other._ref, other._spec, other._storage
        self._offset = other._offset
        self._base = None
        self._in_no_grad = False

    def _write_out(self, result: Tensor) -> None:
        _dispatch.write_out(self, result)

    # ------------------------------------------------------------------------------- metadata --
    @property
    def shape(self) -> Size:
        """The size of each dim. Known without waiting."""
        return Size(self._spec.shape)

    def size(self, dim: int | None = None) -> Any:
        """Return the shape, or one dim's size."""
        from .core.spec import wrap_dim

        return Size(self._spec.shape) if dim is None else self.shape[wrap_dim(dim, self.ndim)]

    @property
    def dtype(self) -> DType:
        return self._spec.dtype

    @property
    def device(self) -> Device:
        return self._spec.device

    @property
    def ndim(self) -> int:
        return len(self._spec.shape)

    def dim(self) -> int:
        return len(self._spec.shape)

    ndimension = dim

    def numel(self) -> int:
        return self._spec.numel

    nelement = numel

    def stride(self, dim: int | None = None) -> Any:
        from .core.spec import wrap_dim

        return self._spec.stride if dim is None else self._spec.stride[wrap_dim(dim, self.ndim)]

    def storage_offset(self) -> int:
        return self._offset

    def is_contiguous(self, memory_format: Any = None) -> bool:
        """Return whether elements lie in the order of the format, C's by default, without gaps."""
        return self._spec.is_in_format(getattr(memory_format, "code", 0))

    def element_size(self) -> int:
        return self._spec.dtype.itemsize

    @property
    def itemsize(self) -> int:
        return self._spec.dtype.itemsize

    @property
    def nbytes(self) -> int:
        return self._spec.nbytes

    def is_floating_point(self) -> bool:
        return self._spec.dtype.is_floating_point

    def is_complex(self) -> bool:
        return self._spec.dtype.is_complex

    def is_signed(self) -> bool:
        return self._spec.dtype.is_signed

    def get_device(self) -> int:
        return -1 if self.device.type == "cpu" else (self.device.index or 0)

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def is_cpu(self) -> bool:
        return self.device.type == "cpu"

    is_sparse = is_quantized = is_meta = is_mkldnn = is_nested = False

    @property
    def layout(self) -> Any:
        from ._creation import strided

        return strided

    @property
    def session(self) -> Any:
        """The session that holds the values."""
        return self._ref.session

    # --------------------------------------------------------------------- Python's protocols --
    def __format__(self, spec: str) -> str:
        if not self._spec.shape and (spec or type(self) is Tensor):
            return format(self.item(), spec)
        return object.__format__(self, spec) if spec else str(self)

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        from ._interop import show

        return show(self)

    def __hash__(self) -> int:
        return id(self)

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError(
            "a farspan tensor is not pickled; use farspan.save(state_dict, path), or .numpy()"
        )

    def __copy__(self) -> Tensor:
        """Return a leaf on the same memory, as torch's: without history and without `grad`."""
        copied = fn.detach(self)
        copied.__class__ = type(self)
        copied.__dict__ |= {k: v for k, v in self.__dict__.items() if not k.startswith("_")}
        return copied.requires_grad_(self.requires_grad)  # type: ignore[no-any-return]

    def __deepcopy__(self, memo: dict[int, Any]) -> Tensor:
        if id(self) in memo:
            return memo[id(self)]  # type: ignore[no-any-return]
        if not self.is_leaf:
            raise AutogradError(
                "Only Tensors created explicitly by the user (graph leaves) support the deepcopy "
                "protocol at the moment."
            )
        copied = fn.clone(fn.detach(self))
        copied.__class__ = type(self)
        memo[id(self)] = copied
        for name, value in self.__dict__.items():
            if not name.startswith("_"):
                setattr(copied, name, copy_module.deepcopy(value, memo))
        if self.requires_grad:
            copied.requires_grad_()
        if self._grad is not None:
            copied._grad = copy_module.deepcopy(self._grad, memo)
        return copied

    # ------------------------------------------------------------------------------ operators --
    def __getitem__(self, index: Any) -> Tensor:
        return _indexing.get(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        _indexing.set(self, index, value)


from ._methods import bind_methods  # noqa: E402  (needs Tensor)

bind_methods(Tensor)
set_default(Tensor)
