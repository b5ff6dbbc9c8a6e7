"""farspan.signal: torch.signal's one module, of windows."""

from __future__ import annotations

from . import windows

__all__ = ["windows"]
