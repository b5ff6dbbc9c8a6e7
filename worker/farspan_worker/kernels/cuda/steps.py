"""Optimizer steps on a GPU: one launch for a whole list of parameters, and no wait for the device.

The formulas are those of the CPU's native steps (loops/steps.py), over the same symbols. Counts of
steps, a learning rate that is a tensor and a scaler's verdict are read by the kernel itself, and
numbers lie on the device, so that a captured step goes on counting and follows a schedule.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core.dtype import BY_NAME

from ..cpu.loops.graph import Graph
from ..cpu.loops.group import Unfused
from ..cpu.loops.steps import Formula, adam_formula, sgd_formula
from ..cpu.loops.symbolic import Namespace, Scalar, Sym
from .fused.text import MEMORY, PRELUDE, REGISTER, expression

if TYPE_CHECKING:
    from .device import Cuda

THREADS: Final = 256
#: Elements of one block.
CHUNK: Final = 4_096
#: Tables of addresses kept on the device; each is some bytes a parameter.
_TABLES_MAX: Final = 64
#: Texts kept; each is a choice of options.
_TEXTS_MAX: Final = 128
_DTYPES: Final = ("float32", "float64", "float16", "bfloat16")


@dataclass(frozen=True, slots=True)
class Kind:
    """What a step's text depends on. The numbers' right sides are C, over n0, n1, ... and step."""

    formula: Formula
    arrays: int
    given: int  # numbers that come with a call, doubles
    numbers: tuple[str, ...]  # of the formula
    counts: bool  # whether steps are counted
    dtype: str
    count_dtype: str = "float32"
    rate_dtype: str = ""  # of a learning rate that is a tensor; it takes the place of n0
    found_dtype: str = ""  # of a scaler's verdict


def text_of(kind: Kind) -> str:
    """Return the module: `count` adds 1 to the counts, `step` updates what a block has.

    A row of the table: addresses of the arrays, the count of elements, the address of the count.
    """
    width = kind.arrays + 2
    params = ["const long long* table", "const int* blocks", "int tensors",
              "const long long* numbers"]  # fmt: skip
    params += [f"const {MEMORY[kind.rate_dtype]}* rate"] if kind.rate_dtype else []
    params += [f"const {MEMORY[kind.found_dtype]}* found"] if kind.found_dtype else []
    head = [f"if ({_as_double('*found', kind.found_dtype)} != 0) return;"] * bool(kind.found_dtype)
    count = [*head, "const int t = blockIdx.x * blockDim.x + threadIdx.x;",
             "if (t >= tensors) return;",
             f"{MEMORY[kind.count_dtype]}* c = ({MEMORY[kind.count_dtype]}*)"
             f"table[t * {width} + {kind.arrays + 1}];", "*c = *c + 1;"]  # fmt: skip
    step = [*head, *_row_lines(kind, width)]
    for i in range(kind.given):
        step.append(f"const double n{i} = double_at(numbers[{i}]);")
    if kind.rate_dtype:
        step[-kind.given] = f"const double n0 = {_as_double('*rate', kind.rate_dtype)};"
    step += [f"const double m{i} = {right};" for i, right in enumerate(kind.numbers)]
    step += _loop(kind)
    parts = [PRELUDE]
    for name, lines in (("count", count), ("step", step)):
        parts.append(f'extern "C" __global__ void __launch_bounds__({THREADS})')
        parts.append(f"{name}({', '.join(params)}) {{")
        parts += ["  " + line for line in lines]
        parts.append("}")
    return "\n".join([*parts, ""])


def _as_double(value: str, dtype: str) -> str:
    return f"(double){f'float_of({value})' if dtype in ('float16', 'bfloat16') else value}"


def _row_lines(kind: Kind, width: int) -> list[str]:
    c_type = MEMORY[kind.dtype]
    lines = ["const int tensor = blocks[2 * blockIdx.x], chunk = blocks[2 * blockIdx.x + 1];"]
    lines.append(f"const long long* row = table + (long long)tensor * {width};")
    lines += [f"{c_type}* p{i} = ({c_type}*)row[{i}];" for i in range(kind.arrays)]
    lines.append(f"const long long n = row[{kind.arrays}];")
    if kind.counts:
        where = f"*(const {MEMORY[kind.count_dtype]}*)row[{kind.arrays + 1}]"
        lines.append(f"const double step = {_as_double(where, kind.count_dtype)};")
    return lines


def _loop(kind: Kind) -> list[str]:
    """Return the loop over a block's elements."""
    graph, wide = Graph(exact=True), kind.dtype
    if wide in ("float16", "bfloat16"):
        wide = "float32"
    loads = [Sym(graph, graph.node("load", kind.dtype, attr=i), (1,)) for i in range(kind.arrays)]
    given = [Scalar(graph, graph.node("number", "float64", attr=i), "f")
             for i in range(len(kind.numbers))]  # fmt: skip
    made = kind.formula(Namespace(graph), [x.astype(wide) for x in loads], given)
    results = [
        (i, x.astype(BY_NAME[kind.dtype].numpy).node) for i, x in enumerate(made) if x is not None
    ]
    lines = [f"const long long begin = (long long)chunk * {CHUNK};",
             f"const long long end = begin + {CHUNK} < n ? begin + {CHUNK} : n;",
             "for (long long i = begin + threadIdx.x; i < end; i += blockDim.x) {"]  # fmt: skip
    for node in graph.nodes:
        if node.op == "load":
            right = f"p{node.attr}[i]"
        elif node.op == "number":
            right = f"m{node.attr}"
        else:
            right = expression(node, [f"v{a.at}" for a in node.args])
        lines.append(f"  const {REGISTER[node.dtype]} v{node.at} = {right};")
    lines += [f"  p{i}[i] = v{node.at};" for i, node in results]
    return [*lines, "}"]


