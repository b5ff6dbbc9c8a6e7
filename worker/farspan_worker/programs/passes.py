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
    """Return whether each element of the one result depends on the same elements only."""
    steps = step.fused or [step]
    return len(step.outs) == 1 and all(s.op.family == "pointwise" for s in steps)


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
        if step.form != FUNCTIONAL or not _is_map(step):
            touched.update(step.reads, step.writes)
            continue
        out = step.outs[0]
        fresh = out.memory not in touched  # a loop may also store into what was there before
        touched.update(step.reads, step.writes)
        if not fresh or not out.whole or out.memory.input >= 0 or out.memory.output:
            continue
        for window in step.inputs:
            memory = window.memory
            if (
                memory.input < 0
                and not memory.output
                and last[memory] == k
                and window.spec is out.spec
                and window.whole
                and sum(w.memory is memory for w in step.inputs) == 1
            ):
                same[out.memory] = memory
                last[memory] = last[out.memory]
                step.outs = (Window(memory, out.spec, out.offset),)
                saved += 1
                break
    if saved:
        graph.notes.append(f"{saved} steps write over an input of theirs")
