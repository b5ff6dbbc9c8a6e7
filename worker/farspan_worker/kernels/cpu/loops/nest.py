"""The loop nest of a traced group, as LLVM IR text.

Dims of size 1 go, those that lie behind each other in every operand become one, and the rest stand
in the order of memory. What does not change in an inner loop is computed outside of it. Reductions:
where the innermost dim is reduced, results stay in registers ("rows"); else partial results of up
to COLUMNS elements stay in the first-level cache while all rows pass by ("columns").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

from .graph import Node
from .instructions import ITEMSIZE, REGISTER, Lines, identity
from .trace import Traced

#: Elements that a float32 sum adds up before they go into a double.
BLOCK: Final = 4_096
#: Partial results of a reduction that keeps the innermost dim: 32 KiB as doubles.
COLUMNS: Final = 4_096
#: Rows from which their float32 sums are taken in double.
LONG: Final = 1_024
NAME: Final = "loop"


@dataclass(slots=True)
class Dim:
    """One loop: how often, and how far each operand (inputs, then outputs) steps."""

    size: int
    strides: list[int]
    reduced: bool = False
    bound: str = ""  # the name of its trip count where that is no constant


@dataclass(slots=True)
class Nest:
    """Loops from the outermost in, and which of them surround a reduction's result."""

    dims: list[Dim]
    kept: int  # loops outside of the reduction; all of them without one
    columns: bool = False
    empty: bool = False


def plan_nest(traced: Traced) -> Nest:
    """Return the loops of a group."""
    gone = traced.dims or ()
    operands = [s for _, s in traced.inputs] + [s for _, _, s in traced.outputs]
    dims = [
        Dim(n, [s[d] for s in operands], d in gone) for d, n in enumerate(traced.shape) if n != 1
    ]
    lead = len(traced.inputs)
    order = [i for i in range(lead, len(operands)) if not _is_late(traced, i - lead)]
    order += sorted(range(lead), key=lambda i: -sum(map(abs, operands[i])))
    dims.sort(key=lambda d: tuple(-abs(d.strides[i]) for i in order))
    dims = _merged(dims)
    columns = bool(traced.dims is not None and dims and not dims[-1].reduced)
    if traced.dims is not None:
        last = [dims.pop()] if columns else []
        dims = [d for d in dims if not d.reduced] + [d for d in dims if d.reduced] + last
    kept = sum(not d.reduced for d in dims) - columns
    if columns and all(not d.reduced for d in dims):  # only dims of size 1 are reduced
        columns, kept = False, len(dims)
    return Nest(dims, kept, columns, 0 in traced.shape)


def _is_late(traced: Traced, output: int) -> bool:
    return traced.outputs[output][0].at in traced.late


def _merged(dims: list[Dim]) -> list[Dim]:
    merged: list[Dim] = []
    for d in dims:
        if merged and merged[-1].reduced == d.reduced:
            pairs = zip(merged[-1].strides, d.strides, strict=True)
            if all(outer == inner * d.size for outer, inner in pairs):
                merged[-1] = Dim(merged[-1].size * d.size, d.strides, d.reduced)
                continue
        merged.append(d)
    return merged


def write(traced: Traced) -> str:
    """Return the module's text: one function, `loop(inputs..., outputs..., numbers...)`."""
    return _Writer(traced, plan_nest(traced)).module()


@dataclass(slots=True)
class _Loop:
    """An open loop: what closes it."""

    counter: str
    again: str
    step: str
    bound: str
    innermost: bool = False


