"""Loops in which elements meet what their own row was reduced to, as in a softmax.

A row is walked once for each reduction that depends on another one, and once more for what is
stored; it stays in the first-level cache meanwhile. What was dear to compute and is needed again is
kept beside, in the same cache. Rows are shared out to threads; each row is one thread's.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from .graph import Node
from .group import Unfused
from .instructions import REGISTER, identity
from .nest import Nest, Writer
from .trace import REDUCTIONS, ROWWISE, Traced

if TYPE_CHECKING:
    from farspan.core.op import Op
    from farspan.core.spec import Spec

#: Elements of a row: beyond, partial sums of float32 would be long, and rows leave the cache.
ROW_MAX: Final = 8_192
#: Elements of float32 in a vector of 512 bits.
_VECTOR: Final = 16
#: Instructions that an element must save to be kept for a later walk.
_DEAR: Final = 6


def takes_rows(op: Op, static: Any, specs: Sequence[Spec], exact: bool) -> bool:
    """Return whether a map of rows, such as a softmax, or a reduction of rows that elements may
    meet again, is a loop on tensors of these specs."""
    if exact or (op.name not in ROWWISE and op.name not in REDUCTIONS):
        return False
    args = op.recipe(static).args(specs, ())
    named = {a.name: x for a, x in zip(op.args, args, strict=True)}
    ndim, dim = specs[0].ndim, named.get("dim")
    if op.name in REDUCTIONS:
        if not named.get("keepdim") or not isinstance(dim, (tuple, list)) or len(dim) != 1:
            return False
        dim = dim[0]
    return (
        ndim > 0
        and dim % ndim == ndim - 1
        and all(
            s.dtype.name == "float32" and s.contiguous and s.numel and 1 < s.shape[-1] <= ROW_MAX
            for s in specs
        )
    )


class RowWriter(Writer):
    """Writes one function whose innermost loops are walks over a row."""

    def __init__(self, traced: Traced, nest: Nest) -> None:
        super().__init__(traced, nest)
        if nest.kept != self.depth - 1 or not nest.dims[-1].reduced or nest.columns:
            raise Unfused("a row that is not one innermost dim")
        row = nest.dims[-1]
        if row.size > ROW_MAX or any(s not in (0, 1) for s in row.strides):
            raise Unfused("a row that is long, or has gaps")
        for node in traced.graph.nodes:  # what depends on a reduction is computed in its walk
            if traced.stages[node.at] and node.at not in traced.late:
                self.levels[node.at] = self.depth
        self._last = max(traced.stages[at] for at in self.needed)
        #: The walk that stores: the last one, since an output may lie where an input does.
        self._storing = max(
            stage
            for stage in range(self._last + 1)
            if self._reduced_by(stage) or self._stored_by(stage)
        )
        self._kept_aside: dict[int, str] = {}  # by place: where a row of it lies

    def open(self, level: int, pointers: list[str]) -> None:
        """Write everything from inside of `level` loops on."""
        if level < self.nest.kept or self.nest.empty:
            super().open(level, pointers)
            return
        self.write_nodes(level, pointers)
        walks = [self._walk_of(stage) for stage in range(self._last + 1)]
        aside = self._worth_keeping(walks)
        for at in aside:
            kind = REGISTER[self.traced.graph.nodes[at].dtype]
            self._kept_aside[at] = self.alloca(kind, self.nest.dims[-1].size)
        done: set[int] = set()
        for stage, walk in enumerate(walks):
            self._write_late(stage, pointers)
            if walk:
                self._walk(stage, pointers, aside, done)
        lead = len(self.traced.inputs)
        for i, (node, name, _) in enumerate(self.traced.outputs):
            if node.at in self.traced.late:
                self.lines.store(self.values[node.at], pointers[lead + i], name, "")

    # --------------------------------------------------------------------------------- walks --
    def _targets(self, stage: int) -> list[Node]:
        """Return the elements that a walk is for: what it reduces, and what it stores."""
        found = [n.args[0] for n in self._reduced_by(stage)]
        if stage == self._storing:
            found += [node for node, _, _ in self.traced.outputs if node.at not in self.traced.late]
        return found

    def _stored_by(self, stage: int) -> bool:
        """Return whether something that is stored is known in this walk at the earliest."""
        late, stages = self.traced.late, self.traced.stages
        return any(n.at not in late and stages[n.at] == stage for n, _, _ in self.traced.outputs)

    def _reduced_by(self, stage: int) -> list[Node]:
        stages = self.traced.stages
        return [n for n in self.reduces if n.at in self.needed and stages[n.at] == stage + 1]

    def _walk_of(self, stage: int, kept: set[int] | None = None) -> set[int]:
        """Return the places of the elements that a walk computes; of those kept, none below."""
        found: set[int] = set()
        queue = self._targets(stage)
        while queue:
            node = queue.pop()
            if node.at in found or self.levels[node.at] != self.depth or node.at in self.free:
                continue
            found.add(node.at)
            if kept is None or node.at not in kept:
                queue.extend(node.args)
        return found

    def _worth_keeping(self, walks: list[set[int]]) -> set[int]:
        """Return the elements that a later walk takes from beside instead of computing them."""
        nodes = self.traced.graph.nodes
        cost: dict[int, int] = {}
        for node in nodes:
            below = [cost.get(a.at, 0) for a in node.args]
            cost[node.at] = sum(below) + (node.op not in ("load", "const", "number"))
        again = {
            at
            for stage, walk in enumerate(walks)
            for at in walk
            if cost[at] >= _DEAR and any(at in later for later in walks[stage + 1 :])
        }
        inner = {a.at for at in again for a in nodes[at].args}
        users = {
            a.at for walk in walks[1:] for at in walk if at not in again for a in nodes[at].args
        }
        wanted = {n.at for stage in range(1, len(walks)) for n in self._targets(stage)}
        return {at for at in again if at not in inner or at in users or at in wanted}

    def _walk(self, stage: int, pointers: list[str], aside: set[int], done: set[int]) -> None:
        """Write one walk over the row."""
        lines, traced, dim = self.lines, self.traced, self.nest.dims[-1]
        reduces = self._reduced_by(stage)
        cells = {}
        for node in reduces:
            kind = REGISTER[node.dtype]
            cells[node.at] = self.alloca(kind)
            start = identity(node.attr[0], node.dtype)
            lines.do(f"store {kind} {start}, ptr {cells[node.at]}")
        walk = self._walk_of(stage, done & aside)
        loop = self.begin(dim.count, True, _width(dim.size))
        here = self.step(pointers, loop.counter, dim)
        tag = ", !llvm.access.group !0"
        for node in traced.graph.nodes:
            if node.at not in walk:
                continue
            if node.at in aside:
                kind = REGISTER[node.dtype]
                row = self._kept_aside[node.at]
                place = lines.let(f"getelementptr {kind}, ptr {row}, i64 {loop.counter}")
            if node.at in done and node.at in aside:
                self.values[node.at] = lines.load(place, node.dtype, tag)
                continue
            self.write_node(node, here, tag)
            if node.at in aside:
                lines.store(self.values[node.at], place, node.dtype, tag)
                done.add(node.at)
        for node in reduces:
            before = lines.load(cells[node.at], node.dtype, "")
            value = self.values[node.args[0].at]
            total = lines.combine(node.attr[0], node.dtype, before, value)
            lines.store(total, cells[node.at], node.dtype, "")
        lead = len(traced.inputs)
        for i, (node, name, _) in enumerate(traced.outputs):
            if node.at not in traced.late and stage == self._storing:
                lines.store(self.values[node.at], here[lead + i], name, tag)
        self.end(loop)
        for node in reduces:
            found = lines.load(cells[node.at], node.dtype, "")
            if node.attr[0] == "top":  # with a NaN in the row it may be any number
                found = lines.let(f"freeze {REGISTER[node.dtype]} {found}")
            self.values[node.at] = found

    def _write_late(self, stage: int, pointers: list[str]) -> None:
        """Write what is computed once a row, after the reductions of this stage."""
        for node in self.traced.graph.nodes:
            if node.at in self.traced.late and node.at in self.needed and node.op != "reduce":
                if self.traced.stages[node.at] == stage:
                    self.write_node(node, pointers, "")


def _width(size: int) -> int:
    """Return how many elements of a row LLVM takes at once.

    Where it may choose, LLVM 22 weighs an exp that is summed up by two models of cost; for some
    lengths, such as 88 to 95 and 104 to 111, these disagree, and it then aborts the process
    ("VPlan cost model and legacy cost model disagreed").
    """
    return min(_VECTOR, 1 << (size.bit_length() - 1))
