"""What the values of an array rule out, told in one pass at the speed of memory.

Some of oneDNN's code takes NaN or infinities for something else. A kernel that asks here goes the
table's way then: a function of the values, so that a replay goes the same way.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np


def _sum_of_squares(x: Any) -> float:
    """Return a number that is finite only if all of a C-contiguous array is.

    Squares do not cancel: NaN comes from NaN alone. Measured on 2M floats: 0.1 ms, isnan 0.5 ms.
    """
    flat = x.reshape(-1)
    return float(np.dot(flat, flat))


def has_nan(x: Any) -> bool:
    """Return whether a C-contiguous float32 array holds NaN."""
    return math.isnan(_sum_of_squares(x))


def is_finite(x: Any) -> bool:
    """Return False if a C-contiguous float32 array holds NaN or infinity (or 1e19 and more)."""
    return math.isfinite(_sum_of_squares(x))


class UnfitError(Exception):
    """Values that a program's kernel takes for something else: the commands are to run instead."""


def require_numbers(x: Any) -> None:
    """Raise UnfitError if a C-contiguous float32 array holds NaN."""
    if has_nan(x):
        raise UnfitError


def require_finite(x: Any) -> None:
    """Raise UnfitError if a C-contiguous float32 array holds NaN or infinity (or 1e19 and more)."""
    if not is_finite(x):
        raise UnfitError
