"""The loop nest of a traced group, as LLVM IR text.

Dims of size 1 go, those that lie behind each other in every operand become one, and the rest stand
in the order of memory. What does not change in an inner loop is computed outside of it. Reductions:
where the innermost dim is reduced, results stay in registers ("rows"); else partial results of up
to COLUMNS elements stay in the first-level cache while all rows pass by ("columns").
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from . import team
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
    bound: str = ""  # the name of its trip count where that is no constant; "last": see _split
    total: str = ""  # for "last": of how many elements in all it is a block

    @property
    def count(self) -> str:
        """The trip count as it stands in the text."""
        return self.bound or str(self.size)


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
    columns = bool(traced.dims is not None and dims and not dims[-1].reduced and not traced.rows)
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
    from .rowwise import RowWriter

    writer = RowWriter if traced.rows else Writer
    return writer(traced, plan_nest(traced)).module()


@dataclass(slots=True)
class _Loop:
    """An open loop: what closes it."""

    counter: str
    again: str
    step: str
    bound: str
    innermost: bool = False
    width: int = 0  # elements of a vector; 0: LLVM chooses


class Writer:
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
        self._long = math.prod(d.size for d in nest.dims if d.reduced) > LONG
        #: By place of a reduction whose parts are added by others: where this part's result goes.
        self.partial: dict[int, str] = {}

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
        """Return the text: one function, or one that lets a team run another."""
        traced, lines = self.traced, self.lines
        pointers = [f"%p{i}" for i in range(len(traced.inputs) + len(traced.outputs))]
        kinds = ["double" if kind == "f" else "i64" for kind in traced.numbers]
        given = [("ptr", p) for p in pointers]
        given += [(kind, f"%n{i}") for i, kind in enumerate(kinds)]
        split = _split_of(traced, self.nest)
        functions: list[str] = []
        if split is not None:
            parallel = _Parallel(self, split, given)
            functions += self._function("define internal void @part(ptr %args)", parallel.part)
            self.values = {}
            body = partial(parallel.call, pointers)
        else:
            body = partial(self._whole, pointers)
        head = f"define void @{NAME}({', '.join(f'{kind} {name}' for kind, name in given)})"
        functions += self._function(head, body)
        return "\n".join([
            *functions, *sorted(lines.declared),
            'attributes #0 = { nounwind "prefer-vector-width"="512" }',
            "!0 = distinct !{}", *self._metadata, "",
        ])  # fmt: skip

    def _function(self, head: str, body: Callable[[], None]) -> list[str]:
        """Return a function's text, its allocas in front, where they become registers."""
        self.lines.text = []
        body()
        text = self.lines.text
        allocas = [t for t in text if "= alloca " in t]
        rest = [t for t in text if "= alloca " not in t]
        return [f"{head} #0 {{", "entry:", *allocas, *rest, "  ret void", "}"]

    def _whole(self, pointers: list[str]) -> None:
        self.write_free()
        self.open(0, pointers)

    def write_free(self) -> None:
        """Write what depends on no element."""
        for node in self.traced.graph.nodes:
            if node.at in self.needed and node.at in self.free:
                self.write_node(node, [], "")

    def alloca(self, kind: str, count: int = 1) -> str:
        size = f", i64 {count}, align 64" if count > 1 else ""
        return self.lines.let(f"alloca {kind}{size}", "a")

    # -------------------------------------------------------------------------------- loops --
    def begin(self, bound: str, innermost: bool = False, width: int = 0) -> _Loop:
        """Open a loop that counts from 0 to a bound above 0. width: elements of a vector, or 0."""
        self._labels += 1
        lines, n = self.lines, self._labels
        counter, step = f"%i{n}", f"%next{n}"
        lines.do(f"br label %before{n}")
        lines.label(f"before{n}")
        lines.do(f"br label %body{n}")
        lines.label(f"body{n}")
        lines.do(f"{counter} = phi i64 [ 0, %before{n} ], [ {step}, %latch{n} ]")
        return _Loop(counter, f"{n}", step, bound, innermost, width)

    def end(self, loop: _Loop) -> None:
        lines, n = self.lines, loop.again
        lines.do(f"br label %latch{n}")
        lines.label(f"latch{n}")
        lines.do(f"{loop.step} = add nuw nsw i64 {loop.counter}, 1")
        more = lines.let(f"icmp slt i64 {loop.step}, {loop.bound}")
        tag = ""
        if loop.innermost:
            at = len(self._metadata) + 1
            hints = ['!"llvm.loop.parallel_accesses", !0']
            if loop.width:
                hints.append(f'!"llvm.loop.vectorize.width", i32 {loop.width}')
            places = range(at + 1, at + 1 + len(hints))
            self._metadata += [
                f"!{at} = distinct !{{{', '.join(f'!{k}' for k in (at, *places))}}}",
                *(f"!{k} = !{{{hint}}}" for k, hint in zip(places, hints, strict=True)),
            ]
            tag = f", !llvm.loop !{at}"
        lines.do(f"br i1 {more}, label %body{n}, label %after{n}{tag}")
        lines.label(f"after{n}")

    def shorter(self, block: str, size: str, width: int) -> str:
        """Return how many of `size` are in a block of `width`: the last one has fewer."""
        lines = self.lines
        rest = lines.let(f"sub nsw i64 {size}, {lines.let(f'mul nsw i64 {block}, {width}')}")
        smaller = lines.let(f"icmp slt i64 {rest}, {width}")
        return lines.let(f"select i1 {smaller}, i64 {rest}, i64 {width}")

    def step(self, pointers: list[str], counter: str, dim: Dim) -> list[str]:
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
    def open(self, level: int, pointers: list[str]) -> None:
        """Write everything from inside of `level` loops on."""
        nest = self.nest
        reduces = bool(self.reduces)
        if nest.empty and not (reduces and level <= nest.kept):
            return
        if reduces and level == nest.kept and not self.accumulators:
            (self._columns if nest.columns else self._rows)(level, pointers)
            return
        if not nest.empty:
            self.write_nodes(level, pointers)
        if level == self.depth:
            self._write_elements(pointers)
            return
        dim = nest.dims[level]
        if not dim.size:
            return
        bound = dim.count
        if bound == "last":
            bound = self.shorter(self._counter, dim.total, BLOCK)
        loop = self.begin(bound, level == self.depth - 1)
        self._counter = loop.counter
        self.open(level + 1, self.step(pointers, loop.counter, dim))
        if self.accumulators and level == self.depth - 1 and not nest.columns:
            self.end(loop)
            self._flush()
            return
        self.end(loop)

    def write_nodes(self, level: int, pointers: list[str]) -> None:
        tag = ", !llvm.access.group !0" if level == self.depth and level else ""
        for node in self.traced.graph.nodes:
            here = self.levels[node.at] == level and node.at not in self.free
            if here and node.at in self.needed:
                self.write_node(node, pointers, tag)

    def write_node(self, node: Node, pointers: list[str], tag: str) -> None:
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
    def sum_type(self, node: Node) -> str:
        """Return the type in which results gather: doubles for long sums of float32."""
        long = self._long and node.attr[0] == "sum" and node.dtype == "float32"
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
            name = self.sum_type(node)
            self._outer[node.at] = self.alloca(REGISTER[name]), name
            self.accumulators[node.at] = self.alloca(REGISTER[node.dtype]), node.dtype
            start = identity(node.attr[0], name)
            lines.do(f"store {REGISTER[name]} {start}, ptr {self._outer[node.at][0]}")
            self._restart(node)
        inner = nest.dims[-1] if nest.dims else None
        if inner is not None and inner.reduced and inner.size > 2 * BLOCK:
            self._split(inner)
        self.open(level, pointers)
        if not (nest.dims and nest.dims[-1].reduced):
            self._flush()
        results = {at: (lines.load(p, name, ""), name) for at, (p, name) in self._outer.items()}
        if self.partial:
            for at, (value, name) in results.items():
                lines.store(value, self.partial[at], name, "")
        else:
            self.finish(pointers, results)
        self.accumulators = {}

    def _split(self, inner: Dim) -> None:
        """Cut the innermost loop into blocks, so that no sum of float32 is long."""
        blocks = -(-inner.size // BLOCK)
        outer = Dim(blocks, [s * BLOCK for s in inner.strides], True)
        block = Dim(BLOCK, inner.strides, True)
        if inner.bound:
            outer.bound = self._blocks(inner.bound, BLOCK)
        if inner.size % BLOCK or inner.bound:
            block.bound, block.total = "last", inner.count
        self.nest.dims[-1:] = [outer, block]
        self.levels = [self.depth + 1 if v == self.depth else v for v in self.levels]
        self.depth += 1

    def _blocks(self, count: str, width: int) -> str:
        """Return how many blocks there are of a count that is known when the loop runs."""
        return self.lines.let(
            f"udiv i64 {self.lines.let(f'add i64 {count}, {width - 1}')}, {width}"
        )

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

    def finish(self, pointers: list[str], results: dict[int, tuple[str, str]]) -> None:
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
                self.write_node(node, pointers, "")
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
            name = self.sum_type(node)
            self.accumulators[node.at] = self.alloca(REGISTER[name], width), name
        blocks, bound = -(-dim.size // width), str(width)
        tile = None
        if blocks == 1:
            bound = dim.count
        else:
            tile = self.begin(self._blocks(dim.bound, width) if dim.bound else str(blocks))
            if dim.size % width or dim.bound:
                bound = self.shorter(tile.counter, dim.count, width)
            jump = Dim(blocks, [s * width for s in dim.strides])
            pointers = self.step(pointers, tile.counter, jump)
        loop = self.begin(bound)
        for node in self.reduces:
            pointer, name = self.accumulators[node.at]
            kind = REGISTER[name]
            at = lines.let(f"getelementptr {kind}, ptr {pointer}, i64 {loop.counter}")
            lines.do(f"store {kind} {identity(node.attr[0], name)}, ptr {at}")
        self.end(loop)
        self.nest.dims[-1] = Dim(dim.size, dim.strides, bound=bound)
        self.open(level, pointers)
        loop = self.begin(bound)
        results = {}
        for node in self.reduces:
            pointer, name = self.accumulators[node.at]
            at = lines.let(f"getelementptr {REGISTER[name]}, ptr {pointer}, i64 {loop.counter}")
            results[node.at] = lines.load(at, name, ""), name
        self.finish(self.step(pointers, loop.counter, dim), results)
        self.end(loop)
        if tile is not None:
            self.end(tile)


# -------------------------------------------------------------------------------------- threads --
def _split_of(traced: Traced, nest: Nest) -> tuple[int, int] | None:
    """Return which dim threads share, and of what its parts are multiples; None for one thread.

    It follows from the shapes alone. The dim is one that results have, so that each result is one
    thread's, or the outermost of a reduction of everything, whose parts are always the same.
    """
    if nest.empty or math.prod(traced.shape) < team.PARALLEL or not team.symbols():
        return None
    last = len(nest.dims) - 1
    if traced.dims is not None and not nest.kept and not nest.columns and not traced.rows:
        return 0, BLOCK if not last else 1
    own = [*range(nest.kept), *([last] if nest.columns else [])]
    for enough in (8, 2):
        for i in own:
            grain = team.GRAIN if i == last else 1
            if nest.dims[i].size // grain >= enough:
                return i, grain
    return None


class _Parallel:
    """A nest that a team runs: `part` is a thread's share, `call` the way to it and back."""

    def __init__(
        self, writer: Writer, split: tuple[int, int], given: list[tuple[str, str]]
    ) -> None:
        self._writer, self._given = writer, given
        self._at, self._grain = split
        self._dim = writer.nest.dims[self._at]
        self._sums = self._dim.reduced
        self._width = self._count = 0
        if self._sums:  # into parts whose results are added in order
            least = -(-self._dim.size // team.PARTIALS)
            self._width = -(-least // self._grain) * self._grain
            self._count = -(-self._dim.size // self._width)
            for node in writer.reduces:
                self._given = [*self._given, ("ptr", f"%sums{node.at}")]

    def part(self) -> None:
        """Write what one thread does."""
        writer, lines, dim = self._writer, self._writer.lines, self._dim
        for i, (kind, name) in enumerate(self._given):
            place = lines.let(f"getelementptr i8, ptr %args, i64 {8 * i}")
            lines.do(f"{name} = load {kind}, ptr {place}")
        writer.write_free()
        pointers = [name for kind, name in self._given if name.startswith("%p")]
        count = str(self._count or dim.size)
        begin, end = team.share(lines, count, 1 if self._sums else self._grain)
        length = lines.let(f"sub i64 {end}, {begin}")
        lines.do(f"br i1 {lines.let(f'icmp sgt i64 {length}, 0')}, label %some, label %none")
        lines.label("none")
        lines.do("ret void")
        lines.label("some")
        if not self._sums:
            dim.bound = length
            writer.open(0, writer.step(pointers, begin, dim))
            return
        loop = writer.begin(length)
        at = lines.let(f"add i64 {begin}, {loop.counter}")
        writer.nest.dims[0] = Dim(self._width, dim.strides, True)
        writer.nest.dims[0].bound = writer.shorter(at, str(dim.size), self._width)
        for node in writer.reduces:
            kind = REGISTER[writer.sum_type(node)]
            place = lines.let(f"getelementptr {kind}, ptr %sums{node.at}, i64 {at}")
            writer.partial[node.at] = place
        jump = Dim(self._count, [s * self._width for s in dim.strides])
        writer.open(0, writer.step(pointers, at, jump))
        writer.end(loop)

    def call(self, pointers: list[str]) -> None:
        """Write the call of the team, and what is made of its parts."""
        writer, lines = self._writer, self._writer.lines
        team.declare(lines)
        for node in writer.reduces if self._sums else ():
            kind = REGISTER[writer.sum_type(node)]
            lines.do(f"%sums{node.at} = alloca {kind}, i64 {self._count}, align 64")
        lines.do(f"%args = alloca i64, i64 {len(self._given)}, align 8")
        for i, (kind, name) in enumerate(self._given):
            place = lines.let(f"getelementptr i8, ptr %args, i64 {8 * i}")
            lines.do(f"store {kind} {name}, ptr {place}")
        lines.do("call void @GOMP_parallel(ptr @part, ptr %args, i32 0, i32 0)")
        if not self._sums:
            return
        writer.write_free()
        results = {}
        for node in writer.reduces:
            name = writer.sum_type(node)
            total = lines.load(f"%sums{node.at}", name, "")
            for i in range(1, self._count):
                place = lines.let(f"getelementptr {REGISTER[name]}, ptr %sums{node.at}, i64 {i}")
                total = lines.combine(node.attr[0], name, total, lines.load(place, name, ""))
            results[node.at] = total, name
        writer.finish(pointers, results)
