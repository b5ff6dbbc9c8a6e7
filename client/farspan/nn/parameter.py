"""Parameter and Buffer: tensors that a Module registers when they are assigned to it.

They are the same tensor as any other; only the Python class differs. ``_reclassed`` is the one
place that knows how such an object is made.
"""

from __future__ import annotations

from typing import Any

import farspan
from farspan._tensor import Tensor

__all__ = ["Buffer", "Parameter"]


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
