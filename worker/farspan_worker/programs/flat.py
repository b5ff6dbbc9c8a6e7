"""FlatPlan: a graph bound to memory - functions with their arguments, run one after the other.

Arguments are arrays made once. Where an input lies elsewhere than at the last Call, or a result of
the last Call is still in use, the arguments that show this memory are set anew; nothing else moves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core import tape
from farspan.core.command import INPLACE

from .. import plan as plans
from ..store import Array, Storage
from . import arena, effects, short
from .graph import Graph, Memory, Number, Step, Window

if TYPE_CHECKING:
    from ..engine import Engine
    from ..kernels.cpu.bound import Bound

Setter = Callable[[Any], None]


class FlatPlan:
    """One way to run a program, for inputs of one signature.

    A pass may give a step a way of its own to run: `step.bound(plan, step)` returns a function and
    its list of arguments. With `follow` and `arrays` it hears where the step's windows lie.
    """

    def __init__(
        self, graph: Graph, engine: Engine, inputs: Sequence[Array], key: str, loops: bool
    ) -> None:
        """key: what the plan is for, as text. loops: whether it runs by loops from the start, and
        not before `take_up`; see `switches.py`. What is compiled by then is used, where exact."""
        self.graph = graph
        self.key = key
        self.awaits = not loops
        self.looked = -1  # the frame in which it was last asked if it is time for loops
        self._engine = engine
        self._specs = [x._spec for x in inputs]
        self._offsets = [x._offset for x in inputs]
        self._sizes = [x._storage.nbytes for x in inputs]
        self._alone = _alone(inputs)
        self._storages: list[Storage] = [x._storage for x in inputs]
        self._bound: list[Any] = [x.array for x in inputs]
        self._count: dict[int, int] = {}  # inputs in each storage
        for x in inputs:
            key = id(x._storage.memory)
            self._count[key] = self._count.get(key, 0) + 1
        self._homes: dict[Memory, Any] = {}  # bytes of memories that are no inputs'
        self._setters: dict[Memory, list[tuple[Window, Setter]]] = {}
        self._numbers: list[tuple[list[Any], int, int]] = []  # list, index in it, index of a number
        self._given: Sequence[Any] = ()
        at, size = arena.places(graph.steps)
        engine.budget.check(size)
        self.arena = Storage(arena.block(size), engine.budget)
        for memory, offset in at.items():
            self._homes[memory] = self.arena.array[offset : offset + memory.nbytes]
        self._leaving = [m for m in dict.fromkeys(w.memory for w in graph.outputs) if m.input < 0]
        for memory in self._leaving:
            engine.budget.check(memory.nbytes)
            self._homes[memory] = arena.block(memory.nbytes)
        self.undo = effects.Undo(self, engine)
        self.steps: list[tuple[Callable[..., Any], Any]] = []
        self._scratched: list[Bound] = []
        self._awaited: list[tuple[int, Step]] = []  # bound steps whose loops are being compiled
        for k, step in enumerate(graph.steps):
            self.steps += self.undo.before(k)
            if not self.undo.covers(k) and effects.stores(step):
                self.undo.final_from(len(self.steps))
            if step.fused and (self.awaits or not step.bound.ready()):
                self._awaited.append((len(self.steps), step))
            self.steps += self._bind(step)
        self._give_scratch()
        self._calm = {m: sys.getrefcount(self._owner(m)) for m in self._leaving}

    # ---------------------------------------------------------------------------------- binding --
    def array(self, window: Window) -> Any:
        """Return the elements of a window, where its memory lies now."""
        memory, spec = window.memory, window.spec
        if memory.input >= 0:
            return self._storages[memory.input].window(spec, window.offset)
        dtype = spec.dtype.numpy
        strides = tuple([s * dtype.itemsize for s in spec.stride])
        if not spec.numel:
            return np.empty(spec.shape, dtype)
        return np.ndarray(spec.shape, dtype, self._homes[memory], window.begin, strides)

    def follow(self, window: Window, setter: Setter) -> None:
        """Call `setter` with the window's elements, now and whenever its memory moves."""
        setter(self.array(window))
        if window.memory.input >= 0 or window.memory.output:
            self._setters.setdefault(window.memory, []).append((window, setter))

    def arrays(self, windows: Sequence[Window]) -> list[Any]:
        """Return a list of the windows' elements that follows their memories."""
        found: list[Any] = [None] * len(windows)
        for i, window in enumerate(windows):
            self.follow(window, _set_item(found, i))
        return found

    def numbers(self, scalars: Sequence[Any]) -> list[Any]:
        """Return a list of numbers that follows what Calls bring."""
        found = list(scalars)
        for i, x in enumerate(scalars):
            if type(x) is Number:
                self._numbers.append((found, i, x.index))
        return found

    def append_numbers(self, args: list[Any], scalars: Sequence[Any]) -> None:
        """Append numbers to a list of arguments; they follow what Calls bring."""
        for x in scalars:
            if type(x) is Number:
                self._numbers.append((args, len(args), x.index))
            args.append(x)

    def needs_scratch(self, bound: Bound) -> None:
        """Give a primitive its share of the scratch memory once all steps are bound."""
        self._scratched.append(bound)

    def _give_scratch(self) -> None:
        size = max((b.scratch_bytes for b in self._scratched), default=0)
        self._engine.budget.check(size)
        self.scratch = Storage(arena.block(size), self._engine.budget)
        for bound in self._scratched:
            bound.place_scratch(self.scratch.array.ctypes.data)

    def _bind(self, step: Step) -> list[tuple[Callable[..., Any], Any]]:
        if step.bound is not None:
            return step.bound(self, step)  # type: ignore[no-any-return]
        found = short.bind(self, step)
        if found is not None:
            return found
        inputs, numbers = self.arrays(step.inputs), self.numbers(step.scalars)
        if step.generator >= 0:
            generator, number = self._engine.generator, step.generator
            draw = lambda: generator(number)  # noqa: E731
        else:
            draw = _none
        if step.op.writes:
            return [(_run_writing, [step.plan, inputs, numbers])]
        if step.form == INPLACE and _through(step):
            return [(_run_into, [step.plan, step.op.into, inputs, numbers])]
        outs = self.arrays(step.outs)
        return [(_run_plain, [step.plan, inputs, numbers, outs, draw])]

    # ---------------------------------------------------------------------------------- running --
    def place(self, inputs: Sequence[Array]) -> bool:
        """Let the steps work on these inputs; False, and nothing changes, if they do not fit."""
        bound = self._bound
        changed = [i for i, x in enumerate(inputs) if x.array is not bound[i]]
        for i in self.graph.leaves:
            node = inputs[i]._node
            if node is not None and type(node) is not tape.Leaf and not is_dead(inputs[i]):
                return False
        if not changed:
            return True
        for i in changed:
            x = inputs[i]
            if (
                x._spec is not self._specs[i]
                or x._offset != self._offsets[i]
                or x._storage.nbytes != self._sizes[i]
            ):
                return False
        if not self._same_aliases(inputs, changed):
            return False
        for i in changed:
            bound[i], self._storages[i] = inputs[i].array, inputs[i]._storage
        for memory in dict.fromkeys(self.graph.inputs[i].memory for i in changed):
            self._move(memory)
        return True

    def _same_aliases(self, inputs: Sequence[Array], changed: Sequence[int]) -> bool:
        """Return whether those inputs share memory that should; the counts follow if so."""
        count = dict(self._count)
        for i in changed:
            old, new = id(self._storages[i].memory), id(inputs[i]._storage.memory)
            count[old] -= 1
            if not count[old]:
                del count[old]
            count[new] = count.get(new, 0) + 1
        if all(self._alone[i] and count[id(inputs[i]._storage.memory)] == 1 for i in changed):
            self._count = count
            return True
        pattern = _pattern(inputs)
        if pattern != [self.graph.inputs[i].memory.input for i in range(len(inputs))]:
            return False
        if any(x._storage is not inputs[p]._storage for x, p in zip(inputs, pattern, strict=True)):
            return False  # `.data` of one of them: its writes are counted apart
        self._count = count
        return True

    def _move(self, memory: Memory) -> None:
        for window, setter in self._setters.get(memory, ()):
            setter(self.array(window))

    def _owner(self, memory: Memory) -> Any:
        return self._homes[memory].base

    def run(self, scalars: Sequence[Any]) -> list[Array]:
        """Run the steps on the inputs that were placed; return the outputs.

        Whatever is raised, the inputs are as they were; or `effects.HalfDone` is raised.
        """
        for memory in self._leaving:
            if sys.getrefcount(self._owner(memory)) != self._calm[memory]:
                self._engine.budget.check(memory.nbytes)
                self._homes[memory] = arena.block(memory.nbytes)
                self._move(memory)
                self._calm[memory] = sys.getrefcount(self._owner(memory))
        if self._awaited and not self.awaits:
            self._adopt()
        if scalars is not self._given:
            for where, i, k in self._numbers:
                where[i] = scalars[k]
            self._given = scalars
        self.undo.begin()
        timeline = self._engine.timeline
        steps: Any = iter(self.steps) if timeline is None else timeline.stepping(self.steps)
        try:
            for f, args in steps:
                f(*args)
        except Exception as error:
            done = len(self.steps) - steps.__length_hint__() - 1
            self.undo.roll_back(error, done)
            raise
        for memory, times in self.graph.written.items():
            self._storages[memory.input].version += times
        return self._outputs()

    def take_up(self) -> None:
        """Run by loops from the next `run` on; they are compiled. The bits may be others."""
        self.awaits = False

    def _adopt(self) -> None:
        """Let steps run by the loops that are compiled."""
        ready = [(at, step) for at, step in self._awaited if step.bound.ready()]
        for at, step in ready:
            (self.steps[at],) = step.bound.quick(self, step)
            self._awaited.remove((at, step))
        if ready:
            self._given = ()  # numbers go into the new arguments too

    def _outputs(self) -> list[Array]:
        storages: dict[Memory, Storage] = {}
        budget = self._engine.budget

        def made(window: Window) -> Array:
            memory = window.memory
            storage = storages.get(memory)
            if storage is None:
                if memory.input >= 0:
                    storage = self._storages[memory.input]
                else:
                    storage = Storage(self._homes[memory], budget)
                storages[memory] = storage
            return Array(self.array(window), window.spec, storage, window.offset)

        outs: list[Array] = []
        bases: dict[Window, Array] = {}
        for window, base in zip(self.graph.outputs, self.graph.bases, strict=True):
            out = made(window)
            if base is not None:
                if base not in bases:
                    bases[base] = made(base)
                out._base = bases[base]
            bases.setdefault(window, out)
            outs.append(out)
        return outs


