"""What leaves a client in place of a frame: parts of it as they came, and Calls.

`_replay.py` decides what becomes a Call. Here columns are cut and joined, at C speed: all that
leaves for one frame leaves as one, unless a Define or another default dtype stands between.
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Any

from ._native import fast
from ._program import CallSite
from .core import command as cmd
from .core import limits
from .core.command import Frame

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from ._gather import Lane, Sealed
    from ._program import Commands


Ids = tuple["Collection[int]", ...]  # lists or sets of ids


class Outgoing:
    """What leaves in place of one frame, in order."""

    def __init__(self, frame: Frame, sites: list[Any]) -> None:
        self.frame, self.sites = frame, sites
        self._sealed: list[Sealed] = []
        self._begin = self._end = 0  # of what is to be taken as it came
        self._built = False  # the last one was made here, so that it may grow
        self._riding = 0  # bytes of its payloads
        #: Where the ids and the numbers of each command begin, and the end.
        self.ids_at = list(accumulate(frame.counts, initial=0))
        self.scalars_at = list(accumulate(frame.scalar_counts, initial=0))
        self._last: dict[int, int] | None = None
        self._freed: list[int] | None = None

    def take(self, begin: int, end: int) -> None:
        """Send these commands of the frame as they came."""
        if self._begin == self._end:
            self._begin = begin
        self._end = end

    @property
    def last_use(self) -> dict[int, int]:
        """Where in the frame's ids each id stands last, if the frees do not count."""
        if self._last is None:
            ids, opcodes, at = self.frame.ids, self.frame.opcodes, self.ids_at
            self._last = {}
            begin = 0
            for _ in range(opcodes.count(cmd.FREE)):
                free = opcodes.index(cmd.FREE, begin)
                mine = range(at[begin], at[free])
                self._last.update(zip(ids[mine.start : mine.stop], mine, strict=True))
                begin = free + 1
            self._last.update(zip(ids[at[begin] :], range(at[begin], len(ids)), strict=True))
        return self._last

    def used_after(self, end: int) -> list[list[int]]:
        """Return what the frame's commands from `end` on name, if the Frees do not count."""
        ids, opcodes, at = self.frame.ids, self.frame.opcodes, self.ids_at
        used = []
        for _ in range(opcodes[end:].count(cmd.FREE)):
            free = opcodes.index(cmd.FREE, end)
            used.append(ids[at[end] : at[free]])
            end = free + 1
        used.append(ids[at[end] :])
        return used

    @property
    def freed(self) -> list[int]:
        """What the frame's Frees name."""
        if self._freed is None:
            ids, opcodes, at = self.frame.ids, self.frame.opcodes, self.ids_at
            self._freed, free = [], -1
            for _ in range(opcodes.count(cmd.FREE)):
                free = opcodes.index(cmd.FREE, free + 1)
                self._freed += ids[at[free] : at[free + 1]]
        return self._freed

    def behind(self, lane: Lane) -> tuple[set[int], set[int]]:
        """Return what commands read, and what Frees name, that have gathered behind the frame.

        What is read may be gone here: a claim ends when the last command that names it is issued.
        So whoever asks has looked at the claims before.
        """
        begin = len(self.frame) - (self.frame.opcodes[-1] == cmd.FREE)
        used: set[int] = set()
        gone: set[int] = set()
        for command in lane.commands[begin:]:
            (gone if command[0] == cmd.FREE else used).update(command[2])
        return used, gone

    def piece(self, begin: int, end: int) -> Sealed:
        """Return these commands of the frame as a frame."""
        frame = self.frame
        if (begin, end) == (0, len(frame)):
            return frame, self.sites
        if frame.payloads:
            _, rest = frame.split(begin)
            first, _ = rest.split(end - begin)
            return first, self.sites[begin:end]
        part = Frame(
            frame.device,
            default_dtype=frame.default_dtype,
            opcodes=frame.opcodes[begin:end],
            modes=frame.modes[begin:end],
            counts=frame.counts[begin:end],
            ids=frame.ids[self.ids_at[begin] : self.ids_at[end]],
            statics=frame.statics[begin:end],
            scalar_counts=frame.scalar_counts[begin:end],
            scalars=frame.scalars[self.scalars_at[begin] : self.scalars_at[end]],
            numbers=frame.numbers[begin:end],
        )
        return part, self.sites[begin:end]

    def _close(self) -> None:
        if self._begin == self._end:
            return
        piece, sites = self.piece(self._begin, self._end)
        self._begin = self._end = 0
        riding = sum(map(len, piece.payloads))
        last, lines = self._sealed[-1] if self._built else (None, [])
        same = last is not None and last.default_dtype == piece.default_dtype
        if same and self._has_room(riding):
            _append(last, piece)
            lines += sites
            self._riding += riding
        else:
            self._sealed.append((piece, sites))
            self._built = False

    def add(self, sealed: Iterable[Sealed]) -> None:
        """Send frames that are complete."""
        if sealed:
            self._close()
            self._sealed += sealed
            self._built = False

    def _has_room(self, payload_bytes: int) -> bool:
        """Whether the last frame may take such payloads; one without any takes a single one."""
        return not self._riding or self._riding + payload_bytes <= limits.FRAME_PAYLOADS_BYTES

    def _open(self, default_dtype: int, payload_bytes: int = 0) -> Sealed:
        """Return a frame that may grow, the last one, and has room for a payload."""
        self._close()
        last = self._sealed[-1][0] if self._built else None
        full = last is None or len(last.ids) + len(last.scalars) > limits.FLUSH_IDS
        full = full or not self._has_room(payload_bytes)
        if full or last.default_dtype != default_dtype:  # type: ignore[union-attr]
            self._sealed.append((Frame(self.frame.device, default_dtype=default_dtype), []))
            self._built, self._riding = True, 0
        return self._sealed[-1]

    def call(
        self, run: Commands, ids: tuple[int, ...], program: int, scalars: Sequence[Any],
        early: list[int], late: list[int],
    ) -> None:  # fmt: skip
        """Send a Call, with the run's Puts and Frees around it."""
        made, lines = self._open(run.default_dtype)
        for id_, static, payload, number, site in run.puts:
            if payload is not None:
                made, lines = self._open(run.default_dtype, len(payload))
                self._riding += len(payload)
                static = (*static[:2], len(made.payloads), static[3])
                made.payloads.append(payload)
            made.add(cmd.PUT, [id_], static, number=number)
            lines.append(site)
        _free(made, lines, early)
        first = run.numbers[0]
        relative = [n - first for n in run.numbers]
        _add_call(made, lines, ids, program, scalars, first, CallSite(relative, run.sites))
        _free(made, lines, late)

    def call_alone(
        self, begin: int, end: int, default_dtype: int, ids: tuple[int, ...], program: int,
        scalars: Sequence[Any], relative: list[int],
    ) -> None:  # fmt: skip
        """Send a Call in place of these commands of the frame."""
        made, lines = self._open(default_dtype)
        site = CallSite(relative, self.sites[begin:end])
        _add_call(made, lines, ids, program, scalars, self.frame.numbers[begin], site)

    def finish(self) -> list[Sealed]:
        """Return all of it, in order."""
        self._close()
        return self._sealed


