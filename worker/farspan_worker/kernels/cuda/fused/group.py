"""Fused: a group of steps as kernels with their grids; how often each runs, and on what.

A launch takes the inputs' and outputs' arrays, its scratch and its numbers; nothing is looked up
when it runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farspan.core.errors import FarspanError

from ...cpu.loops.group import Group, Unfused
from ...cpu.loops.nest import plan_nest
from ...cpu.loops.trace import trace
from . import maps, sums
from .body import Body

if TYPE_CHECKING:
    from .compiled import Modules

#: What a trace may raise for a group that cannot be fused, or whose ops refuse their arguments.
REFUSALS = (Unfused, FarspanError, AttributeError, TypeError, ValueError, OverflowError)


@dataclass(frozen=True, slots=True)
class Launch:
    """One kernel and its grid; `sized`: it takes the count of elements before the numbers."""

    name: str
    grid: tuple[int, int]
    threads: int


class Fused:
    """A group as CUDA C. Unfused, if some step has no place in a kernel.

    by_pointer: numbers are read from memory of the device at each launch.
    """

    def __init__(self, group: Group, by_pointer: bool = False) -> None:
        self.group = group
        try:
            traced = trace(group)
        except REFUSALS as error:
            raise Unfused(str(error)) from None
        if traced.rows:  # a kernel here reduces once, last; only the CPU's rowwise.py goes on
            raise Unfused("elements that meet what their row was reduced to, on a GPU")
        nest = plan_nest(traced)
        self.body = Body(traced, by_pointer)
        self.size: int | None = None
        self.scratch_bytes = 0
        self.empty = nest.empty
        if traced.dims is None:
            self._map(nest.dims)
        else:
            self._sum(nest)

    def _map(self, dims: Sequence[Any]) -> None:
        count = math.prod(d.size for d in dims)
        self.text = maps.write(self.body, list(dims))
        self.size = count
        width = maps.pack_width(self.body, list(dims))
        self.launches = [Launch(maps.NAME, (maps.grid(count, width), 1), maps.THREADS)]

    def _sum(self, nest: Any) -> None:
        kept, gone, columns = sums.split_dims(nest)
        shape = sums.shape_of(kept, gone, columns)
        if shape.count == 0 or self.empty:
            raise Unfused("a reduction of nothing")
        self.text = sums.write(self.body, kept, gone, shape)
        self.scratch_bytes = sums.scratch_bytes(self.body, shape)
        self.launches = [Launch(sums.NAME, (shape.blocks, shape.splits), sums.THREADS)]
        if shape.splits > 1:
            blocks = -(-shape.results // sums.THREADS)
            self.launches.append(Launch(sums.FINISH, (blocks, 1), sums.THREADS))

    def functions(self, modules: Modules) -> list[Any]:
        """Return the kernels, one a launch. Unfused: the compiler refused them."""
        names = tuple([launch.name for launch in self.launches])
        return modules.functions(self.text, names, self.group.exact)
