"""Elementwise passes that numpy alone does slowly: selections, and formulas of many steps.

`select` and `kept` choose by bits, not by branches: on masks without a pattern numpy's `where`
mispredicts and takes 15 times as long. `by_blocks` keeps the temporaries of a long formula in
cache. Measured on 512 x 1024 float32: relu's backward 2.1 -> 0.16 ms, erf 8.4 -> 2.4 ms.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

_BLOCK: Final = 16_384  # elements; a few float32 temporaries of it fit into the second-level cache
_WHOLE: Final = 4 * _BLOCK  # elements; up to here splitting does not pay
#: By the letter of a numpy dtype, whose name takes a microsecond to make.
_INTS: Final = {"f": "int32", "d": "int64"}


def select(xp: Any, mask: Any, a: Any, b: Any) -> Any:
    """Return a where the bool mask holds, else b; either may be a Python number."""
    dtype = next((x.dtype for x in (a, b) if hasattr(x, "dtype")), None)
    ints = _INTS.get(dtype.char) if dtype is not None else None
    if ints is None or mask.size < 1_024:
        return xp.where(mask, a, b)
    if getattr(a, "dtype", dtype) != dtype or getattr(b, "dtype", dtype) != dtype:
        return xp.where(mask, a, b)
    bits_a, bits_b = (xp.asarray(x, dtype).view(ints) for x in (a, b))
    return (bits_b ^ ((bits_a ^ bits_b) & _all_ones(xp, mask, ints))).view(dtype)


def kept(xp: Any, mask: Any, x: Any) -> Any:
    """Return x where the bool mask holds, else 0, also where x is inf or nan."""
    ints = _INTS.get(x.dtype.char)
    if ints is None or mask.size < 1_024:
        return xp.where(mask, x, x.dtype.type(0))
    return (x.view(ints) & _all_ones(xp, mask, ints)).view(x.dtype)


def _all_ones(xp: Any, mask: Any, ints: str) -> Any:
    """Return an integer array whose elements have every bit set where the mask holds."""
    wide = mask.view(xp.int8).astype(ints)
    return xp.negative(wide, out=wide)


def by_blocks(kernel: Callable[..., Any]) -> Callable[..., Any]:
    """Return an elementwise kernel that runs over large contiguous arrays block by block."""

    @functools.wraps(kernel)
    def run(xp: Any, *args: Any) -> Any:
        arrays = [a for a in args if isinstance(a, np.ndarray)]
        if xp is not np or not arrays or arrays[0].size <= _WHOLE:
            return kernel(xp, *args)
        shape = arrays[0].shape
        if any(a.shape != shape or not a.flags.c_contiguous for a in arrays):
            return kernel(xp, *args)
        flat = [a.reshape(-1) if isinstance(a, np.ndarray) else a for a in args]
        result: Any = None
        for start in range(0, arrays[0].size, _BLOCK):
            part = slice(start, start + _BLOCK)
            block = kernel(xp, *[a[part] if isinstance(a, np.ndarray) else a for a in flat])
            if result is None:
                result = np.empty(arrays[0].size, block.dtype)
            result[part] = block
        return result.reshape(shape)

    return run
