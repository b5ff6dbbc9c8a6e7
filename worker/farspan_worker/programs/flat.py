"""FlatPlan: a graph bound to memory - functions with their arguments, run one after the other.

Arguments are arrays made once. Where an input lies elsewhere than at the last Call, or a result of
the last Call is still in use, the arguments that show this memory are set anew; nothing else moves.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from farspan.core.command import INPLACE
from farspan.core.dtype import Device, uint8
from farspan.core.spec import Spec

from .. import plan as plans
from ..store import Array, Storage
from . import arena, effects, short, updates
from .graph import Graph, Memory, Number, Step, Window
from .inputs import Inputs

if TYPE_CHECKING:
    from ..engine import Engine
    from ..kernels.cpu.bound import Bound

Setter = Callable[[Any], None]


class FlatPlan:
    """One way to run a program, for inputs of one signature.

    A pass may give a step a way of its own to run: `step.bound(plan, step)` returns a function and
    its list of arguments. With `follow` and `arrays` it hears where the step's windows lie. Between
    calls a plan keeps room for outputs and, with all plans of the session, the arena; `sleep` lets
    go of both until it runs again. Everything that it keeps is charged to the session.
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
        self._arena = engine.programs.arena
        self.inputs = Inputs(graph, inputs, engine.programs.held, self.move)
        #: By home (an input's or output's memory, None for the arena): what shows what lies there.
        self._setters: dict[Memory | None, list[tuple[Window, Setter]]] = {}
        self._numbers: list[tuple[list[Any], int, int]] = []  # list, index in it, index of a number
        self._given: Sequence[Any] = ()
        self._scratch = _scratch(graph.steps)
        scratch = {w.memory: arena.Life(k, k) for k, w in self._scratch.items()}
        found = arena.places(graph.steps, scratch)
        self._at, self.arena_bytes = found.at, found.nbytes
        self._leaving = [m for m in dict.fromkeys(w.memory for w in graph.outputs) if m.input < 0]
        #: Room for outputs, and how often it is referred to where nobody else has it.
        self._rooms: dict[Memory, Storage] = {}
        self._calm: dict[Memory, tuple[int, int]] = {}
        self._awake = True
        self.steps: list[tuple[Callable[..., Any], Any]] = []
        self._awaited: list[tuple[int, Step]] = []  # bound steps whose loops are being compiled
        self._binding = -1  # the step that is being bound
        self._drawn = {step.generator for step in graph.steps if step.generator >= 0}
        self.undo = effects.Undo(self, engine)
        with self._arena.preparing(self):
            self._arena.enter(self)
            try:
                for memory in self._leaving:
                    self._rooms[memory] = self._room(memory)
                self._bind_all()
            except BaseException:
                self.close()
                raise

    def _bind_all(self) -> None:
        for k, step in enumerate(self.graph.steps):
            self._binding = k
            self.steps += self.undo.before(k)
            if not self.undo.covers(k) and effects.stores(step):
                # One that writes by itself may raise halfway: to run it again would step twice.
                self.undo.final_from(len(self.steps) - step.op.writes)
            if step.fused and (self.awaits or not step.bound.ready()):
                self._awaited.append((len(self.steps), step))
            self.steps += self._bind(step)
        self._note_calm()

    # ---------------------------------------------------------------------------------- binding --
    def _home(self, memory: Memory) -> tuple[Memory | None, int]:
        """Return where a memory lies: an input, an output or (None) the arena; and from where."""
        return self._at.get(memory, (memory, 0))

    def array(self, window: Window) -> Any:
        """Return the elements of a window, where its memory lies now."""
        spec = window.spec
        if not spec.numel:
            return np.empty(spec.shape, spec.dtype.numpy)
        home, offset = self._home(window.memory)
        storage: Storage | None
        if home is None:
            storage = self._arena.storage if self._awake else None
        elif home.input >= 0:
            storage = self.inputs.storages[home.input]
            if storage is not None:
                return storage.window(spec, window.offset)
        else:
            storage = self._rooms.get(home)
        dtype = spec.dtype.numpy
        if storage is None:  # let go of: something of the shape, in no memory worth mentioning
            return np.broadcast_to(np.zeros((), dtype), spec.shape)
        strides = tuple([s * dtype.itemsize for s in spec.stride])
        return np.ndarray(spec.shape, dtype, storage.array, offset + window.begin, strides)

    def follow(self, window: Window, setter: Setter) -> None:
        """Call `setter` with the window's elements, now and whenever its memory moves.

        When the memory is let go of, it is called with something else of the shape and dtype.
        """
        setter(self.array(window))
        home, _ = self._home(window.memory)
        self._setters.setdefault(home, []).append((window, setter))

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
        """Let a primitive of the step that is being bound know where its scratch memory is."""
        window = self._scratch.get(self._binding)
        if window is not None:
            self.follow(window, lambda array: bound.place_scratch(array.ctypes.data))

    def _bind(self, step: Step) -> list[tuple[Callable[..., Any], Any]]:
        if step.bound is not None:
            return step.bound(self, step)  # type: ignore[no-any-return]
        found = short.bind(self, step) or updates.bind(self, step)
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

    # ----------------------------------------------------------------------------------- memory --
    def move(self, home: Memory | None) -> None:
        """Set anew the arguments that show what lies in one home; it has moved, or is let go of."""
        for window, setter in self._setters.get(home, ()):
            setter(self.array(window))

    def _room(self, memory: Memory) -> Storage:
        """Return new room for an output."""
        self._engine.budget.check(memory.nbytes)
        room = Storage(arena.block(memory.nbytes), self._engine.budget)
        room._flat = room.array  # or `flat` would make another window, and nobody be calm
        return room

    @property
    def kept_bytes(self) -> int:
        """The bytes that it keeps, beside the arena."""
        return sum(room.nbytes for room in self._rooms.values()) + self.undo.kept_bytes

    def _references(self, memory: Memory) -> tuple[int, int]:
        room = self._rooms[memory]
        return sys.getrefcount(room), sys.getrefcount(room.array.base)

    def _note_calm(self) -> None:
        self._calm = {memory: self._references(memory) for memory in self._leaving}

    def _make_room(self) -> None:
        """Have room for each output that nobody else has: not in what an earlier Call returned."""
        for memory in self._leaving:
            if memory in self._rooms and self._references(memory) == self._calm[memory]:
                self._rooms[memory].version = 0
                self._rooms[memory].wrote()
                continue
            self._rooms.pop(memory, None)
            with self._arena.preparing(self):
                self._rooms[memory] = self._room(memory)
            self.move(memory)
            self._calm[memory] = self._references(memory)

    def sleep(self) -> None:
        """Keep nothing until the next Call; the caller takes it out of the arena."""
        self._awake = False
        self.inputs.forget()
        self._rooms.clear()
        self.undo.let_go()
        for home in self._setters:
            self.move(home)  # or the arguments would keep what is let go of

    def _wake(self) -> None:
        self._arena.enter(self)
        self.undo.take_room()
        self._awake = True
        self.move(None)

    def close(self) -> None:
        """Let go of everything, for ever: also of what would be cycles of references."""
        self._arena.leave([self])
        self.inputs.forget()
        self._rooms.clear()
        self.undo.close()
        self._setters.clear()
        self._numbers.clear()
        self.steps.clear()
        self._awaited.clear()

    # ---------------------------------------------------------------------------------- running --
    def place(self, inputs: Sequence[Array]) -> bool:
        """Let the steps work on these inputs; False, and nothing changes, if they do not fit."""
        changed = self.inputs.place(inputs)
        if changed is None:
            return False
        if changed:
            for memory in dict.fromkeys(self.graph.inputs[i].memory for i in changed):
                self.move(memory)
        return True

    def run(self, scalars: Sequence[Any]) -> list[Array]:
        """Run the steps on the inputs that were placed; return the outputs.

        Whatever is raised, the inputs are as they were; or `effects.HalfDone` is raised.
        """
        if not self._awake:
            with self._arena.preparing(self):
                self._wake()
        self._arena.note(self)
        if self._drawn:
            with self._arena.preparing(self):  # a new one asks for room, which plans may have
                for number in self._drawn:
                    self._engine.generator(number)
        self._make_room()
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
            self.storage(memory).version += times
        return self._outputs()

    def take_up(self) -> None:
        """Run by loops from the next `run` on; they are compiled. The bits may be others."""
        self.awaits = False

    def storage(self, memory: Memory) -> Storage:
        """Return where an input or output lies while the plan runs."""
        if memory.input < 0:
            return self._rooms[memory]
        storage = self.inputs.storages[memory.input]
        assert storage is not None
        return storage

    def _adopt(self) -> None:
        """Let steps run by the loops that are compiled."""
        ready = [(at, step) for at, step in self._awaited if step.bound.ready()]
        for at, step in ready:
            (self.steps[at],) = step.bound.quick(self, step)
            self._awaited.remove((at, step))
        if ready:
            self._given = ()  # numbers go into the new arguments too
            self._note_calm()

    def _outputs(self) -> list[Array]:
        def made(window: Window) -> Array:
            storage = self.storage(window.memory)
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


def _scratch(steps: Sequence[Step]) -> dict[int, Window]:
    """Return the scratch memory of each step that wants some, by number."""
    found = {}
    for k, step in enumerate(steps):
        nbytes = getattr(step.bound, "scratch_bytes", 0)
        if nbytes:
            found[k] = Window(Memory(None, nbytes), Spec.make((nbytes,), uint8, Device("cpu")))
    return found


def _set_item(where: list[Any], i: int) -> Setter:
    def setter(array: Any) -> None:
        where[i] = array

    return setter


def _none() -> None:
    return None


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
