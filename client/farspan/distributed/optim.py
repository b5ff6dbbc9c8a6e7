"""torch.distributed.optim: names that libraries test objects against; nothing has these classes."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnsupportedError

__all__ = ["ZeroRedundancyOptimizer"]


class ZeroRedundancyOptimizer:
    """An optimizer that shards its state over process groups, which farspan does not have."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("ZeroRedundancyOptimizer needs process groups; farspan has none")
