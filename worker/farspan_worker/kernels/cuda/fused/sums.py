"""Reductions: threads of a block share one result's elements, and put them together in one order.

Where the innermost dim is reduced, neighbouring threads take neighbouring elements of one result
("rows"); else neighbouring results ("columns"). Few results of many elements are cut into splits,
whose partial results a second kernel adds in their order. No atomics: equal inputs, equal bits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ...cpu.loops.instructions import ITEMSIZE
from .body import Body, decomposed, index_type, offset
from .text import MEMORY, PRELUDE, REGISTER, combined, identity

if TYPE_CHECKING:
    from ...cpu.loops.graph import Node
    from ...cpu.loops.nest import Dim, Nest

THREADS: Final = 256
#: Blocks that fill the device; fewer results than these are split.
_BLOCKS_WANTED: Final = 264
#: Elements of one result below which a split is not worth a second kernel.
_SPLIT_LEAST: Final = 8_192
_SPLITS_MAX: Final = 512
NAME: Final = "reduce"
FINISH: Final = "finish"


@dataclass(frozen=True, slots=True)
class Shape:
    """How a reduction is laid over threads; from sizes alone."""

    results: int
    count: int  # elements of each result
    columns: bool
    team: int  # threads that share a result
    splits: int

    @property
    def per_block(self) -> int:
        return THREADS // self.team

    @property
    def blocks(self) -> int:
        return -(-self.results // self.per_block)


def shape_of(kept: list[Dim], gone: list[Dim], columns: bool) -> Shape:
    """Return how many threads share a result, and into how many parts its elements are cut."""
    results, count = math.prod(d.size for d in kept), math.prod(d.size for d in gone)
    team = 8 if columns else 32 if count <= 1_024 else THREADS
    blocks = max(1, -(-results // (THREADS // team)))
    splits = 1
    if count >= _SPLIT_LEAST and blocks < _BLOCKS_WANTED:
        splits = min(_SPLITS_MAX, -(-_BLOCKS_WANTED // blocks), count // (4 * THREADS))
    return Shape(results, count, columns, team, max(1, splits))


def split_dims(nest: Nest) -> tuple[list[Dim], list[Dim], bool]:
    """Return the dims of results, those that are reduced, and whether columns lie innermost."""
    kept = [d for d in nest.dims if not d.reduced]
    gone = [d for d in nest.dims if d.reduced]
    return kept, gone, nest.columns


def scratch_bytes(body: Body, shape: Shape) -> int:
    """Return the bytes of partial results between the two kernels."""
    return 0 if shape.splits == 1 else _bases(body, shape)[-1]


def _bases(body: Body, shape: Shape) -> list[int]:
    """Return where the partial results of each reduction start, and where the last ones end."""
    bases = [0]
    for n in body.reduces:
        size = ITEMSIZE[n.dtype] * shape.splits * shape.results
        bases.append(bases[-1] + -(-size // 8) * 8)
    return bases


def write(body: Body, kept: list[Dim], gone: list[Dim], shape: Shape) -> str:
    """Return the module's text: `reduce`, and with splits `finish`, with the same arguments."""
    kind = index_type([*kept, *gone])
    params = ", ".join([*body.pointers(), "char* scratch", *body.numbers()])
    lines = [PRELUDE, f'extern "C" __global__ void __launch_bounds__({THREADS})']
    lines += [f"{NAME}({params}) {{"]
    lines += ["  " + line for line in _reduce(body, kept, gone, shape, kind)]
    lines.append("}")
    if shape.splits > 1:
        lines += [f'extern "C" __global__ void __launch_bounds__({THREADS})']
        lines += [f"{FINISH}({params}) {{"]
        lines += ["  " + line for line in _finish(body, kept, shape, kind)]
        lines.append("}")
    return "\n".join([*lines, ""])


def _results(body: Body) -> list[tuple[str, Node]]:
    """Return what `element` gives: what is stored for each element, then what is reduced."""
    early = [(REGISTER[body.traced.outputs[i][1]], body.traced.outputs[i][0])
             for i in body.early_outputs]  # fmt: skip
    return early + [(REGISTER[n.dtype], n.args[0]) for n in body.reduces]


