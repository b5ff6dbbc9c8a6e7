"""How a program runs, as plain data: what `explain()` prints on the client."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from . import arena
from .graph import Number, Step, Window
from .switches import compiled_behind

if TYPE_CHECKING:
    from .flat import FlatPlan
    from .run import Program

_STEPS_MAX: Final = 2_000  # steps told of one plan
_LIVE_MAX: Final = 100  # memories told of its fullest step


def of_program(program: Program) -> dict[str, Any]:
    """Return what there is to say of a program and its plans."""
    body = program.body
    return {
        "commands": len(body.commands),
        "inputs": body.inputs,
        "outputs": len(body.outputs),
        "exact": body.exact,
        "calls": program.calls,
        "planned": program.planned,
        "plans": [_of_plan(plan) for plan in program.plans],
        "refused": program.refused,
    }


def _of_plan(plan: FlatPlan) -> dict[str, Any]:
    graph = plan.graph
    leaving = {w.memory for w in graph.outputs if w.memory.input < 0}
    return {
        "inputs": [_shown(w) for w in graph.inputs],
        "outputs": [_shown(w) for w in graph.outputs],
        "arena_bytes": plan.arena_bytes,
        "output_bytes": sum(m.nbytes for m in leaving),
        "fullest": fullest(graph.steps),
        "loops": _of_loops(plan),
        "notes": graph.notes,
        "steps": [_of_step(step) for step in graph.steps[:_STEPS_MAX]],
        "steps_in_all": len(graph.steps),
    }


def fullest(steps: Sequence[Step]) -> list[str]:
    """Return what is alive where most bytes are, outputs left out, and since and until when."""
    alive = arena.lives(steps)
    bytes_at = arena.live_bytes(alive, len(steps))
    if not alive:
        return []
    at = int(bytes_at.argmax())
    made = {w.memory: (k, w) for k, step in reversed([*enumerate(steps)]) for w in step.outs}
    lines = [f"step {at}, {steps[at].name}: {bytes_at[at]:,} bytes"]
    now = [(m, life) for m, life in alive.items() if life.first <= at <= life.last]
    for memory, life in sorted(now, key=lambda each: -each[0].nbytes)[:_LIVE_MAX]:
        first, window = made[memory]
        since, until = steps[first].name, steps[life.last].name
        size = f"{memory.nbytes:,} bytes {_shown(window)}"
        lines.append(f"{size}: from step {first}, {since}, to {life.last}, {until}")
    return lines


def _of_loops(plan: FlatPlan) -> dict[str, Any]:
    """Return how many loops a plan has, how many of them are still compiled, and if it runs by
    them: an inexact plan takes up all at once, at the first Call of a frame."""
    bound = compiled_behind(plan.graph)
    waiting = sum(not b.loop.ready() for b in bound)
    return {"all": len(bound), "waiting": waiting, "used": not plan.awaits}


def _of_step(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {
        "op": step.name,
        "in": [_shown(w) for w in step.inputs],
        "out": [_shown(w) for w in step.outs],
    }
    numbers = [f"number {x.index}" if type(x) is Number else x for x in step.scalars]
    if numbers:
        told["numbers"] = [x if isinstance(x, (int, float, str)) else str(x) for x in numbers]
    if step.note:
        told["note"] = step.note
    if step.fused:
        told["fused"] = [s.name for s in step.fused]
    return told


def _shown(window: Window) -> str:
    return f"{window.spec.dtype.name}{list(window.spec.shape)}"
