"""Namespace: cupy as the table's kernels want it - numpy's names, and results that never vary.

cupy has most of numpy's names; the rest is here, made of what it has. Where an index names a place
twice, its own scatters add in the order in which threads arrive: `ufunc.at` here sorts first and
adds by pairs, so that the same command gives the same bits every time.
"""

from __future__ import annotations

import contextlib
from typing import Any, Final

import numpy as np

_UFUNCS: Final = (
    "add", "subtract", "multiply", "maximum", "minimum", "logical_and", "logical_or",
    "bitwise_xor",
)  # fmt: skip


class Namespace:
    """A module's names, and those that it lacks; looked up once."""

    def __init__(self, module: Any) -> None:
        self.module = module
        self.errstate = np.errstate
        for name in _UFUNCS:
            setattr(self, name, Ufunc(module, getattr(module, name)))

    def __getattr__(self, name: str) -> Any:
        found = getattr(self.module, name)
        setattr(self, name, found)
        return found

    def bincount(self, x: Any, weights: Any = None, minlength: int = 0) -> Any:
        """Return how often each number occurs, or the sum of its weights."""
        xp = self.module
        if weights is None:
            return xp.bincount(x, minlength=minlength)
        if x.ndim != 1 or x.shape != weights.shape or (x.size and int(x.min()) < 0):
            raise ValueError("bincount takes a vector of counts and as many weights")
        size = max(minlength, int(x.max()) + 1 if x.size else 0)
        out = xp.zeros(size, np.float64)
        self.add.at(out, x, weights.astype(np.float64))
        return out

    def strict(self) -> Any:
        """Return a context in which linear algebra raises, as numpy's does, what went wrong.

        cupy by itself returns what the library left behind.
        """
        errstate = getattr(self.module, "errstate_linalg", None)
        if errstate is not None:
            return errstate()
        try:
            from cupyx import errstate as cupyx_errstate
        except ImportError:
            return contextlib.nullcontext()
        return cupyx_errstate(linalg="raise")


class Ufunc:
    """A ufunc of the module with the methods of numpy's."""

    def __init__(self, module: Any, ufunc: Any) -> None:
        self._xp = module
        self._ufunc = ufunc

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._ufunc(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ufunc, name)

    def at(self, target: Any, places: Any, values: Any) -> None:
        """Fold values into a vector, in place: equal results for equal arguments, always.

        places: integers in range, one dim. The values of one place are folded by pairs, in
        log2(most values of one place) passes, and then into the target.
        """
        xp = self._xp
        if isinstance(places, tuple) or target.ndim != 1 or places.ndim != 1:
            raise NotImplementedError("ufunc.at on a GPU takes vectors")
        if not places.size:
            return
        values = xp.broadcast_to(xp.asarray(values, target.dtype), places.shape)
        order = xp.argsort(places, kind="stable")
        places, values = places[order], values[order]
        heads, rank, counts = runs(xp, places)
        most = int(counts.max())
        left = counts[xp.cumsum(heads) - 1] - rank  # values of the same place from here on
        step = 1
        while step < most:
            at = xp.flatnonzero((rank % (2 * step) == 0) & (left > step))
            values[at] = self._ufunc(values[at], values[at + step])
            step *= 2
        at = xp.flatnonzero(heads)
        where = places[at]
        folded = self._ufunc(target[where], values[at])
        target[where] = folded.astype(target.dtype, copy=False)


def runs(xp: Any, places: Any) -> tuple[Any, Any, Any]:
    """Return of sorted integers: whether each starts a run, its rank in it, each run's length."""
    heads = xp.ones(places.shape, bool)
    heads[1:] = places[1:] != places[:-1]
    starts = xp.flatnonzero(heads)
    counts = xp.diff(xp.append(starts, places.size))
    rank = xp.arange(places.size) - starts[xp.cumsum(heads) - 1]
    return heads, rank, counts
