"""Layers that change spatial sizes: upsampling, pixel shuffles, padding and unfolding."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan._tensor import Tensor
from farspan.nn import functional as F
from farspan.nn.functional._arguments import Ints, tuple_of
from farspan.nn.module import Module

__all__ = [
    "CircularPad1d",
    "CircularPad2d",
    "ConstantPad1d",
    "ConstantPad2d",
    "PixelShuffle",
    "PixelUnshuffle",
    "ReflectionPad1d",
    "ReflectionPad2d",
    "ReplicationPad1d",
    "ReplicationPad2d",
    "Unfold",
    "Upsample",
    "ZeroPad1d",
    "ZeroPad2d",
]


class Upsample(Module):
    """(N, C, *spatial) resized to ``size`` or by ``scale_factor``."""

    def __init__(
        self,
        size: int | Sequence[int] | None = None,
        scale_factor: float | Sequence[float] | None = None,
        mode: str = "nearest",
        align_corners: bool | None = None,
        recompute_scale_factor: bool | None = None,
    ) -> None:
        super().__init__()
        self.size = size
        if isinstance(scale_factor, tuple):
            scale_factor = tuple(float(factor) for factor in scale_factor)
        self.scale_factor = float(scale_factor) if isinstance(scale_factor, int) else scale_factor
        self.mode = mode
        self.align_corners = align_corners
        self.recompute_scale_factor = recompute_scale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.interpolate(
            input,
            self.size,
            self.scale_factor,
            self.mode,
            self.align_corners,
            self.recompute_scale_factor,
        )

    def extra_repr(self) -> str:
        name = "size" if self.scale_factor is None else "scale_factor"
        return f"{name}={getattr(self, name)!r}, mode={self.mode!r}"


class PixelShuffle(Module):
    """(*, C r^2, H, W) as (*, C, H r, W r)."""

    def __init__(self, upscale_factor: int) -> None:
        super().__init__()
        self.upscale_factor = upscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_shuffle(input, self.upscale_factor)

    def extra_repr(self) -> str:
        return f"upscale_factor={self.upscale_factor}"


class PixelUnshuffle(Module):
    """(*, C, H r, W r) as (*, C r^2, H, W)."""

    def __init__(self, downscale_factor: int) -> None:
        super().__init__()
        self.downscale_factor = downscale_factor

    def forward(self, input: Tensor) -> Tensor:
        return F.pixel_unshuffle(input, self.downscale_factor)

    def extra_repr(self) -> str:
        return f"downscale_factor={self.downscale_factor}"


class Unfold(Module):
    """The sliding blocks of (N, C, H, W) as columns."""

    def __init__(
        self, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
    ) -> None:
        super().__init__()
        self.kernel_size = kernel_size
        self.dilation = dilation
        self.padding = padding
        self.stride = stride

    def forward(self, input: Tensor) -> Tensor:
        return F.unfold(input, self.kernel_size, self.dilation, self.padding, self.stride)

    def extra_repr(self) -> str:
        return (
            f"kernel_size={self.kernel_size}, dilation={self.dilation}, padding={self.padding}, "
            f"stride={self.stride}"
        )


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


class ReflectionPad1d(_PadNd):
    """A margin that mirrors the last dimension at its edges."""

    _ndim, _mode = 1, "reflect"


class ReflectionPad2d(_PadNd):
    """A margin that mirrors the last two dimensions at their edges."""

    _ndim, _mode = 2, "reflect"


class ReplicationPad1d(_PadNd):
    """A margin that repeats the edges of the last dimension."""

    _ndim, _mode = 1, "replicate"


class ReplicationPad2d(_PadNd):
    """A margin that repeats the edges of the last two dimensions."""

    _ndim, _mode = 2, "replicate"


class CircularPad1d(_PadNd):
    """A margin that goes on at the other end of the last dimension."""

    _ndim, _mode = 1, "circular"


class CircularPad2d(_PadNd):
    """A margin that goes on at the other end of the last two dimensions."""

    _ndim, _mode = 2, "circular"
