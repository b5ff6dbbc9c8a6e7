"""How a program runs, as plain data: what `explain()` prints on the client."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .graph import Number, Step, Window
from .switches import compiled_behind

if TYPE_CHECKING:
    from .flat import FlatPlan
    from .run import Program

_STEPS_MAX: Final = 2_000  # steps told of one plan


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
        "loops": _of_loops(plan),
        "notes": graph.notes,
        "steps": [_of_step(step) for step in graph.steps[:_STEPS_MAX]],
        "steps_in_all": len(graph.steps),
    }


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
