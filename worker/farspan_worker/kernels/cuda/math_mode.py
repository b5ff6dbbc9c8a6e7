"""MathMode: which roundings a session allows its GPU; state of the session, set by a command."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class MathMode:
    """torch's switches, with torch's defaults: TF32 in convolutions, full float32 in products."""

    matmul_tf32: bool = False
    conv_tf32: bool = True
