"""Whether casting for GPUs makes any sense here."""

from __future__ import annotations

from farspan import cuda

__all__ = ["amp_definitely_not_available"]


def amp_definitely_not_available() -> bool:
    """Return whether the session has no GPU."""
    return not cuda.is_available()
