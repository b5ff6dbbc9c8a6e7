"""Readings of arguments that several functions share: int-or-tuple sizes and reductions."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

from farspan._tensor import Tensor

Ints = int | Sequence[int]
Flag = bool | None  # torch's old `size_average` and `reduce`

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # ATen's enum


def tuple_of(value: Ints, length: int, name: str) -> tuple[int, ...]:
    """Return ``value`` as ``length`` ints; a single int (or 1-tuple) is repeated."""
    values = (value,) if isinstance(value, int) else tuple(value)
    if len(values) == 1:
        values *= length
    if len(values) != length:
        raise RuntimeError(f"{name} should be one int or {length} ints, but got {value}")
    return values


def reduction_name(size_average: bool | None, reduce: bool | None, reduction: str) -> str:
    """Return the reduction, which torch's two old flags override where they are given."""
    if size_average is not None or reduce is not None:
        average = size_average is None or size_average
        found = "none" if not (reduce is None or reduce) else "mean" if average else "sum"
        warnings.warn(
            "size_average and reduce args will be deprecated, please use "
            f"reduction='{found}' instead.",
            stacklevel=4,
        )
        return found
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    return reduction


def reduced(loss: Tensor, reduction: str) -> Tensor:
    """Return the elementwise ``loss`` summed, averaged or as it is."""
    if reduction == "mean":
        return loss.mean()
    return loss.sum() if reduction == "sum" else loss


def sizes(tensor: Any) -> list[int]:
    """Return the shape as a plain list, the way torch prints it in messages."""
    return list(tensor.shape)
