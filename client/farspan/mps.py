"""torch.mps: no device of farspan is one of these."""

from __future__ import annotations

__all__ = ["device_count", "empty_cache", "is_available", "manual_seed", "synchronize"]


def is_available() -> bool:
    """Return False."""
    return False


def device_count() -> int:
    """Return 0."""
    return 0


def manual_seed(seed: int) -> None:
    """Seed no device: there is none."""


def synchronize() -> None:
    """Wait for no device."""


def empty_cache() -> None:
    """Free nothing."""
