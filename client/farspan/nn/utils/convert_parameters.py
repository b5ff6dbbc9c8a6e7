"""A model's parameters as one vector and back."""

from __future__ import annotations

from collections.abc import Iterable

import farspan
from farspan._tensor import Tensor


def parameters_to_vector(parameters: Iterable[Tensor]) -> Tensor:
    """Return all parameters flattened and joined in order; they must share a device."""
    listed = list(parameters)
    _require_one_device(listed)
    return farspan.cat([param.reshape(-1) for param in listed])


def vector_to_parameters(vec: Tensor, parameters: Iterable[Tensor]) -> None:
    """Make each parameter a view of its slice of ``vec``."""
    if not isinstance(vec, Tensor):
        raise TypeError(f"expected torch.Tensor, but got: {type(vec)}")
    listed = list(parameters)
    _require_one_device(listed)
    start = 0
    for param in listed:
        count = param.numel()
        param.data = vec[start : start + count].reshape(param.shape).data
        start += count


def _require_one_device(parameters: list[Tensor]) -> None:
    if len({str(param.device) for param in parameters}) > 1:
        raise TypeError(
            "Found two parameters on different devices, this is currently not supported."
        )
