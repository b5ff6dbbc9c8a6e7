"""batch_norm, layer_norm, group_norm, rms_norm and instance_norm."""

from __future__ import annotations

import math
from collections.abc import Sequence

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn

# Operators of the table that are torch's functions as they stand.
layer_norm, rms_norm = fn.layer_norm, fn.rms_norm


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (N, C, *) normalized for each channel; in training updates the running stats."""
    if training:
        _require_several_values(input.shape)
        if eps <= 0.0:
            raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    elif eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    elif running_mean is None or running_var is None:
        raise RuntimeError("running_mean and running_var must be defined in evaluation mode")
    return fn.native_batch_norm(
        input, weight, bias, running_mean, running_var, training, momentum, eps
    )[0]


def instance_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Return (N, C, *) normalized for each channel of each sample."""
    batch, channels, *rest = input.shape
    if use_input_stats and math.prod(rest) == 1:
        raise ValueError(
            f"Expected more than 1 spatial element when training, got input size {input.shape}"
        )

    def repeated(tensor: Tensor | None) -> Tensor | None:
        return None if tensor is None else tensor.repeat(batch)

    # Every sample's channel is a channel of one big sample, as in torch.
    mean, variance = repeated(running_mean), repeated(running_var)
    wide = input.contiguous().reshape(1, batch * channels, *rest)
    out = fn.native_batch_norm(
        wide, repeated(weight), repeated(bias), mean, variance, use_input_stats, momentum, eps
    )[0]
    if use_input_stats:
        with farspan.no_grad():
            for running, updated in ((running_mean, mean), (running_var, variance)):
                if running is not None and updated is not None:
                    running.copy_(updated.reshape(batch, channels).mean(0))
    return out.reshape(input.shape)


def group_norm(
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Return (N, C, *) normalized over groups of its channels."""
    if input.dim() < 2:
        raise RuntimeError(
            f"Expected at least 2 dimensions for input tensor but received {input.dim()}"
        )
    batch, channels, *rest = input.shape
    if num_groups > 0:
        _require_several_values([batch * channels // num_groups, num_groups, *rest])
    return fn.group_norm(input, num_groups, weight, bias, eps)


def _require_several_values(size: Sequence[int]) -> None:
    if size[0] * math.prod(size[2:]) == 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {size}"
        )
