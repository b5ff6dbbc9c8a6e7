"""Where commands gather: a lane for each device, and claims on the engine's tensors.

What an operation pays is here: one tuple appended to one list. No lock is taken for it: an append
is one step for other threads and for Ctrl-C. `seal` turns the tuples into a frame's columns, at C
speed; `_session.py` says when.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from itertools import accumulate, chain, islice, repeat
from typing import TYPE_CHECKING, Any

from ._native import fast
from .core import command as cmd
from .core import limits
from .core.command import Frame
from .core.dtype import Defaults

if TYPE_CHECKING:
    from ._session import Session
    from ._tensor import Tensor
    from .core.spec import Spec
    from .core.tape import Node

#: Opcode, mode, ids (inputs, then outputs), static, scalars, number, and the line that issued it.
#: Of a Put whose bytes ride along, the static has the bytes in the place of their index.
Command = tuple[int, int, tuple[int, ...], cmd.Static, tuple[Any, ...], int, Any]
#: A frame with the line that issued each command.
Sealed = tuple[Frame, list[Any]]


class Lane:
    """What gathers for one device of a session."""

    __slots__ = (
        "add", "commands", "device", "due", "free_now", "freed", "held", "ids", "numbers",
        "sealed_number", "seen_number", "session", "work",
    )  # fmt: skip

    def __init__(self, session: Session, device: int) -> None:
        self.session = session
        self.device = device
        self.ids = session._ids
        self.numbers = session._numbers  # while a function is traced, others: see `take_numbers`
        self.commands: list[Command] = []  # one list for ever: whoever has it may append to it
        self.add = self.commands.append
        #: How much has gathered, in small commands, and from where on the session looks at it.
        #: Threads may overwrite each other's counts; that only moves the look by a few commands.
        self.work = 0
        self.due = 0
        self.sealed_number = 0  # of the last command before `commands`
        self.seen_number = -1  # that number when the flusher looked last
        self.freed: deque[int] = deque()  # ids of tensors that nobody claims any more
        self.free_now = False  # much memory waits to be freed
        self.held: dict[int, int] = {}  # id -> bytes, 0 for views; of all claims, for `stats`

    def seal(self, all_frees: bool) -> tuple[Sealed, int]:
        """Return the first commands as a frame, with ids to free, and how many commands these are.

        They stay in `commands`: whoever takes the frame deletes them, in one step with that.
        all_frees: also few ids, of small tensors, are freed.
        """
        # Ids are taken before commands are: so every command that names one is among these.
        frees = self._take_frees() if all_frees or len(self.freed) >= limits.FREE_IDS else []
        try:
            waiting = len(self.commands)
            taken = self.commands[: limits.GROWN_COMMANDS]
            whole = frees and len(taken) == waiting
            sealed = columns(self.device, [*taken, self._free(frees)] if whole else taken)
            frame = sealed[0]
            if max(len(frame.ids), len(frame.scalars)) > limits.FLUSH_IDS:
                taken, whole = taken[: _most(taken)], False
                sealed = columns(self.device, taken)
            if not whole:
                self.freed.extendleft(reversed(frees))
            return sealed, len(taken)
        except BaseException:  # Ctrl-C
            self.freed.extend(frees)
            raise

    def grows(self) -> bool:
        """Return whether small commands may go on gathering, as the worker has frames to run.

        Not with several devices: acks are of all of them, and another than this may be behind.
        """
        count, session = len(self.commands), self.session
        return (
            len(session._in_flight) >= limits.GROWN_FRAMES
            and count < limits.GROWN_COMMANDS
            and self.work - count < limits.IDLE_COMMANDS  # no payloads and no large results
            and len(session.lanes) == 1
            and session.debug is None
        )

    def last_number(self) -> int:
        """Return the number of the last command; one that cannot fail has none."""
        for command in reversed(self.commands):
            if command[5]:
                return command[5]
        return self.sealed_number

    def free(self) -> None:
        """Append a command that frees what waits for it."""
        frees = self._take_frees()
        if frees:
            self.add(self._free(frees))

    def _free(self, ids: list[int]) -> Command:
        """Return the command that frees tensors; it cannot fail, so it has no number."""
        deque(map(self.held.pop, ids, repeat(None)), maxlen=0)
        return cmd.FREE, 0, tuple(ids), (), (), 0, None

    def _take_frees(self) -> list[int]:
        """Return ids to free. If a Ctrl-C comes now the worker may keep a few tensors too long."""
        self.free_now = False
        freed = self.freed
        taken: list[int] = []
        try:
            taken.extend(islice(iter(freed.popleft, None), limits.FREE_IDS_MAX))
        except IndexError:
            pass  # there are no more; another thread takes some too: each id once
        return taken


def columns(device: int, commands: list[Command]) -> Sealed:
    """Return the frame of some commands, and their lines. Nothing else makes columns of commands.

    The default dtype is that of now: who changes it lets all sessions seal what they have before.
    """
    frame = Frame(device, default_dtype=Defaults.dtype.code)
    if not commands:
        return frame, []
    found: Any = (fast.columns if fast else transposed)(commands)
    frame.opcodes, frame.modes, frame.counts, frame.ids, frame.statics = found[:5]
    frame.scalar_counts, frame.scalars, frame.numbers, sites = found[5:]
    opcodes, statics = frame.opcodes, frame.statics
    if cmd.PUT in opcodes:
        for k, (opcode, static) in enumerate(zip(opcodes, statics, strict=True)):
            if opcode == cmd.PUT and type(static[2]) is bytes:
                statics[k] = (*static[:2], len(frame.payloads), 0)
                frame.payloads.append(static[2])
    return frame, sites


def transposed(commands: list[Command]) -> tuple[list[Any], ...]:
    """Return the columns of some commands, one at least, in a frame's order, and their lines."""
    opcodes, modes, ids, statics, scalars, numbers, sites = map(list, zip(*commands, strict=True))
    counts, scalar_counts = list(map(len, ids)), list(map(len, scalars))
    flat, numbers_of = list(chain.from_iterable(ids)), list(chain.from_iterable(scalars))
    return opcodes, modes, counts, flat, statics, scalar_counts, numbers_of, numbers, sites


