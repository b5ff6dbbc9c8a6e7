"""How steps of plans run on a GPU: groups as fused kernels, products into their memory.

`fuse` replaces groups of steps by kernels; `bind` gives single steps a way of their own; what both
leave is the op's kernel over cupy, and a copy of its result.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core.command import FUNCTIONAL

from ...programs import fuse as fusion
from ...programs.graph import Number
from ..cpu.loops.group import Unfused
from .fused import Fused
from .hosted import is_hosted
from .products import linear_into
from .steps import STEPS

if TYPE_CHECKING:
    from ...programs.device import DevicePlan
    from ...programs.graph import Graph, Step, Window
    from ..cpu.loops.group import Group
    from .device import Cuda

Calls = list[tuple[Callable[..., Any], list[Any]]]


class Row:
    """The numbers that fused kernels take, on the device, 64 bits each.

    Kernels read them there, so that a captured one sees those of each Call.
    """

    def __init__(self, backend: Any, graph: Graph) -> None:
        self._starts: dict[int, tuple[int, int]] = {}  # of a step, by id: where and how many
        self._numbers: list[Any] = []
        for step in graph.steps:
            numbers = on_device(step)
            self._starts[id(step)] = len(self._numbers), len(numbers)
            self._numbers += numbers
        self._host = np.zeros(len(self._numbers), np.int64)
        self._array = backend.xp.zeros(self._host.size, np.int64) if self._numbers else None
        self._stream = backend.stream

    def of(self, step: Step) -> Any:
        """Return where a step's numbers lie, None if it has none here."""
        start, count = self._starts[id(step)]
        return self._array[start : start + count] if self._array is not None and count else None

    def take(self, scalars: Sequence[Any]) -> None:
        """Bring the numbers of a Call to the device, if some have changed."""
        if self._array is None:
            return
        new = np.array([_word(n, scalars) for n in self._numbers], np.int64)
        if not np.array_equal(new, self._host):
            self._host = new  # not written again: a copy of it may be on its way
            self._array.set(new, stream=self._stream)


def _word(number: Any, scalars: Sequence[Any]) -> Any:
    """Return 64 bits for a number: of a float the double's."""
    if type(number) is not Number:
        return np.float64(number).view(np.int64)
    x = scalars[number.index]
    return np.float64(x).view(np.int64) if number.kind == "f" else np.int64(x)


def on_device(step: Step) -> list[Any]:
    """Return the numbers of a step that its kernel reads on the device: Numbers, or floats."""
    if step.fused:
        return list(step.scalars)
    if step.op.name not in STEPS:
        return []
    wanted = STEPS[step.op.name][1]
    args = step.plan.recipe.args(step.inputs, step.scalars)
    named = {a.name: x for a, x in zip(step.op.args, args, strict=True)}
    return [x if type(x) is Number else float(x) for x in map(named.__getitem__, wanted)]


class Bound:
    """How a fused step runs: its kernels, over the arrays of a plan."""

    def __init__(self, fused: Fused, functions: Sequence[Any]) -> None:
        self.fused, self.functions = fused, functions

    def __call__(self, plan: DevicePlan, step: Step) -> Calls:
        args: list[Any] = plan.arrays((*step.inputs, *step.outs))
        fused = self.fused
        if fused.size is not None:
            args.append(np.int64(fused.size))
        else:
            args.append(plan.backend.xp.empty(max(1, fused.scratch_bytes), np.uint8))
        if step.scalars:
            args.append(plan.row.of(step))
        return [
            (_launch, [function, launch.grid, (launch.threads,), args])
            for function, launch in zip(self.functions, fused.launches, strict=True)
        ]


def _launch(function: Any, grid: Any, block: Any, args: list[Any]) -> None:
    function(grid, block, tuple(args))


def fuse(graph: Graph, backend: Cuda) -> None:
    """Replace groups of pointwise steps by kernels, in place."""
    if not graph.exact:  # with an activation cuBLASLt may add up in another order
        join_activations(graph)

    def made(group: Group, steps: Sequence[Step], stored: Sequence[Window]) -> Any:
        try:
            fused = Fused(group, by_pointer=True)
            return Bound(fused, fused.functions(backend.modules))
        except Unfused:
            return None

    fusion.fuse(graph, made)


