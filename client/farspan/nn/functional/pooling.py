"""Pooling. The 1d forms are the 2d operators over a height of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints, sizes, tuple_of


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
    _require_dims("max_pool2d", input, (3, 4))
    kernel = tuple_of(kernel_size, 2, "max_pool2d: kernel_size")
    values, indices = fn.max_pool2d_with_indices(
        input,
        list(kernel),
        list(_stride(stride, kernel)),
        list(tuple_of(padding, 2, "max_pool2d: padding")),
        list(tuple_of(dilation, 2, "max_pool2d: dilation")),
        ceil_mode,
    )
    return (values, indices) if return_indices else values


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
    _require_dims("max_pool1d", input, (2, 3))
    (kernel,) = tuple_of(kernel_size, 1, "max_pool1d: kernel_size")
    (step,) = _stride(stride, (kernel,))
    (edge,) = tuple_of(padding, 1, "max_pool1d: padding")
    (spacing,) = tuple_of(dilation, 1, "max_pool1d: dilation")
    values, indices = max_pool2d(
        input.unsqueeze(-2), (1, kernel), (1, step), (0, edge), (1, spacing), ceil_mode, True
    )
    return (values.squeeze(-2), indices.squeeze(-2)) if return_indices else values.squeeze(-2)


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
    _require_dims("avg_pool2d", input, (3, 4))
    if divisor_override == 0:
        raise RuntimeError("divisor must be not zero")
    kernel = tuple_of(kernel_size, 2, "avg_pool2d: kernel_size")
    return fn.avg_pool2d(
        input,
        list(kernel),
        list(_stride(stride, kernel)),
        list(tuple_of(padding, 2, "avg_pool2d: padding")),
        ceil_mode,
        count_include_pad,
        divisor_override,
    )


def avg_pool1d(
    input: Tensor,
    kernel_size: Ints,
    stride: Ints | None = None,
    padding: Ints = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window of (N, C, L)."""
    _require_dims("avg_pool1d", input, (2, 3))
    (kernel,) = tuple_of(kernel_size, 1, "avg_pool1d: kernel_size")
    (step,) = _stride(stride, (kernel,))
    (edge,) = tuple_of(padding, 1, "avg_pool1d: padding")
    x = input.unsqueeze(-2)
    return avg_pool2d(x, (1, kernel), (1, step), (0, edge), ceil_mode, count_include_pad).squeeze(
        -2
    )


def adaptive_avg_pool2d(input: Tensor, output_size: Any) -> Tensor:
    """Return (N, C, H, W) averaged to ``output_size``; None keeps a dimension."""
    _require_dims("adaptive_avg_pool2d", input, (3, 4))
    return fn.adaptive_avg_pool2d(input, _output_size(input, output_size))


def adaptive_avg_pool1d(input: Tensor, output_size: Ints) -> Tensor:
    """Return (N, C, L) averaged to a last dimension of ``output_size``."""
    _require_dims("adaptive_avg_pool1d", input, (2, 3))
    (length,) = tuple_of(output_size, 1, "adaptive_avg_pool1d: output_size")
    return adaptive_avg_pool2d(input.unsqueeze(-2), (1, length)).squeeze(-2)


def adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Any:
    """Return the maxima of (N, C, H, W) over windows that give ``output_size``."""
    _require_dims("adaptive_max_pool2d", input, (3, 4))
    values, indices = fn.adaptive_max_pool2d(input, _output_size(input, output_size))
    return (values, indices) if return_indices else values


def adaptive_max_pool1d(input: Tensor, output_size: Ints, return_indices: bool = False) -> Any:
    """Return the maxima of (N, C, L) over windows that give a last dimension of that size."""
    _require_dims("adaptive_max_pool1d", input, (2, 3))
    (length,) = tuple_of(output_size, 1, "adaptive_max_pool1d: output_size")
    values, indices = adaptive_max_pool2d(input.unsqueeze(-2), (1, length), True)
    return (values.squeeze(-2), indices.squeeze(-2)) if return_indices else values.squeeze(-2)


def _stride(stride: Ints | None, kernel: tuple[int, ...]) -> tuple[int, ...]:
    if stride is None or (not isinstance(stride, int) and len(stride) == 0):
        return kernel
    return tuple_of(stride, len(kernel), "stride")


def _output_size(input: Tensor, output_size: Any) -> list[int]:
    wanted: Sequence[Any] = (
        (output_size, output_size) if isinstance(output_size, int | None) else output_size
    )
    if len(wanted) != 2:
        raise ValueError(f"output_size must be one int or two, but got {output_size}")
    return [
        have if want is None else want for want, have in zip(wanted, input.shape[-2:], strict=True)
    ]


def _require_dims(name: str, input: Tensor, allowed: tuple[int, int]) -> None:
    if input.dim() not in allowed:
        raise RuntimeError(
            f"{name}() Expected {allowed[0]}D or {allowed[1]}D input tensor, "
            f"but got input of size: {sizes(input)}"
        )
