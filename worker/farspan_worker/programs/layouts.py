"""The library's primitives for steps, with values kept in its own layouts between them.

A step that kernels/cpu/bind.py can bind runs by prepared calls on fixed addresses. Where one makes
a value for another, the value lies as the library likes it; who needs it plain gets a copy. Not one
bit of a result differs from eager's (tests/test_bound.py, tests/test_layouts.py).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from farspan.core.command import FUNCTIONAL
from farspan.core.op import OPS
from farspan.core.ops.pool_windows import ints, steps_of

from .. import kernels
from .. import plan as plans
from .graph import Graph, Memory, Number, Step, Window

if TYPE_CHECKING:
    from ..kernels.cpu.bound import Bound, Layout
    from .flat import FlatPlan

_POOL: Final = "max_pool2d_with_indices"
_POOL_BACK: Final = "max_pool2d_with_indices_backward"
#: Ops with a layout of their own even where everything comes plain.
_CHOOSE: Final = frozenset({"convolution", "convolution_backward"})
#: Ops that look at a tensor's metadata, never at its elements.
_SHAPES_ONLY: Final = frozenset(
    "new_ones new_zeros new_empty new_full ones_like zeros_like empty_like full_like".split()
)


def bind_primitives(graph: Graph) -> None:
    """Give steps the library's primitives, in place; does nothing where it is missing."""
    if not kernels.overrides() or kernels.missing():
        return
    _Pass(graph).run()


