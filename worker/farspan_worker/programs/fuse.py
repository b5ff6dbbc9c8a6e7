"""Fusion: pointwise steps that feed each other become one compiled loop.

Groups grow in the program's order. A step joins one that it takes values from, if nothing between
them touches what either moves past. What nobody else reads is never stored. Which loops there are
follows from the graph alone. The loops are those of kernels/cpu/loops; without a compiler, nothing
is fused.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core.command import FUNCTIONAL, INPLACE

from .. import plan as plans
from ..kernels.cpu import loops
from .graph import Graph, Memory, Number, Step, Window

if TYPE_CHECKING:
    from .flat import FlatPlan

_OPEN_MAX: Final = 4  # groups that may still grow
_STEPS_MAX: Final = 32  # of one group
_INPUTS_MAX: Final = 12  # of one group: beyond, registers and cache lines run out


@dataclass(eq=False)
class _Open:
    """A group that may still grow."""

    steps: list[Step] = field(default_factory=list)
    shape: tuple[int, ...] = ()
    reads: set[Memory] = field(default_factory=set)
    #: the windows of each; several only where they share no element (joins.py)
    writes: dict[Memory, list[Window]] = field(default_factory=dict)
    inputs: list[Window] = field(default_factory=list)  # what it takes from outside
    reduced: bool = False  # it ends in a reduction: no single element comes after it
    rows: bool = False  # there are reductions of rows in it, which elements may meet
    plain: bool = True  # such groups are not for here: exact, or not by loops of ours

    def disturbs(self, step: Step) -> bool:
        """Return whether a step may not run before this group, which comes later."""
        return any(m in self.writes for m in (*step.reads, *step.writes)) or any(
            m in self.reads for m in step.writes
        )

    def takes(self, step: Step) -> bool:
        """Return whether a step may be the next one of this group."""
        if not any(w.memory in self.writes for w in step.inputs):
            return False
        if len(self.steps) >= _STEPS_MAX or self.reduced:
            return False
        for w in step.inputs:
            if w not in self.writes.get(w.memory, [w]):
                return False
        out = step.outs[0]
        if any(w.memory is out.memory and w != out for w in self.inputs):
            return False
        if step.op.family != "pointwise" and _is_reduction(step):
            fits = step.inputs[0].spec.shape == self.shape
            return fits and (not self.rows or takes_rows(step, self.plain))
        if self.rows and out.spec.shape == (*self.shape[:-1], 1):
            return True
        return out.spec.shape == self.shape and len(self.inputs) < _INPUTS_MAX

    def add(self, step: Step) -> None:
        if not self.steps:
            self.shape = step.outs[0].spec.shape
        reduces, row = _is_reduction(step), takes_rows(step, self.plain)
        self.reduced, self.rows = reduces and not row, self.rows or row
        if not self.steps and reduces:
            self.shape = step.inputs[0].spec.shape
        for w in step.inputs:
            if w.memory not in self.writes and w not in self.inputs:
                self.inputs.append(w)
        self.reads.update(step.reads)
        for w in step.outs:
            written = self.writes.setdefault(w.memory, [])
            if w not in written:
                written.append(w)
        self.steps.append(step)


#: What makes a group one step: (group, its steps, what it stores) -> a way to run, or None.
Maker = Callable[[loops.Group, Sequence[Step], Sequence[Window]], Any]


def fuse(graph: Graph, make: Maker | None = None) -> None:
    """Replace pointwise steps by loops, in place; those of `make`, else the CPU's."""
    if make is None and loops.missing():
        return
    plain = graph.exact or make is not None  # maps of rows are written for the CPU only
    done: list[Step] = []
    opened: list[_Open] = []
    read_after = _readers(graph)

    def close(group: _Open) -> None:
        opened.remove(group)
        done.extend(_fused(group, graph, read_after, make))

    for step in graph.steps:
        joined = None
        if _may_fuse(step, graph.exact, plain):
            joined = next((g for g in opened if g.takes(step)), None)
        for group in list(opened):
            if group is not joined and (
                group.disturbs(step) or (joined is not None and _mixed(group, joined))
            ):
                close(group)
        if joined is not None:
            joined.add(step)
        elif _may_fuse(step, graph.exact, plain):
            if len(opened) >= _OPEN_MAX:
                close(opened[0])
            group = _Open(plain=plain)
            group.add(step)
            opened.append(group)
        else:
            done.append(step)
    for group in list(opened):
        close(group)
    graph.steps = done
    made = [s for s in done if s.fused]
    if made:
        count = sum(len(s.fused) for s in made)
        graph.notes.append(f"{count} pointwise steps run as {len(made)} loops")


def _mixed(one: _Open, other: _Open) -> bool:
    """Return whether two groups touch what the other writes, so that their order matters."""
    return any(m in other.reads or m in other.writes for m in one.writes) or any(
        m in one.reads for m in other.writes
    )


def _readers(graph: Graph) -> dict[Memory, list[Step]]:
    found: dict[Memory, list[Step]] = {}
    for step in graph.steps:
        for memory in (*step.reads, *step.writes):
            found.setdefault(memory, []).append(step)
    return found


def _is_reduction(step: Step) -> bool:
    return step.outs[0].spec.shape != step.plan.outs[0].shape or (
        step.op.family != "pointwise"
        and step.outs[0].spec.numel < max(w.spec.numel for w in step.inputs)
    )


def takes_rows(step: Step, exact: bool) -> bool:
    """Return whether a step, a softmax say, runs by a loop rather than by a primitive."""
    specs = [w.spec for w in step.inputs]
    return loops.takes_rows(step.op, step.static, specs, exact) and not loops.missing()


