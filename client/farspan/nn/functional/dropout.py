"""The dropout family. The operators draw in the order of torch's CPU kernels."""

from __future__ import annotations

import warnings

from farspan._tensor import Tensor
from farspan.core.call import fn


def dropout(input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Return ``input`` with each element zeroed with probability p, the rest over (1 - p)."""
    _require_probability(p)
    return (fn.dropout_ if inplace else fn.dropout)(input, p, training)


def alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return ``input`` after a dropout that keeps the mean and variance of selu's outputs."""
    _require_probability(p)
    return (fn.alpha_dropout_ if inplace else fn.alpha_dropout)(input, p, training)


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
    batched = input if input.dim() == 3 else input.unsqueeze(0)
    out = _channel_dropout(batched, p, training, inplace)
    return out if input.dim() == 3 else out.squeeze(0)


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
    return _channel_dropout(input, p, training, inplace)


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    return (fn.feature_dropout_ if inplace else fn.feature_dropout)(input, p, training)


def _require_probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
