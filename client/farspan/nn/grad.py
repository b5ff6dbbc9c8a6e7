"""The gradients of convolutions by themselves, as functions of what flows back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from farspan._tensor import Tensor
from farspan.core.call import fn
from farspan.nn.functional._arguments import tuple_of


def _backward(
    ndim: int, input: Tensor, weight: Tensor, grad_output: Tensor, options: Any, which: int
) -> Tensor:
    stride, padding, dilation, groups = options
    steps = (
        tuple_of(stride, ndim, "stride"),
        tuple_of(padding, ndim, "padding"),
        tuple_of(dilation, ndim, "dilation"),
        False,
        (0,) * ndim,
        groups,
    )
    mask = [which == 0, which == 1, False]
    found = fn.convolution_backward(grad_output, input, weight, None, *steps, mask)
    gradient: Tensor = found[which]
    return gradient


def _of_input(ndim: int) -> Callable[..., Tensor]:
    def gradient(
        input_size: Sequence[int],
        weight: Tensor,
        grad_output: Tensor,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        blank = grad_output.new_empty(1).expand(*input_size)  # only its shape matters
        options = (stride, padding, dilation, groups)
        return _backward(ndim, blank, weight, grad_output, options, 0)

    gradient.__name__ = f"conv{ndim}d_input"
    gradient.__doc__ = f"Return the gradient of conv{ndim}d's input, of shape ``input_size``."
    return gradient


def _of_weight(ndim: int) -> Callable[..., Tensor]:
    def gradient(
        input: Tensor,
        weight_size: Sequence[int],
        grad_output: Tensor,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
    ) -> Tensor:
        blank = grad_output.new_empty(1).expand(*weight_size)  # only its shape matters
        options = (stride, padding, dilation, groups)
        return _backward(ndim, input, blank, grad_output, options, 1)

    gradient.__name__ = f"conv{ndim}d_weight"
    gradient.__doc__ = f"Return the gradient of conv{ndim}d's weight, of shape ``weight_size``."
    return gradient


conv1d_input, conv2d_input, conv3d_input = map(_of_input, (1, 2, 3))
conv1d_weight, conv2d_weight, conv3d_weight = map(_of_weight, (1, 2, 3))
