"""make_tensor: random inputs of a shape, dtype and range, for tests."""

from __future__ import annotations

import math
import warnings
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

    Bounds beyond the dtype are clamped. noncontiguous: every second element of a longer last dim.
    exclude_zero: zeros become 1, or the smallest positive normal number. Raises ValueError for an
    empty range, NaN bounds and gradients of integers.
    """
    size = tuple(shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)
    if noncontiguous and memory_format is not None:
        raise ValueError(
            "The parameters `noncontiguous` and `memory_format` are mutually exclusive, but got "
            f"{noncontiguous=} and {memory_format=}"
        )
    whole = not (dtype.is_floating_point or dtype.is_complex)
    if requires_grad and whole:
        raise ValueError(
            "`requires_grad=True` is not supported for boolean and integral dtypes, but got "
            f"{dtype=}"
        )
    low, high = _bounds(dtype, low, high)
    spread = noncontiguous and math.prod(size) > 1
    inner = (*size[:-1], 2 * size[-1]) if spread else size
    if whole:
        bounds = math.ceil(low), math.ceil(high)
        made = farspan.randint(*bounds, inner, device=device, dtype=dtype)
    else:
        made = farspan.empty(inner, device=device, dtype=dtype)
        _fill(farspan.view_as_real(made) if dtype.is_complex else made, low, high)
    if spread:
        made = made[..., 1::2]
    elif memory_format is not None:
        made = made.clone(memory_format=memory_format)
    if exclude_zero:
        made[made == 0] = 1 if whole else farspan.finfo(dtype).tiny
    return made.requires_grad_() if requires_grad else made


def _fill(x: Tensor, low: float, high: float) -> None:
    """Draw uniformly; a range that the dtype cannot hold is drawn at half its width."""
    if high - low >= farspan.finfo(x.dtype).max:
        x.uniform_(low / 2, high / 2).mul_(2)
    else:
        x.uniform_(low, high)


def _bounds(dtype: Any, low: float | None, high: float | None) -> tuple[float, float]:
    """Return the bounds, or the default ones, clamped to what the dtype holds."""
    whole = not (dtype.is_floating_point or dtype.is_complex)
    if dtype == farspan.bool:
        least, most, default = 0, 2, (0, 2)
    elif whole:
        info = farspan.iinfo(dtype)
        least, most = info.min, info.max + (dtype != farspan.int64)
        default = (-9, 10)
    else:
        limits = farspan.finfo(dtype)
        least, most, default = limits.min, limits.max, (-9, 9)
    low, high = default[0] if low is None else low, default[1] if high is None else high
    if math.isnan(low) or math.isnan(high):
        raise ValueError(f"`low` and `high` cannot be NaN, but got {low=} and {high=}")
    if low == high and not whole:
        warnings.warn(
            "Passing `low==high` to `torch.testing.make_tensor` for floating or complex types is "
            "deprecated since 2.1 and will be removed in 2.3. Use `torch.full(...)` instead.",
            FutureWarning,
            stacklevel=3,
        )
    elif low >= high:
        raise ValueError(f"`low` must be less than `high`, but got {low} >= {high}")
    elif high < least or low >= most:
        raise ValueError(
            f"The value interval specified by `low` and `high` is [{low}, {high}), but {dtype} "
            f"only supports [{least}, {most})"
        )
    return min(max(low, least), most), min(max(high, least), most)