class _Pass:
    """One walk over a graph, from the first step to the last."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._writers: dict[Memory, int] = {}
        self._readers: dict[Memory, list[tuple[Step, int]]] = {}
        for step in graph.steps:
            for memory in step.writes:
                self._writers[memory] = self._writers.get(memory, 0) + 1
            for i, window in enumerate(step.inputs):
                self._readers.setdefault(window.memory, []).append((step, i))
        #: where a value lies otherwise than its window says
        self._layouts: dict[Memory, tuple[Window, Layout]] = {}
        self._copies: dict[Memory, Memory] = {}
        self._made: list[Step] = []
        self._bound = self._kept = 0

    def run(self) -> None:
        for step in self._graph.steps:
            made = self._try(step)
            if made is None:
                if step.name == _POOL_BACK and step.inputs[2].memory in self._layouts:
                    raise RuntimeError("a pool kept its workspace, but its gradient wants indices")
                self._in_plain(step)
                made = self._try(step)
            if made is not None:
                _attach(step, made)
                self._bound += 1
            self._made.append(step)
        self._graph.steps = self._made
        if self._bound:
            self._graph.notes.append(
                f"{self._bound} steps are primitives of oneDNN, {self._kept} values keep its layout"
            )

    def _try(self, step: Step) -> Bound | None:
        """Return the step bound to the layouts its inputs lie in; None if it cannot be."""
        from ..kernels.cpu import bind

        entry = bind.entries().get(step.name)
        if entry is None or step.form != FUNCTIONAL or step.bound or step.plan.casts:
            return None
        if any(type(x) is Number for x in step.scalars):
            return None
        given: dict[int, Layout] = {}
        for i, window in enumerate(step.inputs):
            found = self._layouts.get(window.memory)
            if found is None:
                continue
            if i not in entry.given or window != found[0]:
                return None
            given[i] = found[1]
        if step.name == _POOL and not self._is_private_pool(step):
            return None
        keeps = step.name in _CHOOSE or (entry.passes and bool(given))
        wanted: dict[int, Any] = {
            i: bind.ANY
            for i, window in enumerate(step.outs)
            if i in entry.made and (keeps or (step.name == _POOL and i)) and self._is_free(window)
        }
        made = bind.bound_for(
            step.op, step.plan.recipe, [w.spec for w in step.inputs],
            [w.spec for w in step.outs], step.scalars, given=given, wanted=wanted,
        )  # fmt: skip
        if made is not None:
            self._note(step, made, wanted)
        return made

    def _note(self, step: Step, made: Bound, wanted: dict[int, Any]) -> None:
        """Remember which results lie in a layout of the library's."""
        from ..kernels.cpu.bound import Layout

        for i in wanted:
            window, layout = step.outs[i], made.outputs[i]
            if layout is None or (
                window.spec.dtype.name == "float32" and layout == Layout.of(window.spec)
            ):
                continue
            window.memory.nbytes = max(layout.nbytes, window.spec.nbytes)
            self._layouts[window.memory] = (window, layout)
            self._kept += 1

    def _is_free(self, window: Window) -> bool:
        """Return whether only the program sees a value, which one step makes whole."""
        memory = window.memory
        return (
            memory.input < 0
            and not memory.output
            and window.whole
            and window.spec.numel > 0
            and self._writers.get(memory) == 1
        )

    def _is_private_pool(self, step: Step) -> bool:
        """Return whether only its own gradients read a pool's indices, and windows are apart.

        Sums over windows that overlap come in another order than the indices' scatter.
        """
        kernel, stride = step.plan.recipe.args([None], ())[1:3]
        window = ints(kernel, 2)
        steps = steps_of(window, stride, 2)
        if any(s < k for s, k in zip(steps, window, strict=True)):
            return False
        at = step.outs[1]
        readers = self._readers.get(at.memory, [])
        return self._is_free(at) and all(
            reader.name == _POOL_BACK
            and i == 2
            and reader.inputs[2] == at
            and reader.inputs[1] == step.inputs[0]
            for reader, i in readers
        )

    def _in_plain(self, step: Step) -> None:
        """Let a step read plain copies of what lies in a layout of the library's."""
        if step.name in _SHAPES_ONLY:
            return
        inputs = []
        for window in step.inputs:
            found = self._layouts.get(window.memory)
            if found is None or found[0].spec.dtype.name != "float32":
                inputs.append(window)
                continue
            memory = self._copies.get(window.memory)
            if memory is None:
                memory = self._copies[window.memory] = self._copied(*found)
            inputs.append(Window(memory, window.spec, window.offset))
        step.inputs = tuple(inputs)

    def _copied(self, home: Window, layout: Layout) -> Memory:
        from ..kernels.cpu.bound import Layout, reorder

        memory = Memory(home.memory.graph, home.spec.nbytes)
        target = Window(memory, home.spec)
        op = OPS["clone"]
        static = op.bind(None)[1]
        plan = plans.Plan(op, static, [home.spec], ())
        step = Step(op, plan, (), FUNCTIONAL, (home,), (target,))
        _attach(step, reorder(layout, Layout.of(home.spec)))
        step.note = "out of oneDNN's layout"
        self._made.append(step)
        return memory


def _attach(step: Step, made: Bound) -> None:
    """Let a step run by this; its scratch memory is one more result."""
    inputs = len(step.inputs)
    step.note = "oneDNN"
    step.raises = made.raises
    if made.scratch_bytes:
        from farspan.core.dtype import uint8
        from farspan.core.spec import Spec

        memory = Memory(step.outs[0].memory.graph, made.scratch_bytes)
        step.outs = (*step.outs, Window(memory, Spec.make((made.scratch_bytes,), uint8)))

    def bound(flat: FlatPlan, step: Step) -> tuple[Callable[..., Any], list[Any]]:
        outs = step.outs[: len(step.outs) - 1] if made.scratch_bytes else step.outs
        for i, window in enumerate((*step.inputs, *outs)):
            flat.follow(window, lambda array, i=i: made.place(i, array.ctypes.data))
        if made.scratch_bytes:
            flat.follow(step.outs[-1], lambda array: made.place(-1, array.ctypes.data))
        if len(made.steps) == 1:
            f, args = made.steps[0]
            return f, [*args]
        return made, []

    assert inputs == made.inputs
    step.bound = bound