class Activated:
    """How a linear layer runs together with the activation that comes after it."""

    def __init__(self, activation: str) -> None:
        self.activation = activation

    def __call__(self, plan: DevicePlan, step: Step) -> Calls:
        args = plan.arrays((*step.inputs, *step.outs))
        backend, kernel, xp = plan.backend, step.plan.kernel, plan.backend.xp

        def run(x: Any, weight: Any, *rest: Any) -> None:
            bias, out = (None, rest[0]) if len(rest) == 1 else rest
            if not linear_into(backend, out, x, weight, bias, self.activation):
                out[...] = kernel(xp, x, weight, bias)
                xp.maximum(out, 0, out=out)

        return [(run, args)]


def join_activations(graph: Graph) -> None:
    """Let a relu that alone reads a linear layer's result be part of the product, in place."""
    readers: dict[Any, list[Step]] = {}
    for step in graph.steps:
        for memory in (*step.reads, *step.writes):
            readers.setdefault(memory, []).append(step)
    gone: set[int] = set()
    for step in graph.steps:
        out = step.outs[0] if len(step.outs) == 1 else None
        if step.op.name != "linear" or out is None or step.plan.casts or not out.spec.numel:
            continue
        memory = out.memory
        others = [s for s in readers[memory] if s is not step]
        if memory.input >= 0 or memory.output or len(others) != 1 or not out.spec.contiguous:
            continue
        relu = others[0]
        fresh = relu.outs[0]
        if (
            relu.op.name == "relu" and relu.form == FUNCTIONAL and relu.inputs == (out,)
            and fresh.memory.input < 0 and readers[fresh.memory][0] is relu
            and fresh.spec.contiguous and fresh.spec.dtype is out.spec.dtype
        ):  # fmt: skip
            step.outs, step.bound, step.note = relu.outs, Activated("relu"), "with its relu"
            gone.add(id(relu))
    graph.steps = [step for step in graph.steps if id(step) not in gone]
    if gone:
        graph.notes.append(f"{len(gone)} activations are part of products")


def is_free(step: Step, backend: Cuda) -> bool:
    """Return whether a step is never part of a CUDA graph: it works on the host, or draws."""
    if step.fused:
        return False
    return (
        step.generator >= 0
        or step.op.family == "state"
        or is_hosted(step.op)
        or step.op.name in backend.fallbacks
    )


def bind(plan: DevicePlan, step: Step) -> Calls | None:
    """Return a way of its own for a step, None if it has none."""
    way = _WAYS.get(step.op.name)
    windows = (*step.inputs, *step.outs)
    if way is None or step.plan.casts or any(type(x) is Number for x in step.scalars):
        return None
    return way(plan, step) if all(w.spec.numel for w in windows) else None


def _mm(plan: DevicePlan, step: Step) -> Calls | None:
    """A product straight into its memory."""
    if not step.outs[0].spec.contiguous or step.outs[0].memory in step.reads:
        return None
    args = plan.arrays((*step.inputs, *step.outs))
    products, kernel, xp = plan.backend.products, step.plan.kernel, plan.backend.xp

    def run(a: Any, b: Any, out: Any) -> None:
        if not products.into(out, a, b):
            out[...] = kernel(xp, a, b)

    return [(run, args)]


def _linear(plan: DevicePlan, step: Step) -> Calls | None:
    """A linear layer straight into its memory, with its bias."""
    if not step.outs[0].spec.contiguous or step.outs[0].memory in step.reads:
        return None
    args = plan.arrays((*step.inputs, *step.outs))
    backend, kernel, xp = plan.backend, step.plan.kernel, plan.backend.xp

    def run(x: Any, weight: Any, *rest: Any) -> None:
        bias, out = (None, rest[0]) if len(rest) == 1 else rest
        if not linear_into(backend, out, x, weight, bias):
            out[...] = kernel(xp, x, weight, bias)

    return [(run, args)]


_WAYS: dict[str, Callable[[DevicePlan, Step], Calls | None]] = {
    "mm": _mm, "bmm": _mm, "linear": _linear,
}  # fmt: skip
