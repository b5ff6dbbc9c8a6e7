"""Programs on a GPU: plans whose steps launch kernels on fixed memory, captured as CUDA graphs.

A plan is traced and improved as on the CPU; its memories are blocks of the session's pool. Outputs
are copied out of the plan's own memory, so that nothing of it moves but inputs. Read
kernels/cuda/graphs.py for capture; a plan that cannot be made is interpreted, as ever.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import limits, tape

from .. import plan as plans
from ..kernels.cuda import binds
from ..kernels.cuda.graphs import Graphs
from ..store import Array, Storage
from . import effects, passes
from .explain import _of_step, _shown
from .graph import Graph, Memory, Number, Step, Window

if TYPE_CHECKING:
    from ..engine import Engine
    from .body import Body

log = logging.getLogger("farspan.worker")
_STEPS_TOLD_MAX: Final = 2_000
#: Moves of an input after which it is copied into a place of its own, that of a graph.
_MOVES_MAX: Final = 2
#: Bytes up to which such a copy is cheaper than capturing anew.
_STAGED_BYTES_MAX: Final = 1 << 28
Setter = Callable[[Any], None]
Calls = list[tuple[Callable[..., Any], list[Any]]]


class DeviceProgram:
    """A body and the plans that were made of it for a GPU, the latest used first."""

    def __init__(self, body: Body, engine: Engine, number: int) -> None:
        self.body = body
        self.number = number
        self._engine = engine
        self._plans: list[tuple[DevicePlan, list[tuple[int, Any]]]] = []
        self._refused: dict[Any, str] = {}
        self.calls = 0
        self.planned = 0

    @property
    def plans(self) -> list[Any]:
        """None that lie in memory of this process; `told` tells of those on the GPU."""
        return []

    def close(self) -> None:
        """Let go of the plans and what they hold."""
        self._plans.clear()

    def told(self) -> dict[str, Any]:
        """Return what there is to say of the program and its plans, for `explain()`."""
        body = self.body
        return {
            "commands": len(body.commands), "inputs": body.inputs, "outputs": len(body.outputs),
            "exact": body.exact, "calls": self.calls, "planned": self.planned,
            "plans": [plan.told() for plan, _ in self._plans],
            "refused": list(self._refused.values()),
        }  # fmt: skip

    def run(self, inputs: Sequence[Array], scalars: Sequence[Any]) -> list[Array] | None:
        """Return the outputs; None if there is no plan for these inputs, or a kernel raised."""
        self.calls += 1
        plan = self._plan(inputs, scalars)
        if plan is None:
            return None
        try:
            results = plan.run(scalars)
        except effects.HalfDone:
            raise
        except Exception as error:
            log.debug("a plan failed, its commands run one by one: %s", error)
            return None
        for out, origin in zip(results, plan.graph.origins, strict=True):
            if origin >= 0:
                base = inputs[origin]._base or inputs[origin]
                out._base, out._generation = base, base._generation
        self.planned += 1
        return results

    def _plan(self, inputs: Sequence[Array], scalars: Sequence[Any]) -> DevicePlan | None:
        for at, (plan, fixed) in enumerate(self._plans):
            fits = all(scalars[i] is x or repr(scalars[i]) == repr(x) for i, x in fixed)
            if fits and plan.place(inputs):
                if at:
                    self._plans.insert(0, self._plans.pop(at))
                return plan
        key = (tuple([(x._spec, x._offset) for x in inputs]), repr(scalars), _aliases(inputs))
        if key in self._refused:
            return None
        try:
            made = self._make(inputs, scalars)
        except Exception as error:  # whatever it is, interpreting is right
            if len(self._refused) >= limits.PLANS_PER_PROGRAM_MAX:
                self._refused.clear()
            self._refused[key] = f"{type(error).__name__}: {error}"
            log.debug("no plan for a program: %s", self._refused[key])
            return None
        self._plans.insert(0, made)
        del self._plans[limits.PLANS_PER_PROGRAM_MAX :]
        return made[0]

    def _make(
        self, inputs: Sequence[Array], scalars: Sequence[Any]
    ) -> tuple[DevicePlan, list[tuple[int, Any]]]:
        from .trace import Sym, Tracer, Untraceable

        tracer = Tracer(dataclasses.replace(self.body, scalars=tuple(scalars)))
        tracer.backend = self._engine.backend
        memories: dict[int, Memory] = {}
        counts: dict[int, Storage] = {}
        syms = []
        for i, x in enumerate(inputs):
            if not _is_free(x):
                raise Untraceable(f"input {i} has a graph from before")
            memory = x._storage.memory
            if counts.setdefault(id(memory), x._storage) is not x._storage:
                raise Untraceable("inputs share memory whose writes are counted apart (.data)")
            if id(memory) not in memories:
                memories[id(memory)] = Memory(tracer, memory.nbytes, i)
            syms.append(Sym(x._spec, memories[id(memory)], x._offset))
        graph = tracer.trace(syms)
        passes.merge_repeated(graph)
        passes.drop_dead(graph)
        binds.fuse(graph, self._engine.backend)
        free = {n.index for step in graph.steps for n in step.scalars if type(n) is Number}
        fixed = [(i, x) for i, x in enumerate(scalars) if i not in free]
        return DevicePlan(graph, self._engine, inputs), fixed


class DevicePlan:
    """One way to run a program on a GPU, for inputs of one signature.

    `follow` and `arrays` are what a step's way of its own asks for its windows by; `row` gives the
    place on the device of numbers that kernels read there.
    """

    def __init__(self, graph: Graph, engine: Engine, inputs: Sequence[Array]) -> None:
        self.graph, self._engine, self.backend = graph, engine, engine.backend
        self._kinds = [(x._spec, x._offset, x._storage.nbytes) for x in inputs]
        self._aliases = _aliases(inputs)
        self._storages: list[Any] = [x._storage for x in inputs]
        self._bound: list[Any] = [x.array for x in inputs]
        self._setters: dict[Memory, list[tuple[Window, Setter]]] = {}
        #: A list of numbers, a place in it, the body's number, whether a capture bakes it in.
        self._numbers: list[tuple[list[Any], int, int, bool]] = []
        self._staged: dict[Memory, Storage] = {}  # what inputs that often move are copied into
        self._moves: dict[Memory, int] = {}
        self._given: Sequence[Any] = ()
        self._blocks = self._take_blocks()
        self._written = {m for step in graph.steps for m in step.writes if m.input >= 0}
        self.row = binds.Row(self.backend, graph)
        self._undo = _Undo(self)
        self.steps: Calls = []
        fixed: set[int] = set()  # bound steps that are never captured
        self._of: list[int] = []  # by bound step, which of the graph's it belongs to
        for k, step in enumerate(graph.steps):
            calls = self._bind(step)
            self._of += [k] * len(calls)
            if binds.is_free(step, self.backend):
                fixed.update(range(len(self.steps), len(self.steps) + len(calls)))
            self.steps += calls
        self._undo.bound(self._of)
        self.graphs: Graphs = Graphs(self.backend, self.steps, fixed)

    def told(self) -> dict[str, Any]:
        """Return what `explain()` says of the plan."""
        graph = self.graph
        return {
            "inputs": [_shown(w) for w in graph.inputs],
            "outputs": [_shown(w) for w in graph.outputs],
            "arena_bytes": sum({id(s): s.nbytes for s in self._blocks.values()}.values()),
            "output_bytes": sum(m.nbytes for m in self._leaving()),
            "notes": [*graph.notes, *self.graphs.notes()],
            "steps": [_of_step(step) for step in graph.steps[:_STEPS_TOLD_MAX]],
            "steps_in_all": len(graph.steps),
        }

    # ----------------------------------------------------------------------------------- memory --
    def _leaving(self) -> list[Memory]:
        return [m for m in dict.fromkeys(w.memory for w in self.graph.outputs) if m.input < 0]

    def _take_blocks(self) -> dict[Memory, Storage]:
        """Return memory for what is the program's own; a block serves again when it is free."""
        budget, last = self._engine.budget, {}
        for k, step in enumerate(self.graph.steps):
            last.update(dict.fromkeys((*step.reads, *step.writes), k))
        blocks: dict[Memory, Storage] = {}
        spare: list[Storage] = []

        def take(memory: Memory) -> Storage:
            fits = [s for s in spare if memory.nbytes <= s.nbytes <= 2 * memory.nbytes + 4_096]
            if fits:
                found = min(fits, key=lambda s: s.nbytes)
                spare.remove(found)
                return found
            budget.check(memory.nbytes)
            return Storage(self.backend.xp.empty(max(1, memory.nbytes), np.uint8), budget)

        for memory in self._leaving():
            blocks[memory] = take(memory)
        for k, step in enumerate(self.graph.steps):
            touched = dict.fromkeys((*step.reads, *step.writes))
            own = [m for m in touched if m.input < 0 and not m.output]
            for memory in own:
                if memory not in blocks:
                    blocks[memory] = take(memory)
            spare += [blocks[m] for m in own if last[m] == k]
        return blocks

    def array(self, window: Window) -> Any:
        """Return the elements of a window, where its memory lies now."""
        memory, spec = window.memory, window.spec
        if memory.input >= 0:
            staged = self._staged.get(memory)
            return (staged or self._storages[memory.input]).window(spec, window.offset)
        if memory not in self._blocks:  # an output that no step makes
            raise LookupError("a memory that no step touches")
        strides = tuple([s * spec.dtype.itemsize for s in spec.stride])
        if not spec.numel:
            return self.backend.xp.empty(spec.shape, spec.dtype.numpy)
        flat = self._blocks[memory].array
        return self.backend.window(flat, spec, window.begin, strides)

    def follow(self, window: Window, setter: Setter) -> None:
        """Call `setter` with the window's elements, now and whenever its memory moves."""
        setter(self.array(window))
        if window.memory.input >= 0:
            self._setters.setdefault(window.memory, []).append((window, setter))

    def arrays(self, windows: Sequence[Window]) -> list[Any]:
        """Return a list of the windows' elements that follows their memories."""
        found: list[Any] = [None] * len(windows)
        for i, window in enumerate(windows):
            self.follow(window, lambda array, i=i: found.__setitem__(i, array))
        return found

    # ---------------------------------------------------------------------------------- binding --
    def _bind(self, step: Step) -> Calls:
        return step.bound(self, step) if step.bound is not None else self._plain(step)

    def _plain(self, step: Step) -> Calls:
        found = binds.bind(self, step)
        if found is not None:
            return found
        inputs, numbers = self.arrays(step.inputs), list(step.scalars)
        row, read_there = self.row.of(step), binds.on_device(step)
        for i, x in enumerate(step.scalars):
            if type(x) is Number:
                self._numbers.append((numbers, i, x.index, x not in read_there))
        backend, engine, number = self.backend, self._engine, step.generator

        def run(inputs: Any, numbers: Any, outs: Any) -> None:
            generator = engine.generator(number) if number >= 0 else None
            backend.steps.row = row
            try:
                results = plans.compute(step.plan, inputs, numbers, generator, backend.xp)
            finally:
                backend.steps.row = None
            if not step.op.writes:
                for out, result in zip(outs, results, strict=False):
                    backend.write(out, result)

        return [(run, [inputs, numbers, self.arrays(step.outs)])]

    # ---------------------------------------------------------------------------------- running --
    def place(self, inputs: Sequence[Array]) -> bool:
        """Let the steps work on these inputs; False, and nothing changes, if they do not fit."""
        changed = [i for i, x in enumerate(inputs) if x.array is not self._bound[i]]
        if not all(_is_free(inputs[i]) for i in self.graph.leaves):
            return False
        if not changed:
            return True
        kinds = [(x._spec, x._offset, x._storage.nbytes) for x in inputs]
        if kinds != self._kinds or _aliases(inputs) != self._aliases:
            return False
        for i in changed:
            self._bound[i], self._storages[i] = inputs[i].array, inputs[i]._storage
        for memory in dict.fromkeys(self.graph.inputs[i].memory for i in changed):
            if memory not in self._staged:
                self._move(memory)
        return True

    def _move(self, memory: Memory) -> None:
        """Let the arguments show where an input lies now; one that moves often gets a place."""
        times = self._moves[memory] = self._moves.get(memory, 0) + 1
        if times >= _MOVES_MAX and self._may_stage(memory):
            budget = self._engine.budget
            budget.check(memory.nbytes)
            self._staged[memory] = Storage(self.backend.xp.empty(memory.nbytes, np.uint8), budget)
        self.graphs.moved()
        for window, setter in self._setters.get(memory, ()):
            setter(self.array(window))

    def _may_stage(self, memory: Memory) -> bool:
        """Return whether a copy of an input is as good: nothing is stored, no result views it."""
        viewed = any(w.memory is memory for w in self.graph.outputs)
        return 0 < memory.nbytes <= _STAGED_BYTES_MAX and memory not in self._written and not viewed

    def run(self, scalars: Sequence[Any]) -> list[Array]:
        """Run the steps on the inputs that were placed; return the outputs.

        Whatever is raised, the inputs are as they were; or `effects.HalfDone` is raised.
        """
        self._take(scalars)
        for memory, storage in self._staged.items():
            self.backend.copy_bytes(storage.array, self._storages[memory.input].flat)
        self._undo.begin()
        done = [0]
        timeline = self._engine.timeline
        try:
            if timeline is None:
                self.graphs.run(done)
            else:
                for f, args in timeline.stepping(self.steps):
                    f(*args)
                    done[0] += 1
        except Exception as error:
            self._undo.roll_back(error, done[0])
            raise
        for memory, times in self.graph.written.items():
            self._storages[memory.input].version += times
        outs = self._outputs()
        self._let_go()
        return outs

    def _let_go(self) -> None:
        """Hold no input that was copied: the session may free it."""
        for i, window in enumerate(self.graph.inputs):
            if window.memory in self._staged:
                self._bound[i] = self._storages[i] = None

    def _take(self, scalars: Sequence[Any]) -> None:
        """Let kernels see the numbers of this Call."""
        if scalars is self._given:
            return
        self.row.take(scalars)
        changed = False
        for where, i, k, baked in self._numbers:
            changed = changed or (baked and repr(where[i]) != repr(scalars[k]))
            where[i] = scalars[k]
        if changed:
            self.graphs.renumbered()
        self._given = scalars

    def _outputs(self) -> list[Array]:
        budget, xp = self._engine.budget, self.backend.xp
        storages: dict[Memory, Storage] = {}
        for memory in self._leaving():
            budget.check(memory.nbytes)
            room = xp.empty(memory.nbytes, np.uint8)
            self.backend.copy_bytes(room, self._blocks[memory].array)
            storages[memory] = Storage(room, budget)

        def made(window: Window) -> Array:
            memory = window.memory
            storage = self._storages[memory.input] if memory.input >= 0 else storages[memory]
            return Array(storage.window(window.spec, window.offset), window.spec, storage,
                         window.offset)  # fmt: skip

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


