"""normalize, cosine_similarity and pairwise_distance."""

from __future__ import annotations

from farspan._tensor import Tensor
from farspan.core.call import fn

# Operators of the table that are torch's functions as they stand.
cosine_similarity, pairwise_distance = fn.cosine_similarity, fn.pairwise_distance


def normalize(
    input: Tensor, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> Tensor:
    """Return ``input`` over its p-norm along ``dim`` (at least ``eps``)."""
    scaled = input / input.norm(p, dim, keepdim=True).clamp_min(eps)
    return scaled if out is None else out.copy_(scaled)
