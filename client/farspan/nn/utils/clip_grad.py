"""Bounds on gradients. Nothing here waits, except with ``error_if_nonfinite``."""

from __future__ import annotations

import types
import warnings
from collections.abc import Iterable

import farspan
from farspan._tensor import Tensor
from farspan.core.call import fn

__all__ = ["clip_grad_norm", "clip_grad_norm_", "clip_grad_value_"]


def get_total_norm(
    tensors: Tensor | Iterable[Tensor],
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Return the norm of all tensors seen as one vector, on the first one's device."""
    listed = [tensors] if isinstance(tensors, Tensor) else list(tensors)
    if not listed:
        return farspan.tensor(0.0)
    norm_type = float(norm_type)
    vector_norm = farspan.linalg.vector_norm
    with farspan.no_grad():
        if _are_alike(listed):
            total: Tensor = fn._total_norm(listed, norm_type)
        else:
            norms = [vector_norm(tensor, norm_type).to(listed[0].device) for tensor in listed]
            total = vector_norm(farspan.stack(norms), norm_type)
        if error_if_nonfinite and not bool(total.isfinite()):
            raise RuntimeError(
                f"The total norm of order {norm_type} for gradients from `parameters` is "
                "non-finite, so it cannot be clipped. To disable this error and scale the "
                "gradients by the non-finite norm anyway, set `error_if_nonfinite=False`"
            )
    return total


def clip_grads_with_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    total_norm: Tensor,
    foreach: bool | None = None,
) -> None:
    """Scale all gradients by max_norm / total_norm, but never up."""
    grads = _grads(parameters)
    max_norm = float(max_norm)
    if not grads:
        return
    with farspan.no_grad():
        # The factor is clamped rather than tested: a test would have to wait for the norm.
        factor = (max_norm / (total_norm + 1e-6)).clamp(max=1.0)
        if _are_alike([*grads, factor]):
            fn._scale_(grads, factor)
            return
        for grad in grads:
            grad.mul_(factor.to(grad.device))


def clip_grad_norm_(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Scale all gradients so that their total norm is at most ``max_norm``; return that norm."""
    listed = [parameters] if isinstance(parameters, Tensor) else list(parameters)
    if not listed and isinstance(parameters, types.GeneratorType):
        warnings.warn(
            "`parameters` is an empty generator, no gradient clipping will occur.", stacklevel=2
        )
    total = get_total_norm(_grads(listed), norm_type, error_if_nonfinite, foreach)
    clip_grads_with_norm_(listed, max_norm, total, foreach)
    return total


def clip_grad_norm(
    parameters: Tensor | Iterable[Tensor],
    max_norm: float,
    norm_type: float = 2.0,
    error_if_nonfinite: bool = False,
    foreach: bool | None = None,
) -> Tensor:
    """Do what ``clip_grad_norm_`` does, with a warning that this is its old name."""
    warnings.warn(
        "`torch.nn.utils.clip_grad_norm` is now deprecated in favor of "
        "`torch.nn.utils.clip_grad_norm_`.",
        FutureWarning,
        stacklevel=2,
    )
    return clip_grad_norm_(parameters, max_norm, norm_type, error_if_nonfinite, foreach)


def clip_grad_value_(
    parameters: Tensor | Iterable[Tensor], clip_value: float, foreach: bool | None = None
) -> None:
    """Bound every element of all gradients to [-clip_value, clip_value]."""
    bound = float(clip_value)
    with farspan.no_grad():
        for grad in _grads(parameters):
            grad.clamp_(min=-bound, max=bound)


def _are_alike(tensors: list[Tensor]) -> bool:
    """Return whether one operator takes all: one device, one dtype of 4 or 8 bytes, none empty."""
    device, dtype = tensors[0].device, tensors[0].dtype
    return dtype in (farspan.float32, farspan.float64) and all(
        t.device == device and t.dtype is dtype and 0 not in t.shape for t in tensors
    )


def _grads(parameters: Tensor | Iterable[Tensor]) -> list[Tensor]:
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    return [param.grad for param in listed if param.grad is not None]
