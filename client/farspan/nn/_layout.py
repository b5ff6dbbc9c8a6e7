"""Tensors with their channels innermost in memory, as ``torch.channels_last`` asks."""

from __future__ import annotations

from typing import Any

from farspan._creation import channels_last, channels_last_3d, contiguous_format
from farspan._tensor import Tensor

_RANKS = {channels_last: 4, channels_last_3d: 5}


def in_format(t: Tensor, memory_format: Any) -> Tensor:
    """Return ``t`` with the strides of ``memory_format``; raises RuntimeError for another rank."""
    if memory_format is contiguous_format:
        return t.contiguous()
    rank = _RANKS.get(memory_format)
    if rank is None:
        return t
    if t.dim() != rank:
        raise RuntimeError(f"required rank {rank} tensor to use {memory_format} format")
    inner = t.permute(0, *range(2, rank), 1).contiguous()
    return inner.permute(0, rank - 1, *range(1, rank - 1))