class _Undo:
    """What a plan's stores overwrite while a later step may still raise, kept at its start."""

    def __init__(self, plan: DevicePlan) -> None:
        self._plan, self._engine = plan, plan._engine
        steps = plan.graph.steps
        raising = [k for k, step in enumerate(steps) if effects.may_raise(step)]
        self._last = raising[-1] if raising else -1
        early = [w for step in steps[: max(0, self._last)] for w in step.outs]
        windows = dict.fromkeys(w for w in early if w.memory.input >= 0)
        self._where = plan.arrays(list(windows))
        for x in self._where:
            self._engine.budget.check(x.nbytes)
        self._kept = [plan.backend.xp.empty_like(x) for x in self._where]
        late = [k for k, s in enumerate(steps) if k >= self._last and effects.stores(s)]
        self._late = late[0] if late else -1
        self._final = -1  # after this bound step stores have come that nothing takes back
        drawing = {s.generator for s in steps if s.generator >= 0}
        self._states: dict[int, Any] = dict.fromkeys(drawing)

    def bound(self, of: list[int]) -> None:
        """Take to which step each bound one belongs."""
        self._final = len(of)
        if self._late in of:
            # One that writes by itself may raise halfway: to run it again would step twice.
            writes = self._plan.graph.steps[self._late].op.writes
            self._final = of.index(self._late) - writes

    def begin(self) -> None:
        for copy, x in zip(self._kept, self._where, strict=True):
            copy[...] = x
        for number in self._states:
            self._states[number] = self._engine.generator(number).get_state()

    def roll_back(self, error: Exception, bound: int) -> None:
        """Put everything back after this bound step has raised.

        HalfDone: stores that are not kept came before, or were half done by it.
        """
        if bound > self._final:
            torn = [self._plan._storages[m.input].memory for m in self._plan.graph.written]
            raise effects.HalfDone(f"{type(error).__name__}: {error}", torn) from error
        for copy, x in zip(self._kept, self._where, strict=True):
            x[...] = copy
        for number, state in self._states.items():
            self._engine.generator(number).set_state(state)


def _aliases(inputs: Sequence[Array]) -> tuple[tuple[int, int], ...]:
    """Return for each input the first one in the same memory, and the first in the same storage."""
    first: dict[int, int] = {}
    return tuple(
        [(first.setdefault(id(x._storage.memory), i), first.setdefault(-id(x._storage), i))
         for i, x in enumerate(inputs)]
    )  # fmt: skip


def _is_free(x: Array) -> bool:
    """Return whether no gradient goes back from a tensor: it is a leaf, or its graph is gone."""
    if x._node is None or type(x._node) is tape.Leaf:
        return True
    edge = tape.edge_of(x)
    return edge is None or any(node.freed for node in tape.reachable([edge]))
