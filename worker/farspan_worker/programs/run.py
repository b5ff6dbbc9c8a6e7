"""Programs of one session: defined once, then called.

A Call means exactly what its body's commands mean, sent one by one. Interpreting them is what is
always right; a plan is the quick way, where there is one.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from farspan.core import limits, tape
from farspan.core.command import ErrorInfo
from farspan.core.dtype import DTYPES, Defaults
from farspan.core.errors import OutOfMemoryError, ProtocolError

from ..store import Array, Poison
from . import explain, passes
from .arena import Arena
from .body import Body, check_static, parse
from .effects import HalfDone
from .flat import FlatPlan
from .graph import Graph, Memory, Number
from .inputs import Held, is_dead, overlap
from .switches import SwitchError, Switches, compiled_behind, digest_of, key_of

if TYPE_CHECKING:
    from farspan.core.command import Static

    from ..engine import Engine
    from ..store import Storage

log = logging.getLogger("farspan.worker")


class Programs:
    """The programs that a session has defined on one device."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._programs: dict[int, Program] = {}
        self.arena = Arena(engine.budget)
        self.held = Held()
        self.calls = 0
        self.planned = 0  # calls that ran by a plan
        self.switches = Switches()

    def define(
        self,
        ids: Sequence[int],
        static: Static,
        rows: Sequence[tuple[int, int, int, Static, int, int]],
        slots: Sequence[int],
        scalars: Sequence[Any],
        default_dtype: int,
    ) -> None:
        """Store a program; one of the same number goes. ProtocolError: it cannot be one.

        rows: (opcode, mode, how many slots, static, how many scalars, relative number).
        """
        program, _ = check_static(static)
        ends = pairwise(accumulate((row[2] for row in rows), initial=0))
        commands = [
            (row[0], row[1], slots[begin:end], *row[3:])
            for row, (begin, end) in zip(rows, ends, strict=True)
        ]
        body = parse(ids, static, commands, scalars, default_dtype)
        self.undefine((program,))
        held = sum(len(each.body.commands) for each in self._programs.values())
        if held + len(body.commands) > limits.PROGRAMS_COMMANDS_MAX:
            raise ProtocolError(f"programs of more than {limits.PROGRAMS_COMMANDS_MAX} commands")
        self._programs[program] = self._made(body, program)

    def _made(self, body: Body, program: int) -> Any:
        if not self._engine.backend.remote:
            return Program(body, self._engine, program)
        from .device import DeviceProgram

        return DeviceProgram(body, self._engine, program)

    def undefine(self, numbers: Sequence[int]) -> None:
        """Forget programs, and free what their plans keep; one that is not there is none."""
        gone = [p for n in numbers if (p := self._programs.pop(n, None)) is not None]
        self.arena.leave([plan for program in gone for plan in program.plans])
        for program in gone:
            program.close()
        for number in numbers:
            self.switches.forget(number)

    def __len__(self) -> int:
        return len(self._programs)

    @property
    def nbytes(self) -> int:
        """The bytes that plans keep between Calls: the arena, and room for outputs and undoing."""
        plans = [plan for program in self._programs.values() for plan in program.plans]
        return self.arena.nbytes + sum(plan.kept_bytes for plan in plans)

    def stats(self) -> dict[str, int]:
        """Return counts an operator reads; switched: plans of inexact programs run by loops."""
        return {
            "programs": len(self),
            "programs_bytes": self.nbytes,
            "calls": self.calls,
            "planned": self.planned,
            "switched": len(self.switches.on),
        }

    def call(self, ids: Sequence[int], static: Static, scalars: Sequence[Any]) -> None:
        """Run a program: `ids` are its inputs, then the new ids of its outputs."""
        program = self._programs.get(static[0]) if len(static) == 1 else None
        if program is None:
            raise ProtocolError(f"a Call of a program {static} that was not defined")
        body = program.body
        if len(ids) != body.inputs + len(body.outputs):
            raise ProtocolError(f"a Call with {len(ids)} tensors")
        if scalars and len(scalars) != len(body.scalars):
            raise ProtocolError(f"a Call with {len(scalars)} numbers, not {len(body.scalars)}")
        self.calls += 1
        engine = self._engine
        inputs = engine._look_up(ids[: body.inputs])
        scalars = scalars or body.scalars
        results = None
        if not (engine.poisoned and any(type(x) is Poison for x in inputs)):
            try:
                results = program.run(inputs, scalars)
            except HalfDone as error:
                self._spoil(error, ids[body.inputs :])
                return
        if results is None:
            self._interpret(body, ids, scalars)
            return
        self.planned += 1
        for out, result in zip(ids[body.inputs :], results, strict=True):
            engine._set(out, result)

    def defined(self) -> Iterable[tuple[int, Program]]:
        """Return the programs with their numbers."""
        return self._programs.items()

    def explain(self, program: int) -> bytes:
        """Return as JSON what a program is and how it runs; the answer to a GET_PROGRAM."""
        found = self._programs.get(program)
        if found is None:
            raise ProtocolError(f"program {program} was not defined")
        on_device = self._engine.backend.remote
        told = found.told() if on_device else explain.of_program(found)  # type: ignore[attr-defined]
        return json.dumps(told).encode()

    def explained(self) -> list[dict[str, Any]]:
        """Return what there is to say of each program."""
        return [explain.of_program(program) for program in self._programs.values()]

    def close(self) -> None:
        """Forget all programs and what their plans hold."""
        self.undefine(list(self._programs))

    def _spoil(self, error: HalfDone, outs: Sequence[int]) -> None:
        """Poison what a plan has written, half of it maybe, and its outputs; the rest goes on."""
        engine = self._engine
        name, tensors = "a program", engine.tensors
        info = ErrorInfo(
            "ServiceError", f"{name} failed between its stores: {error}", engine._number
        )
        torn = {id(memory) for memory in error.torn}
        for memory in error.torn:
            memory.wrote()
        found = [(i, t._spec) for i, t in tensors.items()
                 if type(t) is Array and id(t._storage.memory) in torn]  # fmt: skip
        for i, _ in found:
            del tensors[i]
        engine._report(info, [*(i for i, _ in found), *outs], [spec for _, spec in found])

    def _interpret(self, body: Body, ids: Sequence[int], scalars: Sequence[Any]) -> None:
        """Run the commands one by one. Tensors that do not leave have ids below zero meanwhile."""
        engine = self._engine
        place = [-1 - slot for slot in range(body.slots)]
        place[: body.inputs] = ids[: body.inputs]
        for slot, id_ in zip(body.outputs, ids[body.inputs :], strict=True):
            place[slot] = id_
        first, before = engine._number, Defaults.dtype
        Defaults.dtype = DTYPES[body.default_dtype]
        try:
            for command, dying in zip(body.commands, body.dying, strict=True):
                engine._number = first + command.relative
                mine = [place[slot] for slot in command.slots]
                if command.op is None:
                    engine._backward(mine, command.static)
                else:
                    numbers = scalars[command.begin : command.end]
                    engine._apply(command.op, command.mode, mine, command.static, numbers)
                if dying:
                    engine._free([place[slot] for slot in dying], ())
        finally:
            Defaults.dtype = before


