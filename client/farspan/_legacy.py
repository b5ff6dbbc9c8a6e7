"""torch's first constructors, which old programs use: ``Tensor(2, 3)``, ``FloatTensor([1, 2])``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._creation import tensor
from .core.call import fn
from .core.dtype import DTYPES, Defaults, DType
from .core.errors import ArgumentError, BadValueError

if TYPE_CHECKING:
    from ._tensor import Tensor

_BY_NAME = {f"{d.c_name}Tensor": d for d in DTYPES}


class TensorType(type):
    """The type of ``FloatTensor`` and the like: makes tensors, and knows its own by dtype."""

    dtype: DType

    def __call__(cls, *args: Any, device: Any = None) -> Tensor:
        return legacy_tensor(*args, dtype=cls.dtype, device=device)

    def __instancecheck__(cls, x: Any) -> bool:
        from ._tensor import Tensor

        return isinstance(x, Tensor) and x.dtype is cls.dtype and x.is_cpu

    def __repr__(cls) -> str:
        return f"<class 'torch.{cls.__name__}'>"


def tensor_type(name: str) -> TensorType:
    """Return the class ``FloatTensor``, ``LongTensor``, … by its name."""
    if name not in _BY_NAME:
        raise AttributeError(f"module 'farspan' has no attribute {name!r}")
    return TensorType(name, (), {"dtype": _BY_NAME[name]})


def type_name(dtype: DType) -> str:
    """Return what ``x.type()`` says of a tensor on the CPU: ``torch.FloatTensor``."""
    return f"torch.{dtype.c_name}Tensor"


def dtype_of(kind: Any) -> Any:
    """Return the dtype that ``x.type(kind)`` casts to: a dtype, a class or its name."""
    if isinstance(kind, str):
        found = _BY_NAME.get(kind.removeprefix("torch."))
        if found is None:
            raise BadValueError(f"invalid type: {kind!r}")
        return found
    return kind.dtype if isinstance(kind, TensorType) else kind


def legacy_tensor(*args: Any, dtype: DType | None = None, device: Any = None) -> Tensor:
    """Return uninitialised memory for ``Tensor(2, 3)``, the values for ``Tensor([1, 2])``."""
    from ._tensor import Size, Tensor

    kind = dtype or Defaults.dtype
    data = args[0] if len(args) == 1 else list(args)
    if isinstance(data, Tensor):
        if dtype is not None and data.dtype is not dtype:
            raise ArgumentError(
                f"expected a tensor of {dtype}, got {data.dtype}; write x.to({dtype})"
            )
        return fn.detach(data)  # type: ignore[no-any-return]
    if len(args) == 1 and isinstance(data, (float, complex)):
        raise ArgumentError(f"new(): data must be a sequence (got {type(data).__name__})")
    if len(args) == 1 and not isinstance(data, (int, Size)):
        return tensor(data, dtype=kind, device=device)
    return fn.empty(  # type: ignore[no-any-return]
        [data] if isinstance(data, int) else list(data) or [0], dtype=kind, device=device
    )
