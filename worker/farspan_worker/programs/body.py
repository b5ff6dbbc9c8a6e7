"""Body: the commands of a program as a client defined them, over slots instead of ids.

Slots 0 .. inputs-1 are what a Call gives; each tensor that a command makes has the next one. What a
client sends is checked here once, so that a Call only has to look at its own ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.errors import FarspanError, ProtocolError
from farspan.core.op import Op, op_at

if TYPE_CHECKING:
    from farspan.core.command import Static

EXACT: Final = cmd.PROGRAM_EXACT


@dataclass(frozen=True, slots=True)
class Command:
    """One command of a body. `op` is None for a Backward."""

    op: Op | None
    mode: int
    slots: tuple[int, ...]  # inputs, then outputs; of a Backward as on the wire
    static: Static
    begin: int  # its numbers among the body's
    end: int
    relative: int  # its number, from that of the Call
    made: tuple[int, ...]  # the slots that it fills

    @property
    def read(self) -> tuple[int, ...]:
        """The slots that it looks at."""
        return tuple(s for s in self.slots if s not in self.made)


@dataclass(frozen=True, slots=True)
class Body:
    """A program as it was defined."""

    commands: tuple[Command, ...]
    inputs: int
    outputs: tuple[int, ...]  # slots that the caller gets, each made here
    slots: int
    scalars: tuple[Any, ...]  # the defaults, of all commands
    default_dtype: int
    exact: bool  # the results must be, bit for bit, those of the commands one by one
    dying: tuple[tuple[int, ...], ...]  # by command: slots that nothing looks at after it


def parse(
    ids: Sequence[int],
    static: Static,
    rows: Iterable[tuple[int, int, Sequence[int], Static, int, int]],
    scalars: Sequence[Any],
    default_dtype: int,
) -> Body:
    """Return the body of a Define.

    rows: (opcode, mode, slots, static, how many scalars, relative number) of each command.
    ProtocolError: it is not one that a client of ours sends.
    """
    _, count, inputs, flags = static
    commands: list[Command] = []
    known, at = inputs, 0
    for opcode, mode, slots, own, number_count, relative in rows:
        made = _made(opcode, mode, slots, own)
        looked_at = set(slots) - set(made)
        if any(not 0 <= s < known for s in looked_at):
            raise ProtocolError("a program reads a tensor that is not there yet")
        if made != tuple(range(known, known + len(made))):
            raise ProtocolError("a program makes its tensors out of order")
        known += len(made)
        op = op_at(opcode) if opcode >= cmd.FIRST_OPCODE else None
        commands.append(Command(op, mode, tuple(slots), own, at, at + number_count, relative, made))
        at += number_count
    if len(commands) != count:
        raise ProtocolError(f"a program of {count} commands has {len(commands)}")
    outputs = tuple(ids)
    if len(set(outputs)) != len(outputs) or any(not inputs <= s < known for s in outputs):
        raise ProtocolError("a program returns what it has not made")
    exact = bool(flags & EXACT)
    return Body(
        tuple(commands), inputs, outputs, known, tuple(scalars), default_dtype, exact,
        _dying(commands, inputs, outputs),
    )  # fmt: skip


def check_static(static: Static) -> tuple[int, int]:
    """Return the number of a program and how many commands it has, of a Define's arguments."""
    if len(static) != 4 or not all(type(x) is int for x in static):
        raise ProtocolError("a Define with the wrong arguments")
    program, count, inputs, flags = static
    if not 0 <= program < limits.PROGRAMS_MAX or not 0 < count <= limits.FRAME_COMMANDS_MAX:
        raise ProtocolError("a Define of a program that cannot be")
    if not 0 <= inputs <= limits.TENSORS_PER_COMMAND_MAX or flags & ~EXACT:
        raise ProtocolError("a Define of a program that cannot be")
    return program, count


def _made(opcode: int, mode: int, slots: Sequence[int], static: Static) -> tuple[int, ...]:
    """Return which slots a command of a body fills."""
    if opcode == cmd.BACKWARD:
        if len(static) != 2 or not all(type(x) is int for x in static):
            raise ProtocolError("a Backward with the wrong arguments")
        pairs = slots[2 * static[0] :]
        if not 0 < static[0] <= len(slots) // 2 or len(pairs) % 2:
            raise ProtocolError("a Backward with the wrong number of tensors")
        return tuple(pairs[1::2])
    if opcode < cmd.FIRST_OPCODE:
        raise ProtocolError(f"a program may not hold command {opcode}")
    op = op_at(opcode)
    if op.dynamic:
        raise ProtocolError(f"a program may not hold {op.name}, whose shape depends on values")
    try:
        flat = op.recipe(static).flat
    except (TypeError, ValueError, LookupError, FarspanError):
        raise ProtocolError(f"arguments that do not fit {op.name}") from None
    if flat > len(slots):
        raise ProtocolError(f"{op.name} names {len(slots)} tensors, not {flat}")
    return tuple(slots[flat:]) if mode & 3 == cmd.FUNCTIONAL else ()


def _dying(
    commands: Sequence[Command], inputs: int, outputs: Sequence[int]
) -> tuple[tuple[int, ...], ...]:
    """Return, by command, the slots made here that nothing looks at after it."""
    kept = set(outputs)
    last: dict[int, int] = {}
    for k, command in enumerate(commands):
        last.update(dict.fromkeys(command.slots, k))
    dying: list[list[int]] = [[] for _ in commands]
    for slot, k in last.items():
        if slot >= inputs and slot not in kept:
            dying[k].append(slot)
    return tuple(map(tuple, dying))
