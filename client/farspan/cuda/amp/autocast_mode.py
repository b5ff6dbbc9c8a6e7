"""The old names of autocast for "cuda"; use farspan.amp."""

from __future__ import annotations

from typing import Any

from farspan import amp
from farspan._autocast import deprecated_call, deprecated_class
from farspan.amp import autocast_mode
from farspan.core.dtype import DType, float16

__all__ = ["autocast", "custom_bwd", "custom_fwd"]


class autocast(autocast_mode.autocast):
    """As ``farspan.amp.autocast("cuda", ...)``."""

    def __init__(
        self, enabled: bool = True, dtype: DType = float16, cache_enabled: bool = True
    ) -> None:
        deprecated_class("cuda.amp.autocast", "amp.autocast", "cuda")
        super().__init__("cuda", enabled=enabled, dtype=dtype, cache_enabled=cache_enabled)


def custom_fwd(fwd: Any = None, *, cast_inputs: DType | None = None) -> Any:
    """As ``farspan.amp.custom_fwd(..., device_type="cuda")``."""
    deprecated_call("cuda.amp.custom_fwd", "amp.custom_fwd", "cuda")
    return amp.custom_fwd(fwd, device_type="cuda", cast_inputs=cast_inputs)


def custom_bwd(bwd: Any) -> Any:
    """As ``farspan.amp.custom_bwd(..., device_type="cuda")``."""
    deprecated_call("cuda.amp.custom_bwd", "amp.custom_bwd", "cuda")
    return amp.custom_bwd(bwd, device_type="cuda")
