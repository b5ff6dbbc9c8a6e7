"""Automatic replay: a run of commands that repeats is sent as one Call.

A run ends where somebody waits, and after an optimizer's step. What a run did before is known by
its form (`_program.py`); while one goes as predicted its commands are held back, and at the first
difference they are sent as they came. Nothing here sends, waits or looks at single commands while
nothing repeats: it compares columns.
"""

from __future__ import annotations

import functools
import time
from collections import deque
from typing import TYPE_CHECKING, Any

from ._gather import Lane, Sealed
from ._program import CallSite, Commands, Form, Numbers, Program
from .core import command as cmd
from .core import limits
from .core.command import Frame
from .core.op import table

if TYPE_CHECKING:
    from collections.abc import Sequence

#: What ends a run and is part of none.
_STOPS = frozenset((cmd.GET, cmd.LINK, cmd.GROW, cmd.CALL, cmd.DEFINE))

#: What comes and goes beside a run's commands.
_BESIDE = frozenset((cmd.FREE, cmd.PUT))


@functools.cache
def _steps() -> frozenset[int]:
    return frozenset(op.opcode for op in table().values() if op.family == "step")


class _Kind:
    """A form that was seen, with its program once there is one."""

    __slots__ = ("form", "misses", "program")

    def __init__(self, form: Form) -> None:
        self.form = form
        self.program: Program | None = None
        self.misses = 0  # how often it was defined anew


