"""Stores at places that an index names: where it names one twice, the last value stays.

numpy keeps that order by itself. A GPU's threads do not, so other namespaces sort first.
"""

from __future__ import annotations

from typing import Any

import numpy as np


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