def _most(commands: list[Command]) -> int:
    """Return how many of the commands a frame takes: it holds so many, and so many ids."""
    most = min(len(commands), limits.GROWN_COMMANDS)
    for at in (2, 4):
        if sum([len(c[at]) for c in commands[:most]]) > limits.FLUSH_IDS:
            totals = list(accumulate([len(c[at]) for c in commands[:most]]))
            most = max(1, bisect_right(totals, limits.FLUSH_IDS))
    return most


class Claim:
    """An id that a lane's device holds; when this goes, the lane frees it."""

    __slots__ = ("__weakref__", "id", "lane")

    id: int
    lane: Lane

    def __del__(self) -> None:
        # Runs at any time, inside of other calls too: a deque's append is one atomic step.
        self.lane.freed.append(self.id)


class Ref(fast.Claim if fast else Claim):  # type: ignore[misc]
    """A counted claim on an engine's tensor; when it goes, so does the tensor."""

    __slots__ = ()

    id: int
    lane: Lane

    def __new__(cls, session: Session, device: int, id_: int, nbytes: int = 0) -> Ref:
        # Ops of small results do the same by themselves: see `_dispatch.py`.
        ref = object.__new__(LargeRef if nbytes >= limits.FREE_BYTES else Ref)
        ref.id = id_
        ref.lane = lane = session.lanes[device]
        lane.held[id_] = nbytes
        return ref

    @property
    def session(self) -> Session:
        return self.lane.session

    @property
    def device(self) -> int:
        """The number of the session's device."""
        return self.lane.device


class LargeRef(Ref):
    """A claim on so much memory that the next command shall free it."""

    __slots__ = ()

    def __del__(self) -> None:
        lane = self.lane
        lane.freed.append(self.id)
        lane.free_now = True
        lane.due = 0


class Fields:
    """What every operation reads and sets of a tensor: slots, which `_fast.c` finds, too."""

    __slots__ = ("_base", "_node", "_ref", "_spec")

    _ref: Ref
    _spec: Spec
    _node: Node | None
    _base: Tensor | None