class _Writer:
    """Writes one function."""

    def __init__(self, traced: Traced, nest: Nest) -> None:
        self.traced, self.nest = traced, nest
        self.lines = Lines(traced.graph.exact)
        self.values: dict[int, str] = {}  # by place of the node
        self.reduces = [n for n in traced.graph.nodes if n.op == "reduce"]
        self.accumulators: dict[int, tuple[str, str]] = {}  # place -> pointer, type
        self.depth = len(nest.dims)
        self.needed = self._find_needed()
        self.free = self._find_free()
        self.levels = self._find_levels()
        self._labels = 0
        self._counter = ""  # of the loop opened last
        self._metadata: list[str] = []

    # -------------------------------------------------------------------------------- order --
    def _find_needed(self) -> set[int]:
        needed: set[int] = set()
        queue = [node for node, _, _ in self.traced.outputs]
        while queue:
            node = queue.pop()
            if node.at not in needed:
                needed.add(node.at)
                queue.extend(node.args)
        return needed

    def _find_free(self) -> set[int]:
        """Return what depends on no element: numbers, and what is computed from them alone."""
        free: set[int] = set()
        for node in self.traced.graph.nodes:
            if node.op not in ("load", "reduce") and all(a.at in free for a in node.args):
                free.add(node.at)
        return free

    def _find_levels(self) -> list[int]:
        """Return for each node how many loops it is inside of."""
        levels: list[int] = []
        for node in self.traced.graph.nodes:
            if node.op == "load":
                steps = [d.strides[node.attr] != 0 for d in self.nest.dims]
                levels.append(max((i + 1 for i, moves in enumerate(steps) if moves), default=0))
            elif node.at in self.traced.late:
                levels.append(-1)
            else:
                levels.append(max((levels[a.at] for a in node.args), default=0))
        return levels

    # ------------------------------------------------------------------------------- module --
    def module(self) -> str:
        traced, lines = self.traced, self.lines
        pointers = [f"ptr %p{i}" for i in range(len(traced.inputs) + len(traced.outputs))]
        numbers = [
            f"{'double' if kind == 'f' else 'i64'} %n{i}" for i, kind in enumerate(traced.numbers)
        ]
        lines.label("entry")
        for node in traced.graph.nodes:
            if node.at in self.needed and node.at in self.free:
                self._write_node(node, [], "")
        self._open(0, [p.split()[1] for p in pointers])
        lines.do("ret void")
        head = f"define void @{NAME}({', '.join([*pointers, *numbers])}) #0 {{"
        return "\n".join([
            head, *self._with_allocas(), "}", *sorted(lines.declared),
            'attributes #0 = { nounwind "prefer-vector-width"="512" }',
            "!0 = distinct !{}", *self._metadata, "",
        ])  # fmt: skip

    def _with_allocas(self) -> list[str]:
        """Return the text with its allocas in front, where they become registers."""
        text = self.lines.text
        allocas = [t for t in text if "= alloca " in t]
        rest = [t for t in text if "= alloca " not in t]
        return [rest[0], *allocas, *rest[1:]]

    def _alloca(self, kind: str, count: int = 1) -> str:
        size = f", i64 {count}, align 64" if count > 1 else ""
        return self.lines.let(f"alloca {kind}{size}", "a")

    # -------------------------------------------------------------------------------- loops --
    def _begin(self, bound: str, innermost: bool = False) -> _Loop:
        """Open a loop that counts from 0 to a bound above 0."""
        self._labels += 1
        lines, n = self.lines, self._labels
        counter, step = f"%i{n}", f"%next{n}"
        lines.do(f"br label %before{n}")
        lines.label(f"before{n}")
        lines.do(f"br label %body{n}")
        lines.label(f"body{n}")
        lines.do(f"{counter} = phi i64 [ 0, %before{n} ], [ {step}, %latch{n} ]")
        return _Loop(counter, f"{n}", step, bound, innermost)

    def _end(self, loop: _Loop) -> None:
        lines, n = self.lines, loop.again
        lines.do(f"br label %latch{n}")
        lines.label(f"latch{n}")
        lines.do(f"{loop.step} = add nuw nsw i64 {loop.counter}, 1")
        more = lines.let(f"icmp slt i64 {loop.step}, {loop.bound}")
        tag = ""
        if loop.innermost:
            at = len(self._metadata) + 1
            self._metadata += [
                f"!{at} = distinct !{{!{at}, !{at + 1}}}",
                f'!{at + 1} = !{{!"llvm.loop.parallel_accesses", !0}}',
            ]
            tag = f", !llvm.loop !{at}"
        lines.do(f"br i1 {more}, label %body{n}, label %after{n}{tag}")
        lines.label(f"after{n}")

    def _shorter(self, block: str, size: int, width: int) -> str:
        """Return how many of `size` are in a block of `width`: the last one has fewer."""
        lines = self.lines
        rest = lines.let(f"sub nsw i64 {size}, {lines.let(f'mul nsw i64 {block}, {width}')}")
        smaller = lines.let(f"icmp slt i64 {rest}, {width}")
        return lines.let(f"select i1 {smaller}, i64 {rest}, i64 {width}")

    def _step(self, pointers: list[str], counter: str, dim: Dim) -> list[str]:
        """Return the operands' pointers at one turn of a loop."""
        types = [t for t, _ in self.traced.inputs] + [t for _, t, _ in self.traced.outputs]
        moved = []
        for pointer, name, stride in zip(pointers, types, dim.strides, strict=True):
            if not stride:
                moved.append(pointer)
                continue
            at = counter
            if stride * ITEMSIZE[name] != 1:
                at = self.lines.let(f"mul nsw i64 {counter}, {stride * ITEMSIZE[name]}")
            moved.append(self.lines.let(f"getelementptr i8, ptr {pointer}, i64 {at}", "q"))
        return moved

    # -------------------------------------------------------------------------------- levels --
    def _open(self, level: int, pointers: list[str]) -> None:
        """Write everything from inside of `level` loops on."""
        nest = self.nest
        reduces = bool(self.reduces)
        if nest.empty and not (reduces and level <= nest.kept):
            return
        if reduces and level == nest.kept and not self.accumulators:
            (self._columns if nest.columns else self._rows)(level, pointers)
            return
        if not nest.empty:
            self._write_nodes(level, pointers)
        if level == self.depth:
            self._write_elements(pointers)
            return
        dim = nest.dims[level]
        if not dim.size:
            return
        bound = dim.bound or str(dim.size)
        if bound == "last":
            bound = self._shorter(self._counter, dim.size, BLOCK)
        loop = self._begin(bound, level == self.depth - 1)
        self._counter = loop.counter
        self._open(level + 1, self._step(pointers, loop.counter, dim))
        if self.accumulators and level == self.depth - 1 and not nest.columns:
            self._end(loop)
            self._flush()
            return
        self._end(loop)

    def _write_nodes(self, level: int, pointers: list[str]) -> None:
        tag = ", !llvm.access.group !0" if level == self.depth and level else ""
        for node in self.traced.graph.nodes:
            here = self.levels[node.at] == level and node.at not in self.free
            if here and node.at in self.needed:
                self._write_node(node, pointers, tag)

    def _write_node(self, node: Node, pointers: list[str], tag: str) -> None:
        if node.op == "load":
            name = self.lines.load(pointers[node.attr], node.dtype, tag)
        elif node.op == "number":
            name = f"%n{node.attr}"
        else:
            name = self.lines.instruction(node, [self.values[a.at] for a in node.args])
        self.values[node.at] = name

    def _write_elements(self, pointers: list[str]) -> None:
        """Store what is stored for each element, and add to what is reduced."""
        lead = len(self.traced.inputs)
        tag = ", !llvm.access.group !0" if self.depth else ""
        for i, (node, name, _) in enumerate(self.traced.outputs):
            if node.at not in self.traced.late:
                self.lines.store(self.values[node.at], pointers[lead + i], name, tag)
        for node in self.reduces:
            if node.at in self.needed:
                self._accumulate(node, tag)

    # ---------------------------------------------------------------------------- reductions --
    def _count(self) -> int:
        return math.prod(d.size for d in self.nest.dims if d.reduced)

    def _sum_type(self, node: Node) -> str:
        """Return the type in which results gather: doubles for long sums of float32."""
        long = self._count() > LONG and node.attr[0] == "sum" and node.dtype == "float32"
        return "float64" if long else node.dtype

    def _accumulate(self, node: Node, tag: str) -> None:
        lines, value = self.lines, self.values[node.args[0].at]
        pointer, name = self.accumulators[node.at]
        if self.nest.columns:
            if name != node.dtype:
                value = lines.cast(value, node.dtype, name)
            at = lines.let(f"getelementptr {REGISTER[name]}, ptr {pointer}, i64 {self._counter}")
            before = lines.load(at, name, tag)
            lines.store(lines.combine(node.attr[0], name, before, value), at, name, tag)
            return
        before = lines.load(pointer, node.dtype, "")
        lines.store(lines.combine(node.attr[0], node.dtype, before, value), pointer, node.dtype, "")

    def _rows(self, level: int, pointers: list[str]) -> None:
        """Results in registers: `inner` of the innermost loop, and `outer` of all of them."""
        lines, nest = self.lines, self.nest
        self._outer: dict[int, tuple[str, str]] = {}
        for node in self.reduces:
            name = self._sum_type(node)
            self._outer[node.at] = self._alloca(REGISTER[name]), name
            self.accumulators[node.at] = self._alloca(REGISTER[node.dtype]), node.dtype
            start = identity(node.attr[0], name)
            lines.do(f"store {REGISTER[name]} {start}, ptr {self._outer[node.at][0]}")
            self._restart(node)
        inner = nest.dims[-1] if nest.dims else None
        if inner is not None and inner.reduced and inner.size > 2 * BLOCK:
            self._split(inner)
        self._open(level, pointers)
        if not (nest.dims and nest.dims[-1].reduced):
            self._flush()
        self._finish(pointers, {
            at: (lines.load(p, name, ""), name) for at, (p, name) in self._outer.items()
        })  # fmt: skip
        self.accumulators = {}

    def _split(self, inner: Dim) -> None:
        """Cut the innermost loop into blocks, so that no sum of float32 is long."""
        blocks = -(-inner.size // BLOCK)
        outer = Dim(blocks, [s * BLOCK for s in inner.strides], True)
        block = Dim(BLOCK, inner.strides, True)
        if inner.size % BLOCK:
            block.bound = "last"
            block.size = inner.size  # the bound is the rest of this many
        self.nest.dims[-1:] = [outer, block]
        self.levels = [self.depth + 1 if v == self.depth else v for v in self.levels]
        self.depth += 1

    def _restart(self, node: Node) -> None:
        pointer, name = self.accumulators[node.at]
        start = identity(node.attr[0], name)
        self.lines.do(f"store {REGISTER[name]} {start}, ptr {pointer}")

    def _flush(self) -> None:
        """Add the innermost loop's results to those of all loops."""
        lines = self.lines
        for node in self.reduces:
            pointer, name = self._outer[node.at]
            inner = lines.load(self.accumulators[node.at][0], node.dtype, "")
            if name != node.dtype:
                inner = lines.cast(inner, node.dtype, name)
            before = lines.load(pointer, name, "")
            lines.store(lines.combine(node.attr[0], name, before, inner), pointer, name, "")
            self._restart(node)

    def _finish(self, pointers: list[str], results: dict[int, tuple[str, str]]) -> None:
        """Compute and store what comes after the reduction."""
        lead = len(self.traced.inputs)
        for node in self.traced.graph.nodes:
            if node.at not in self.needed or node.at not in self.traced.late:
                continue
            if node.op == "reduce":
                value, name = results[node.at]
                same = name == node.dtype
                self.values[node.at] = value if same else self.lines.cast(value, name, node.dtype)
            else:
                self._write_node(node, pointers, "")
        for i, (node, name, _) in enumerate(self.traced.outputs):
            if node.at in self.traced.late:
                self.lines.store(self.values[node.at], pointers[lead + i], name, "")

    def _columns(self, level: int, pointers: list[str]) -> None:
        """Results of up to COLUMNS columns in memory; three loops: clear, add, finish."""
        lines, dim = self.lines, self.nest.dims[-1]
        if not dim.size:
            return
        width = min(dim.size, COLUMNS)
        for node in self.reduces:
            name = self._sum_type(node)
            self.accumulators[node.at] = self._alloca(REGISTER[name], width), name
        blocks, bound = -(-dim.size // width), str(width)
        tile = None
        if blocks > 1:
            tile = self._begin(str(blocks))
            if dim.size % width:
                bound = self._shorter(tile.counter, dim.size, width)
            jump = Dim(blocks, [s * width for s in dim.strides])
            pointers = self._step(pointers, tile.counter, jump)
        loop = self._begin(bound)
        for node in self.reduces:
            pointer, name = self.accumulators[node.at]
            kind = REGISTER[name]
            at = lines.let(f"getelementptr {kind}, ptr {pointer}, i64 {loop.counter}")
            lines.do(f"store {kind} {identity(node.attr[0], name)}, ptr {at}")
        self._end(loop)
        self.nest.dims[-1] = Dim(dim.size, dim.strides, bound=bound)
        self._open(level, pointers)
        loop = self._begin(bound)
        results = {}
        for node in self.reduces:
            pointer, name = self.accumulators[node.at]
            at = lines.let(f"getelementptr {REGISTER[name]}, ptr {pointer}, i64 {loop.counter}")
            results[node.at] = lines.load(at, name, ""), name
        self._finish(self._step(pointers, loop.counter, dim), results)
        self._end(loop)
        if tile is not None:
            self._end(tile)
