"""Padding layers."""

from __future__ import annotations

from typing import Any

from farspan._tensor import Tensor
from farspan.nn import functional as F
from farspan.nn.functional._arguments import Ints, tuple_of
from farspan.nn.module import Module

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "CircularPad3d",
    "ConstantPad1d",
    "ConstantPad2d",
    "ConstantPad3d",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReflectionPad3d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "ReplicationPad3d",
    "ZeroPad1d",
    "ZeroPad2d",
    "ZeroPad3d",
]


class _PadNd(Module):
    """What the padding layers share; ``padding`` is one int or (left, right, top, bottom)."""

    _ndim: int
    _mode: str

    def __init__(self, padding: Ints) -> None:
        super().__init__()
        self.padding = tuple_of(padding, 2 * self._ndim, "padding")

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, self._mode)

    def extra_repr(self) -> str:
        return f"{self.padding}"


class _ConstantPadNd(_PadNd):
    _mode = "constant"

    def __init__(self, padding: Ints, value: float) -> None:
        super().__init__(padding)
        self.value = value

    def forward(self, input: Tensor) -> Tensor:
        return F.pad(input, self.padding, "constant", self.value)

    def extra_repr(self) -> str:
        return f"padding={self.padding}, value={self.value}"


class ConstantPad1d(_ConstantPadNd):
    """A margin of ``value`` around the last dimension."""

    _ndim = 1


class ConstantPad2d(_ConstantPadNd):
    """A margin of ``value`` around the last two dimensions."""

    _ndim = 2


class ConstantPad3d(_ConstantPadNd):
    """A margin of ``value`` around the last three dimensions."""

    _ndim = 3


class _ZeroPadNd(_ConstantPadNd):
    def __init__(self, padding: Ints) -> None:
        super().__init__(padding, 0.0)

    def extra_repr(self) -> Any:
        return f"{self.padding}"


class ZeroPad1d(_ZeroPadNd):
    """A margin of zeros around the last dimension."""

    _ndim = 1


class ZeroPad2d(_ZeroPadNd):
    """A margin of zeros around the last two dimensions."""

    _ndim = 2


class ZeroPad3d(_ZeroPadNd):
    """A margin of zeros around the last three dimensions."""

    _ndim = 3


class ReflectionPad1d(_PadNd):
    """A margin that mirrors the last dimension at its edges."""

    _ndim, _mode = 1, "reflect"


class ReflectionPad2d(_PadNd):
    """A margin that mirrors the last two dimensions at their edges."""

    _ndim, _mode = 2, "reflect"


class ReflectionPad3d(_PadNd):
    """A margin that mirrors the last three dimensions at their edges."""

    _ndim, _mode = 3, "reflect"


class ReplicationPad1d(_PadNd):
    """A margin that repeats the edges of the last dimension."""

    _ndim, _mode = 1, "replicate"


class ReplicationPad2d(_PadNd):
    """A margin that repeats the edges of the last two dimensions."""

    _ndim, _mode = 2, "replicate"


class ReplicationPad3d(_PadNd):
    """A margin that repeats the edges of the last three dimensions."""

    _ndim, _mode = 3, "replicate"


class _CircularPadNd(_PadNd):
    _mode = "circular"

    def forward(self, input: Tensor) -> Tensor:
        if input.dim() not in (self._ndim + 1, self._ndim + 2):
            raise ValueError(
                f"expected {self._ndim + 1}D or {self._ndim + 2}D input (got {input.dim()}D input)"
            )
        return super().forward(input)


class CircularPad1d(_CircularPadNd):
    """A margin that goes on at the other end of the last dimension."""

    _ndim = 1


class CircularPad2d(_CircularPadNd):
    """A margin that goes on at the other end of the last two dimensions."""

    _ndim = 2


class CircularPad3d(_CircularPadNd):
    """A margin that goes on at the other end of the last three dimensions."""

    _ndim = 3
