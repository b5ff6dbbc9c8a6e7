"""Tensor: a proxy of values that live elsewhere - an id, a spec, and a place in the graph.

Operators and methods of the table are bound at the end of this file; what stands here is what the
table cannot say: metadata, reading values (`item`, `numpy`, printing: the only waits), autograd's
surface and Python's protocols. Indexing is in `_indexing.py`, backward in `_autograd.py`.
"""

from __future__ import annotations

import copy as copy_module
import weakref
from typing import TYPE_CHECKING, Any

import numpy as np

from . import _autograd, _dispatch, _indexing
from . import _grad_dtype as grad_dtypes
from ._dispatch import OwnStorage, Storage
from ._gather import Fields, Ref
from ._table import TableMethods
from .core import command as cmd
from .core import tape
from .core.call import Value, fn, set_default
from .core.dtype import DTYPES, Device, DType, uint64
from .core.errors import (
    ArgumentError,
    AutogradError,
    BadValueError,
    DTypeError,
    ShapeError,
)
from .core.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


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


class Tensor(Fields, Value, TableMethods, metaclass=TensorMeta):
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

    # --------------------------------------------------------------------------------- values --
    def _fetch(self) -> np.ndarray[Any, Any]:
        """Return the values in a fresh array of their own. Waits."""
        answer = self._ref.session.get(self._ref)
        dtype = DTYPES[answer.dtype].numpy
        assert answer.data is not None
        array = (
            np.frombuffer(answer.data, np.uint8).view(dtype) if answer.data else np.empty(0, dtype)
        )
        return array.reshape(answer.shape)

    def item(self) -> Any:
        """Return the one element as a Python number. Waits."""
        if self._spec.numel != 1:
            raise ShapeError(
                f"a Tensor with {self._spec.numel} elements cannot be converted to Scalar"
            )
        values = self._fetch()
        if values.dtype.isbuiltin == 1:  # numpy's own, none of ml_dtypes'
            return values.item()
        return values.reshape(()).astype(_python_type(self.dtype)).item()

    def tolist(self) -> Any:
        """Return nested lists of Python numbers. Waits."""
        return self._fetch().astype(_python_type(self.dtype)).tolist()

    def numpy(self, *, force: bool = False) -> np.ndarray[Any, Any]:
        """Return the values as an array. Waits.

        On `local:` it shares memory with the tensor. Over a wire it is a private copy, read-only
        where torch's array would alias the tensor, so that a lost write shows.
        """
        if not force:
            if _dispatch.mode.grad and self.requires_grad:
                raise AutogradError(
                    "Can't call numpy() on Tensor that requires grad. "
                    "Use tensor.detach().numpy() instead."
                )
            if self.device.type != "cpu":
                raise ArgumentError(
                    f"can't convert {self.device} device type tensor to numpy. Use Tensor.cpu() to "
                    "copy the tensor to host memory first."
                )
        if self.dtype.name == "bfloat16":
            raise ArgumentError("Got unsupported ScalarType BFloat16")
        from ._interop import export, guard

        shared = None if force and self.device.type != "cpu" else export(self)
        if shared is not None:
            return shared
        array = self._fetch()
        if force or getattr(self, "_copied", False):
            return array.copy()
        return guard(array)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        array = self.numpy()
        if dtype is not None and array.dtype != dtype:
            return array.astype(dtype)
        return array.copy() if copy else array

    def __array_wrap__(self, array: Any, context: Any = None, return_scalar: bool = False) -> Any:
        from ._creation import from_numpy

        return from_numpy(np.asarray(array))

    __array_priority__ = 1000

    def __dlpack__(
        self,
        *,
        stream: Any = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[Any, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """Share memory by DLPack, on `local:` only; ``copy=True`` exports a copy from anywhere.

        Raises BufferError where memory cannot be shared, and for a tensor that requires a gradient.
        """
        if self.requires_grad:
            raise BufferError("Can't export tensors that require gradient, use tensor.detach()")
        from ._interop import dlpack

        return dlpack(self, stream, max_version, dl_device, copy)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)

    def __array_namespace__(self, /, *, api_version: str | None = None) -> Any:
        """Return `farspan.array_api`: the array API standard. ValueError for unknown versions."""
        from . import array_api

        known = ("2021.12", "2022.12", "2023.12", "2024.12")
        if api_version is not None and api_version not in known:
            raise BadValueError(f"array API {api_version!r}: there are {', '.join(known)}")
        return array_api

    def to_device(self, device: Any, /, *, stream: Any = None) -> Tensor:
        """Return the tensor on a device of its session; itself if it is there."""
        if stream is not None:
            raise BadValueError("to_device(stream=...): a session has no streams to wait for")
        return self.to(device)  # type: ignore[attr-defined, no-any-return]

    def __bool__(self) -> bool:
        if self._spec.numel != 1:
            if not self._spec.numel:
                raise ShapeError("Boolean value of Tensor with no values is ambiguous")
            raise ShapeError("Boolean value of Tensor with more than one value is ambiguous")
        return bool(self.item())

    def __float__(self) -> float:
        return float(self._one())

    def __int__(self) -> int:
        return int(self._one())

    def __complex__(self) -> complex:
        return complex(self._one())

    def _one(self) -> Any:
        if self._spec.numel != 1:  # as torch: a ValueError here, a RuntimeError from item()
            raise BadValueError("only one element tensors can be converted to Python scalars")
        return self.item()

    def __index__(self) -> int:
        if self.dtype.category > 1 or self._spec.numel != 1:
            raise TypeError("only integer tensors of a single element can be converted to an index")
        return int(self.item())

    def __len__(self) -> int:
        if not self._spec.shape:
            raise TypeError("len() of a 0-d tensor")
        return self._spec.shape[0]

    def __iter__(self) -> Iterator[Tensor]:
        if not self._spec.shape:
            raise TypeError("iteration over a 0-d tensor")
        return iter(fn.unbind(self, 0))

    def __contains__(self, x: Any) -> bool:
        if not isinstance(x, (Value, bool, int, float, complex, np.generic)):
            raise DTypeError(
                "Tensor.__contains__ only supports Tensor or scalar, but you passed in a "
                f"{type(x)}."
            )
        return bool(fn.any(fn.eq(self, x)))

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

    # ------------------------------------------------------------------------------- autograd --
    @property
    def requires_grad(self) -> bool:
        return tape.edge_of(self) is not None

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Tensor:
        """Ask for gradients of this leaf, or stop asking. Returns self."""
        have = self.requires_grad
        if not requires_grad:
            if have and not self.is_leaf:
                raise AutogradError(
                    "you can only change requires_grad flags of leaf variables. If you want to use "
                    "a computed variable in a subgraph that doesn't require differentiation use "
                    "var_no_grad = var.detach()."
                )
            if have:  # graphs that hold the node know it again when it is switched on
                self._leaf, self._node = self._node, None  # type: ignore[assignment]
        elif not have:
            if self._inference and not _dispatch.mode.inference:
                raise AutogradError(
                    "Setting requires_grad=True on inference tensor outside InferenceMode is not "
                    "allowed."
                )
            if self.dtype.category < 2:
                raise DTypeError("only Tensors of floating point dtype can require gradients")
            self._node = self._leaf or tape.Leaf(weakref.ref(self))
        return self

    @property
    def is_leaf(self) -> bool:
        edge = tape.edge_of(self)
        return edge is None or type(edge[0]) is tape.Leaf

    @property
    def grad_fn(self) -> Any:
        """The graph's node that made this tensor; None for leaves."""
        edge = tape.edge_of(self)
        if edge is None or type(edge[0]) is tape.Leaf:
            return None
        from ._grad_fn import GradFn

        return GradFn(edge[0])

    @property
    def output_nr(self) -> int:
        return self._index

    @property
    def grad(self) -> Tensor | None:
        """The gradient that backward passes have summed up, or None."""
        if self._grad is None and not self.is_leaf and not self._retains:
            import warnings

            warnings.warn(
                "The .grad attribute of a Tensor that is not a leaf Tensor is being accessed. Its "
                ".grad attribute won't be populated during autograd.backward(). If you indeed want "
                "the .grad field to be populated for a non-leaf Tensor, use .retain_grad() on it.",
                UserWarning,
                stacklevel=2,
            )
        return self._grad

    @grad.setter
    def grad(self, value: Tensor | None) -> None:
        if value is not None:
            if not isinstance(value, Tensor):
                raise TypeError(
                    f"assigned grad expected to be a Tensor or None but got {type(value).__name__}"
                )
            if value._spec.shape != self._spec.shape:
                raise ShapeError(
                    f"assigned grad has data of a different size: {list(value.shape)} for "
                    f"{list(self.shape)}"
                )
            if value.dtype is not self.dtype or self._grad_dtype is not False:
                grad_dtypes.check(self, value)
        self._grad = value

    grad_dtype = property(grad_dtypes.read, grad_dtypes.write)

    @grad.deleter
    def grad(self) -> None:
        self._grad = None

    def backward(
        self,
        gradient: Tensor | None = None,
        retain_graph: bool | None = None,
        create_graph: bool = False,
        inputs: Any = None,
    ) -> None:
        """Add to the `grad` of every leaf the gradient of this tensor. Does not wait.

        gradient: of this tensor's shape; needed unless it has one element. Raises AutogradError if
        nothing here requires grad, the graph was freed, or a saved tensor was changed in place.
        """
        _autograd.backward(self, gradient, retain_graph, create_graph, inputs=inputs)

    def retain_grad(self) -> None:
        """Keep the gradient of this tensor too, though it is no leaf."""
        if not self.requires_grad:
            raise AutogradError("can't retain_grad on Tensor that has requires_grad=False")
        if not self.is_leaf:
            self._retains = True
            from ._tensor_hooks import remember_retained

            remember_retained(self)

    @property
    def retains_grad(self) -> bool:
        return self._retains

    def register_hook(self, hook: Callable[[Tensor], Tensor | None]) -> Any:
        """Call `hook(grad)` in every backward pass when this tensor's gradient is complete.

        It runs here, on the client; what it returns, if not None, takes the gradient's place.
        """
        from ._tensor_hooks import add_hook

        return add_hook(self, hook)

    def register_post_accumulate_grad_hook(self, hook: Callable[[Tensor], None]) -> Any:
        """Call `hook(self)` after every backward pass that added to the `grad` of this leaf."""
        from ._tensor_hooks import add_post_hook

        return add_post_hook(self, hook)

    @property
    def data(self) -> Tensor:
        """The same values without history; writes to it are not noticed by backward passes."""
        return fn._data(self)

    @data.setter
    def data(self, new: Tensor) -> None:
        if not isinstance(new, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(new).__name__}")
        if self.requires_grad and new.dtype.category < 2:
            raise DTypeError(
                "data set to a tensor that requires gradients must be floating point or complex "
                "dtype"
            )
        fresh = fn.detach(new)  # under an id of its own: the engine must tell the two apart
        have, other = self._ref, fresh._ref
        if self._node is not None and (have.session, have.device) == (other.session, other.device):
            have.session.issue(have.device, cmd.LINK, 0, (have.id, other.id), (), ())
        self._become(fresh)

    @property
    def _version(self) -> int:
        if self._inference:
            raise AutogradError("Inference tensors do not track version counter.")
        return self._storage.version

    def detach_(self) -> Tensor:
        """Forget the history of this tensor."""
        if self._base is not None:
            raise AutogradError("Can't detach views in-place. Use detach() instead.")
        self._become(fn.detach(self))  # under a new id: the engine knows the old one's graph
        self._node = self._leaf = None
        return self

    def is_inference(self) -> bool:
        """Return whether it was made in inference mode, and so never enters a graph."""
        return self._inference

    def data_ptr(self) -> int:
        """Return the address of the first element, 0 without elements. Waits.

        On `local:` it is where the tensor lives; over a wire, where a copy of the values it has now
        lies on this machine, as long as the tensor's memory is held.
        """
        from ._interop import address

        return address(self)

    # ------------------------------------------------------------------------------ operators --
    def __getitem__(self, index: Any) -> Tensor:
        return _indexing.get(self, index)

    def __setitem__(self, index: Any, value: Any) -> None:
        _indexing.set(self, index, value)


_PYTHON_KINDS = {0: np.bool_, 1: np.int64, 2: np.float64, 3: np.complex128}


def _python_type(dtype: DType) -> Any:
    """Return the numpy type whose elements become Python numbers without loss."""
    return np.uint64 if dtype is uint64 else _PYTHON_KINDS[dtype.category]


from ._methods import bind_methods  # noqa: E402  (needs Tensor)

bind_methods(Tensor)
set_default(Tensor)
