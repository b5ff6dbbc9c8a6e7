"""torch.utils.flop_counter: operations are not counted; the class exists for programs that may."""

from __future__ import annotations

from typing import Any

from ..core.errors import UnsupportedError

__all__ = ["FlopCounterMode"]


class FlopCounterMode:
    """Counts floating-point operations while it is entered, in torch; here it cannot be."""

    def __init__(
        self, mods: Any = None, depth: int = 2, display: bool = True, custom_mapping: Any = None
    ) -> None:
        self.depth, self.display = depth, display

    def __enter__(self) -> FlopCounterMode:
        raise UnsupportedError("torch.utils.flop_counter: farspan counts no operations")

    def __exit__(self, *error: object) -> None:
        """Nothing was entered."""

    def get_total_flops(self) -> int:
        """Return 0: nothing was counted."""
        return 0

    def get_flop_counts(self) -> dict[str, dict[Any, int]]:
        """Return the empty dict: nothing was counted."""
        return {}
