"""The dropout family. Each draws in the generator's order of torch's CPU kernels."""

from __future__ import annotations

import math
import warnings

import farspan
from farspan._tensor import Tensor

_SELU_NEGATIVE_LIMIT = 1.7580993408473766  # alpha * scale of selu


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` with each element zeroed with probability p, the rest over (1 - p)."""
    _require_probability(p)
    if not training or p == 0 or input.numel() == 0:
        return input
    if p == 1:
        return input.mul_(0) if inplace else input * 0
    if inplace:
        return input.mul_(_keep_mask(input, list(input.shape), p))
    return farspan.native_dropout(input, p, True)[0]


def dropout1d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Return (N, C, L) or (C, L) with whole channels zeroed with probability p."""
    _require_probability(p)
    if input.dim() not in (2, 3):
        raise RuntimeError(
            f"dropout1d: Expected 2D or 3D input, but received a {input.dim()}D input. Note that "
            "dropout1d exists to provide channel-wise dropout on inputs with 1 spatial dimension, "
            "a channel dimension, and an optional batch dimension (i.e. 2D or 3D inputs)."
        )
    return _channel_dropout(input, p, training, inplace, batched=input.dim() == 3)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Return (N, C, H, W) with whole channels zeroed with probability p."""
    _require_probability(p)
    if input.dim() not in (3, 4):
        warnings.warn(
            f"dropout2d: Received a {input.dim()}-D input to dropout2d, which is deprecated and "
            "will result in an error in a future release. To retain the behavior and silence this "
            "warning, please use dropout instead.",
            stacklevel=2,
        )
    return _channel_dropout(input, p, training, inplace, batched=True)


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return ``input`` after a dropout that keeps the mean and variance of selu's outputs."""
    _require_probability(p)
    if not training or p == 0 or input.numel() == 0:
        return input
    if p == 1:
        return input.mul_(0) if inplace else input * 0
    kept = farspan.empty_like(input).bernoulli_(1 - p)
    limit = _SELU_NEGATIVE_LIMIT
    scale = 1.0 / math.sqrt((limit * limit * p + 1) * (1 - p))
    shift = (kept - 1) * (limit * scale) + limit * scale * p
    kept = kept * scale
    return input.mul_(kept).add_(shift) if inplace else input * kept + shift


def _channel_dropout(
    input: Tensor, p: float, training: bool, inplace: bool, batched: bool
) -> Tensor:
    if not training or p == 0 or input.numel() == 0:
        return input
    if p == 1:
        return input.mul_(0) if inplace else input * 0
    lead = 2 if batched else 1
    shape = [size if i < lead else 1 for i, size in enumerate(input.shape)]
    mask = _keep_mask(input, shape, p)
    return input.mul_(mask) if inplace else input * mask


def _keep_mask(input: Tensor, shape: list[int], p: float) -> Tensor:
    mask = farspan.empty(shape, dtype=input.dtype, device=input.device)
    return mask.bernoulli_(1 - p).div_(1 - p)


def _require_probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
