"""Parameter and Buffer: tensors that a Module registers when they are assigned to it.

They are the same tensor as any other; only the Python class differs. ``_reclassed`` is the one
place that knows how such an object is made. The uninitialized forms have a dtype and a device but
no shape yet; whatever looks at their shape or values is refused.
"""

from __future__ import annotations

from typing import Any

import farspan
from farspan._quick import plain_types
from farspan._tensor import Tensor

__all__ = ["Buffer", "Parameter", "UninitializedBuffer", "UninitializedParameter", "is_lazy"]


def _reclassed(data: Tensor, cls: type[Tensor], requires_grad: bool) -> Any:
    """Return a leaf of class ``cls`` that shares storage with ``data``; does not wait."""
    alias = data.detach()
    alias.__class__ = cls
    alias.requires_grad_(requires_grad)
    return alias


class Parameter(Tensor):
    """A tensor that ``Module.parameters()`` lists: ``Parameter(farspan.zeros(3))``.

    It shares storage with ``data`` and is a leaf; ``requires_grad`` is true unless said otherwise.
    """

    def __new__(cls, data: Tensor | None = None, requires_grad: bool = True) -> Parameter:
        if data is None:
            data = farspan.empty(0)
        return _reclassed(data, cls, requires_grad)

    def __init__(self, data: Tensor | None = None, requires_grad: bool = True) -> None:
        """Nothing is left to do: ``__new__`` has made the whole object."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Parameter:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), self.requires_grad)
        return memo[id(self)]


class Buffer(Tensor):
    """A tensor that ``Module.buffers()`` lists: state that is saved but not trained."""

    persistent: bool

    def __new__(cls, data: Tensor | None = None, *, persistent: bool = True) -> Buffer:
        if data is None:
            data = farspan.empty(0)
        buffer = _reclassed(data, cls, data.requires_grad)
        buffer.persistent = persistent
        return buffer

    def __init__(self, data: Tensor | None = None, *, persistent: bool = True) -> None:
        """Nothing is left to do: ``__new__`` has made the whole object."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Buffer:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.detach().clone(), persistent=self.persistent)
        return memo[id(self)]


_NO_SHAPE = (
    "Can't access the shape of an uninitialized parameter or buffer. This error usually happens in "
    "`load_state_dict` when trying to load an uninitialized parameter into an initialized one. "
    "Call `forward` to initialize the parameters before accessing their attributes."
)


plain_types.update((Parameter, Buffer))  # nothing of theirs takes part in an op


def _conversion(name: str) -> Any:
    """Return the method ``name``, which asks or converts the blank that holds dtype and device."""

    def convert(self: Any, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(self._blank, name)(*args, **kwargs)
        if not isinstance(answer, Tensor):
            return answer
        made = _blank(type(self), answer.detach())
        made.__dict__.update(self.__dict__, _blank=made._blank)
        return made

    convert.__name__ = name
    return convert


class UninitializedTensorMixin(Tensor):
    """A tensor whose shape is not known yet; ``materialize(shape)`` makes it an ordinary one."""

    cls_to_become: type[Tensor]
    _blank: Tensor  # empty; it has the dtype and the device

    to, half, float, double = map(_conversion, ("to", "half", "float", "double"))
    char, short, int, long = map(_conversion, ("char", "short", "int", "long"))
    cuda, cpu, bfloat16 = map(_conversion, ("cuda", "cpu", "bfloat16"))
    is_floating_point, is_complex = map(_conversion, ("is_floating_point", "is_complex"))
    get_device = _conversion("get_device")

    @property
    def _spec(self) -> Any:
        raise ValueError(
            "Attempted to use an uninitialized parameter. This error happens when you are using a "
            f"`LazyModule` or explicitly manipulating `torch.nn.parameter.{type(self).__name__}` "
            "objects. When using LazyModules Call `forward` with a dummy batch to initialize the "
            "parameters before calling torch functions"
        )

    @property
    def shape(self) -> Any:
        raise RuntimeError(_NO_SHAPE)

    @property
    def dtype(self) -> Any:
        return self._blank.dtype

    @property
    def device(self) -> Any:
        return self._blank.device

    @property
    def data(self) -> Tensor:
        return self._blank

    @data.setter
    def data(self, new: Tensor) -> None:
        blank = new._blank if isinstance(new, UninitializedTensorMixin) else new
        self._blank = blank.detach().requires_grad_(self.requires_grad)

    @property
    def requires_grad(self) -> bool:
        return self._blank.requires_grad

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self._blank.requires_grad_(value)

    def requires_grad_(self, requires_grad: bool = True) -> Any:
        self._blank.requires_grad_(requires_grad)
        return self

    def materialize(self, shape: Any, device: Any = None, dtype: Any = None) -> None:
        """Become an ordinary tensor of ``shape``, with uninitialized values."""
        blank = self.__dict__.pop("_blank")
        wanted = blank.requires_grad
        self.__class__ = self.cls_to_become  # type: ignore[assignment]
        made = farspan.empty(shape, device=device or blank.device, dtype=dtype or blank.dtype)
        self._become(made)  # type: ignore[attr-defined]
        self.requires_grad_(wanted)

    def share_memory_(self) -> Any:
        raise RuntimeError(
            "Can't share memory on an uninitialized parameter or buffer. Call `forward` to "
            "initialize the parameters before calling `module.share_memory()`."
        )

    def __repr__(self, *, tensor_contents: Any = None) -> str:
        return f"<{type(self).__name__}>"


def _uninitialized(cls: type[Any], requires_grad: bool, device: Any, dtype: Any) -> Any:
    return _blank(cls, farspan.empty(0, device=device, dtype=dtype).requires_grad_(requires_grad))


def _blank(cls: type[Any], blank: Tensor) -> Any:
    made = object.__new__(cls)
    made._node = made._base = None
    made._blank = blank
    return made


class UninitializedParameter(UninitializedTensorMixin, Parameter):
    """A Parameter whose shape is not known yet, as lazy modules have them."""

    cls_to_become = Parameter

    def __new__(
        cls, requires_grad: bool = True, device: Any = None, dtype: Any = None
    ) -> UninitializedParameter:
        return _uninitialized(cls, requires_grad, device, dtype)

    def __init__(self, requires_grad: bool = True, device: Any = None, dtype: Any = None) -> None:
        """Nothing is left to do: ``__new__`` has made the whole object."""

    def __deepcopy__(self, memo: dict[Any, Any]) -> UninitializedParameter:
        if id(self) not in memo:
            memo[id(self)] = type(self)(self.requires_grad, self.device, self.dtype)
        return memo[id(self)]


class UninitializedBuffer(UninitializedTensorMixin):
    """A buffer whose shape is not known yet, as lazy modules have them."""

    cls_to_become = Tensor
    persistent: bool

    def __new__(
        cls,
        requires_grad: bool = False,
        device: Any = None,
        dtype: Any = None,
        persistent: bool = True,
    ) -> UninitializedBuffer:
        made: UninitializedBuffer = _uninitialized(cls, requires_grad, device, dtype)
        made.persistent = persistent
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Nothing is left to do: ``__new__`` has made the whole object."""

    def __deepcopy__(self, memo: dict[Any, Any]) -> UninitializedBuffer:
        if id(self) not in memo:
            memo[id(self)] = type(self)(
                self.requires_grad, self.device, self.dtype, self.persistent
            )
        return memo[id(self)]


def is_lazy(param: Any) -> bool:
    """Return whether ``param`` still waits for its shape."""
    return isinstance(param, UninitializedTensorMixin)
