"""torch's first constructors, which old programs use: ``Tensor(2, 3)``, ``FloatTensor([1, 2])``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._creation import tensor
from .core.call import fn
from .core.dtype import DTYPES, Defaults, Device, DType
from .core.errors import ArgumentError, BadValueError

if TYPE_CHECKING:
    from ._tensor import Tensor

_BY_NAME = {f"{d.c_name}Tensor": d for d in DTYPES}


class TensorType(type):
    """The type of ``FloatTensor`` and the like: makes tensors, and knows its own by dtype."""

    dtype: DType
    device_type: str

    def __call__(cls, *args: Any, device: Any = None) -> Tensor:
        if cls.device_type == "cuda":
            from . import cuda

            if not cuda.is_available():
                raise ArgumentError(
                    f"type {cls.__qualname__} not available: the session has no GPU"
                )
            device = device or "cuda"
        return legacy_tensor(*args, dtype=cls.dtype, device=device)

    def __instancecheck__(cls, x: Any) -> bool:
        from ._tensor import Tensor

        return isinstance(x, Tensor) and x.dtype is cls.dtype and x.device.type == cls.device_type

    def __repr__(cls) -> str:
        return f"<class '{cls.__qualname__}'>"


def tensor_type(name: str, device_type: str = "cpu") -> TensorType:
    """Return the class ``FloatTensor``, ``LongTensor``, … by its name."""
    module = "farspan.cuda" if device_type == "cuda" else "farspan"
    if name not in _BY_NAME:
        raise AttributeError(f"module {module!r} has no attribute {name!r}")
    made = TensorType(name, (), {"dtype": _BY_NAME[name], "device_type": device_type})
    made.__qualname__ = type_name(made.dtype, device_type)
    return made


def type_name(dtype: DType, device_type: str) -> str:
    """Return what ``x.type()`` says: ``torch.FloatTensor``, ``torch.cuda.FloatTensor``."""
    return f"torch.{'cuda.' * (device_type == 'cuda')}{dtype.c_name}Tensor"


def kind_of(kind: Any) -> tuple[DType, Device | None]:
    """Return what ``x.type(kind)`` converts to: of a dtype, a class of tensors or its name."""
    if isinstance(kind, str):
        where, _, name = kind.rpartition(".")
        if name not in _BY_NAME or where not in ("torch", "torch.cuda"):
            raise BadValueError(f"invalid type: {kind!r}")
        return _BY_NAME[name], Device(where.removeprefix("torch.") if "." in where else "cpu")
    return (kind.dtype, Device(kind.device_type)) if isinstance(kind, TensorType) else (kind, None)


def spmm(input: Tensor, mat2: Tensor) -> Tensor:
    """Return the product of two matrices: ``mm`` as programs over sparse graphs name it."""
    return fn.mm(input, mat2)  # type: ignore[no-any-return]


dsmm = spmm


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
