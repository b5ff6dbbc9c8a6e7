"""Elementwise arithmetic, comparison and functions."""

from __future__ import annotations

from typing import Any

from ..call import fn
from ..dtype import DType, bool_
from ..family import composite, floating, pointwise, structured

pointwise(
    "add.Tensor(Tensor self, Tensor other, *, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self + other if alpha == 1 else self + alpha * other,
    {"self": lambda g: g, "other": lambda g, alpha: g if alpha == 1 else fn.mul(g, alpha)},
)
pointwise(
    "add.Scalar(Tensor self, Scalar other, Scalar alpha=1) -> Tensor",
    lambda xp, self, other, alpha: self + other * alpha,
    {"self": lambda g: g},
)
pointwise(
    "mul.Tensor(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: self * other,
    {
        "self": lambda g, other: fn.mul(g, fn.conj(other)),
        "other": lambda g, self: fn.mul(g, fn.conj(self)),
    },
)
pointwise(
    "mul.Scalar(Tensor self, Scalar other) -> Tensor",
    lambda xp, self, other: self * other,
    {"self": lambda g, other: fn.mul(g, other.conjugate())},
)
pointwise(
    "exp(Tensor self) -> Tensor",
    lambda xp, self: xp.exp(self),
    {"self": lambda g, out: fn.mul(g, fn.conj(out))},
    dtype=floating,
)
pointwise(
    "eq.Tensor(Tensor self, Tensor other) -> Tensor",
    lambda xp, self, other: self == other,
    result=bool_,
)


def _cast_kernel(xp: Any, self: Any, dtype: DType) -> Any:
    """Cast as C does: a float goes to an int by truncation, a complex loses its imaginary part."""
    if self.dtype.kind == "c" and not dtype.is_complex:
        self = self.real
    if self.dtype.name == "bfloat16":
        self = self.astype("float32")
    return self != 0 if dtype is bool_ else self.astype(dtype.numpy)


structured(
    "farspan::_cast(Tensor self, ScalarType dtype) -> Tensor",
    meta=lambda self, dtype: (self if self.dense else self.contiguous_).with_(dtype=dtype),
    kernel=_cast_kernel,
    vjp={"self": lambda g: g},
    moves=True,
)
structured(
    "conj_physical(Tensor self) -> Tensor",
    meta=lambda self: self if self.dense else self.contiguous_,
    kernel=lambda xp, self: xp.conj(self) if self.dtype.kind == "c" else self,
    vjp={"self": lambda g: fn.conj_physical(g)},
)


@composite("conj(Tensor(a) self) -> Tensor(a)")
def conj(self: Any) -> Any:
    """The conjugate; torch marks a view lazily, here complex tensors are conjugated at once."""
    return fn.conj_physical(self) if self._spec.dtype.is_complex else self
