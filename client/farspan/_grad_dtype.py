"""Tensor.grad_dtype: which dtype a leaf's `grad` has; its own by default, None for any."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .core.dtype import DType
from .core.errors import ArgumentError, AutogradError, DTypeError

if TYPE_CHECKING:
    from ._tensor import Tensor

_NAMES = {
    "float32": "float", "float64": "Double", "float16": "Half", "bfloat16": "BFloat16",
    "complex64": "ComplexFloat", "complex128": "ComplexDouble",
}  # fmt: skip


def wanted(x: Tensor) -> DType | None:
    """Return the dtype that the gradient must have; None for any."""
    return x.dtype if x._grad_dtype is False else x._grad_dtype  # type: ignore[return-value]


def read(x: Tensor) -> DType | None:
    """The dtype of this leaf's gradients; None if any will do. Incoming ones are cast to it."""
    if not x.is_leaf:
        raise AutogradError("grad_dtype can only be accessed on leaf tensors.")
    return wanted(x)


def write(x: Tensor, dtype: Any) -> None:
    """Let gradients of this leaf have another dtype. AutogradError if there is one already."""
    if not x.is_leaf:
        raise AutogradError("grad_dtype can only be set on leaf tensors.")
    if dtype is not None and not isinstance(dtype, DType):
        raise ArgumentError(f"grad_dtype must be a torch.dtype or None, got {type(dtype).__name__}")
    have = x._grad
    if dtype is not None and have is not None and have.dtype is not dtype:
        raise AutogradError(
            f"Cannot set grad_dtype to '{_NAMES.get(dtype.name, dtype.name)}' because there is "
            f"already a gradient with dtype '{have.dtype}'. Please clear the gradient "
            "(.grad = None) before changing grad_dtype, or ensure the new grad_dtype matches the "
            "existing gradient's dtype."
        )
    x._grad_dtype = dtype


def check(x: Tensor, gradient: Tensor) -> None:
    """Raise unless the gradient may be assigned to ``x.grad``."""
    dtype = wanted(x)
    if dtype is not None and gradient.dtype is not dtype:
        raise DTypeError(
            f"attempting to assign a gradient with dtype '{_NAMES.get(gradient.dtype.name)}' to a "
            f"tensor with grad_dtype '{_NAMES.get(dtype.name)}'. The gradient must match the "
            "tensor's grad_dtype (defaults to the tensor's dtype). You can set the tensor's "
            "grad_dtype attribute with a specific dtype, or None to allow any dtype."
        )
