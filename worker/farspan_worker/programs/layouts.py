"""Layouts: steps bound to oneDNN's primitives, and values that stay in its layouts between them.

Where one primitive feeds another, what lies between may be laid out as they like it; a step that
wants plain elements gets a copy, made once. Bound with `exact`, a primitive gives the bits of the
op's own kernel. See kernels/cpu/bind.py for what there is.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from farspan.core.command import FUNCTIONAL
from farspan.core.op import OPS

from .fuse import takes_rows
from .graph import Graph, Memory, Number, Step, Window

if TYPE_CHECKING:
    from farspan.core.op import Op

    from ..kernels.cpu.bound import Bound, Layout
    from .flat import FlatPlan


def bind_primitives(graph: Graph) -> None:
    """Give steps a primitive to run by, in place; without the library nothing changes."""
    from ..kernels.cpu import onednn

    if not onednn.available():
        _Pass(graph).run()


def keeps_numbers(op: Op) -> bool:
    """Return whether an op's primitive is made for its numbers, such as the epsilon of a norm."""
    from ..kernels.cpu import bind, onednn

    entry = bind.entries().get(op.name)
    return entry is not None and entry.always is not True and not onednn.available()


class _Pass:
    """One walk over the steps, in order."""

    def __init__(self, graph: Graph) -> None:
        from ..kernels.cpu import bind

        self.graph = graph
        self.bind = bind
        self.entries = bind.entries()
        self.layouts: dict[Memory, Layout] = {}  # of the values that are not plain now
        self.plain: dict[Memory, Memory] = {}  # copies of such in plain layout
        self.readers: dict[Memory, list[tuple[Step, int]]] = {}
        self.makers: dict[Memory, list[Step]] = {}
        for step in graph.steps:
            for i, w in enumerate(step.inputs):
                self.readers.setdefault(w.memory, []).append((step, i))
            for w in step.outs:
                self.makers.setdefault(w.memory, []).append(step)
        self.done: list[Step] = []
        self.bound = 0

    def run(self) -> None:
        for step in self.graph.steps:
            if not self._try(step):
                self._make_plain(step)
            self.done.append(step)
        self.graph.steps = self.done
        if self.bound:
            kept = f", {len(self.layouts)} values stay in its layouts" if self.layouts else ""
            self.graph.notes.append(f"{self.bound} steps are primitives of oneDNN{kept}")

    def _try(self, step: Step) -> bool:
        """Bind a step if it can be; return whether it was."""
        entry = self.entries.get(step.op.name)
        if takes_rows(step, self.graph.exact):
            return False  # a loop is quicker, and takes what stands around it
        if entry is None or step.form != FUNCTIONAL or any(type(x) is Number for x in step.scalars):
            return False
        given = {i: self.layouts[w.memory] for i, w in enumerate(step.inputs)
                 if i in entry.given and w.memory in self.layouts and w.whole}  # fmt: skip
        wanted: dict[int, Any] = {}
        if not entry.passes or given:
            wanted = {j: self.bind.ANY for j, w in enumerate(step.outs)
                      if j in entry.made and self._may_be_opaque(w)}  # fmt: skip
        if entry.always is True and not given:
            return False  # a loop does it at least as well
        inputs = [w.spec for w in step.inputs]
        found = None
        if given or wanted:
            found = self._bound(step, inputs, given, wanted)
        if found is None:
            given, wanted = {}, {}
            found = self._bound(step, inputs, given, wanted)
        if found is None:
            return False
        self._make_plain(step, frozenset(given))
        for j in wanted:
            layout, w = found.outputs[j], step.outs[j]
            if layout is not None and (w.spec.dtype.category < 2 or not _is_plain(layout, w)):
                self.layouts[w.memory] = w.memory.layout = layout
                w.memory.nbytes = max(layout.nbytes, w.spec.nbytes)
        step.bound = _Primitive(found)
        self.bound += 1
        return True

    def _bound(self, step: Step, inputs: Any, given: Any, wanted: Any) -> Bound | None:
        return self.bind.bound_for(
            step.op, step.plan.recipe, inputs, [w.spec for w in step.outs], step.scalars,
            given=given, wanted=wanted, exact=self.graph.exact,
        )  # fmt: skip

    def _may_be_opaque(self, window: Window) -> bool:
        """Return whether a value may lie in any layout: it stays here and somebody likes that."""
        memory = window.memory
        if memory.input >= 0 or memory.output or not window.whole:
            return False
        if len(self.makers[memory]) != 1:
            return False
        liked = [self._likes(step, i, window) for step, i in self.readers.get(memory, ())]
        return all(liked) and bool(liked) if window.spec.dtype.category < 2 else any(liked)

    def _likes(self, step: Step, i: int, window: Window) -> bool:
        entry = self.entries.get(step.op.name)
        return (
            entry is not None
            and i in entry.given
            and step.form == FUNCTIONAL
            and step.inputs[i] == window
            and not any(type(x) is Number for x in step.scalars)
            and (
                not self.graph.exact
                or self.bind.may_bind(
                    step.op, step.plan.recipe, [w.spec for w in step.inputs], step.scalars
                )
            )
        )

    def _make_plain(self, step: Step, but: frozenset[int] = frozenset()) -> None:
        """Let a step read plain copies of what lies in a layout."""
        windows = list(step.inputs)
        for i, w in enumerate(windows):
            if i in but or w.memory not in self.layouts:
                continue
            if w.spec.dtype.category < 2:
                raise ValueError(f"{step.name} cannot read what a primitive left for another")
            copy = self.plain.get(w.memory)
            if copy is None:
                copy = self.plain[w.memory] = self._copied(w.memory, step)
            windows[i] = Window(copy, w.spec, w.offset)
        step.inputs = tuple(windows)

    def _copied(self, memory: Memory, before: Step) -> Memory:
        from ..kernels.cpu.bound import Layout, reorder

        (maker,) = self.makers[memory]
        made = next(w for w in maker.outs if w.memory is memory)
        target = Window(Memory(memory.graph, made.spec.nbytes), made.spec)
        found = reorder(self.layouts[memory], Layout.of(made.spec))
        op = OPS["clone"]
        self.done.append(
            Step(
                op,
                (),
                before.plan,
                (),
                FUNCTIONAL,
                (made,),
                (target,),
                command=before.command,
                note="plain again",
                bound=_Primitive(found),
            )
        )
        return target.memory


def _is_plain(layout: Layout, window: Window) -> bool:
    from ..kernels.cpu.bound import Layout

    return layout == Layout.of(window.spec)


class _Primitive:
    """How a step runs by a primitive."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    @property
    def scratch_bytes(self) -> int:
        """What it needs of memory while it runs."""
        return self.bound.scratch_bytes

    def ready(self) -> bool:
        return True

    def __call__(self, plan: FlatPlan, step: Step) -> list[tuple[Callable[..., Any], Any]]:
        for slot, window in enumerate((*step.inputs, *step.outs)):
            plan.follow(window, _placed(self.bound, slot))
        plan.needs_scratch(self.bound)
        return list(self.bound.steps)


def _placed(bound: Bound, slot: int) -> Callable[[Any], None]:
    def setter(array: Any) -> None:
        bound.place(slot, array.ctypes.data)

    return setter
