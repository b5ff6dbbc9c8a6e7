"""Variable: what tensors with gradients were called before they were tensors."""

from __future__ import annotations

from typing import Any

from .._tensor import Tensor

__all__ = ["Variable", "VariableMeta"]


class VariableMeta(type):
    """Lets every tensor be an instance of Variable."""

    def __instancecheck__(cls, x: object) -> bool:
        return isinstance(x, Tensor)


class Variable(metaclass=VariableMeta):
    """``Variable(tensor, requires_grad=False)`` returns a tensor on the same memory."""

    def __new__(cls, data: Any = None, requires_grad: bool = False) -> Any:
        if not isinstance(data, Tensor):
            raise TypeError(f"Variable data has to be a tensor, but got {type(data).__name__}")
        made = data.detach()  # type: ignore[attr-defined]
        return made.requires_grad_() if requires_grad else made
