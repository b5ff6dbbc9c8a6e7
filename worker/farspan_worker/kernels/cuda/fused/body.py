"""The inside of a kernel: which nodes it needs, where each is computed, and offsets in memory.

Nodes that depend on no element stand at the kernel's start; what comes after a reduction is `late`;
the rest is computed for each element, as a lambda that maps.py and sums.py call.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ...cpu.loops.trace import Traced
from .text import MEMORY, REGISTER, expression, loaded

if TYPE_CHECKING:
    from ...cpu.loops.graph import Node
    from ...cpu.loops.nest import Dim

INT_MAX: Final = 2**31 - 1


class Body:
    """A traced group's nodes, sorted by where they are computed.

    by_pointer: numbers come out of a row of 64-bit words on the GPU, which a captured launch reads
    anew each time; else they are arguments.
    """

    def __init__(self, traced: Traced, by_pointer: bool) -> None:
        self.traced, self.by_pointer = traced, by_pointer
        self.needed = _needed(traced)
        nodes = [n for n in traced.graph.nodes if n.at in self.needed]
        free: set[int] = set()
        for node in nodes:
            if node.op not in ("load", "reduce") and all(a.at in free for a in node.args):
                free.add(node.at)
        self.free = [n for n in nodes if n.at in free]
        self.late = [n for n in nodes if n.at in traced.late and n.op != "reduce"]
        self.loads = [n for n in nodes if n.op == "load"]
        self.reduces = [n for n in nodes if n.op == "reduce"]
        self.each = [
            n for n in nodes
            if n.at not in free and n.at not in traced.late and n.op not in ("load", "reduce")
        ]  # fmt: skip
        self.early_outputs = [
            i for i, (n, _, _) in enumerate(traced.outputs) if n.at not in traced.late
        ]
        self.late_outputs = [i for i, (n, _, _) in enumerate(traced.outputs) if n.at in traced.late]

    # ----------------------------------------------------------------------------- parameters --
    def pointers(self) -> list[str]:
        """Return the kernel's parameters for memory: inputs, then outputs."""
        ins = [f"const {MEMORY[name]}* p{i}" for i, (name, _) in enumerate(self.traced.inputs)]
        outs = [f"{MEMORY[name]}* q{i}" for i, (_, name, _) in enumerate(self.traced.outputs)]
        return ins + outs

    def numbers(self) -> list[str]:
        """Return the kernel's parameters for numbers."""
        kinds = self.traced.numbers
        if self.by_pointer:
            return ["const long long* numbers"] if kinds else []
        return [f"{'double' if k == 'f' else 'long long'} n{i}" for i, k in enumerate(kinds)]

    def constants(self) -> list[str]:
        """Return the lines of what depends on no element."""
        return [self._line(node) for node in self.free]

    # -------------------------------------------------------------------------------- elements --
    def _line(self, node: Node) -> str:
        return f"const {REGISTER[node.dtype]} v{node.at} = {self._right(node)};"

    def _right(self, node: Node) -> str:
        if node.op == "number":
            if not self.by_pointer:
                return f"n{node.attr}"
            word = f"numbers[{node.attr}]"
            return f"double_at({word})" if node.dtype == "float64" else word
        return expression(node, [f"v{a.at}" for a in node.args])

    def element(self, results: Sequence[tuple[str, Node]]) -> list[str]:
        """Return the lambda `element(loads..., results...)`; results: (type, node) it stores."""
        given = [f"{REGISTER[n.dtype]} v{n.at}" for n in self.loads]
        given += [f"{kind}& y{i}" for i, (kind, _) in enumerate(results)]
        lines = [f"auto element = [&]({', '.join(given)}) {{"]
        lines += [f"  {self._line(node)}" for node in self.each]
        lines += [f"  y{i} = v{node.at};" for i, (_, node) in enumerate(results)]
        return [*lines, "};"]

    def load(self, node: Node, where: str) -> str:
        """Return the element that a load takes, at an offset."""
        return loaded(f"p{node.attr}[{where}]", node.dtype)

    def late_lines(self) -> list[str]:
        """Return the lines of what is computed from whole results."""
        return [self._line(node) for node in self.late]


def _needed(traced: Traced) -> set[int]:
    needed: set[int] = set()
    queue = [node for node, _, _ in traced.outputs]
    while queue:
        node = queue.pop()
        if node.at not in needed:
            needed.add(node.at)
            queue.extend(node.args)
    return needed


def index_type(dims: Sequence[Dim]) -> str:
    """Return C's type for offsets: 32 bits where they suffice, which divide much faster."""
    reach = [
        sum(abs(d.strides[i]) * (d.size - 1) for d in dims)
        for i in range(len(dims[0].strides) if dims else 0)
    ]
    count = 1
    for d in dims:
        count *= d.size
    return "int" if max([count, *reach], default=1) < INT_MAX // 2 else "long long"


def decomposed(index: str, sizes: Sequence[int], stem: str, kind: str) -> list[str]:
    """Return lines that define {stem}0, {stem}1, ... of a row-major index; sizes are constants."""
    lines, rest = [], index
    for at in range(len(sizes) - 1, 0, -1):
        lines.append(f"const {kind} {stem}{at} = {rest} % {sizes[at]};")
        lines.append(f"const {kind} {stem}{at}r = {rest} / {sizes[at]};")
        rest = f"{stem}{at}r"
    if sizes:
        lines.append(f"const {kind} {stem}0 = {rest};")
    return lines


def offset(strides: Sequence[int], stem: str, kind: str) -> str:
    """Return the offset of the indices {stem}0, {stem}1, ... as an expression."""
    terms = [
        f"{stem}{at}" if s == 1 else f"{stem}{at} * ({kind}){s}"
        for at, s in enumerate(strides)
        if s
    ]
    return " + ".join(terms) or "0"
