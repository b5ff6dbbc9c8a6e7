"""finfo and iinfo: the numerical limits of a dtype, as torch names them."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._functions import get_default_dtype
from .core.dtype import DType
from .core.errors import ArgumentError

__all__ = ["finfo", "iinfo"]


class finfo:
    """The limits of a floating-point dtype: ``farspan.finfo(farspan.float32).eps``."""

    def __init__(self, dtype: DType | None = None) -> None:
        dtype = get_default_dtype() if dtype is None else dtype
        if not (dtype.is_floating_point or dtype.is_complex):
            raise ArgumentError(
                "torch.finfo() requires a floating point input type. Use torch.iinfo to handle "
                f"{dtype!r}"
            )
        real = dtype.to_real()
        limits = _numpy_limits(real)
        self.dtype = real.name
        self.bits = real.itemsize * 8
        self.min = float(limits.min)
        self.max = float(limits.max)
        self.eps = float(limits.eps)
        self.tiny = self.smallest_normal = float(limits.smallest_normal)
        self.resolution = 10.0**-limits.precision

    def __repr__(self) -> str:
        return (
            f"finfo(resolution={self.resolution:g}, min={self.min:g}, max={self.max:g}, "
            f"eps={self.eps:g}, smallest_normal={self.smallest_normal:g}, tiny={self.tiny:g}, "
            f"dtype={self.dtype})"
        )


def _numpy_limits(dtype: DType) -> Any:
    if dtype.numpy.isbuiltin == 1:
        return np.finfo(dtype.numpy)
    import ml_dtypes  # numpy itself does not know this type

    return ml_dtypes.finfo(dtype.numpy)


class iinfo:
    """The limits of an integer dtype: ``farspan.iinfo(farspan.int8).max``."""

    def __init__(self, dtype: DType) -> None:
        if dtype.numpy.kind not in "iu":
            raise ArgumentError(
                f"torch.iinfo() requires an integer input type. Use torch.finfo to handle {dtype!r}"
            )
        limits = np.iinfo(dtype.numpy)
        self.dtype = dtype.name
        self.bits = limits.bits
        self.min, self.max = int(limits.min), int(limits.max)

    def __repr__(self) -> str:
        return f"iinfo(min={self.min:g}, max={self.max:g}, dtype={self.dtype})"
