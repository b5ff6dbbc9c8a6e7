"""farspan.fft: Fourier transforms under torch.fft's names; the table's rows are `fft_<name>`."""

from __future__ import annotations

from typing import Any

from .._functions import factory
from .._tensor import Tensor
from ..core.call import fn

_NAMES = (
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "hfft2", "hfftn", "ifft", "ifft2",
    "ifftn", "ifftshift", "ihfft", "ihfft2", "ihfftn", "irfft", "irfft2", "irfftn", "rfft",
    "rfft2", "rfftfreq", "rfftn",
)  # fmt: skip

__all__ = ["Tensor", *_NAMES]  # torch.fft has the class among its names, too


def __getattr__(name: str) -> Any:
    """Return the table's `fft_<name>`."""
    if name not in _NAMES:
        raise AttributeError(f"module 'farspan.fft' has no attribute {name!r}")
    make = factory if name.endswith("freq") else fn.__getattr__
    found = globals()[name] = make(f"fft_{name}")
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
