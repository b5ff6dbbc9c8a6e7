"""make_tensor: random inputs of a shape, dtype and range, for tests."""

from __future__ import annotations

import math
from typing import Any

import farspan
from farspan._tensor import Tensor


def make_tensor(
    *shape: Any,
    dtype: Any,
    device: Any,
    low: float | None = None,
    high: float | None = None,
    requires_grad: bool = False,
    noncontiguous: bool = False,
    exclude_zero: bool = False,
    memory_format: Any = None,
) -> Tensor:
    """Return uniform values in ``[low, high)``: by default [-9, 9], [0, 10) for uint8, bools.

    noncontiguous: every second element of a longer last dim. exclude_zero: zeros become the
    smallest positive number. Raises ValueError for an empty range or NaN bounds.
    """
    size = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    low, high = _bounds(dtype, low, high)
    if noncontiguous and math.prod(size) < 2:
        noncontiguous = False
    inner = (*size[:-1], 2 * size[-1]) if noncontiguous else size
    if dtype.is_floating_point or dtype.is_complex:
        real = farspan.float64 if dtype == farspan.complex128 else farspan.float32
        parts = [
            farspan.empty(inner, device=device, dtype=real if dtype.is_complex else dtype)
            .uniform_(low, high)
            for _ in range(2 if dtype.is_complex else 1)
        ]  # fmt: skip
        made = farspan.complex(*parts) if dtype.is_complex else parts[0]
    else:
        made = farspan.randint(int(low), int(high), inner, device=device, dtype=dtype)
    if noncontiguous:
        made = made[..., ::2]
    if exclude_zero:
        least = farspan.finfo(dtype).tiny if not _is_integral(dtype) else 1
        made[made == 0] = least
    if memory_format is not None:
        made = made.clone(memory_format=memory_format)
    return made.requires_grad_() if requires_grad else made


def _is_integral(dtype: Any) -> bool:
    return not (dtype.is_floating_point or dtype.is_complex)


def _bounds(dtype: Any, low: float | None, high: float | None) -> tuple[float, float]:
    if dtype == farspan.bool:
        default: tuple[float, float] = (0, 2)
    elif dtype == farspan.uint8:
        default = (0, 10)
    else:
        default = (-9, 10) if _is_integral(dtype) else (-9, 9)
    low, high = default[0] if low is None else low, default[1] if high is None else high
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"`low` and `high` cannot be NaN, but got {low=} and {high=}")
    if low >= high:
        raise ValueError(f"`low` must be less than `high`, but got {low} >= {high}")
    return low, high