def live_slots(ids: tuple[int, ...], inputs: int, gone: Ids, used: Ids) -> frozenset[int]:
    """Return which slots, from `inputs` on, have an id that is not gone, or that is used anyway.

    ids: of each slot. gone, used: several lists or sets of ids each.
    """
    slots = fast.live_slots(ids, inputs, gone, used) if fast else None
    return plain_live_slots(ids, inputs, gone, used) if slots is None else slots


def plain_live_slots(ids: tuple[int, ...], inputs: int, gone: Ids, used: Ids) -> frozenset[int]:
    """Do in Python what `live_slots` does."""
    made = set(ids[inputs:])
    alive = made.difference(*gone)
    for named in used:
        alive |= made.intersection(named)
    return frozenset([k for k in range(inputs, len(ids)) if ids[k] in alive])


def _free(frame: Frame, lines: list[Any], ids: list[int]) -> None:
    for begin in range(0, len(ids), limits.FREE_IDS_MAX):
        frame.add(cmd.FREE, ids[begin : begin + limits.FREE_IDS_MAX])
        lines.append(None)


def _add_call(
    frame: Frame, lines: list[Any], ids: Sequence[int], program: int, scalars: Sequence[Any],
    number: int, site: CallSite,
) -> None:  # fmt: skip
    frame.add(cmd.CALL, ids, (program,), scalars, number=number)
    lines.append(site)


def _append(frame: Frame, other: Frame) -> None:
    """Add the commands of another frame; their payloads stand behind its own."""
    behind = len(frame.payloads)
    if behind and other.payloads:
        for opcode, static in zip(other.opcodes, other.statics, strict=True):
            if opcode == cmd.PUT and static[2] >= 0:
                static = (*static[:2], static[2] + behind, static[3])
            frame.statics.append(static)
    else:
        frame.statics += other.statics
    for name in ("opcodes", "modes", "counts", "ids", "scalar_counts", "scalars", "numbers",
                 "payloads"):  # fmt: skip
        column = getattr(frame, name)
        column += getattr(other, name)
