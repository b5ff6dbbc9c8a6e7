"""Bodies of programs for tests: what a function of tensors issues on `local:`, as a Define."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import farspan
import numpy as np
from farspan.core import command as cmd
from farspan.core.command import Frame
from farspan_worker.engine import Engine
from farspan_worker.programs.body import Body, parse
from farspan_worker.programs.run import Program
from farspan_worker.store import Array, Poison, Storage


@dataclass
class Recorded:
    """A body, and the tensors that its inputs were before the function ran."""

    body: Body
    inputs: list[np.ndarray]
    specs: list[Any]
    engine: Engine

    def fresh(self, changed: dict[int, np.ndarray] | None = None) -> list[Array]:
        """Return new tensors with the inputs' first values (or other ones)."""
        made = []
        for i, (values, spec) in enumerate(zip(self.inputs, self.specs, strict=True)):
            span = np.empty(max(spec.span(), 1), spec.dtype.numpy)
            strides = tuple(s * spec.dtype.itemsize for s in spec.stride)
            window = np.ndarray(spec.shape, spec.dtype.numpy, span, 0, strides)
            window[...] = (changed or {}).get(i, values)
            made.append(Array(window, spec, Storage(span, self.engine.budget)))
        return made


def record(run: Callable[[], Any], session: Any, exact: bool = True) -> Recorded:
    """Run a function whose tensors are in a `local:` session; return what it issued.

    What is alive afterwards and was made by it are the outputs. Bytes it sends are inputs.
    """
    session.synchronize()
    engine: Engine = session.transport.engines[0]
    seen: list[tuple[Any, ...]] = []
    before = {i: np.array(t.array) for i, t in engine.tensors.items() if type(t) is Array}
    handle = engine.handle

    def watch(frame: Frame, transfers: Any = None) -> Any:
        at = number = 0
        for k, opcode in enumerate(frame.opcodes):
            ids = frame.ids[at : at + frame.counts[k]]
            at += frame.counts[k]
            scalars = frame.scalars[number : number + frame.scalar_counts[k]]
            number += frame.scalar_counts[k]
            seen.append((opcode, frame.modes[k], ids, frame.statics[k], scalars))
        return handle(frame, transfers)

    engine.handle = watch  # type: ignore[method-assign]
    try:
        kept = run()
        session.synchronize()
    finally:
        engine.handle = handle  # type: ignore[method-assign]
    seen = [row for row in seen if row[0] not in (cmd.FREE, cmd.GET)]
    puts = [row[2][0] for row in seen if row[0] == cmd.PUT]
    rows = [row for row in seen if row[0] != cmd.PUT]
    inputs, made = [], []
    for row in rows:
        for i in row[2]:
            if i in before or i in puts:
                if i not in inputs:
                    inputs.append(i)
            elif i not in made:
                made.append(i)
    slot = {i: k for k, i in enumerate([*inputs, *made])}
    outputs = [i for i in made if i in engine.tensors]
    body_rows = [
        (row[0], row[1], [slot[i] for i in row[2]], row[3], len(row[4]), k)
        for k, row in enumerate(rows)
    ]
    scalars = [x for row in rows for x in row[4]]
    static = (0, len(rows), len(inputs), cmd.PROGRAM_EXACT if exact else 0)
    body = parse([slot[i] for i in outputs], static, body_rows, scalars, 8)
    first = [before[i] if i in before else np.array(engine.tensors[i].array) for i in inputs]
    specs = [engine.tensors[i]._spec for i in inputs]
    del kept
    return Recorded(body, first, specs, engine)


def bits(arrays: Any) -> list[bytes]:
    """Return the elements of tensors as bytes."""
    return [np.ascontiguousarray(a.array).tobytes() for a in arrays]


def beside(recorded: Recorded, calls: int = 3, plan: bool = True) -> Program:
    """Run a body by its plan and command by command, as often, and compare all bits."""
    by_plan, one_by_one = Engine(), Engine()
    n = recorded.body.inputs
    mine, theirs = recorded.fresh(), recorded.fresh()
    program = Program(recorded.body, by_plan)
    one_by_one.tensors.update(enumerate(theirs, 1))
    for k in range(calls):
        for engine in (by_plan, one_by_one):
            engine.generator(0)
        results = program.run(mine, recorded.body.scalars)
        assert (results is not None) is plan, program._refused
        first = 1 + n + k * len(recorded.body.outputs)
        outs = list(range(first, first + len(recorded.body.outputs)))
        one_by_one.programs._interpret(
            recorded.body, [*range(1, n + 1), *outs], recorded.body.scalars
        )
        if results is None:
            return program
        expected = [one_by_one.tensors[i] for i in outs]
        assert not any(type(x) is Poison for x in expected)
        assert [x._spec for x in results] == [x._spec for x in expected]
        compare = _equal if recorded.body.exact else _close
        compare(results, expected)
        compare(mine, theirs)
        versions = [[x._storage.version for x in side] for side in (mine, theirs)]
        assert versions[0] == versions[1]
        if by_plan.generators:
            state = by_plan.generator(0).get_state().tobytes()
            assert state == one_by_one.generator(0).get_state().tobytes()
    return program


def _equal(mine: Any, theirs: Any) -> None:
    assert bits(mine) == bits(theirs)


def _close(mine: Any, theirs: Any) -> None:
    for a, b in zip(mine, theirs, strict=True):
        np.testing.assert_allclose(a.array, b.array, rtol=1e-4, atol=1e-5)


def session() -> Any:
    """Return a new `local:` session, to be used in a with statement."""
    return farspan.connect("local:")