class Steps:
    """The steps of one backend: their kernels by kind, and tables of addresses on the device."""

    def __init__(self, backend: Cuda) -> None:
        self._backend = backend
        self._tables: OrderedDict[Any, tuple[Any, Any, int]] = OrderedDict()
        self._texts: dict[Any, str] = {}
        #: Where a plan keeps the numbers of the step that runs next, on the device.
        self.row: Any = None

    def run(
        self, kind: Kind, key: Any, lists: Sequence[Sequence[Any]], counts: Sequence[Any],
        numbers: tuple[float, ...], rate: Any, found: Any,
    ) -> None:  # fmt: skip
        """Update every parameter. Unfused, and nothing is done: the compiler refused the text.

        key: equal for equal kinds. numbers: those of this call, brought to the device unless a
        plan has them there (`row`).
        """
        text = self._texts.get(key)
        if text is None:
            if len(self._texts) >= _TEXTS_MAX:
                self._texts.clear()
            text = self._texts[key] = text_of(kind)
        count, step = self._backend.modules.functions(text, ("count", "step"), True)
        table, blocks, many = self._table(lists, counts)
        row = self._numbers(numbers) if self.row is None else self.row
        self._backend.keep(table, blocks, row)
        args = [table, blocks, np.int32(len(lists[0])), row]
        args += [x for x in (rate, found) if x is not None]
        if kind.counts:
            count((-(-len(lists[0]) // THREADS),), (THREADS,), tuple(args))
        if many:
            step((many,), (THREADS,), tuple(args))

    def _numbers(self, numbers: tuple[float, ...]) -> Any:
        words = np.array(numbers or (0.0,), np.float64).view(np.int64)
        return self._kept(("n", numbers), lambda: (_brought(self._backend, words), None, 0))[0]

    def _table(self, lists: Sequence[Sequence[Any]], counts: Sequence[Any]) -> tuple[Any, Any, int]:
        sizes = [a.size for a in lists[0]]
        rows = [
            [*[one[i].data.ptr for one in lists], n, counts[i].data.ptr if counts else 0]
            for i, n in enumerate(sizes)
        ]
        key = tuple([x for row in rows for x in row])

        def made() -> tuple[Any, Any, int]:
            blocks = [(i, k) for i, n in enumerate(sizes) for k in range(-(-n // CHUNK))]
            flat = np.array(blocks or [(0, 0)], np.int32).reshape(-1)
            table = np.array(rows, np.int64).reshape(-1)
            return _brought(self._backend, table), _brought(self._backend, flat), len(blocks)

        return self._kept(key, made)

    def _kept(self, key: Any, made: Callable[[], tuple[Any, Any, int]]) -> tuple[Any, Any, int]:
        found = self._tables.get(key)
        if found is None:
            found = self._tables[key] = made()
            while len(self._tables) > _TABLES_MAX:
                self._tables.popitem(last=False)
        self._tables.move_to_end(key)
        return found


def _brought(backend: Cuda, host: np.ndarray[Any, Any]) -> Any:
    if backend.stream.is_capturing():
        raise RuntimeError("a table of addresses changed while a graph is captured")
    there = backend.xp.empty(host.shape, host.dtype)
    there.set(host, stream=backend.stream)
    return there


def fits(lists: Sequence[Sequence[Any]], singles: Sequence[Any]) -> bool:
    """Return whether the kernels take these: one type of elements, equal places without gaps."""
    if not lists[0] or lists[0][0].dtype.name not in _DTYPES:
        return False
    dtype = lists[0][0].dtype
    for arrays in zip(*lists, strict=True):
        flags = [a.flags for a in arrays]
        if any(a.dtype != dtype for a in arrays) or not (
            all(f.c_contiguous for f in flags) or all(f.f_contiguous for f in flags)
        ):
            return False
    kinds = {x.dtype.name for x in singles}
    return kinds <= {"float32", "float64"}


# ------------------------------------------------------------------------------------- kernels --
def adam(backend: Cuda, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of `_adam_step_` for a GPU; what it does not take goes to the table's."""

    def kernel(
        xp: Any, self: Any, grads: Any, exp_avgs: Any, exp_avg_sqs: Any, max_exp_avg_sqs: Any,
        state_steps: Any, lr: float, beta1: float, beta2: float, weight_decay: float, eps: float,
        amsgrad: bool, maximize: bool, decoupled: bool, rate: Any = None, found_inf: Any = None,
    ) -> tuple[()]:  # fmt: skip
        lists = [self, grads, exp_avgs, exp_avg_sqs, *([max_exp_avg_sqs] if amsgrad else [])]
        singles = [x for x in (rate, found_inf) if x is not None]
        options = (beta1, beta2, eps, bool(weight_decay), decoupled, amsgrad, maximize)
        names = {x.dtype.name for x in state_steps}
        try:
            if len(names) != 1 or not fits(lists, [*singles, *state_steps]):
                raise Unfused("other types or layouts")
            kind = Kind(
                adam_formula(*options), len(lists), 2,
                ("1.0 - n0 * n1" if decoupled else "n1",
                 f"sqrt(1.0 - pow({beta2!r}, step))", f"-(n0 / (1.0 - pow({beta1!r}, step)))"),
                True, self[0].dtype.name, names.pop(), *[_name(x) for x in (rate, found_inf)],
            )  # fmt: skip
            key = "adam", options, kind.dtype, kind.count_dtype, kind.rate_dtype, kind.found_dtype
            numbers = (float(lr), float(weight_decay))
            backend.steps.run(kind, key, lists, state_steps, numbers, rate, found_inf)
        except Unfused:
            states = (exp_avgs, exp_avg_sqs, max_exp_avg_sqs, state_steps)
            plain(xp, self, grads, *states, lr, beta1, beta2, weight_decay, eps, amsgrad, maximize,
                  decoupled, rate, found_inf)  # fmt: skip
        return ()

    return kernel


def sgd(backend: Cuda, plain: Callable[..., Any]) -> Callable[..., Any]:
    """Return the kernel of `_sgd_step_` for a GPU."""

    def kernel(
        xp: Any, self: Any, grads: Any, momentum_buffers: Any, lr: float, momentum: float,
        dampening: float, weight_decay: float, nesterov: bool, maximize: bool, first: bool,
        rate: Any = None, found_inf: Any = None,
    ) -> tuple[()]:  # fmt: skip
        options = (momentum, dampening, weight_decay, nesterov, maximize, first)
        lists = [self, grads, *([momentum_buffers] if momentum else [])]
        try:
            singles = [x for x in (rate, found_inf) if x is not None]
            if not all(lists) or not fits(lists, singles):
                raise Unfused("other types or layouts")
            kind = Kind(
                sgd_formula(*options), len(lists), 1, ("-n0",), False, self[0].dtype.name,
                "float32", *[_name(x) for x in (rate, found_inf)],
            )  # fmt: skip
            key = "sgd", options, kind.dtype, kind.rate_dtype, kind.found_dtype
            backend.steps.run(kind, key, lists, (), (float(lr),), rate, found_inf)
        except Unfused:
            plain(xp, self, grads, momentum_buffers, lr, *options, rate, found_inf)
        return ()

    return kernel


def _name(x: Any) -> str:
    return "" if x is None else str(x.dtype.name)


#: By op: its kernel, and which of its arguments lie on the device where a plan runs it.
STEPS: Final = {
    "_adam_step_": (adam, ("lr", "weight_decay")),
    "_sgd_step_": (sgd, ("lr",)),
}