def _set_item(where: list[Any], i: int) -> Setter:
    def setter(array: Any) -> None:
        where[i] = array

    return setter


def _none() -> None:
    return None


def _pattern(inputs: Sequence[Array]) -> list[int]:
    """Return for each input the first one in the same storage."""
    first: dict[int, int] = {}
    return [first.setdefault(id(x._storage.memory), i) for i, x in enumerate(inputs)]


def _alone(inputs: Sequence[Array]) -> list[bool]:
    pattern = _pattern(inputs)
    return [pattern.count(p) == 1 for p in pattern]


def is_dead(x: Array) -> bool:
    """Return whether no gradient can go back from a tensor: its graph was let go."""
    edge = tape.edge_of(x)
    return edge is None or any(node.freed for node in tape.reachable([edge]))


def _through(step: Step) -> bool:
    """Return whether an in-place op may write to its target at once; see `plan.run`."""
    target = step.inputs[0]
    return (
        step.op.into is not None
        and not step.plan.casts
        and target.spec.contiguous
        and step.plan.outs[0].dtype is target.spec.dtype
        and step.plan.outs[0].shape == target.spec.shape
        and all(w.memory is not target.memory for w in step.inputs[1:])
    )


# --------------------------------------------------------------------------------- plain running --
def _run_plain(plan: Any, inputs: Any, numbers: Any, outs: Any, draw: Any) -> None:
    results = plans.compute(plan, inputs, numbers, draw())
    for out, result in zip(outs, results, strict=False):
        np.copyto(out, result, casting="unsafe")


def _run_writing(plan: Any, inputs: Any, numbers: Any) -> None:
    plans.compute(plan, inputs, numbers, None)


def _run_into(plan: Any, into: Any, inputs: Any, numbers: Any) -> None:
    into(np, *plan.recipe.args(inputs, plan.numbers(numbers)))
