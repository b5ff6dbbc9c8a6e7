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


def feature_alpha_dropout(
    input: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return ``input`` after an alpha_dropout of whole channels."""
    _require_probability(p)
    return (fn.feature_alpha_dropout_ if inplace else fn.feature_alpha_dropout)(input, p, training)


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
    return _batched(3, input, p, training, inplace)


def dropout2d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Return (N, C, H, W) with whole channels zeroed with probability p."""
    _require_probability(p)
    if input.dim() not in (3, 4):
        _warn_dims("dropout2d", input.dim(), 2)
    if input.dim() == 3:
        warnings.warn(
            "dropout2d: Received a 3D input to dropout2d and assuming that channel-wise 1D dropout "
            "behavior is desired - input is interpreted as shape (N, C, L), where C is the channel "
            "dim. This behavior will change in a future release to interpret the input as one "
            "without a batch dimension, i.e. shape (C, H, W). To maintain the 1D channel-wise "
            "dropout behavior, please switch to using dropout1d instead.",
            stacklevel=2,
        )
    return _channel_dropout(input, p, training, inplace)


def dropout3d(
    input: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False
) -> Tensor:
    """Return (N, C, D, H, W) or (C, D, H, W) with whole channels zeroed with probability p."""
    _require_probability(p)
    if input.dim() not in (4, 5):
        _warn_dims("dropout3d", input.dim(), 3)
    return _batched(5, input, p, training, inplace)


def _warn_dims(name: str, ndim: int, spatial: int) -> None:
    warnings.warn(
        f"{name}: Received a {ndim}-D input to {name}, which is deprecated and will result in an "
        "error in a future release. To retain the behavior and silence this warning, please use "
        f"dropout instead. Note that {name} exists to provide channel-wise dropout on inputs with "
        f"{spatial} spatial dimensions, a channel dimension, and an optional batch dimension (i.e. "
        f"{spatial + 1}D or {spatial + 2}D inputs).",
        stacklevel=3,
    )


def _batched(ndim: int, input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    """Return the channel dropout of an input that has no batch dim unless it has ``ndim``."""
    if input.dim() == ndim:
        return _channel_dropout(input, p, training, inplace)
    if inplace:
        return _channel_dropout(input.unsqueeze_(0), p, training, True).squeeze_(0)
    return _channel_dropout(input.unsqueeze(0), p, training, False).squeeze(0)


def _channel_dropout(input: Tensor, p: float, training: bool, inplace: bool) -> Tensor:
    return (fn.feature_dropout_ if inplace else fn.feature_dropout)(input, p, training)


def _require_probability(p: float) -> None:
    if p < 0.0 or p > 1.0:
        raise ValueError(f"dropout probability has to be between 0 and 1, but got {p}")
