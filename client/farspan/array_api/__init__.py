"""farspan.array_api: the Python array API standard, version 2024.12, over farspan's tensors.

Arrays made here are tensors whose operators follow the standard (`_array.py`); every function takes
plain tensors as well. `x.__array_namespace__()` returns this module, so that scikit-learn, SciPy
and others find it by themselves. Read docs/array_api.md next.
"""

from __future__ import annotations

from math import e, inf, nan, pi

from ..core.dtype import (
    bfloat16,
    complex64,
    complex128,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from ..core.dtype import bool_ as bool
from . import (
    _creation,
    _dtypes,
    _elementwise,
    _info,
    _linalg,
    _manipulation,
    _reductions,
    fft,
    linalg,
)
from ._array import Array
from ._creation import *
from ._dtypes import *
from ._elementwise import *
from ._info import __array_namespace_info__
from ._linalg import *
from ._manipulation import *
from ._reductions import *

__array_api_version__ = "2024.12"
newaxis = None

_CONSTANTS = ["e", "inf", "nan", "newaxis", "pi"]
_TYPES = [
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64",
    "bfloat16", "float16", "float32", "float64", "complex64", "complex128",
]  # fmt: skip
_PARTS = (_creation, _dtypes, _elementwise, _info, _linalg, _manipulation, _reductions)
__all__ = sorted(
    ["Array", "__array_api_version__", "fft", "linalg", *_CONSTANTS, *_TYPES]
    + [name for part in _PARTS for name in part.__all__]
)


def __dir__() -> list[str]:
    return __all__
