"""Maps: a kernel that computes each element on its own, in a loop with the grid's stride.

Where operands lie one element behind the other (or stand still) along the innermost dim, packs of
16 bytes are read and written; whether addresses allow it, the kernel sees itself. A map over one
dim takes its length as an argument: one text for all lengths.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ...cpu.loops.instructions import ITEMSIZE
from .body import Body, decomposed, index_type, offset
from .text import MEMORY, PRELUDE, REGISTER

if TYPE_CHECKING:
    from ...cpu.loops.nest import Dim

THREADS: Final = 256
#: Blocks at most: eight for each of 132 multiprocessors; the rest is the loop's.
BLOCKS_MAX: Final = 132 * 8
PACK_BYTES: Final = 16
NAME: Final = "map"


def write(body: Body, dims: list[Dim]) -> str:
    """Return the module's text, with `map(inputs, outputs, n, numbers)`."""
    kind = "long long" if len(dims) <= 1 else index_type(dims)
    width = pack_width(body, dims)
    lines = [PRELUDE]
    params = [*body.pointers(), "long long n", *body.numbers()]
    lines.append(f'extern "C" __global__ void __launch_bounds__({THREADS})')
    lines.append(f"{NAME}({', '.join(params)}) {{")
    inner = body.constants()
    results = [(REGISTER[body.traced.outputs[i][1]], body.traced.outputs[i][0])
               for i in body.early_outputs]  # fmt: skip
    inner += body.element(results)
    inner.append(f"const {kind} step = ({kind})gridDim.x * blockDim.x;")
    inner.append(f"{kind} first = ({kind})blockIdx.x * blockDim.x + threadIdx.x;")
    if width > 1:
        inner += _packed(body, dims, kind, width)
    inner.append(f"for ({kind} i = first; i < ({kind})n; i += step) {{")
    inner += ["  " + line for line in _single(body, dims, kind)]
    inner.append("}")
    return "\n".join([*lines, *["  " + line for line in inner], "}", ""])


def pack_width(body: Body, dims: list[Dim]) -> int:
    """Return how many elements one thread takes at once; 1: strides or lengths do not allow it."""
    if not dims:
        return 1
    names = [n for n, _ in body.traced.inputs] + [n for _, n, _ in body.traced.outputs]
    width = PACK_BYTES // max(ITEMSIZE[n] for n in names)
    last = dims[-1]
    if any(s not in (0, 1) for s in last.strides) or width < 2:
        return 1
    lead = len(body.traced.inputs)
    if any(last.strides[lead + i] != 1 for i in body.early_outputs):
        return 1
    if len(dims) == 1:
        return width
    if last.size % width:
        return 1
    for d in dims[:-1]:
        for inner, s in zip(last.strides, d.strides, strict=True):
            if inner and s % width:
                return 1
    return width


def _strides(dims: list[Dim], operand: int) -> list[int]:
    return [d.strides[operand] for d in dims]


def _single(body: Body, dims: list[Dim], kind: str) -> list[str]:
    """Return the lines that compute element i."""
    lead = len(body.traced.inputs)
    lines = decomposed("i", [d.size for d in dims], "i", kind)
    args = [body.load(n, offset(_strides(dims, n.attr), "i", kind)) for n in body.loads]
    outs = []
    for i in body.early_outputs:
        name = body.traced.outputs[i][1]
        lines.append(f"{REGISTER[name]} y{i}_;")
        outs.append(f"y{i}_")
    lines.append(f"element({', '.join([*args, *outs])});")
    for i in body.early_outputs:
        where = offset(_strides(dims, lead + i), "i", kind)
        lines.append(f"q{i}[{where}] = y{i}_;")
    return lines


def _packed(body: Body, dims: list[Dim], kind: str, width: int) -> list[str]:
    """Return the lines that go over packs, if addresses allow it; `first` is what they leave."""
    lead, last = len(body.traced.inputs), dims[-1]
    moving = [n for n in body.loads if last.strides[n.attr]]
    checks = [f"on(p{n.attr}, {ITEMSIZE[n.dtype] * width})" for n in moving]
    checks += [
        f"on(q{i}, {ITEMSIZE[body.traced.outputs[i][1]] * width})" for i in body.early_outputs
    ]
    sizes = [*[d.size for d in dims[:-1]], last.size // width]
    lines = [f"if ({' && '.join(checks)}) {{"]
    lines.append(f"  const {kind} packs = ({kind})(n / {width});")
    lines.append(f"  for ({kind} k = first; k < packs; k += step) {{")
    inner = decomposed("k", sizes, "i", kind)
    at = len(dims) - 1
    inner.append(f"const {kind} start = i{at} * {width};")

    def where(operand: int) -> str:
        outer = offset(_strides(dims, operand)[:-1], "i", kind)
        return f"{outer} + start" if last.strides[operand] else outer

    for n in body.loads:
        if last.strides[n.attr]:
            pack = f"Pack<{MEMORY[n.dtype]}, {width}>"
            inner.append(f"const {pack} x{n.at} = *(const {pack}*)(p{n.attr} + {where(n.attr)});")
        else:
            inner.append(f"const {REGISTER[n.dtype]} x{n.at} = {body.load(n, where(n.attr))};")
    for i in body.early_outputs:
        inner.append(f"Pack<{MEMORY[body.traced.outputs[i][1]]}, {width}> y{i}_;")
    inner.append("#pragma unroll")
    inner.append(f"for (int l = 0; l < {width}; l++) {{")
    for i in body.early_outputs:
        inner.append(f"  {REGISTER[body.traced.outputs[i][1]]} z{i};")
    args = []
    for n in body.loads:
        lane = f"x{n.at}.v[l]"
        moved = f"({lane} != 0)" if n.dtype == "bool" else lane
        args.append(moved if last.strides[n.attr] else f"x{n.at}")
    outs = [f"z{i}" for i in body.early_outputs]
    inner.append(f"  element({', '.join([*args, *outs])});")
    inner += [f"  y{i}_.v[l] = z{i};" for i in body.early_outputs]
    inner.append("}")
    for i in body.early_outputs:
        pack = f"Pack<{MEMORY[body.traced.outputs[i][1]]}, {width}>"
        inner.append(f"*({pack}*)(q{i} + {where(lead + i)}) = y{i}_;")
    lines += ["    " + line for line in inner]
    lines += ["  }", f"  first += packs * {width};", "}"]
    return lines


def grid(count: int, width: int) -> int:
    """Return how many blocks run a map of `count` elements."""
    threads = max(1, -(-count // width))
    return min(BLOCKS_MAX, -(-threads // THREADS))
