"""Sliding blocks of images as columns, and columns summed back into images.

The two are each other's transpose, so each is the other's gradient.
"""

from __future__ import annotations

import math
from typing import Any

from ..call import fn
from ..errors import ParameterError, ShapeError
from ..family import refuse, structured
from ..spec import Spec

Ints = tuple[int, ...]


def _blocks(size: Ints, kernel: Ints, dilation: Ints, padding: Ints, stride: Ints) -> Ints:
    """Return how many blocks there are along each dim. Raises what torch raises."""
    for name, values, least in (
        ("kernel size", kernel, 1), ("dilation", dilation, 1), ("stride", stride, 1),
        ("padding", padding, 0),
    ):  # fmt: skip
        if min(values) < least:
            what = "greater than zero" if least else "non-negative"
            raise ParameterError(f"{name} should be {what}, but got {list(values)}")
    counts = tuple(
        (n + 2 * p - d * (k - 1) - 1) // s + 1
        for n, k, d, p, s in zip(size, kernel, dilation, padding, stride, strict=True)
    )
    if min(counts) < 1:
        raise ShapeError(
            f"Given input with spatial size {tuple(size)}, kernel_size={kernel}, "
            f"dilation={dilation}, padding={padding}, stride={stride}, calculated shape of the "
            f"array of sliding blocks as {counts}, but its components must be at least one."
        )
    return counts


def _unfold_meta(
    self: Spec, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Spec:
    if self.ndim not in (3, 4) or 0 in self.shape[1:]:
        raise ShapeError(
            "Expected 3D or 4D (batch mode) tensor with possibly 0 batch size and other non-zero "
            f"dimensions for input, but got: {list(self.shape)}"
        )
    counts = _blocks(self.shape[-2:], kernel_size, dilation, padding, stride)
    shape = (*self.shape[:-3], self.shape[-3] * math.prod(kernel_size), math.prod(counts))
    refuse("im2col_out_cpu", self.dtype, "i")
    return self.with_(shape=shape, stride=None)


def _places(
    padded: Any, kernel: Ints, counts: Ints, dilation: Ints, stride: Ints
) -> list[tuple[Ints, Any]]:
    """Return each place in a block with a view of the elements of all blocks at that place."""
    return [
        (
            (i, j),
            padded[
                ...,
                i * dilation[0] : i * dilation[0] + (counts[0] - 1) * stride[0] + 1 : stride[0],
                j * dilation[1] : j * dilation[1] + (counts[1] - 1) * stride[1] + 1 : stride[1],
            ],
        )
        for i in range(kernel[0])
        for j in range(kernel[1])
    ]


def _inside(size: Ints, padding: Ints) -> tuple[Any, ...]:
    return (..., *[slice(p, p + n) for n, p in zip(size, padding, strict=True)])


def _unfold_kernel(
    xp: Any, self: Any, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Any:
    size = self.shape[-2:]
    counts = _blocks(size, kernel_size, dilation, padding, stride)
    padded = xp.zeros(
        (*self.shape[:-2], *[n + 2 * p for n, p in zip(size, padding, strict=True)]), self.dtype
    )
    padded[_inside(size, padding)] = self
    out = xp.empty((*self.shape[:-2], *kernel_size, *counts), self.dtype)
    for (i, j), part in _places(padded, kernel_size, counts, dilation, stride):
        out[..., i, j, :, :] = part
    channels = self.shape[-3] * math.prod(kernel_size)
    return out.reshape(*self.shape[:-3], channels, math.prod(counts))


def _fold_meta(
    self: Spec, output_size: Ints, kernel_size: Ints, dilation: Ints, padding: Ints, stride: Ints
) -> Spec:
    if self.ndim not in (2, 3) or 0 in self.shape[1:]:
        raise ShapeError(
            "Expected 2D or 3D (batch mode) tensor for input with possibly 0 batch size and "
            f"non-zero dimensions, but got: {list(self.shape)}"
        )
    area = math.prod(kernel_size)
    if self.shape[-2] % area:
        raise ShapeError(
            "Expected size of input's dimension 1 to be divisible by the product of kernel_size, "
            f"but got input.size(1)={self.shape[-2]} and kernel_size={kernel_size}."
        )
    counts = _blocks(output_size, kernel_size, dilation, padding, stride)
    if self.shape[-1] != math.prod(counts):
        raise ShapeError(
            f"Given output_size={output_size}, kernel_size={kernel_size}, dilation={dilation}, "
            f"padding={padding}, stride={stride}, expected size of input's dimension 2 to match "
            f"the calculated number of sliding blocks {counts[0]} * {counts[1]} = "
            f"{math.prod(counts)}, but got input.size(2)={self.shape[-1]}."
        )
    refuse("col2im_out_cpu", self.dtype, "i")
    shape = (*self.shape[:-2], self.shape[-2] // area, *output_size)
    return self.with_(shape=shape, stride=None)


def _fold_kernel(
    xp: Any, self: Any, output_size: Ints, kernel_size: Ints, dilation: Ints, padding: Ints,
    stride: Ints,
) -> Any:  # fmt: skip
    counts = _blocks(output_size, kernel_size, dilation, padding, stride)
    lead = (*self.shape[:-2], self.shape[-2] // math.prod(kernel_size))
    columns = self.reshape(*lead, *kernel_size, *counts)
    padded = xp.zeros(
        (*lead, *[n + 2 * p for n, p in zip(output_size, padding, strict=True)]), self.dtype
    )
    for (i, j), part in _places(padded, kernel_size, counts, dilation, stride):
        part += columns[..., i, j, :, :]
    return padded[_inside(output_size, padding)]


structured(
    "im2col(Tensor self, int[2] kernel_size, int[2] dilation, int[2] padding, int[2] stride)"
    " -> Tensor",
    meta=_unfold_meta,
    kernel=_unfold_kernel,
    vjp={
        "self": lambda g, self_spec, kernel_size, dilation, padding, stride: fn.col2im(
            g, self_spec.shape[-2:], kernel_size, dilation, padding, stride
        )
    },
)
structured(
    "col2im(Tensor self, SymInt[2] output_size, int[2] kernel_size, int[2] dilation,"
    " int[2] padding, int[2] stride) -> Tensor",
    meta=_fold_meta,
    kernel=_fold_kernel,
    vjp={
        "self": lambda g, kernel_size, dilation, padding, stride: fn.im2col(
            g, kernel_size, dilation, padding, stride
        )
    },
)
