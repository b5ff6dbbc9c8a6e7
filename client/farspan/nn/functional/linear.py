"""linear and bilinear."""

from __future__ import annotations

import farspan
from farspan._tensor import Tensor


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``input @ weight.T + bias``; input is (*, in), weight (out, in), bias (out,)."""
    if weight.dim() != 2 or input.dim() < 2:
        out = farspan.matmul(input, weight.t() if weight.dim() == 2 else weight)
        return out if bias is None else out + bias
    if bias is None:
        return farspan.matmul(input, weight.t())
    if input.dim() == 2:
        return farspan.addmm(bias, input, weight.t())
    if input.shape[-1] != weight.shape[1]:
        rows = input.numel() // max(input.shape[-1], 1)
        raise RuntimeError(
            f"mat1 and mat2 shapes cannot be multiplied ({rows}x{input.shape[-1]} and "
            f"{weight.shape[1]}x{weight.shape[0]})"
        )
    # One addmm over all leading dimensions, as torch does for contiguous inputs.
    rows = farspan.addmm(bias, input.reshape(-1, input.shape[-1]), weight.t())
    return rows.reshape(*input.shape[:-1], weight.shape[0])


def bilinear(input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x1 @ weight[o] @ x2`` for each output o; weight is (out, in1, in2)."""
    if tuple(input1.shape[:-1]) != tuple(input2.shape[:-1]):
        raise RuntimeError(
            "bilinear(): input batch dimensions do not match: got "
            f"{tuple(input1.shape[:-1])} and {tuple(input2.shape[:-1])}"
        )
    outputs, in1, in2 = weight.shape
    if input1.shape[-1] != in1 or input2.shape[-1] != in2:
        raise RuntimeError(
            f"bilinear(): input sizes do not match weight size: got {input1.shape[-1]} and "
            f"{input2.shape[-1]} but expected {in1} and {in2}"
        )
    left = input1.reshape(-1, in1) @ weight.permute(1, 0, 2).reshape(in1, outputs * in2)
    out = (left.reshape(-1, outputs, in2) * input2.reshape(-1, 1, in2)).sum(-1)
    out = out.reshape(*input1.shape[:-1], outputs)
    return out if bias is None else out + bias
