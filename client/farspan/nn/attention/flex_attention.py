"""torch.nn.attention.flex_attention: attention with a compiled score function is not planned."""

from __future__ import annotations

from typing import Any

from ...core.call import unsupported
from ...core.errors import UnsupportedError

__all__ = [
    "AuxOutput", "AuxRequest", "BlockMask", "and_masks", "create_block_mask", "create_mask",
    "create_nested_block_mask", "flex_attention", "noop_mask", "or_masks",
]  # fmt: skip

_DEFAULT_SPARSE_BLOCK_SIZE = 128
_WHY = "use torch.nn.functional.scaled_dot_product_attention with an attn_mask"

flex_attention, create_block_mask, create_mask, create_nested_block_mask = (
    unsupported(f"flex_attention.{name}", _WHY)
    for name in (
        "flex_attention", "create_block_mask", "create_mask", "create_nested_block_mask",
    )
)  # fmt: skip
and_masks, or_masks, noop_mask = (
    unsupported(f"flex_attention.{name}", _WHY) for name in ("and_masks", "or_masks", "noop_mask")
)


class BlockMask:
    """A mask in blocks, in torch; ``isinstance(mask, BlockMask)`` is False."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError(f"{type(self).__name__}: {_WHY}")


class AuxRequest(BlockMask):
    """What else flex_attention is asked for, in torch."""


class AuxOutput(BlockMask):
    """What else flex_attention gives, in torch."""
