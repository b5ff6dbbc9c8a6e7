"""Stores at places that an index names: where it names one twice, the last value stays.

numpy keeps that order by itself. A GPU's threads do not, so other namespaces sort first.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .errors import ParameterError


def as_element(value: Any, dtype: Any) -> Any:
    """Return a Python number as an element of a numpy dtype; an array is left as it is.

    Floats go to ints by truncation. Of unsigned types a negative number is the one modulo their
    range, as long as its magnitude fits. ParameterError for what does not fit. Source: c10's
    `overflows` in TypeSafeSignMath and Scalar::to.
    """
    if dtype.kind not in "iu" or not isinstance(value, (bool, int, float)):
        return value
    number, limits = int(value), np.iinfo(dtype)
    low = -limits.max if dtype.kind == "u" else limits.min
    if not low <= number <= limits.max:
        raise ParameterError(f"value cannot be converted to type {dtype.name}_t without overflow")
    return number % (limits.max + 1) if dtype.kind == "u" else number


def assign(xp: Any, flat: Any, places: Any, values: Any) -> None:
    """Store values at places of a vector, in order; places: a vector of integers in range.

    values: a number, or an array of the shape of places.
    """
    if xp is np or not getattr(values, "shape", ()):
        flat[places] = values
        return
    if not places.size:
        return
    order = xp.argsort(places, kind="stable")
    ordered = places[order]
    last = xp.ones(ordered.shape, bool)
    last[:-1] = ordered[1:] != ordered[:-1]
    kept = order[last]
    flat[places[kept]] = values.reshape(-1)[kept]
