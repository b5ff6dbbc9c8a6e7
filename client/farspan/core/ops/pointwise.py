"""Elementwise arithmetic, comparison and functions."""

from __future__ import annotations

from ..call import fn
from ..dtype import bool_
from ..family import floating, pointwise

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