class Replay:
    """What one device of a session has done before. The session's lock guards all of it."""

    def __init__(self, lane: Lane, on: bool) -> None:
        self.lane = lane
        self.on = on
        self.held: list[Sealed] = []  # of the run that goes as predicted; owned by the session
        self.numbers = Numbers()
        self._regions: deque[int] = deque(maxlen=limits.REPLAY_RUNS_MAX)
        self._hits = self._misses = self._called = 0
        self._defining: list[Program] = []
        self._reset()

    def _reset(self) -> None:
        self._run = Commands()
        self._sent = False  # part of the run has left
        self._lost = False  # the run is none to learn from
        self._stepping = False  # its last command is a step
        self._likely: list[_Kind] = []  # what it may become
        self._kinds: dict[int, list[_Kind]] = {}  # by hash of a run
        self._next: dict[int, list[_Kind]] = {}  # by hash of the run before
        self._before = 0
        self._since = 0.0

    def switch(self, on: bool) -> None:
        """Begin anew, with nothing known."""
        self.on = on
        self._reset()

    def overdue(self) -> bool:
        """Return whether what is held has waited long enough for the rest of its run."""
        return time.monotonic() - self._since > limits.REPLAY_HELD_S

    def lose(self) -> None:
        """Let the run go as it came: it is held no longer, and nothing is learned from it."""
        for program in self._defining:  # whose Define may not have left
            program.number = -1
        self._defining = []
        self._sent = self._lost = True

    def note_region(self) -> None:
        """Note that a compiled function ran just now: the run may be rounded as programs are."""
        self._regions.append(self.lane.last_number())

    def stats(self) -> dict[str, int]:
        """Return counts of runs that went as one Call and that did not, and of programs."""
        return {
            "hits": self._hits,
            "misses": self._misses,
            "commands": self._called,
            "programs": len(self.numbers),
        }

    # ------------------------------------------------------------------------------- the way --
    def take(self, frame: Frame, sites: list[Any]) -> tuple[Sequence[Sealed], list[Sealed]]:
        """Return what is to be sent now, and what is held then. Changes nothing of `held` itself.

        frame: what was gathered since the last one.
        """
        if not (self.held or self._run.opcodes or self._sent) and _short(frame.opcodes):
            self._stepping = False
            return ((frame, sites),), []
        self._defining = []
        out = _Out(frame, sites)
        held = self.held
        if self.lane.session.transport.watched:
            self.lose()
            return (*held, (frame, sites)), []
        for begin, end, part, ends in self._parts(frame.opcodes):
            alone = not len(self._run) and _BESIDE.issuperset(frame.opcodes[begin:end])
            if not part or (alone and not held):  # what a run does without, before it has begun
                out.take(begin, end)
                continue
            at = len(self._run)
            if at <= limits.PROGRAM_COMMANDS_MAX and not self._lost:
                self._run.add(frame, sites, begin, end)
            if self._sent:
                out.take(begin, end)
            elif ends:
                if not self._called_by(out, end):
                    out.add(held)
                    out.take(begin, end)
                held = []
            elif self._as_predicted(at):
                if not held:
                    self._since = time.monotonic()
                held = [*held, out.piece(begin, end)]
            else:
                out.add(held)
                out.take(begin, end)
                held, self._sent = [], True
            if ends:
                self._finish()
        return out.finish(), held

    def _parts(self, opcodes: list[int]) -> list[tuple[int, int, bool, bool]]:
        """Return (begin, end, whether of a run, whether that ends there) of a frame's parts."""
        steps = _steps()
        if not self._stepping and _STOPS.isdisjoint(opcodes) and steps.isdisjoint(opcodes):
            return [(0, len(opcodes), True, False)]
        parts = []
        begin, stepping = 0, self._stepping
        for at, opcode in enumerate(opcodes):
            if opcode in steps:
                stepping = True
            elif opcode in _STOPS:
                if at > begin or len(self._run) or self.held:
                    parts.append((begin, at, True, True))
                parts.append((at, at + 1, False, False))
                begin, stepping = at + 1, False
            elif stepping and opcode not in (cmd.FREE, cmd.PUT):
                parts.append((begin, at, True, True))
                begin, stepping = at, False
        if begin < len(opcodes):
            parts.append((begin, len(opcodes), True, False))
        self._stepping = stepping
        return parts

    def _as_predicted(self, at: int) -> bool:
        """Return whether the run, whose commands from `at` on are new, may be held."""
        run = self._run
        if not self._likely or len(run) + len(run.puts) > limits.REPLAY_HELD_MAX:
            return False
        self._likely = [k for k in self._likely if k.form.continues(run, at)]
        return bool(self._likely)

    # -------------------------------------------------------------------------------- the end --
    def _called_by(self, out: _Out, end: int) -> bool:
        """Put a Call in place of the run, which is complete, if a program stands for it."""
        run = self._run
        if self._lost or run.mixed or not _worthwhile(run):
            return False
        found = self._find(run)
        if found is None:
            return False
        kind, ids = found
        form, lane = kind.form, self.lane
        if not lane.session.generators.isdisjoint(run.freed):
            return False  # one that the run draws from, and that would go too early
        made = ids[form.inputs :]
        # Not "what has a claim": another thread may have issued a command and claim its results next.
        alive = set(made).difference(lane.freed, run.freed)
        used, gone = out.later(end, lane)
        alive = alive - gone | used.intersection(made)
        slots = {slot for slot, i in enumerate(made, form.inputs) if i in alive}
        program = kind.program
        if program is None or not slots.issubset(program.outputs):
            if kind.misses > limits.REPLAY_MISSES_MAX:
                return False
            kind.misses += 1
            program = kind.program = self._program(form, slots, program)
        if program.is_wide:
            return False
        if not self.numbers.use(program):
            self._defining.append(program)
            define = program.define(lane.device)
            out.add([(define, [None] * len(define))])
        outs = [ids[slot] for slot in program.outputs]
        bound = set(ids)
        kept = {*ids[: form.inputs], *outs}
        out.call(
            run,
            (*ids[: form.inputs], *outs),
            program.number,
            () if form.same_scalars(run.scalars) else run.scalars,
            [i for i in run.freed if i not in bound],
            [i for i in run.freed if i in kept],
        )
        self._hits += 1
        self._misses -= 1  # which `_finish` counts
        self._called += len(run)
        return True

    def _program(self, form: Form, slots: set[int], old: Program | None) -> Program:
        first, last = self._run.numbers[0], self._run.numbers[-1]
        region = any(first <= number <= last for number in self._regions)
        outputs = slots if old is None else slots.union(old.outputs)
        return Program(form, outputs, 0 if region else cmd.PROGRAM_EXACT)

    def _find(self, run: Commands) -> tuple[_Kind, tuple[int, ...]] | None:
        for kind in self._kinds.get(run.hash(), ()):
            if kind.form.matches(run) and kind.form.whole(run):
                ids = kind.form.bind(run.ids)
                if ids is not None:
                    return kind, ids
        return None

    def _finish(self) -> None:
        """Learn from the run that is over, and say what may come next."""
        run, lost = self._run, self._lost
        self._run, self._sent, self._lost, self._likely = Commands(), False, False, []
        if lost or len(run) > limits.PROGRAM_COMMANDS_MAX or not _worthwhile(run):
            if len(run):
                self._before = 0
            return
        self._misses += 1
        key = run.hash()
        kinds = self._kinds.get(key)
        if kinds is None:
            if len(self._kinds) >= limits.REPLAY_RUNS_MAX:
                self._kinds.clear()
                self._next.clear()
            self._kinds[key] = []
        else:
            found = self._find(run)
            if found is None and len(kinds) < limits.REPLAY_NEXT_MAX:
                form = Form(run)
                if not form.refusal:
                    found = _Kind(form), ()
                    kinds.append(found[0])
            if found is not None:
                follow = self._next.setdefault(self._before, [])
                if found[0] in follow:
                    follow.remove(found[0])
                follow.insert(0, found[0])
                del follow[limits.REPLAY_NEXT_MAX :]
        self._before = key
        self._likely = list(self._next.get(key, ()))


def replay_stats(replays: Sequence[Replay]) -> dict[str, Any]:
    """Return what a session's `stats` says: runs that went as one Call, and that did not."""
    total: dict[str, Any] = {"on": replays[0].on, "hits": 0, "misses": 0}
    for replay in replays:
        for name, value in replay.stats().items():
            total[name] = total.get(name, 0) + value
    runs = total["hits"] + total["misses"]
    return {**total, "rate": round(total["hits"] / runs, 3) if runs else 0.0}