def _reduce(body: Body, kept: list[Dim], gone: list[Dim], shape: Shape, kind: str) -> list[str]:
    team, per_block, lead = shape.team, shape.per_block, len(body.traced.inputs)
    lines = [*body.constants(), *body.element(_results(body))]
    member, place = f"threadIdx.x % {team}", f"threadIdx.x / {team}"
    if shape.columns:
        member, place = f"threadIdx.x / {per_block}", f"threadIdx.x % {per_block}"
    lines.append(f"const int member = {member}, place = {place};")
    lines.append(f"const {kind} result = ({kind})blockIdx.x * {per_block} + place;")
    chunk = -(-shape.count // shape.splits)
    lines.append(f"const {kind} begin = ({kind})blockIdx.y * {chunk};")
    lines.append(f"const {kind} end = begin + {chunk} < {shape.count} ? begin + {chunk}"
                 f" : {shape.count};")  # fmt: skip
    for i, n in enumerate(body.reduces):
        lines.append(f"{REGISTER[n.dtype]} a{i} = {identity(n.attr[0], n.dtype)};")
    lines.append(f"if (result < {shape.results}) {{")
    inner = decomposed("result", [d.size for d in kept], "o", kind)
    for operand in range(lead + len(body.traced.outputs)):
        outer = offset([d.strides[operand] for d in kept], "o", kind)
        inner.append(f"const {kind} b{operand} = {outer};")
    inner.append(f"for ({kind} r = begin + member; r < end; r += {team}) {{")
    inner += ["  " + line for line in _element(body, gone, kind)]
    inner.append("}")
    lines += ["  " + line for line in inner]
    lines.append("}")
    for i, n in enumerate(body.reduces):
        lines += _together(i, n, shape)
    lines.append(f"if (member || result >= {shape.results}) return;")
    if shape.splits == 1:
        return lines + _store(body, kept, kind)
    for i, (n, base) in enumerate(zip(body.reduces, _bases(body, shape), strict=False)):
        where = f"(({MEMORY[n.dtype]}*)(scratch + {base}ll))"
        lines.append(f"{where}[(long long)blockIdx.y * {shape.results} + result] = a{i};")
    return lines


def _element(body: Body, gone: list[Dim], kind: str) -> list[str]:
    """Return the lines that compute an element, store what is stored and add it."""
    lead = len(body.traced.inputs)
    lines = decomposed("r", [d.size for d in gone], "r", kind)

    def where(operand: int) -> str:
        return f"b{operand} + " + offset([d.strides[operand] for d in gone], "r", kind)

    args = [body.load(n, where(n.attr)) for n in body.loads]
    for i, (c_type, _) in enumerate(_results(body)):
        lines.append(f"{c_type} e{i};")
        args.append(f"e{i}")
    lines.append(f"element({', '.join(args)});")
    for at, i in enumerate(body.early_outputs):
        lines.append(f"q{i}[{where(lead + i)}] = e{at};")
    first = len(body.early_outputs)
    for i, n in enumerate(body.reduces):
        lines.append(f"a{i} = {combined(n.attr[0], n.dtype, f'a{i}', f'e{first + i}')};")
    return lines


def _together(i: int, node: Node, shape: Shape) -> list[str]:
    """Return the lines by which a team's partial results become its first member's."""
    c_type = REGISTER[node.dtype]
    step = shape.per_block if shape.columns else 1
    lines = [f"__shared__ {c_type} s{i}[{THREADS}];", f"s{i}[threadIdx.x] = a{i};"]
    half = shape.team // 2
    while half:
        other = f"s{i}[threadIdx.x + {half * step}]"
        sum_ = combined(node.attr[0], node.dtype, f"s{i}[threadIdx.x]", other)
        lines += ["__syncthreads();", f"if (member < {half}) s{i}[threadIdx.x] = {sum_};"]
        half //= 2
    return [*lines, f"a{i} = s{i}[threadIdx.x];"]


def _store(body: Body, kept: list[Dim], kind: str) -> list[str]:
    """Return the lines that compute and store what comes of whole results."""
    lead = len(body.traced.inputs)
    lines = decomposed("result", [d.size for d in kept], "k", kind)
    for i, n in enumerate(body.reduces):
        lines.append(f"const {REGISTER[n.dtype]} v{n.at} = a{i};")
    lines += body.late_lines()
    for i in body.late_outputs:
        where = offset([d.strides[lead + i] for d in kept], "k", kind)
        lines.append(f"q{i}[{where}] = v{body.traced.outputs[i][0].at};")
    return lines


def _finish(body: Body, kept: list[Dim], shape: Shape, kind: str) -> list[str]:
    lines = body.constants()
    lines.append(f"const {kind} result = ({kind})blockIdx.x * blockDim.x + threadIdx.x;")
    lines.append(f"if (result >= {shape.results}) return;")
    for i, (n, base) in enumerate(zip(body.reduces, _bases(body, shape), strict=False)):
        lines.append(f"{REGISTER[n.dtype]} a{i} = {identity(n.attr[0], n.dtype)};")
        where = f"((const {MEMORY[n.dtype]}*)(scratch + {base}ll))"
        lines.append(f"for (int s = 0; s < {shape.splits}; s++)")
        part = f"{where}[(long long)s * {shape.results} + result]"
        lines.append(f"  a{i} = {combined(n.attr[0], n.dtype, f'a{i}', part)};")
    return lines + _store(body, kept, kind)
