"""The old names of autocast for "cpu"; use farspan.amp."""

from __future__ import annotations

from farspan._autocast import deprecated_class
from farspan.amp import autocast_mode
from farspan.core.dtype import DType, bfloat16

__all__ = ["autocast"]


class autocast(autocast_mode.autocast):
    """As ``farspan.amp.autocast("cpu", ...)``."""

    def __init__(
        self, enabled: bool = True, dtype: DType = bfloat16, cache_enabled: bool = True
    ) -> None:
        deprecated_class("cpu.amp.autocast", "amp.autocast", "cpu")
        super().__init__("cpu", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)
