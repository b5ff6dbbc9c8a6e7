"""Programs of one session: defined once, then called.

A Call means exactly what its body's commands mean, sent one by one. Interpreting them is what is
always right; a plan is the quick way, where there is one.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from farspan.core.dtype import DTYPES, Defaults
from farspan.core.errors import ProtocolError

from .body import Body, check_static, parse

if TYPE_CHECKING:
    from farspan.core.command import Static

    from ..engine import Engine


class Programs:
    """The programs that a session has defined on one device."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._bodies: dict[int, Body] = {}
        self.calls = 0

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
        self._bodies[program] = parse(ids, static, commands, scalars, default_dtype)

    def call(self, ids: Sequence[int], static: Static, scalars: Sequence[Any]) -> None:
        """Run a program: `ids` are its inputs, then the new ids of its outputs."""
        body = self._bodies.get(static[0]) if len(static) == 1 else None
        if body is None:
            raise ProtocolError(f"a Call of a program {static} that was not defined")
        if len(ids) != body.inputs + len(body.outputs):
            raise ProtocolError(f"a Call with {len(ids)} tensors")
        if scalars and len(scalars) != len(body.scalars):
            raise ProtocolError(f"a Call with {len(scalars)} numbers, not {len(body.scalars)}")
        self.calls += 1
        self._interpret(body, ids, scalars or body.scalars)

    def close(self) -> None:
        """Forget all programs and what their plans hold."""
        self._bodies.clear()

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
