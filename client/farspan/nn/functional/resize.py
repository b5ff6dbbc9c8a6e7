"""interpolate and unfold: other spatial sizes from the same values.

Where a value comes from, and with what share, depends on sizes alone, so it is computed here and
sent along as small tensors; the work itself is index_select and sums.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints, tuple_of
from farspan.nn.functional.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d

_LINEAR = {"linear": 1, "bilinear": 2, "trilinear": 3}
_MODES = ("nearest", "nearest-exact", "area", *_LINEAR)


def interpolate(
    input: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
    recompute_scale_factor: bool | None = None,
    antialias: bool = False,
) -> Tensor:
    """Return (N, C, *spatial) resized to ``size`` or by ``scale_factor``."""
    ndim = input.dim() - 2
    if mode not in _MODES or antialias:
        raise NotImplementedError(
            f"interpolate(mode={mode!r}, antialias={antialias}): there are {', '.join(_MODES)}, "
            "without antialiasing"
        )
    if align_corners is not None and mode not in _LINEAR:
        raise ValueError(
            "align_corners option can only be set with the interpolating modes: linear | bilinear "
            "| bicubic | trilinear"
        )
    if mode in _LINEAR and _LINEAR[mode] != ndim:
        raise NotImplementedError(
            f"Got {input.dim()}D input, but {mode} mode needs {_LINEAR[mode] + 2}D input"
        )
    sizes, factors = _sizes_and_factors(input, size, scale_factor)
    if recompute_scale_factor:
        if size is not None:
            raise ValueError("recompute_scale_factor is not meaningful with an explicit size.")
        factors = [None] * ndim
    if mode == "area":
        pool = {1: adaptive_avg_pool1d, 2: adaptive_avg_pool2d}[ndim]
        return pool(input, sizes)
    for i, (out, factor) in enumerate(zip(sizes, factors, strict=True)):
        if mode in _LINEAR:
            input = _linear_along(input, i + 2, out, factor, bool(align_corners))
        else:
            input = _nearest_along(input, i + 2, out, factor, exact=mode == "nearest-exact")
    return input


def _sizes_and_factors(
    input: Tensor, size: Any, scale_factor: Any
) -> tuple[list[int], list[float | None]]:
    ndim = input.dim() - 2
    if size is not None and scale_factor is not None:
        raise ValueError("only one of size or scale_factor should be defined")
    if size is None and scale_factor is None:
        raise ValueError("either size or scale_factor should be defined")
    name = "output size" if size is not None else "scale_factor"
    given = size if size is not None else scale_factor
    values = list(given) if isinstance(given, (list, tuple)) else [given] * ndim
    if len(values) != ndim:
        raise ValueError(
            "Input and output must have the same number of spatial dimensions, but got input with "
            f"spatial dimensions of {list(input.shape[2:])} and {name} of {given}."
        )
    if size is not None:
        return [int(value) for value in values], [None] * ndim
    have = zip(input.shape[2:], values, strict=True)
    return [math.floor(float(n) * value) for n, value in have], values


def _step(have: int, out: int, factor: float | None) -> np.float32:
    """Return how far a step in the output is in the input; in float32, as torch computes it."""
    return np.float32(1.0 / factor) if factor else np.float32(have) / np.float32(out)


def _select(input: Tensor, dim: int, positions: Any) -> Tensor:
    index = farspan.tensor(
        np.asarray(positions).astype(np.int64).tolist(), dtype=farspan.int64, device=input.device
    )
    return input.index_select(dim, index)


def _nearest_along(input: Tensor, dim: int, out: int, factor: float | None, exact: bool) -> Tensor:
    have = input.shape[dim]
    if out == have:
        return input.clone() if dim == input.dim() - 1 else input
    shift = np.float32(0.5 if exact else 0.0)
    positions = np.floor((np.arange(out, dtype=np.float32) + shift) * _step(have, out, factor))
    return _select(input, dim, np.minimum(positions, have - 1))


def _linear_along(
    input: Tensor, dim: int, out: int, factor: float | None, align_corners: bool
) -> Tensor:
    have = input.shape[dim]
    places = np.arange(out, dtype=np.float32)
    if align_corners:
        step = np.float32(have - 1) / np.float32(out - 1) if out > 1 else np.float32(0)
        source = places * step
    else:
        half = np.float32(0.5)
        source = np.maximum(_step(have, out, factor) * (places + half) - half, np.float32(0))
    low = np.minimum(np.floor(source), have - 1)
    high = np.minimum(low + 1, have - 1)
    share = farspan.tensor((source - low).tolist(), dtype=input.dtype, device=input.device)
    share = share.reshape([-1 if i == dim else 1 for i in range(input.dim())])
    return _select(input, dim, low) * (1 - share) + _select(input, dim, high) * share


def unfold(
    input: Tensor, kernel_size: Ints, dilation: Ints = 1, padding: Ints = 0, stride: Ints = 1
) -> Tensor:
    """Return the sliding blocks of (N, C, H, W) as columns: (N, C*kh*kw, number of blocks)."""
    return fn.im2col(
        input,
        list(tuple_of(kernel_size, 2, "kernel_size")),
        list(tuple_of(dilation, 2, "dilation")),
        list(tuple_of(padding, 2, "padding")),
        list(tuple_of(stride, 2, "stride")),
    )
