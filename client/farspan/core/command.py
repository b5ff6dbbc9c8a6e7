"""Commands, frames and events as Python objects; `farspan.wire` turns them into bytes.

A frame is a batch of commands for one device, kept as columns: one list per field instead of one
object per command. It is the unit of sending, journalling and acknowledging.
Nothing here does I/O or knows an operator's meaning; read `core/op.py` for that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from .dtype import float32

# Opcodes below FIRST_OPCODE are commands of the protocol; from there on, rows of the op table.
FREE: Final = 0  # ids: tensors and generators to forget
GET: Final = 1  # ids: (tensor,)        static: (request, kind, device), kind as below
PUT: Final = 2  # ids: (out,)           static: (dtype code, shape, payload index | -1, transfer)
BACKWARD: Final = 3  # ids: roots, their gradients, then (stop, out) pairs; static: (roots, keep)
#              Without pairs and `keep` it lets go of what the tape saved on the way to the roots.
#              keep: 1 to let the saved values be; plus CHECK_NAN to fail at a gradient with NaN.
DEFINE: Final = 4  # ids: the slots of a program's outputs
#              static: (program, commands, inputs, flags). The next `commands` commands are its
#              body, over slots instead of ids: stored, not run. Their numbers start at the Call's.
CALL: Final = 5  # ids: a program's inputs, then a new id for each output  static: (program,)
#              scalars: none, or in place of all of the body's
LINK: Final = 6  # ids: (old, new): new takes old's place in the graph  static: ()
GROW: Final = 7  # ids: (tensor,): its memory is at least so long, and written to  static: (bytes,)
UNDEFINE: Final = 8  # ids: ()  static: programs to forget, with what their plans keep
FIRST_OPCODE: Final = 16

CHECK_NAN: Final = 2
#: Of a Define: the results must be, bit for bit, what the commands give one by one.
PROGRAM_EXACT: Final = 1

GET_BYTES: Final = 0  # answer the client with the bytes
GET_SPEC: Final = 1  # answer the client with dtype and shape only
GET_SEND: Final = 2  # send the bytes to session device `device` as transfer `request`
GET_MEMORY: Final = 3  # answer with the session's bytes there: int64 (now, at most, limit)
GET_MEMORY_ANEW: Final = 4  # and begin a new count of the most
GET_PROGRAM: Final = 5  # ids: (); `device` is a program: answer with uint8 text, JSON of its plan
GET_TRACE: Final = 6  # ids: (): from now on note when commands run; answer as the next
GET_TRACE_END: Final = 7  # ids: (): stop it; answer with uint8 text, JSON of what was noted
GET_RELEASE: Final = 8  # ids: (): give back what is kept for later; answer as GET_MEMORY
GET_IDS: Final = 9  # ids: (): answer with int64, the ids that a Free of a new client may name

# The low two bits of a command's `mode`; the rest is the mask of inputs that need a gradient.
FUNCTIONAL: Final = 0  # outputs are new ids
INPLACE: Final = 1  # the result is stored into the first tensor
OUT: Final = 2  # the last ids name tensors that take the results

#: One operator argument as it travels. Tensors travel as ids, Python numbers as `scalars`;
#: what is left is static: it selects the kernel and the metadata rule and repeats often.
Static = tuple[Any, ...]  # of None | bool | int | str | tuple of these
Scalar = bool | int | float | complex


@dataclass(slots=True)
class Frame:
    """A batch of commands for one device, in columns.

    Command ``k`` has opcode ``opcodes[k]``, ``modes[k]``, the next ``counts[k]`` entries of ``ids``
    (inputs, then outputs), the arguments ``statics[k]`` and the next entries of ``scalars``, as
    many as ``scalar_counts[k]`` says. Its number in the session is ``numbers[k]``.
    """

    device: int  # index of the session's device
    sequence: int = 0  # position in the session's stream of frames, from 1; all devices together
    epoch: int = 0  # fences streams that were replaced
    default_dtype: int = float32.code  # of the dtype that Python floats become
    opcodes: list[int] = field(default_factory=list)
    modes: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=list)
    ids: list[int] = field(default_factory=list)
    statics: list[Static] = field(default_factory=list)
    scalar_counts: list[int] = field(default_factory=list)
    scalars: list[Scalar] = field(default_factory=list)
    numbers: list[int] = field(default_factory=list)
    payloads: list[bytes | memoryview] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.opcodes)

    def add(
        self,
        opcode: int,
        ids: Sequence[int],
        static: Static = (),
        scalars: Sequence[Scalar] = (),
        mode: int = 0,
        number: int = 0,
    ) -> None:
        """Append one command."""
        self.opcodes.append(opcode)
        self.modes.append(mode)
        self.counts.append(len(ids))
        self.ids += ids
        self.statics.append(static)
        self.scalar_counts.append(len(scalars))
        self.scalars += scalars
        self.numbers.append(number)

    def cut(self, count: int) -> None:
        """Keep the first `count` commands; a command of which columns are missing goes too."""
        ids, scalars = sum(self.counts[:count]), sum(self.scalar_counts[:count])
        puts = zip(self.opcodes[:count], self.statics[:count], strict=True)
        payloads = sum(op == PUT and static[2] >= 0 for op, static in puts)
        for column in (self.opcodes, self.modes, self.counts, self.statics, self.scalar_counts):
            del column[count:]
        del self.numbers[count:], self.ids[ids:], self.scalars[scalars:], self.payloads[payloads:]

    def split(self, count: int) -> tuple[Frame, Frame]:
        """Return a frame of the first `count` commands and one of the others."""
        first, rest = self._copy(), self._copy()
        first.cut(count)
        payloads = len(first.payloads)
        for column in (rest.opcodes, rest.modes, rest.counts, rest.statics, rest.scalar_counts):
            del column[:count]
        del rest.numbers[:count], rest.ids[: len(first.ids)], rest.scalars[: len(first.scalars)]
        del rest.payloads[:payloads]
        for k, (opcode, static) in enumerate(zip(rest.opcodes, rest.statics, strict=True)):
            if opcode == PUT and static[2] >= 0:
                rest.statics[k] = (*static[:2], static[2] - payloads, static[3])
        return first, rest

    def _copy(self) -> Frame:
        lists = (getattr(self, name) for name in self.__slots__[4:])
        return Frame(self.device, self.sequence, self.epoch, self.default_dtype, *map(list, lists))

    def transfers(self) -> list[int]:
        """Return the transfers this frame reads: it can run once all of them have arrived."""
        if PUT not in self.opcodes:
            return []
        puts = (s for op, s in zip(self.opcodes, self.statics, strict=True) if op == PUT)
        return [static[3] for static in puts if static[2] < 0]


@dataclass(slots=True, frozen=True)
class ErrorInfo:
    """An error that happened in a worker, as data."""

    kind: str  # a name in errors.BY_NAME
    message: str
    command: int  # number of the command that failed first
    forward: int = -1  # of a Backward: number of the command whose derivative failed


@dataclass(slots=True)
class Acked:
    """Frames up to `applied` have run; frames up to `durable` survive the gateway."""

    applied: int
    durable: int


@dataclass(slots=True)
class Value:
    """The answer to a Get: a tensor's bytes (C order) or only its spec; or the error it holds.

    `data` is None when the bytes exceed INLINE_BYTES_MAX: they come as bulk transfer `request`, or
    lie at `position` of the memory that client and worker of `device` share.
    Inside a process `data` may be any buffer; an engine always fills it and its shell decides.
    """

    request: int
    dtype: int
    shape: tuple[int, ...]
    data: bytes | memoryview | None = None
    error: ErrorInfo | None = None
    position: int | None = None
    device: int = 0  # index of the session's device, when `data` is None


@dataclass(slots=True, frozen=True)
class Failed:
    """A command failed; its outputs are poisoned. Reported once, however much depends on it."""

    error: ErrorInfo


@dataclass(slots=True, frozen=True)
class Send:
    """Tensor bytes on their way to another device of the session; never leaves the workers.

    It becomes the transfer that a Put on that device reads. With `error` the Put poisons.
    """

    device: int
    transfer: int
    dtype: int
    shape: tuple[int, ...]
    data: bytes | memoryview | None = None
    error: ErrorInfo | None = None


@dataclass(slots=True, frozen=True)
class Lost:
    """The session cannot go on as it was: its worker, lease or stream ended. Always the last."""

    kind: str
    message: str
    command: int = -1  # what it died of, if one command is known


@dataclass(slots=True, frozen=True)
class NumericsChange:
    """The session went on with workers of another numerics key, from a command on."""

    number: int  # of the session's changes, from 1
    command: int  # the first one that the new workers ran; 0 while there is none
    frame: int  # the last one before it
    before: tuple[str, ...] = ()  # keys, without repetitions
    after: tuple[str, ...] = ()


@dataclass(slots=True, frozen=True)
class Changed:
    """All changes of a session's numerics so far. known: they are no news to this client."""

    changes: tuple[NumericsChange, ...]
    known: bool = False


Event = Acked | Value | Failed | Send | Lost | Changed
