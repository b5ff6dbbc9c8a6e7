"""normalize, cosine_similarity and pairwise_distance."""

from __future__ import annotations

from farspan._tensor import Tensor


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """Return ``input`` over its p-norm along ``dim`` (at least ``eps``)."""
    scaled = input / input.norm(p, dim, keepdim=True).clamp_min(eps)
    return scaled if out is None else out.copy_(scaled)


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the cosine of the angle between ``x1`` and ``x2`` along ``dim``."""
    if not (x1.is_floating_point() and x2.is_floating_point()):
        raise RuntimeError(
            f"expected common dtype to be floating point, yet common dtype is {x1.dtype}"
        )
    # Each input is scaled on its own: the product of two small norms may underflow.
    unit1 = x1 / x1.norm(2, dim, keepdim=True).clamp_min(eps)
    unit2 = x2 / x2.norm(2, dim, keepdim=True).clamp_min(eps)
    return (unit1 * unit2).sum(dim)


def pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    """Return the p-norm of ``x1 - x2 + eps`` along the last dimension."""
    return (x1 - x2 + eps).norm(p, -1, keepdim=keepdim)
