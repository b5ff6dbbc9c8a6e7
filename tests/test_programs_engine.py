"""Programs in the engine: a Call gives what its commands give, and hostile bodies are refused."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from farspan.core import command as cmd
from farspan.core.command import Frame
from farspan.core.dtype import float32, int64
from farspan.core.errors import ProtocolError
from farspan.core.op import OPS, table
from farspan_worker.engine import Engine

table()
MUL = OPS["mul.Tensor"]
MUL_STATIC = MUL.bind(None, None)[1]
GATHER = OPS["gather"]


class Writer:
    """Writes one frame by hand."""

    def __init__(self) -> None:
        self.frame = Frame(0, 1)

    def add(
        self,
        opcode: int,
        ids: Sequence[int],
        static: Any = (),
        scalars: Sequence[Any] = (),
        mode: int = 0,
        number: int | None = None,
    ) -> Writer:
        number = len(self.frame.numbers) + 1 if number is None else number
        self.frame.add(opcode, ids, static, scalars, mode, number)
        return self

    def put(self, id_: int, array: Any) -> Writer:
        code = {np.float32: float32, np.int64: int64}[array.dtype.type].code
        self.frame.payloads.append(array.tobytes())
        return self.add(cmd.PUT, [id_], (code, array.shape, len(self.frame.payloads) - 1, 0))

    def get(self, id_: int) -> Writer:
        return self.add(cmd.GET, [id_], (id_, cmd.GET_BYTES, 0))


def squares(count: int = 2, outputs: Sequence[int] = (2,)) -> Writer:
    """Return a frame that defines program 0: x ** 4 in two steps."""
    w = Writer().add(cmd.DEFINE, list(outputs), (0, count, 1, 1))
    w.add(MUL.opcode, [0, 0, 1], MUL_STATIC, number=0)
    return w.add(MUL.opcode, [1, 1, 2], MUL_STATIC, number=1)


def test_a_call_runs_the_commands_and_keeps_only_its_outputs() -> None:
    x = np.arange(6, dtype=np.float32).reshape(2, 3)
    engine = Engine()
    w = squares().put(1, x).add(cmd.CALL, [1, 5], (0,)).get(5)
    (value,) = engine.handle(w.frame)
    assert np.frombuffer(value.data, np.float32).tolist() == (x**4).reshape(-1).tolist()
    assert engine.tensors.keys() == {1, 5}


def test_an_error_names_the_command_within_the_call() -> None:
    w = Writer().add(cmd.DEFINE, [2, 3], (0, 2, 2, 1))
    w.add(GATHER.opcode, [0, 1, 2], GATHER.bind(None, 0, None)[1], number=4)
    w.add(MUL.opcode, [0, 0, 3], MUL_STATIC, number=6)
    w.put(1, np.ones(3, np.float32)).put(2, np.array([7], np.int64))
    w.add(cmd.CALL, [1, 2, 10, 11], (0,), number=100).get(11)
    failed, value = Engine().handle(w.frame)
    assert failed.error.command == 104 and failed.error.kind == "ShapeError"
    assert np.frombuffer(value.data, np.float32).tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    "frame",
    [
        Writer().add(cmd.CALL, [1], (0,)),
        Writer().add(cmd.CALL, [1], ("0",)),
        squares(outputs=(0,)),
        squares(outputs=(3,)),
        squares(outputs=(2, 2)),
        squares(count=3),
        squares().add(cmd.CALL, [1], (0,)),
        squares().add(cmd.CALL, [1, 2], (0,)),
        squares().add(cmd.CALL, [1, 2], (0,), (1.0,)),
        Writer().add(cmd.DEFINE, [], (64, 1, 0, 0)).add(MUL.opcode, [0, 0, 1], MUL_STATIC),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 2)).add(MUL.opcode, [0, 0, 1], MUL_STATIC),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 0)).add(MUL.opcode, [0, 1, 2], MUL_STATIC),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 0)).add(MUL.opcode, [0, 0, 2], MUL_STATIC),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 0)).add(cmd.GET, [0], (1, 0, 0)),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 0)).add(cmd.FREE, [0]),
        Writer().add(cmd.DEFINE, [], (0, 1, 1, 0)).add(MUL.opcode, [0], MUL_STATIC),
    ],
)
def test_what_is_no_program_ends_the_session(frame: Writer) -> None:
    with pytest.raises(ProtocolError):
        Engine().handle(frame.frame)
