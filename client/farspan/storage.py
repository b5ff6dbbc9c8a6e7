"""torch.storage: the memory of tensors, as a class that programs test for."""

from __future__ import annotations

from typing import Any

from ._resize import UntypedStorage
from .core.errors import UnsupportedError

__all__ = ["TypedStorage", "UntypedStorage"]


class TypedStorage:
    """Memory with a dtype, which torch itself is leaving: no object has this class."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise UnsupportedError("torch.TypedStorage: use a tensor, or its untyped_storage()")
