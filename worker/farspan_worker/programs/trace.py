"""Tracing: a body and the specs of its inputs become a Graph, by the engine's own code.

A `Tracer` is an Engine whose tensors have no elements: ops note a step instead of running, and the
tape is recorded and walked as ever. What it cannot do without elements is `Untraceable`; such a
program is interpreted.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final, NoReturn

from farspan.core import limits, tape
from farspan.core.call import Value
from farspan.core.coerce import Tagged
from farspan.core.command import FUNCTIONAL, INPLACE, OUT
from farspan.core.dtype import DTYPES, Defaults
from farspan.core.op import OPS
from farspan.core.tape import Variable

from .. import plan as plans
from ..engine import Engine
from .graph import Graph, Memory, Number, Step, Window
from .layouts import keeps_numbers

if TYPE_CHECKING:
    from farspan.core.command import ErrorInfo
    from farspan.core.op import Op
    from farspan.core.spec import Spec

    from .body import Body, Command


class Untraceable(Exception):
    """A program cannot be planned; the message says why."""


class Sym(Variable, Value):
    """A tensor without elements, in a program that is being traced."""

    __slots__ = ()

    def __init__(self, spec: Spec, memory: Memory, offset: int = 0) -> None:
        self._spec = spec
        self._storage = memory
        self._offset = offset
        self._node = None
        self._index = 0
        self._base = None
        self._generation = 0

    @property
    def window(self) -> Window:
        """The same as a step sees it."""
        return Window(self._storage, self._spec, self._offset)

    def _save(self) -> Sym:
        return Sym(self._spec, self._storage, self._offset)

    @classmethod
    def _apply(
        cls, op: Op, tensors: Sequence[Any], static: Any, scalars: tuple[Any, ...], form: int
    ) -> Any:
        tracer = tensors[0]._storage.graph
        results = tracer.compute(op, tensors, static, scalars, form, None)
        return results[0] if len(results) == 1 and not op.lists else tuple(results)


class Tracer(Engine):
    """An engine that notes what it would do."""

    def __init__(self, body: Body) -> None:
        super().__init__()
        self.body = body
        self.steps: list[Step] = []
        self.computed = 0  # ops, views too
        self._command = -1
        self._given: list[Tagged] = []  # numbers that formulas may hand on to their ops

    # ----------------------------------------------------------- in place of the engine's parts --
    def compute(
        self,
        op: Op,
        tensors: Sequence[Any],
        static: Any,
        scalars: Sequence[Any],
        form: int,
        budget: Any,
        generator: Any = None,
    ) -> list[Any]:
        """Note an op as a step and return its results, as `plan.run` does with elements."""
        self.computed += 1
        if self.computed > limits.PROGRAM_STEPS_MAX:
            raise Untraceable(f"it comes to more than {limits.PROGRAM_STEPS_MAX} operations")
        flat = op.recipe(static).flat
        inputs = list(tensors[:flat])
        if not op.by_value:
            scalars = [Number(x.index, "f") if type(x) is Tagged else x for x in scalars]
        numbers = [self._default(x) for x in scalars]
        plan = plans.plan_for(op, inputs, static, numbers, self.backend)
        if op.family == "view":
            return [_view(inputs[0], spec, offset, op) for spec, offset in plan.views]
        if op.dynamic:
            raise Untraceable(f"{op.name} makes a shape that depends on values")
        reads_target = True
        if op.writes:
            outs, results = _written(op, plan, inputs), []
            for x in outs:
                x._storage.version += 1
        elif form == FUNCTIONAL:
            outs = results = [Sym(spec, Memory(self, spec.nbytes)) for spec in plan.outs]
        else:
            outs = results = inputs[:1] if form == INPLACE else list(tensors[flat:])
            reads_target = form == INPLACE and not op.overwrites
            for x in outs:
                x._storage.version += 1
        step = Step(
            op, static, plan, tuple(scalars), form,
            tuple([x.window for x in inputs]), tuple([x.window for x in outs]),
            generator if op.random else -1, self._command, reads_target=reads_target,
        )  # fmt: skip
        self.steps.append(step)
        return results

    def _default(self, x: Any) -> Any:
        if type(x) is Tagged:
            x.seen = True
            return x.real
        return self.body.scalars[x.index] if type(x) is Number else x

    @property
    def looked_at(self) -> set[int]:
        """Which numbers formulas computed with, so that the graph holds for these values only."""
        return {x.index for x in self._given if x.seen}

    def _give(self, index: int, x: float) -> Tagged:
        given = Tagged(x)
        given.index = index
        self._given.append(given)
        return given

    def _generator(self, op: Op, static: Any) -> Any:
        return self.generator_number(op, static)

    def own(self, gradient: Any, like: Spec, shared: set[int]) -> Any:
        layout = like if like.dense else like.contiguous_
        spec = gradient._spec.with_(shape=like.shape, stride=layout.stride)
        memory = gradient._storage
        if gradient._spec is spec and id(memory) not in shared and memory.nbytes == spec.nbytes:
            shared.add(id(memory))
            return gradient._save()
        made = Sym(spec, Memory(self, spec.nbytes))
        static = _COPY.bind(None, None)[1]
        self.compute(_COPY, [made, gradient], static, (), INPLACE, None)
        return made

    def _report(self, info: ErrorInfo, outs: Any, specs: Any = ()) -> NoReturn:
        raise Untraceable(f"{info.kind}: {info.message}")

    # ---------------------------------------------------------------------------------- tracing --
    def trace(self, inputs: Sequence[Sym]) -> Graph:
        """Run the body over these inputs and return what it did. Untraceable: it cannot be."""
        body = self.body
        self.tensors.update(enumerate(inputs))
        for x in inputs:
            if tape.edge_of(x) is None:
                x._node = tape.Leaf()
        leaves = [x._node for x in inputs]
        before = Defaults.dtype
        Defaults.dtype = DTYPES[body.default_dtype]
        try:
            for self._command, command in enumerate(body.commands):
                slots = list(command.slots)
                if command.op is None:
                    self._backward(slots, command.static)
                else:
                    self._apply(
                        command.op, command.mode, slots, command.static, self._numbers(command)
                    )
        finally:
            Defaults.dtype = before
        outputs = [self.tensors[slot] for slot in body.outputs]
        for x, leaf in zip(inputs, leaves, strict=True):
            if x._node is not leaf:
                raise Untraceable("it writes to a tensor in a way that gradients go through")
        known: set[tape.Node] = set()
        for x in outputs:
            _check_dead(x, known)
        return self._graph(inputs, outputs)

    def _numbers(self, command: Command) -> Sequence[Any]:
        """Return a command's numbers: those that go to its kernel only are left to each Call."""
        op = command.op
        assert op is not None
        fixed = self.body.scalars[command.begin : command.end]
        if op.by_value or not fixed or keeps_numbers(op):
            return fixed
        if command.mode >> 2:
            plan = op.vjp_plan(command.static, command.mode >> 2)
            scalars = {a.name for a in op.args if a.is_number}
            if plan is None or any(scalars & set(call.mentions) for call in plan.calls):
                if op.family != "pointwise":
                    return fixed
                first = command.begin
                return [
                    self._give(first + i, x) if type(x) is float else x for i, x in enumerate(fixed)
                ]
        kinds = [_KINDS[type(x)] for x in fixed]
        return [Number(command.begin + i, kind) for i, kind in enumerate(kinds)]

    def _graph(self, inputs: Sequence[Sym], outputs: Sequence[Sym]) -> Graph:
        written: dict[Memory, int] = {}
        for x in inputs:
            if x._storage.version:
                written[x._storage] = x._storage.version
        for x in outputs:
            if x._storage.input < 0:
                x._storage.output = True
        place = {id(x): i for i, x in enumerate(inputs)}
        recorded: set[int] = set()
        for command in self.body.commands:
            mask = command.mode >> 2 if command.op is not None else 0
            recorded |= {s for i, s in enumerate(command.slots) if mask >> i & 1}
            if command.op is None:
                recorded |= set(command.slots)
        return Graph(
            self.steps,
            tuple([x.window for x in inputs]),
            tuple([x.window for x in outputs]),
            self.body.exact,
            tuple([None if x._base is None else x._base.window for x in outputs]),
            tuple([place.get(id(x._base), -1) for x in outputs]),
            written,
            tuple(sorted(s for s in recorded if s < len(inputs))),
        )


