"""Convolutions whose weights are laid out channels last."""

from __future__ import annotations

from typing import Any

from farspan.nn.module import Module

__all__ = ["convert_conv2d_weight_memory_format", "convert_conv3d_weight_memory_format"]


def convert_conv2d_weight_memory_format(module: Any, memory_format: Any) -> Any:
    """Lay out the weight of every Conv2d and ConvTranspose2d below ``module``; return it."""
    return _convert(module, memory_format, "2d")


def convert_conv3d_weight_memory_format(module: Any, memory_format: Any) -> Any:
    """Lay out the weight of every Conv3d and ConvTranspose3d below ``module``; return it."""
    return _convert(module, memory_format, "3d")


def _convert(module: Module, memory_format: Any, rank: str) -> Module:
    from farspan import nn

    kinds = tuple(getattr(nn, f"{kind}{rank}") for kind in ("Conv", "ConvTranspose"))
    for each in module.modules():
        if isinstance(each, kinds):
            each.weight.data = each.weight.detach().to(memory_format=memory_format)
    return module