def _may_fuse(step: Step, exact: bool, plain: bool) -> bool:
    """Return whether a step may be part of a loop."""
    if step.bound is not None or step.generator >= 0 or step.op.writes or len(step.outs) != 1:
        return False
    out = step.outs[0]
    if step.form not in (FUNCTIONAL, INPLACE) or not out.spec.numel or not step.inputs:
        return False
    made = step.plan.outs[0]
    if made.dtype is not out.spec.dtype or made.shape != out.spec.shape:
        return False
    if step.form == INPLACE and (
        not out.spec.dense
        or not step.reads_target
        or any(w.memory is out.memory and w != out for w in step.inputs)
    ):
        return False
    if any(type(x) is Number and x.kind == "c" for x in step.scalars):
        return False
    numbers = [loops.Number(0, x.kind) if type(x) is Number else x for x in step.scalars]
    numbers = [
        loops.Number(i, x.kind) if type(x) is loops.Number else x for i, x in enumerate(numbers)
    ]
    specs = [w.spec for w in step.inputs]
    if step.op.name in loops.ROWWISE and not takes_rows(step, plain):
        return False
    return loops.fusible(step.op, step.static, specs, exact, numbers)


def _fused(
    group: _Open, graph: Graph, touched: dict[Memory, list[Step]], make: Maker | None
) -> Sequence[Step]:
    """Return the steps of a group as one, or as they were if there is no loop for them."""
    members = set(group.steps)
    stored: list[Window] = []
    for memory, windows in group.writes.items():
        own = memory.input < 0 and not memory.output
        if not own or any(step not in members for step in touched[memory]):
            stored += windows
    numbers: dict[Number, loops.Number] = {}
    value: dict[Window, int] = {w: i for i, w in enumerate(group.inputs)}
    steps = []
    for step in group.steps:
        given = []
        for x in step.scalars:
            if type(x) is Number:
                x = numbers.setdefault(x, loops.Number(len(numbers), x.kind))
            given.append(x)
        tensors = tuple([value[w] for w in step.inputs])
        steps.append(loops.Step(step.op, step.static, tensors, tuple(given)))
        value[step.outs[0]] = len(group.inputs) + len(steps) - 1
    made = loops.Group(
        tuple([w.spec for w in group.inputs]),
        tuple(steps),
        tuple([(value[w], w.spec) for w in stored]),
        graph.exact,
    )
    if make is not None:
        bound = make(made, group.steps, stored)
    else:
        loop = loops.loop_for(made, wait=loops.waits())
        bound = loop and _Bound(loop, group, stored)
    if bound is None:
        return group.steps if len(group.steps) == 1 else _apart(group, graph, touched, make)
    last = group.steps[-1]
    return [
        Step(
            last.op,
            last.static,
            last.plan,
            tuple(numbers),
            FUNCTIONAL,
            tuple(group.inputs),
            tuple(stored),
            command=last.command,
            bound=bound,
            fused=list(group.steps),
        )
    ]


def _apart(
    group: _Open, graph: Graph, touched: dict[Memory, list[Step]], make: Maker | None
) -> Sequence[Step]:
    """Return steps that are no loop together, each as a loop of its own where it is one."""
    found: list[Step] = []
    for step in group.steps:
        alone = _Open(plain=group.plain)
        alone.add(step)
        found.extend(_fused(alone, graph, touched, make))
    return found


class _Bound:
    """How a fused step runs: by its loop, or step by step until that is compiled."""

    def __init__(self, loop: Any, group: _Open, stored: Sequence[Window]) -> None:
        self.loop = loop
        self.steps = group.steps
        self._inputs, self._stored = tuple(group.inputs), tuple(stored)

    def __call__(self, plan: FlatPlan, step: Step) -> list[tuple[Callable[..., Any], list[Any]]]:
        if not plan.awaits and isinstance(self.loop, loops.Loop):
            return self.quick(plan, step)
        inputs, outs = plan.arrays(step.inputs), plan.arrays(step.outs)
        return [(self._slow, [inputs, outs, plan.numbers(step.scalars), step])]

    def quick(self, plan: FlatPlan, step: Step) -> list[tuple[Callable[..., Any], list[Any]]]:
        """Return the loop and its addresses and numbers."""
        windows = (*step.inputs, *step.outs)
        args: list[Any] = [0] * len(windows)
        for i, window in enumerate(windows):
            plan.follow(window, _address(args, i))
        plan.append_numbers(args, step.scalars)
        return [(self.loop.function, args)]

    def ready(self) -> bool:
        """Return whether the loop is compiled."""
        if isinstance(self.loop, loops.Loop):
            return True
        if not self.loop.ready():
            return False
        try:
            self.loop = self.loop.result()
        except Exception:  # LLVM cannot: it stays as it is
            return False
        return True

    def wait(self) -> None:
        """Wait for the loop; raises what LLVM raised."""
        if not isinstance(self.loop, loops.Loop):
            self.loop = self.loop.result()

    def _slow(self, inputs: Any, outs: Any, numbers: Sequence[Any], step: Step) -> None:
        values: dict[Window, Any] = dict(zip(self._inputs, inputs, strict=True))
        given = dict(zip(step.scalars, numbers, strict=True))
        for one in self.steps:
            scalars = [given[x] if type(x) is Number else x for x in one.scalars]
            arrays = [values[w] for w in one.inputs]
            (result,) = plans.compute(one.plan, arrays, scalars, None)
            values[one.outs[0]] = result
        for out, window in zip(outs, self._stored, strict=True):
            np.copyto(out, values[window], casting="unsafe")


def _address(args: list[Any], i: int) -> Callable[[Any], None]:
    def setter(array: Any) -> None:
        args[i] = array.ctypes.data

    return setter
