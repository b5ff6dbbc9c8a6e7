"""MathMode: which roundings a session allows its GPU; state of the session, set by a command."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from .device import Cuda


@dataclass(frozen=True, slots=True)
class MathMode:
    """torch's switch with torch's default: products of float32 in float32, not in TF32."""

    matmul_tf32: bool = False


def setter(backend: Cuda) -> Callable[..., Any]:
    """Return the kernel of `_math_mode`."""

    def kernel(xp: Any, matmul_tf32: bool) -> tuple[()]:
        backend.math = MathMode(matmul_tf32)
        return ()

    return kernel
