"""Loops: groups of pointwise steps and trailing reductions, compiled to one loop nest by llvmlite.

    group = Group(inputs, steps, outputs, exact=True)
    loop = loop_for(group)          # None: some step has no place in a loop
    loop.function(addresses of inputs, then of outputs, then numbers)

The inside of a loop comes from the table's own kernels, run over symbols (trace.py, symbolic.py).
"""

from __future__ import annotations

from .compiled import Loop, Pending, fusible, loop_for
from .group import Group, Number, Step, Unfused
from .native import absent, missing, waits
from .rowwise import takes_rows
from .trace import ROWWISE

__all__ = [
    "ROWWISE", "Group", "Loop", "Number", "Pending", "Step", "Unfused", "absent", "fusible",
    "loop_for", "missing", "takes_rows", "waits",
]  # fmt: skip
