"""farspan.fft: Fourier transforms under torch.fft's names; the table's rows are `fft_<name>`."""

from __future__ import annotations

from typing import Any

from ..core.call import fn

_NAMES = (
    "fft", "fft2", "fftfreq", "fftn", "fftshift", "hfft", "ifft", "ifft2", "ifftn", "ifftshift",
    "ihfft", "irfft", "irfft2", "irfftn", "rfft", "rfft2", "rfftfreq", "rfftn",
)  # fmt: skip

__all__ = list(_NAMES)


def __getattr__(name: str) -> Any:
    """Return the table's `fft_<name>`."""
    if name not in _NAMES:
        raise AttributeError(f"module 'farspan.fft' has no attribute {name!r}")
    found = globals()[name] = getattr(fn, f"fft_{name}")
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
