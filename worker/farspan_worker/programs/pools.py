"""relu before a max pool goes behind it: max(relu(x)) is relu(max(x)), over fewer elements.

So does its gradient: a window's maximum is positive where the element it came from is, so what is
masked before it goes back to that element need not be masked there. The results are the same; what
differs is which of several elements that are not positive a window names, and these get 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farspan.core.command import FUNCTIONAL, INPLACE
from farspan.core.ops.pool_windows import ints

from .. import plan as plans
from .graph import Graph, Memory, Step, Window

if TYPE_CHECKING:
    from farspan.core.spec import Spec

_POOL = "max_pool2d_with_indices"


@dataclass(slots=True)
class _Chain:
    """relu, the pool that reads it, and their gradients if the program has them."""

    relu: Step
    pool: Step
    back: Step | None = None
    masked: Step | None = None


@dataclass(frozen=True, slots=True)
class _Of:
    """A tensor as a plan sees it."""

    _spec: Spec


def pool_first(graph: Graph) -> None:
    """Let pools run before the relu that they read, in place."""
    readers: dict[Memory, list[Step]] = {}
    for step in graph.steps:
        for memory in dict.fromkeys(w.memory for w in step.inputs):
            readers.setdefault(memory, []).append(step)
    chains = [c for step in graph.steps if (c := _chain(step, graph, readers)) is not None]
    for chain in chains:
        _swap(chain, graph)
    if chains:
        graph.notes.append(f"{len(chains)} relu run behind their pools")


def _chain(pool: Step, graph: Graph, readers: dict[Memory, list[Step]]) -> _Chain | None:
    """Return what a pool belongs to, None if its relu may not move."""
    if pool.op.name != _POOL or pool.form != FUNCTIONAL:
        return None
    given, (out, at) = pool.inputs[0], pool.outs
    makers = [s for s in graph.steps if given.memory in s.writes]
    relu = makers[-1] if makers else None
    if relu is None or relu.op.name != "relu" or relu.outs[0] != given or len(relu.inputs) != 1:
        return None
    first = {FUNCTIONAL: 1, INPLACE: 2}.get(relu.form)
    if first is None or len(makers) != first or not given.whole:
        return None
    if relu.form == FUNCTIONAL and _is_written(relu.inputs[0].memory, relu, graph):
        return None
    if any(m.input >= 0 or m.output for m in (given.memory, at.memory)) or _may_be_empty(pool):
        return None
    order = {id(s): k for k, s in enumerate(graph.steps)}
    after = [s for s in readers[given.memory] if order[id(s)] > order[id(relu)]]
    if after == [pool]:
        return _Chain(relu, pool) if readers.get(at.memory, []) == [] else None
    if len(after) != 3 or after[0] is not pool or readers.get(at.memory) != [after[1]]:
        return None
    back, masked = after[1], after[2]
    fits = (
        back.op.name == f"{_POOL}_backward"
        and masked.op.name == "threshold_backward"
        and back.form == masked.form == FUNCTIONAL
        and masked.scalars == (0,)
        and back.inputs[1:] == (given, at)
        and masked.inputs == (back.outs[0], given)
        and readers.get(back.outs[0].memory) == [masked]
        and not back.outs[0].memory.output
        and masked.outs[0].spec is back.outs[0].spec
        and back.inputs[0].spec is out.spec
        and not out.memory.output
        and not _is_written(out.memory, pool, graph)
    )
    return _Chain(relu, pool, back, masked) if fits else None


def _may_be_empty(pool: Step) -> bool:
    """Return whether a window may lie in the padding alone, whose maximum is -inf: if it has gaps.

    Padding is half a window at most, so one without gaps has an element.
    """
    args = pool.plan.recipe.args(pool.inputs, pool.scalars)
    return any(d != 1 for d in ints(args[4], 2))


def _is_written(memory: Memory, maker: Step, graph: Graph) -> bool:
    """Return whether a later step stores into a memory."""
    k = graph.steps.index(maker)
    return any(memory in s.writes for s in graph.steps[k + 1 :])


def _swap(chain: _Chain, graph: Graph) -> None:
    relu, pool, back, masked = chain.relu, chain.pool, chain.back, chain.masked
    raw, out = relu.inputs[0], pool.outs[0]
    wide = Window(Memory(out.memory.graph, out.spec.nbytes), out.spec)
    small = _like(relu, (wide,), (out,))
    steps: list[Step] = []
    for step in graph.steps:
        if step is relu or step is masked:
            continue
        if step is pool:
            pool.inputs, pool.outs = (raw,), (wide, pool.outs[1])
            steps += [pool, small]
        elif step is back:
            assert masked is not None
            g = back.inputs[0]
            mask = Window(Memory(g.memory.graph, g.spec.nbytes), g.spec)
            back.inputs, back.outs = (mask, raw, back.inputs[2]), masked.outs
            steps += [_like(masked, (g, out), (mask,)), back]
        else:
            steps.append(step)
    graph.steps = steps


def _like(step: Step, inputs: tuple[Window, ...], outs: tuple[Window, ...]) -> Step:
    """Return a step's op over other tensors."""
    given: list[Any] = [_Of(w.spec) for w in inputs]
    plan = plans.plan_for(step.op, given, step.static, step.scalars)
    return Step(
        step.op, step.static, plan, step.scalars, FUNCTIONAL, inputs, outs,
        command=step.command, note="behind its pool",
    )  # fmt: skip
