"""Modes of a session's arithmetic: set by a command, so that a journal has them in their place."""

from __future__ import annotations

from ..op import declare

declare(
    "farspan::_math_mode(bool matmul_tf32) -> ()",
    "state",
    meta=lambda matmul_tf32: (),
    kernel=lambda xp, matmul_tf32: (),  # a CPU computes float32 in float32
)
