"""Loops on a GPU: groups of pointwise steps and reductions as CUDA C, compiled by NVRTC.

    fused = Fused(group, numbers="values")      # Unfused: some step has no place in a loop
    fused.launches                              # kernels, grids and scratch of it

The inside of a loop is the graph that the CPU's loops are made of (kernels/cpu/loops); text.py has
its nodes in CUDA C, maps.py and sums.py what is around them, compiled.py NVRTC and the cache.
"""

from __future__ import annotations

from .compiled import Modules
from .group import Fused, Launch

__all__ = ["Fused", "Launch", "Modules"]
