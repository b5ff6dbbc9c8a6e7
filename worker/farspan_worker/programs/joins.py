"""Parts that are only copied together are written where they end up: cat, stack and clone go.

A part moves when one step makes it and nothing changes it or the whole later on. Where its elements
lie as before, only elsewhere, anybody may read it meanwhile; where their steps change (columns of a
wider row, transposed heads), only the copy may, and its maker must be one that stores anywhere.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from farspan.core.command import FUNCTIONAL

from .graph import Graph, Memory, Step, Window

if TYPE_CHECKING:
    from farspan.core.spec import Spec

_COPIES: Final = ("cat", "stack", "clone")
#: Products that a primitive stores at any steps; transposed ones may add in another order.
_PRODUCTS: Final = ("mm", "bmm", "_batched_mm")

Move = tuple[Window, Window]  # a part as the copy reads it, and where it belongs


def write_in_place(graph: Graph) -> None:
    """Drop copies whose parts can be made where they belong, the last copy first."""
    users: dict[Memory, list[Step]] = {}
    for step in graph.steps:
        for memory in dict.fromkeys((*step.reads, *step.writes)):
            users.setdefault(memory, []).append(step)
    gone: set[int] = set()
    for step in reversed(graph.steps):
        moves = _moves(step)
        if moves and all(_may_move(m, step, graph, users) for m in moves):
            gone.add(id(step))
            for part, target in moves:
                _move(part, target, step, users)
    if gone:
        graph.steps = [s for s in graph.steps if id(s) not in gone]
        graph.notes.append(f"{len(gone)} copies went: their parts are made in place")


def _moves(step: Step) -> list[Move]:
    """Return the parts of a copy and their places in its result; empty if it is none."""
    if step.op.name not in _COPIES or step.form != FUNCTIONAL or step.plan.casts:
        return []
    (out,) = step.outs
    parts = step.inputs
    if not all(w.spec.numel and w.spec.dtype is out.spec.dtype for w in parts):
        return []
    if step.op.name == "clone":
        return [(parts[0], out)]
    if len(parts) < 2 or len({w.memory for w in parts}) < len(parts):
        return []
    dim = step.plan.recipe.args(step.inputs, step.scalars)[1]
    if type(dim) is not int or any(w.spec.ndim != parts[0].spec.ndim for w in parts):
        return []
    dim, stride = dim % out.spec.ndim, out.spec.stride
    if step.op.name == "stack":
        begins = range(len(parts))
        steps = stride[:dim] + stride[dim + 1 :]
    else:
        begins = list(accumulate((w.spec.shape[dim] for w in parts), initial=0))[:-1]
        steps = stride
    return [
        (w, Window(out.memory, w.spec.with_(stride=steps), out.offset + k * stride[dim]))
        for w, k in zip(parts, begins, strict=True)
    ]


def _may_move(move: Move, copy: Step, graph: Graph, users: dict[Memory, list[Step]]) -> bool:
    """Return whether a part can be made where the copy would bring it."""
    part, target = move
    memory = part.memory
    if memory.input >= 0 or memory.output or not part.whole or target.memory.input >= 0:
        return False
    makers = [s for s in users[memory] if memory in s.writes]
    others = [s for s in users[target.memory] if target.memory in s.writes]
    if len(makers) != 1 or any(s.form != FUNCTIONAL or s.op.writes for s in makers + others):
        return False  # makers of other parts, each of its own, do not disturb
    (maker,) = makers
    if _steps(part.spec) == _steps(target.spec):
        return True
    stores_anywhere = maker.op.family == "pointwise" or maker.op.name in _COPIES
    if not stores_anywhere and (graph.exact or maker.op.name not in _PRODUCTS):
        return False
    alone = len(maker.outs) == 1 and all(s is maker or s is copy for s in users[memory])
    return alone and _moved(maker.outs[0], part, target) is not None


def _steps(spec: Spec) -> list[tuple[int, int]]:
    """Return sizes and steps of a tensor, without dims of size 1."""
    return [(n, s) for n, s in zip(spec.shape, spec.stride, strict=True) if n > 1]


def _moved(window: Window, part: Window, target: Window) -> Window | None:
    """Return where a window on a part's memory is afterwards; None: it is no turn of the part."""
    if _steps(part.spec) == _steps(target.spec):
        return Window(target.memory, window.spec, window.offset + target.offset)
    there = {
        have: (n, then)
        for n, have, then in zip(part.spec.shape, part.spec.stride, target.spec.stride, strict=True)
        if n > 1
    }
    strides = []
    for n, step in zip(window.spec.shape, window.spec.stride, strict=True):
        found = there.get(step, (0, 0)) if n > 1 else (n, 1)
        if found[0] != n:
            return None
        strides.append(found[1])
    if window.offset or window.spec.numel != part.spec.numel:
        return None
    return Window(target.memory, window.spec.with_(stride=tuple(strides)), target.offset)


def _move(part: Window, target: Window, copy: Step, users: dict[Memory, list[Step]]) -> None:
    """Let all that touch a part's memory touch it where the copy would have brought it."""

    def moved(window: Window) -> Window:
        if window.memory is not part.memory:
            return window
        found = _moved(window, part, target)
        assert found is not None
        return found

    there = users[target.memory]
    if copy in there:
        there.remove(copy)
    for step in users.pop(part.memory):
        if step is not copy:
            step.inputs = tuple([moved(w) for w in step.inputs])
            step.outs = tuple([moved(w) for w in step.outs])
            if step not in there:
                there.append(step)