class Program:
    """A body and the plans that were made of it, the latest used first."""

    def __init__(self, body: Body, engine: Engine, number: int = 0) -> None:
        self.body = body
        self.number = number
        self._engine = engine
        self._plans: list[tuple[FlatPlan, list[tuple[int, Any]]]] = []
        self._refused: dict[Any, str] = {}  # signatures that have no plan, and why
        self._free: set[int] = set()  # numbers that some plan takes as arguments
        self._made = 0  # plans
        self._seen: dict[Any, int] = {}  # signatures without a plan, and how often they came
        self._digest = ""  # once something is compiled behind
        self.calls = 0
        self.planned = 0  # of them by a plan

    @property
    def plans(self) -> list[FlatPlan]:
        """The plans, the latest used first."""
        return [plan for plan, _ in self._plans]

    @property
    def refused(self) -> list[str]:
        """Why there is no plan for some kinds of inputs."""
        return list(self._refused.values())

    def close(self) -> None:
        """Let go of the plans."""
        for plan, _ in self._plans:
            plan.close()
        self._plans.clear()

    def run(self, inputs: Sequence[Array], scalars: Sequence[Any]) -> list[Array] | None:
        """Return the outputs; None if there is no plan for these inputs, or a kernel raised.

        HalfDone: one raised that never should, and what the plan had stored cannot be taken back.
        """
        self.calls += 1
        plan = self._plan(inputs, scalars)
        if plan is None:
            return None
        if plan.awaits and plan.looked != self._engine.frames:
            plan.looked = self._engine.frames
            if self._decide(plan.graph, plan.key):
                plan.take_up()
        try:
            results = plan.run(scalars)
            for out, origin in zip(results, plan.graph.origins, strict=True):
                if origin >= 0:  # a store that is recorded goes through the input's own graph
                    base = inputs[origin]._base or inputs[origin]
                    out._base, out._generation = base, base._generation
            self.planned += 1
            return results
        except HalfDone:
            raise
        except Exception as error:
            log.debug("a plan failed, its commands run one by one: %s", error)
            return None

    def _plan(self, inputs: Sequence[Array], scalars: Sequence[Any]) -> FlatPlan | None:
        for at, (plan, fixed) in enumerate(self._plans):
            if _fit(fixed, scalars) and plan.place(inputs):
                if at:
                    self._plans.insert(0, self._plans.pop(at))
                return plan
        why = _unfit(inputs)
        if why:  # of these tensors, as they are now: other ones of their kind may be fit
            self._refused["now"] = why
            return None
        first: dict[int, int] = {}  # by storage and by memory, the first input there
        shared = [
            (first.setdefault(id(x._storage), i), first.setdefault(-id(x._storage.memory), i))
            for i, x in enumerate(inputs)
        ]
        numbers = repr([x for i, x in enumerate(scalars) if i not in self._free])
        key = (tuple([(x._spec, x._offset) for x in inputs]), numbers, tuple(shared))
        if key in self._refused or not self._worthwhile(key):
            return None
        try:
            made = self._make(inputs, scalars, shared)
        except SwitchError:
            raise
        except (OutOfMemoryError, MemoryError) as error:  # there may be room again
            self._made += 1  # but not a trace at each Call until then
            self._refused["now"] = f"{type(error).__name__}: {error}"
            return None
        except Exception as error:  # whatever it is, interpreting is right
            if len(self._refused) >= limits.PLANS_PER_PROGRAM_MAX:
                self._refused.clear()
            self._refused[key] = f"{type(error).__name__}: {error}"
            log.debug("no plan for a program: %s", self._refused[key])
            return None
        self._made += 1
        self._free |= set(range(len(scalars))) - {i for i, _ in made[1]}
        self._plans.insert(0, made)
        for plan, _ in self._plans[limits.PLANS_PER_PROGRAM_MAX :]:
            plan.close()
        del self._plans[limits.PLANS_PER_PROGRAM_MAX :]
        return made[0]

    def _worthwhile(self, key: Any) -> bool:
        """Return whether to make a plan for a signature that has none.

        The first few at once. Then it must have come the more often, the more plans were made: a
        number that differs at each Call, or more kinds of inputs than there are plans, would else
        cost a plan each time.
        """
        over = self._made - limits.PLANS_PER_PROGRAM_MAX
        if over < 0 or (self._engine.steady and not self.body.exact):
            return True  # steady: bits may not depend on what came before a snapshot
        if key not in self._seen and len(self._seen) >= 4 * limits.PLANS_PER_PROGRAM_MAX:
            del self._seen[next(iter(self._seen))]
        count = self._seen[key] = self._seen.get(key, 0) + 1
        if count < 2 ** min(over + 1, 16):
            return False
        del self._seen[key]
        return True

    def _make(
        self, inputs: Sequence[Array], scalars: Sequence[Any], shared: Any = ()
    ) -> tuple[FlatPlan, list[tuple[int, Any]]]:
        from .trace import Sym, Tracer, Untraceable

        body = dataclasses.replace(self.body, scalars=tuple(scalars))
        tracer = Tracer(body)
        memories: dict[int, Memory] = {}
        counts: dict[int, Storage] = {}
        syms = []
        for i, x in enumerate(inputs):
            storage = x._storage.memory
            if counts.setdefault(id(storage), x._storage) is not x._storage:
                raise Untraceable("inputs share memory whose writes are counted apart (.data)")
            if id(storage) not in memories:
                memories[id(storage)] = Memory(tracer, storage.nbytes, i)
            syms.append(Sym(x._spec, memories[id(storage)], x._offset))
        graph = tracer.trace(syms)
        passes.improve(graph)
        free = {n.index for step in graph.steps for n in step.scalars if type(n) is Number}
        free -= tracer.looked_at
        fixed = [(i, x) for i, x in enumerate(scalars) if i not in free]
        key = ""
        if not graph.exact and compiled_behind(graph):
            self._digest = self._digest or digest_of(self.body)
            key = key_of(self._digest, inputs, shared, fixed)
        plan = FlatPlan(graph, self._engine, inputs, key, self._decide(graph, key))
        plan.looked = self._engine.frames
        return plan, fixed

    def _decide(self, graph: Graph, key: str) -> bool:
        """Return whether steps run by loops now; exact plans take them up as they come."""
        if graph.exact or not compiled_behind(graph):
            return True
        switches = self._engine.programs.switches
        if self._engine.steady and switches.ask is None:  # its gateway journals no switches
            for bound in compiled_behind(graph):
                bound.wait()
            return True
        return switches.decide(graph, self.number, key)


def _unfit(inputs: Sequence[Array]) -> str:
    """Return why no plan can work on these very tensors; "" if one may."""
    for i, x in enumerate(inputs):
        if x._node is not None and type(x._node) is not tape.Leaf and not is_dead(x):
            return f"input {i} has a graph from before"
    return "inputs overlap that came from numpy" if overlap(inputs) else ""


def _fit(fixed: Sequence[tuple[int, Any]], scalars: Sequence[Any]) -> bool:
    """Return whether the numbers that a plan took for constants are what they were."""
    return all(scalars[i] is x or repr(scalars[i]) == repr(x) for i, x in fixed)
