"""Passes over a graph that change no bit of what it computes: less is computed, nothing otherwise.

Dead steps go, and steps that repeat an earlier one. What may round otherwise is in fuse.py.
"""

from __future__ import annotations

from typing import Any

from farspan.core.command import FUNCTIONAL

from .effects import may_raise
from .fuse import fuse
from .graph import Graph, Memory, Step, Window
from .joins import write_in_place
from .layouts import bind_primitives
from .order import lower_peak
from .pools import pool_first


def improve(graph: Graph) -> None:
    """Run the passes, in place."""
    merge_repeated(graph)
    drop_dead(graph)
    pool_first(graph)
    write_in_place(graph)
    bind_primitives(graph)
    fuse(graph)
    reuse_inputs(graph)
    if lower_peak(graph):
        reuse_inputs(graph)  # some that were looked at once more are dead earlier now


def drop_dead(graph: Graph) -> None:
    """Drop steps whose results nobody sees. Draws and steps that may raise stay."""
    needed = {w.memory for w in graph.outputs}
    kept: list[Step] = []
    for step in reversed(graph.steps):
        seen = any(m.input >= 0 or m in needed for m in step.writes)
        if seen or step.generator >= 0 or may_raise(step):
            needed.update(step.reads)
            kept.append(step)
    dropped = len(graph.steps) - len(kept)
    graph.steps = kept[::-1]
    if dropped:
        graph.notes.append(f"{dropped} steps whose results nobody sees were dropped")


def merge_repeated(graph: Graph) -> None:
    """Let a step that computes what an earlier one did be the earlier one."""
    stored = {m for step in graph.steps if step.form != FUNCTIONAL for m in step.writes}
    stored |= {m for step in graph.steps if step.op.writes for m in step.writes}
    leaving = {w.memory for w in graph.outputs}
    first: dict[Any, Step] = {}
    same: dict[Memory, Memory] = {}
    kept = []
    for step in graph.steps:
        step.inputs = tuple([_renamed(w, same) for w in step.inputs])
        step.outs = tuple([_renamed(w, same) for w in step.outs])
        touched = (*step.reads, *step.writes)
        plain = step.form == FUNCTIONAL and not step.op.writes and step.generator < 0
        if not plain or any(m in stored for m in touched) or leaving & set(step.writes):
            kept.append(step)
            continue
        # By what it looks like: 0.0 and -0.0, or 1 and True, are equal.
        key = (step.op, id(step.plan), repr(step.scalars), step.inputs)
        twin = first.setdefault(key, step)
        if twin is step:
            kept.append(step)
        else:
            for mine, theirs in zip(step.outs, twin.outs, strict=True):
                same[mine.memory] = theirs.memory
    if len(kept) < len(graph.steps):
        graph.notes.append(f"{len(graph.steps) - len(kept)} steps repeated earlier ones")
    graph.steps = kept
    graph.bases = tuple([None if b is None else _renamed(b, same) for b in graph.bases])


def _renamed(window: Window, same: dict[Memory, Memory]) -> Window:
    memory = same.get(window.memory)
    return window if memory is None else Window(memory, window.spec, window.offset)


def _is_map(step: Step) -> bool:
    """Return whether each element of the results depends on the same elements only.

    The last of a loop may be a sum: it takes each element before the loop stores it.
    """
    if not step.fused:
        return len(step.outs) == 1 and step.op.family == "pointwise"
    *others, last = step.fused
    return all(s.op.family == "pointwise" for s in others) and (
        last.op.family == "pointwise" or last.op.base in ("sum", "mean")
    )


def reuse_inputs(graph: Graph) -> None:
    """Let pointwise steps write over an input that nobody looks at after them.

    Element by element a kernel reads before it writes, whatever runs it.
    """
    last: dict[Memory, int] = {}
    for k, step in enumerate(graph.steps):
        last.update(dict.fromkeys((*step.reads, *step.writes), k))
    same: dict[Memory, Memory] = {}
    touched: set[Memory] = set()
    saved = 0
    for k, step in enumerate(graph.steps):
        step.inputs = tuple([_renamed(w, same) for w in step.inputs])
        step.outs = tuple([_renamed(w, same) for w in step.outs])
        # A loop may also store into what was there before.
        fresh = [w for w in step.outs if w.memory not in touched and _is_own(w)]
        touched.update(step.reads, step.writes)
        if step.form != FUNCTIONAL or not _is_map(step):
            continue
        for out in fresh:
            dead = next(
                (w for w in step.inputs if last[w.memory] == k and _fits(w, out, step)), None
            )
            if dead is not None:
                same[out.memory] = dead.memory
                last[dead.memory] = last[out.memory]
                renamed = Window(dead.memory, out.spec, out.offset)
                step.outs = tuple([renamed if w == out else w for w in step.outs])
                saved += 1
    if saved:
        graph.notes.append(f"{saved} steps write over an input of theirs")


def _is_own(window: Window) -> bool:
    """Return whether a window is all of a memory that stays within the program."""
    memory = window.memory
    return memory.input < 0 and not memory.output and window.whole


def _fits(window: Window, out: Window, step: Step) -> bool:
    """Return whether a step that looks at a window last may write this result over it."""
    memory = window.memory
    return (
        _is_own(window)
        and window.spec is out.spec
        and memory.layout == out.memory.layout  # else elements stand elsewhere than they did
        and sum(w.memory is memory for w in (*step.inputs, *step.outs)) == 1
    )
