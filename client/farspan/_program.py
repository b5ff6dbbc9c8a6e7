"""Programs, as a client makes them: commands that were sealed into frames, over slots, not ids.

`Commands` gathers the columns of a run without its Puts and Frees; `Form` is the run over slots, so
that two runs that do the same are equal; `Program` is a form with a number in a session, which a
Define tells the worker. Nothing here sends or waits. Read `_replay.py` or `_compile.py` next.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict, deque
from operator import itemgetter
from typing import TYPE_CHECKING, Any

from ._native import fast
from .core import command as cmd
from .core import limits
from .core.command import Frame
from .core.dtype import Defaults
from .core.op import op_at

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ._sites import Site
    from .core.command import Static


class Commands:
    """The columns of one run of commands, and apart from them what came and went meanwhile."""

    def __init__(self) -> None:
        self.opcodes: list[int] = []
        self.modes: list[int] = []
        self.counts: list[int] = []
        self.ids: list[int] = []
        self.statics: list[Static] = []
        self.scalar_counts: list[int] = []
        self.scalars: list[Any] = []
        self.numbers: list[int] = []
        self.sites: list[Any] = []
        #: (id, static, payload, number, site) of each Put
        self.puts: list[tuple[int, Static, Any, int, Any]] = []
        self.put_bytes = 0  # of their payloads
        self.freed: list[int] = []
        self.default_dtype = -1
        self.mixed = False  # its commands have several default dtypes
        self.found: Any = None  # what `_replay.py` knows of it, once it is complete

    def __len__(self) -> int:
        return len(self.opcodes)

    def forget_puts(self) -> None:
        """Keep no bytes of commands that have left."""
        self.puts, self.put_bytes = [], 0

    def hash(self) -> int:
        """Return a number that equal runs share."""
        return hash((tuple(self.opcodes), tuple(self.counts)))

    def add(self, frame: Frame, sites: Sequence[Any], begin: int = 0, end: int = -1) -> None:
        """Take over the commands `begin` to `end` of a frame."""
        opcodes = frame.opcodes
        end = len(opcodes) if end < 0 else end
        if self.default_dtype not in (-1, frame.default_dtype):
            self.mixed = True
        self.default_dtype = frame.default_dtype
        ids = sum(frame.counts[:begin])
        scalars = sum(frame.scalar_counts[:begin])
        while begin < end:
            stop = _next_other(opcodes, begin, end)
            if stop > begin:
                id_count = sum(frame.counts[begin:stop])
                scalar_count = sum(frame.scalar_counts[begin:stop])
                self.opcodes += opcodes[begin:stop]
                self.modes += frame.modes[begin:stop]
                self.counts += frame.counts[begin:stop]
                self.statics += frame.statics[begin:stop]
                self.scalar_counts += frame.scalar_counts[begin:stop]
                self.numbers += frame.numbers[begin:stop]
                self.sites += sites[begin:stop]
                self.ids += frame.ids[ids : ids + id_count]
                self.scalars += frame.scalars[scalars : scalars + scalar_count]
                ids, scalars = ids + id_count, scalars + scalar_count
            if stop < end:
                mine = frame.ids[ids : ids + frame.counts[stop]]
                ids += frame.counts[stop]
                if opcodes[stop] == cmd.FREE:
                    self.freed += mine
                else:
                    static = frame.statics[stop]
                    payload = frame.payloads[static[2]] if static[2] >= 0 else None
                    self.put_bytes += len(payload) if payload is not None else 0
                    self.puts.append((mine[0], static, payload, frame.numbers[stop], sites[stop]))
            begin = stop + 1


def _next_other(opcodes: list[int], begin: int, end: int) -> int:
    """Return where the next Free or Put is, or the end."""
    for other in (cmd.FREE, cmd.PUT):
        try:
            end = opcodes.index(other, begin, end)
        except ValueError:
            continue
    return end


#: Bytes on the wire, at most: of a command's columns, of an id, of a number, of a static's value.
_COMMAND_BYTES, _ID_BYTES, _SCALAR_BYTES, _VALUE_BYTES = 40, 4, 18, 9


def _is_long(run: Commands) -> bool:
    """Return whether a Define of the run may be more than one message can hold.

    A Define cannot be split, so this is known before one is made.
    """
    statics = {id(static): static for static in run.statics}
    size = _COMMAND_BYTES * len(run) + _ID_BYTES * 2 * len(run.ids)  # its outputs, too
    size += _SCALAR_BYTES * len(run.scalars) + sum(map(_bytes_of, statics.values()))
    size += sum([mode.bit_length() for mode in run.modes]) // 8
    return size > limits.FRAME_BYTES_MAX


def _bytes_of(value: Any) -> int:
    if type(value) is tuple:
        return _VALUE_BYTES + sum(map(_bytes_of, value))
    return _VALUE_BYTES + (4 * len(value) if type(value) is str else 0)


class Form:
    """A run over slots: what it reads first, then what it makes, each in order of appearance.

    `refusal` says why no program can be made of it; "" if one can.
    """

    def __init__(self, run: Commands) -> None:
        self.opcodes, self.modes, self.counts = run.opcodes, run.modes, run.counts
        self.statics, self.scalar_counts = run.statics, run.scalar_counts
        self.scalars = run.scalars
        self.default_dtype = run.default_dtype
        first = run.numbers[0] if run.numbers else 0
        self.relative = [n - first for n in run.numbers]
        self.sites = run.sites
        self.refusal = ""
        read: dict[int, int] = {}
        made: dict[int, int] = {}
        at = 0
        for opcode, mode, count, static in zip(
            run.opcodes, run.modes, run.counts, run.statics, strict=True
        ):
            ids = run.ids[at : at + count]
            own = self._made(opcode, mode, ids, static)
            fresh = set(own)
            for k, i in enumerate(ids):
                if i not in fresh and i not in made:
                    read.setdefault(i, at + k)
            made.update(zip(own, (at + ids.index(i) for i in own), strict=True))
            at += count
        self.inputs = len(read)
        self.first_at = [*read.values(), *made.values()]
        slot_of = {i: slot for slot, i in enumerate((*read, *made))}
        self.slots = [slot_of[i] for i in run.ids]
        if len(run) > limits.PROGRAM_COMMANDS_MAX or self.inputs > limits.TENSORS_PER_COMMAND_MAX:
            self.refusal = f"it is too long: {len(run)} commands on {self.inputs} tensors"
        if max(len(run.ids), len(run.scalars)) > limits.FLUSH_IDS or run.mixed or _is_long(run):
            self.refusal = self.refusal or "no one frame can hold it"
        if not (run.ids and self.first_at):
            self.refusal = self.refusal or "it does nothing"
            return
        self._bind = itemgetter(*self.first_at, 0)  # always a tuple
        self._spread = itemgetter(*self.slots, 0)
        self._repr_scalars = repr(self.scalars)

    def set_scalars(self, scalars: list[Any]) -> None:
        """Let these be the numbers of a Call that says none."""
        self.scalars, self._repr_scalars = scalars, repr(scalars)

    def _made(self, opcode: int, mode: int, ids: list[int], static: Static) -> list[int]:
        """Return the ids that a command makes."""
        if opcode >= cmd.FIRST_OPCODE:
            op = op_at(opcode)
            if op.dynamic:
                self.refusal = f"{op.base}() gives a tensor whose size depends on values"
            if mode & 3 != cmd.FUNCTIONAL:
                return []
            return ids[op.recipe(static).flat :]
        if opcode == cmd.BACKWARD:
            return ids[2 * static[0] + 1 :: 2]
        self.refusal = self.refusal or f"command {opcode} is no part of programs"
        return []

    def bind(self, ids: list[int]) -> tuple[int, ...] | None:
        """Return the id of each slot if these are the ids of such a run, in order; else None."""
        if len(ids) != len(self.slots):
            return None
        if fast:
            return fast.bind(ids, self.first_at, self.slots)  # type: ignore[no-any-return]
        return self.bind_plainly(ids)

    def bind_plainly(self, ids: list[int]) -> tuple[int, ...] | None:
        """Do in Python what `bind` does with as many ids as there are slots."""
        found = self._bind(ids)
        if self._spread(found) != (*ids, found[0]):
            return None
        found = found[:-1]
        return found if len(set(found)) == len(found) else None

    def same_scalars(self, scalars: list[Any]) -> bool:
        """Return whether these numbers are its own, bit for bit: 0.0 equals -0.0."""
        return scalars == self.scalars and (0 not in scalars or repr(scalars) == self._repr_scalars)

    def matches(self, run: Commands) -> bool:
        """Return whether the run's commands are its own, apart from ids and numbers."""
        return (
            self.opcodes == run.opcodes
            and self.counts == run.counts
            and self.modes == run.modes
            and self.statics == run.statics
            and self.scalar_counts == run.scalar_counts
            and self.default_dtype == run.default_dtype
        )

    def continues(self, run: Commands, begin: int) -> bool:
        """Return whether the run's commands from `begin` on are its own, and it goes on so."""
        end = len(run)
        return (
            self.opcodes[begin:end] == run.opcodes[begin:]
            and self.counts[begin:end] == run.counts[begin:]
            and self.modes[begin:end] == run.modes[begin:]
            and self.statics[begin:end] == run.statics[begin:]
            and self.default_dtype in (run.default_dtype, -1)
        )

    def stands_at(self, frame: Frame, begin: int, end: int) -> bool:
        """Return whether these commands of a frame are its own, and their numbers as far apart."""
        return (
            frame.opcodes[begin:end] == self.opcodes
            and frame.counts[begin:end] == self.counts
            and frame.modes[begin:end] == self.modes
            and frame.statics[begin:end] == self.statics
            and frame.scalar_counts[begin:end] == self.scalar_counts
            and frame.default_dtype == self.default_dtype
            and self.relative[-1] == end - begin - 1
            and frame.numbers[end - 1] - frame.numbers[begin] == end - begin - 1
        )

    def whole(self, run: Commands) -> bool:
        """Return whether a run that matches is complete, and its numbers are as far apart."""
        if len(run) != len(self.opcodes):
            return False
        first = run.numbers[0]
        last = run.numbers[-1] - first
        return self.relative[-1] == last and (
            last == len(run) - 1 or self.relative == [n - first for n in run.numbers]
        )

    @property
    def span(self) -> int:
        """How many numbers a Call takes."""
        return self.relative[-1] + 1


