"""What a consumer may ask about this implementation: dtypes, devices, capabilities."""

from __future__ import annotations

from typing import Any

from .. import _state
from ..core import dtype as dtypes
from ..core.dtype import PLACES, Defaults, Device, DType
from ._dtypes import isdtype

__all__ = ["__array_namespace_info__"]

_DTYPES = (
    "bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float32",
    "float64", "complex64", "complex128",
)  # fmt: skip


class Info:
    """The answers of `__array_namespace_info__()`."""

    def capabilities(self) -> dict[str, Any]:
        """Return what is optional: masks and shapes that depend on values; at most 64 dims."""
        return {"boolean indexing": True, "data-dependent shapes": True, "max dimensions": 64}

    def default_device(self) -> Device:
        """Return where factories without `device=` make arrays."""
        return PLACES.device or _state.current().default_device

    def default_dtypes(self, *, device: Any | None = None) -> dict[str, DType]:
        """Return the dtypes of Python's floats, complex numbers, ints, and of indices."""
        return {
            "real floating": Defaults.dtype,
            "complex floating": Defaults.dtype.to_complex(),
            "integral": dtypes.int64,
            "indexing": dtypes.int64,
        }

    def dtypes(
        self, *, device: Any | None = None, kind: str | tuple[str, ...] | None = None
    ) -> dict[str, DType]:
        """Return the standard's dtypes by name, of one kind or several (see `isdtype`)."""
        found = {name: dtypes.BY_NAME[name] for name in _DTYPES}
        return {n: d for n, d in found.items() if kind is None or isdtype(d, kind)}

    def devices(self) -> list[Device]:
        """Return the devices of the current session."""
        return list(_state.current().devices)


def __array_namespace_info__() -> Info:
    """Return what this namespace can do."""
    return Info()
