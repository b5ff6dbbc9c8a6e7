"""Names for annotations."""

from __future__ import annotations

import builtins
import os
from typing import IO, Any

from ._tensor import Size, Tensor
from .core.dtype import Device as _Device

__all__ = ["Device", "FileLike", "Number", "Storage"]

Number = builtins.int | builtins.float | builtins.bool
Device = _Device | str | builtins.int | None
FileLike = str | os.PathLike[str] | IO[bytes]
Storage = Any
_size = Size | list[builtins.int] | tuple[builtins.int, ...]
_TensorOrTensors = Tensor | tuple[Tensor, ...]
_int, _float, _bool = builtins.int, builtins.float, builtins.bool
BoolLikeType, IntLikeType, FloatLikeType = builtins.bool, builtins.int, builtins.float
