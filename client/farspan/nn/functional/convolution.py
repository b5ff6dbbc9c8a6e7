"""Convolutions, plain and transposed, over one operator, aten::convolution; and unfold."""

from __future__ import annotations

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import Ints, sizes, tuple_of
from farspan.nn.functional.padding import pad


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 1d cross-correlation of (N, C, L) or (C, L) with weight (out, C/groups, K)."""
    return _conv(1, input, weight, bias, stride, padding, dilation, groups)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints | str = 0,
    dilation: Ints = 1,
    groups: int = 1,
) -> Tensor:
    """Return the 2d cross-correlation of (N, C, H, W) or (C, H, W) with (out, C/groups, K, K)."""
    return _conv(2, input, weight, bias, stride, padding, dilation, groups)


def _conv(
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints | str,
    dilation: Ints,
    groups: int,
) -> Tensor:
    if input.dim() not in (ndim + 1, ndim + 2):
        raise RuntimeError(
            f"Expected {ndim + 1}D (unbatched) or {ndim + 2}D (batched) input to conv{ndim}d, "
            f"but got input of size: {sizes(input)}"
        )
    batched = input.dim() == ndim + 2
    x = input if batched else input.unsqueeze(0)
    if x.shape[1] != weight.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {sizes(weight)}, expected input{sizes(x)} to "
            f"have {weight.shape[1] * groups} channels, but got {x.shape[1]} channels instead"
        )
    steps = tuple_of(stride, ndim, "stride")
    spacing = tuple_of(dilation, ndim, "dilation")
    if isinstance(padding, str):
        x, amounts = _named_padding(padding, x, weight, steps, spacing)
    else:
        amounts = tuple_of(padding, ndim, "padding")
    zeros = [0] * ndim
    out = farspan.convolution(
        x, weight, bias, list(steps), list(amounts), list(spacing), False, zeros, groups
    )
    return out if batched else out.squeeze(0)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Return the gradient of conv1d with respect to its input; weight (C, out/groups, K)."""
    return _conv_transpose(
        1, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Ints = 1,
    padding: Ints = 0,
    output_padding: Ints = 0,
    groups: int = 1,
    dilation: Ints = 1,
) -> Tensor:
    """Return the gradient of conv2d with respect to its input; weight (C, out/groups, K, K)."""
    return _conv_transpose(
        2, input, weight, bias, stride, padding, output_padding, groups, dilation
    )


def _conv_transpose(
    ndim: int,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Ints,
    padding: Ints,
    output_padding: Ints,
    groups: int,
    dilation: Ints,
) -> Tensor:
    if input.dim() not in (ndim + 1, ndim + 2):
        raise RuntimeError(
            f"Expected {ndim + 1}D (unbatched) or {ndim + 2}D (batched) input to "
            f"conv_transpose{ndim}d, but got input of size: {sizes(input)}"
        )
    batched = input.dim() == ndim + 2
    x = input if batched else input.unsqueeze(0)
    if x.shape[1] != weight.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {sizes(weight)}, expected input{sizes(x)} to "
            f"have {weight.shape[0]} channels, but got {x.shape[1]} channels instead"
        )
    steps, amounts, spacing, extra = (
        list(tuple_of(value, ndim, name))
        for name, value in (
            ("stride", stride),
            ("padding", padding),
            ("dilation", dilation),
            ("output_padding", output_padding),
        )
    )
    out = farspan.convolution(x, weight, bias, steps, amounts, spacing, True, extra, groups)
    return out if batched else out.squeeze(0)


def _named_padding(
    padding: str, x: Tensor, weight: Tensor, stride: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[Tensor, tuple[int, ...]]:
    """Return the input and symmetric padding that 'valid' or 'same' stands for."""
    if padding not in ("valid", "same"):
        raise RuntimeError(f"Invalid padding string: '{padding}'")
    if padding == "valid":
        return x, (0,) * len(stride)
    if any(step != 1 for step in stride):
        raise RuntimeError("padding='same' is not supported for strided convolutions")
    totals = [d * (k - 1) for d, k in zip(dilation, weight.shape[2:], strict=True)]
    if any(total % 2 for total in totals):
        # The odd element goes to the right side, where torch puts it.
        extra = [side for total in reversed(totals) for side in (0, total % 2)]
        x = pad(x, extra)
    return x, tuple(total // 2 for total in totals)


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