_COPY: Final = OPS["copy"]
_KINDS: Final = {float: "f", int: "i", bool: "b", complex: "c"}


def _view(x: Sym, spec: Spec, offset: int, op: Op) -> Sym:
    if op.unversioned:
        raise Untraceable(".data of a tensor in a program")
    out = Sym(spec, x._storage, plans.place(x, spec, offset))
    if (out._offset + spec.span()) * spec.dtype.itemsize > x._storage.nbytes or out._offset < 0:
        raise Untraceable("a view reaches outside of its storage")
    if not op.detaches:
        base = x._base or x
        out._base = base
        out._generation = base._generation
    return out


def _written(op: Op, plan: Any, inputs: Sequence[Sym]) -> list[Sym]:
    """Return the inputs that an op writes by itself."""
    outs = []
    for at in op.written:
        slot = plan.recipe.slots.get(at, ())
        places = (slot,) if isinstance(slot, int) else slot
        outs += [inputs[i] for i in places if i is not None]
    return outs


def _check_dead(x: Sym, known: set[tape.Node]) -> None:
    """Raise unless no gradient can go back from an output: its graph would have to leave too."""
    edge = tape.edge_of(x)
    if edge is None or type(edge[0]) is tape.Leaf:
        return
    if not tape.leads_to_freed(edge[0], known):
        raise Untraceable("a result has a graph that a later backward may go through")


__all__ = ["OUT", "Sym", "Tracer", "Untraceable"]