class Program:
    """A form with outputs, and its number on a device of a session while the worker knows it."""

    def __init__(self, form: Form, outputs: Iterable[int], flags: int) -> None:
        self.form = form
        self.outputs = tuple(sorted(outputs))
        self.slots = frozenset(self.outputs)
        self._named = itemgetter(*range(form.inputs), *self.outputs, 0, 0)  # always a tuple
        self.flags = flags
        self.number = -1  # until it is defined, and once another one has taken its number
        self.told = False  # whether the Define of a compiled function is on its way
        self.calls = 0

    @property
    def is_wide(self) -> bool:
        """Whether a Call would name more tensors than one command may."""
        return self.form.inputs + len(self.outputs) > limits.TENSORS_PER_COMMAND_MAX

    def named(self, ids: tuple[int, ...]) -> tuple[int, ...]:
        """Return what a Call names, given the id of each slot: inputs, then outputs."""
        return self._named(ids)[:-2]  # type: ignore[no-any-return]

    def define(self, device: int) -> Frame:
        """Return the frame that tells the worker."""
        form = self.form
        count = len(form.opcodes)
        return Frame(
            device,
            default_dtype=form.default_dtype,
            opcodes=[cmd.DEFINE, *form.opcodes],
            modes=[0, *form.modes],
            counts=[len(self.outputs), *form.counts],
            ids=[*self.outputs, *form.slots],
            statics=[(self.number, count, form.inputs, self.flags), *form.statics],
            scalar_counts=[0, *form.scalar_counts],
            scalars=list(form.scalars),
            numbers=[0, *form.relative],
        )