def _short(opcodes: list[int]) -> bool:
    """Return whether these are one run that is not worth a look: a few ops, and a value is read."""
    if len(opcodes) > limits.REPLAY_COMMANDS_MIN or cmd.BACKWARD in opcodes:
        return False
    return opcodes[-1] == cmd.GET or (opcodes[-1] == cmd.FREE and opcodes[-2:-1] == [cmd.GET])


def _worthwhile(run: Commands) -> bool:
    return len(run) >= limits.REPLAY_COMMANDS_MIN or cmd.BACKWARD in run.opcodes


class _Out:
    """What leaves in place of one frame: parts of it as they came, and Calls."""

    def __init__(self, frame: Frame, sites: list[Any]) -> None:
        self.frame, self.sites = frame, sites
        self._sealed: list[Sealed] = []
        self._begin = self._end = 0  # of what is to be taken as it came
        self._built = False  # the last one was made here

    def take(self, begin: int, end: int) -> None:
        """Send these commands of the frame as they came."""
        if self._begin == self._end:
            self._begin = begin
        self._end = end

    def later(self, end: int, lane: Lane) -> tuple[set[int], set[int]]:
        """Return what commands read, and what Frees name, that were issued after these.

        What is read may have no claim any more: it ends when the last command that names it is
        issued.
        """
        frame, used, gone = self.frame, set(), set()
        at = sum(frame.counts[:end])
        for opcode, count in zip(frame.opcodes[end:], frame.counts[end:], strict=True):
            (gone if opcode == cmd.FREE else used).update(frame.ids[at : at + count])
            at += count
        begin = len(frame) - (frame.opcodes[-1] == cmd.FREE)
        for command in lane.commands[begin:]:
            (gone if command[0] == cmd.FREE else used).update(command[2])
        return used, gone

    def piece(self, begin: int, end: int) -> Sealed:
        """Return these commands of the frame as a frame."""
        if (begin, end) == (0, len(self.frame)):
            return self.frame, self.sites
        _, rest = self.frame.split(begin)
        first, _ = rest.split(end - begin)
        return first, self.sites[begin:end]

    def _close(self) -> None:
        if self._begin == self._end:
            return
        piece, sites = self.piece(self._begin, self._end)
        self._begin = self._end = 0
        last, lines = self._sealed[-1] if self._built else (piece, sites)
        if last is not piece and last.default_dtype == piece.default_dtype:
            _append(last, piece)
            lines += sites
        else:
            self._sealed.append((piece, sites))
            self._built = False

    def add(self, sealed: list[Sealed]) -> None:
        """Send frames that are complete."""
        if sealed:
            self._close()
            self._sealed += sealed
            self._built = False

    def call(
        self, run: Commands, ids: tuple[int, ...], program: int, scalars: Sequence[Any],
        early: list[int], late: list[int],
    ) -> None:  # fmt: skip
        """Send a Call, with the run's Puts and Frees around it."""
        self._close()
        made = Frame(self.frame.device, default_dtype=run.default_dtype)
        lines: list[Any] = []
        for id_, static, payload, number, site in run.puts:
            if payload is not None:
                static = (*static[:2], len(made.payloads), static[3])
                made.payloads.append(payload)
            _add(made, cmd.PUT, [id_], static, number)
            lines.append(site)
        _free(made, lines, early)
        first = run.numbers[0]
        _add(made, cmd.CALL, ids, (program,), first)
        made.scalar_counts[-1] = len(scalars)
        made.scalars += scalars
        lines.append(CallSite([n - first for n in run.numbers], run.sites))
        _free(made, lines, late)
        self._sealed.append((made, lines))
        self._built = True

    def finish(self) -> list[Sealed]:
        """Return all of it, in order."""
        self._close()
        return self._sealed


def _add(frame: Frame, opcode: int, ids: Sequence[int], static: Any, number: int) -> None:
    frame.opcodes.append(opcode)
    frame.modes.append(0)
    frame.counts.append(len(ids))
    frame.ids += ids
    frame.statics.append(static)
    frame.scalar_counts.append(0)
    frame.numbers.append(number)


def _free(frame: Frame, lines: list[Any], ids: list[int]) -> None:
    for begin in range(0, len(ids), limits.FREE_IDS_MAX):
        _add(frame, cmd.FREE, ids[begin : begin + limits.FREE_IDS_MAX], (), 0)
        lines.append(None)


def _append(frame: Frame, other: Frame) -> None:
    """Add the commands of another frame; their payloads stand behind its own."""
    behind = len(frame.payloads)
    for opcode, static in zip(other.opcodes, other.statics, strict=True):
        if behind and opcode == cmd.PUT and static[2] >= 0:
            static = (*static[:2], static[2] + behind, static[3])
        frame.statics.append(static)
    for name in ("opcodes", "modes", "counts", "ids", "scalar_counts", "scalars", "numbers",
                 "payloads"):  # fmt: skip
        column = getattr(frame, name)
        column += getattr(other, name)
