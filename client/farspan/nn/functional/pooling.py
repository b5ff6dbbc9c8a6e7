"""Pooling: torch's arguments (a stride may be None, indices may be asked for) over the table."""

from __future__ import annotations

from typing import Any

from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints

adaptive_avg_pool1d = fn.adaptive_avg_pool1d


def max_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maximum of each window of (N, C, L), and where it lies if asked for."""
    found = fn.max_pool1d_with_indices(
        input, kernel_size, _stride(stride), padding, dilation, ceil_mode
    )
    return tuple(found) if return_indices else found[0]


def max_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    dilation: Ints = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the maximum of each window of (N, C, H, W), and where it lies if asked for."""
    found = fn.max_pool2d_with_indices(
        input, kernel_size, _stride(stride), padding, dilation, ceil_mode
    )
    return tuple(found) if return_indices else found[0]


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window of (N, C, L)."""
    return fn.avg_pool1d(input, kernel_size, _stride(stride), padding, ceil_mode, count_include_pad)


def avg_pool2d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window of (N, C, H, W)."""
    return fn.avg_pool2d(
        input,
        kernel_size,
        _stride(stride),
        padding,
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Return (N, C, H, W) averaged to ``output_size``; None keeps a dimension."""
    return fn.adaptive_avg_pool2d(input, _output_size(input, output_size))


def adaptive_max_pool1d(input: Tensor, output_size: Ints, return_indices: bool = False) -> Any:
    """Return the maxima of (N, C, L) over windows that give a last dimension of that size."""
    found = fn.adaptive_max_pool1d(input, output_size)
    return tuple(found) if return_indices else found[0]


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of (N, C, H, W) over windows that give ``output_size``."""
    found = fn.adaptive_max_pool2d(input, _output_size(input, output_size))
    return tuple(found) if return_indices else found[0]


def _stride(stride: Ints | None) -> Any:
    return [] if stride is None else stride


def _output_size(input: Tensor, output_size: Any) -> list[int]:
    wanted = output_size if isinstance(output_size, (tuple, list)) else (output_size,) * 2
    if len(wanted) != 2:
        raise ValueError(f"output_size must be one int or two, but got {output_size}")
    have = input.shape[-2:]
    return [size if want is None else want for want, size in zip(wanted, have, strict=True)]