class Numbers:
    """The program numbers of one device: the one that was used longest ago is given anew.

    Nothing here keeps a program. The numbers of those that are gone are for `take_gone`, which
    comes before them being given anew: a Call of one may still be on its way.
    """

    def __init__(self) -> None:
        self._owners: OrderedDict[int, weakref.ref[Program]] = OrderedDict()
        self._unused = list(range(limits.PROGRAMS_MAX))[::-1]
        #: References of programs that are gone. They go at any time: an append is one atomic step.
        self.gone: deque[weakref.ref[Program]] = deque()
        self.leaving: list[int] = []  # numbers that the worker is to hear of

    def __len__(self) -> int:
        return len(self._owners)

    def use(self, program: Program) -> bool:
        """Return whether the program has a number already; after this it has one."""
        if program.number >= 0:
            self._owners.move_to_end(program.number)
            return True
        if self._unused:
            number = self._unused.pop()
        else:
            number, reference = self._owners.popitem(last=False)
            other = reference()
            if other is not None and other.number == number:
                other.number = -1
        program.told = False  # first: after a Ctrl-C the worker has nothing by that number
        program.number = number
        self._owners[number] = weakref.ref(program, self.gone.append)
        return False

    def take_gone(self) -> tuple[int, ...]:
        """Return the numbers of programs that are gone; `give` them when the worker was told."""
        gone = [self.gone.popleft() for _ in range(len(self.gone))]
        known = set(map(id, gone))
        for number in [n for n, reference in self._owners.items() if id(reference) in known]:
            del self._owners[number]
            self.leaving.append(number)
        return tuple(self.leaving)

    def give(self, numbers: Sequence[int]) -> None:
        """Let these be used again: a Define that comes now is behind all Calls of the old ones."""
        self.leaving = [n for n in self.leaving if n not in numbers]
        self._unused += numbers


def undefine(device: int, numbers: Sequence[int]) -> Frame:
    """Return the frame that tells the worker to forget programs."""
    return Frame(  # on `local:` its default dtype is everybody's while it runs
        device, default_dtype=Defaults.dtype.code, opcodes=[cmd.UNDEFINE], modes=[0], counts=[0],
        statics=[tuple(numbers)], scalar_counts=[0], numbers=[0],
    )  # fmt: skip


class CallSite:
    """Where the commands of a Call were issued: it stands among a frame's sites at the Call's."""

    __slots__ = ("lines", "relative", "sites")

    def __init__(
        self, relative: Sequence[int], sites: Sequence[Site | None], lines: Any = None
    ) -> None:
        self.relative, self.sites = relative, sites
        #: of each Backward, by relative number: forward lines by relative number
        self.lines: dict[int, dict[int, Any]] = lines or {}

    def at(self, number: int) -> Site | None:
        """Return the line of a command, by its number from the Call's; None: not one of these."""
        for have, site in zip(self.relative, self.sites, strict=True):
            if have == number:
                return site
        return None

    def forward(self, number: int, forward: int) -> Any:
        """Return the line whose derivative failed in the Backward `number`; both from the Call."""
        return self.lines.get(number, {}).get(forward)
