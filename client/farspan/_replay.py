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
from ._outgoing import Outgoing, live_slots
from ._program import Commands, Form, Numbers, Program
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
    # Batch norm's statistics advance in the midst of a forward pass.
    return frozenset(
        op.opcode
        for op in table().values()
        if op.family == "step" and op.name != "_update_running_stats_"
    )


@functools.cache
def _ends() -> frozenset[int]:
    return _steps() | _STOPS


class _Kind:
    """A form that was seen, with its programs once there are some: fewest outputs first."""

    __slots__ = ("cut", "form", "key", "misses", "programs", "rounded", "steps")

    def __init__(self, form: Form, key: int, cut: bool) -> None:
        self.form = form
        self.key = key  # the hash of its runs
        self.cut = cut  # a piece of what repeats without an end
        self.programs: list[Program] = []
        self.rounded: list[Program] = []  # of runs with a compiled function in them
        self.misses = 0  # how often it was defined anew
        self.steps = form.opcodes[-1] in _steps()  # it ends with an optimizer's step


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
        self._pattern: list[int] = []  # opcodes of the pieces of what repeats without an end
        self._length = 0  # commands of the run, also if it is lost
        self._since = self._begun = 0.0  # when the last of what is held came, and the first

    def switch(self, on: bool) -> None:
        """Begin anew, with nothing known."""
        self.on = on
        self._reset()

    def overdue(self) -> bool:
        """Return whether what is held has waited long enough for the rest of its run."""
        now = time.monotonic()
        return (
            now - self._since > limits.REPLAY_HELD_S or now - self._begun > limits.REPLAY_HELD_ALL_S
        )

    @property
    def expects(self) -> bool:
        """Whether a run goes as predicted, so that a part of it is not worth sending."""
        return self.on and not self._sent and bool(self._likely)

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
        out = Outgoing(frame, sites)
        held = self.held
        if self.lane.session.transport.watched:
            self.lose()
            return (*held, (frame, sites)), []
        end = 0
        while end < len(frame):
            if self._likely and not (held or self._run.opcodes or self._sent or self._stepping):
                end = self._take_whole(out, end)
            begin, end, part, ends = self._part(frame.opcodes, end, bool(held))
            if part and not ends:
                end, ends = self._cut(frame, begin, end)
            alone = not (len(self._run) or self._sent)
            alone = alone and _BESIDE.issuperset(frame.opcodes[begin:end])
            if not part or (alone and not held):  # what a run does without, before it has begun
                out.take(begin, end)
                continue
            at = len(self._run)
            self._length += end - begin
            if at <= limits.PROGRAM_COMMANDS_MAX and not self._lost:
                self._run.add(frame, sites, begin, end)
            if self._sent:
                self._run.forget_puts()  # they are for a Call; what is learned needs none
                out.take(begin, end)
            elif ends:
                if not self._called_by(out, end):
                    out.add(held)
                    out.take(begin, end)
                held = []
            elif self._as_predicted(at):
                self._since = time.monotonic()
                self._begun = self._begun if held else self._since
                held = [*held, out.piece(begin, end)]
            else:
                out.add(held)
                out.take(begin, end)
                held, self._sent = [], True
                self._run.forget_puts()
            if ends:
                self._finish()
        return out.finish(), held

    def _part(self, opcodes: list[int], begin: int, held: bool) -> tuple[int, int, bool, bool]:
        """Return (begin, end, whether of a run, whether that ends there) of a frame's next part."""
        steps, stepping = _steps(), self._stepping
        self._stepping = False
        if not stepping and _ends().isdisjoint(opcodes[begin:] if begin else opcodes):
            return begin, len(opcodes), True, False
        for at in range(begin, len(opcodes)):
            opcode = opcodes[at]
            if opcode in steps:
                stepping = True
            elif opcode in _STOPS:
                if at > begin or held or len(self._run):
                    return begin, at, True, True
                return at, at + 1, False, False
            elif stepping and opcode not in _BESIDE:
                return begin, at, True, True
        self._stepping = stepping
        return begin, len(opcodes), True, False

    def _cut(self, frame: Frame, begin: int, end: int) -> tuple[int, bool]:
        """Return where a part of a run ends that shows no end, and whether the run ends with it.

        A loop that nobody waits for, and that trains nothing, is cut into pieces of whole turns.
        """
        run, opcodes = self._run, frame.opcodes
        done, pattern = len(run), self._pattern
        need = len(pattern) - done
        if pattern and need >= 0 and not self._lost and pattern[:done] == run.opcodes:
            if opcodes[begin : begin + need] == pattern[done:]:
                # Its results have claims once something came after the piece.
                over = _after(opcodes, begin + need) >= 0
                return (begin + need, True) if over else (end, False)
            last = end - (opcodes[end - 1] == cmd.FREE)
            if opcodes[begin:last] == pattern[done : done + last - begin]:
                return end, False
        if self._length + end - begin < limits.REPLAY_ENDLESS or not self._length:
            return end, False
        if max(frame.modes[begin:end]) >= 4 or max(run.modes, default=0) >= 4:
            return end, False  # a graph is being made: its backward pass belongs to the run
        piece = opcodes[begin : end - 1 if opcodes[end - 1] == cmd.FREE else end]
        turn = _turn(piece)
        if not turn or not _BESIDE.isdisjoint(piece):
            return end, False
        for k in range(turn):
            if piece[k : k + turn] == pattern[:turn]:  # the same as before
                return begin + k, True
        self._pattern = piece[:turn] * (limits.REPLAY_PIECE // turn)
        return begin, True

    def _as_predicted(self, at: int) -> bool:
        """Return whether the run, whose commands from `at` on are new, may be held."""
        run = self._run
        if not self._likely or len(run) + len(run.puts) > limits.REPLAY_HELD_MAX:
            return False
        if run.put_bytes > limits.REPLAY_HELD_BYTES:  # they leave as credits allow
            return False
        self._likely = [k for k in self._likely if k.form.continues(run, at)]
        return bool(self._likely)

    # -------------------------------------------------------------------------------- the end --
    def _called_by(self, out: Outgoing, end: int) -> bool:
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
        # Not "what has a claim": another thread may have issued a command whose results it claims
        # next.
        freed = list(lane.freed)
        used, gone = out.behind(lane)
        slots = live_slots(
            ids, form.inputs, (freed, run.freed, out.freed, gone), (*out.used_after(end), used)
        )
        program = self._choose(kind, slots, run.numbers)
        if program is None or program.is_wide:
            return False
        self._announce(program, out)
        names = program.named(ids)
        freed_too = set(run.freed)
        out.call(
            run,
            names,
            program.number,
            () if form.same_scalars(run.scalars) else run.scalars,
            sorted(freed_too.difference(ids)),
            sorted(freed_too.intersection(names)),
        )
        self._hits += 1
        self._misses -= 1  # which `_finish` counts
        self._called += len(run)
        return True

    def _used_later(self, made: Any, out: Outgoing, end: int, behind: set[int]) -> set[int]:
        """Return which of a run's results commands name that were issued after it."""
        last, at = out.last_use, out.ids_at[end]
        return {i for i in made if last.get(i, -1) >= at or i in behind}

    def _choose(
        self, kind: _Kind, slots: frozenset[int], numbers: Sequence[int], again: bool = False
    ) -> Program | None:
        """Return the program for a run of which these slots live on; None: let it be.

        numbers: the run's. again: the run before it had the same, so that a program of its own,
        with fewer outputs, is worth having.
        """
        region = self._has_region(numbers)
        programs = kind.rounded if region else kind.programs
        found = next((p for p in programs if slots <= p.slots), None)
        lean = again and found is not None and len(programs) < limits.REPLAY_VARIANTS_MAX
        if found is not None and (not lean or found.slots == slots):
            return found
        if kind.misses > limits.REPLAY_MISSES_MAX or (found is None and kind.cut and programs):
            return found  # of what has no end, pieces are cut anywhere: what lives on is chance
        kind.misses += 1
        if found is None and programs:  # the one with most outputs gets more of them
            slots |= programs.pop().slots
        made = Program(kind.form, slots, 0 if region else cmd.PROGRAM_EXACT)
        programs.append(made)
        programs.sort(key=lambda p: len(p.outputs))
        return made

    def _has_region(self, numbers: Sequence[int]) -> bool:
        """Return whether a compiled function has run among these commands."""
        for number in reversed(self._regions):  # the latest ones first
            if number <= numbers[-1]:
                return number >= numbers[0]
        return False

    def _announce(self, program: Program, out: Outgoing) -> None:
        """Let the worker know a program, unless it does."""
        if program.number < 0:
            self._defining.append(program)  # first: a Ctrl-C within `use` is `lose`'s to undo
        if not self.numbers.use(program):
            define = program.define(self.lane.device)
            out.add([(define, [None] * len(define))])

    # --------------------------------------------------------------------------- many at once --
    def _take_whole(self, out: Outgoing, start: int) -> int:
        """Send a Call for each of the runs, with programs, that come next in the frame.

        Return where they end, with what stands between. Only runs whose end is sure are taken.
        """
        lane = self.lane
        freed = list(lane.freed)  # the claims are looked at now, what is named behind them later
        runs: list[tuple[_Kind, int, int, tuple[int, ...]]] = []
        at = _begin(out.frame.opcodes, start)
        likely = self._likely
        while (found := self._whole_at(out, at, likely)) is not None:
            kind, ids = found
            end = at + len(kind.form.opcodes)
            runs.append((kind, at, end, ids))
            likely = self._next.get(kind.key, [])
            at = _begin(out.frame.opcodes, end)
        if not runs:
            return start
        (used, gone), taken = out.behind(lane), start
        slots = None
        for kind, begin, end, ids in runs:
            form, before = kind.form, slots
            if len(runs) > 1:
                later: Any = (self._used_later(ids[form.inputs :], out, end, used),)
            else:
                later = (*out.used_after(end), used)
            slots = live_slots(ids, form.inputs, (freed, out.freed, gone), later)
            numbers = out.frame.numbers[begin:end]
            program = self._choose(kind, slots, numbers, again=slots == before)
            if program is None or program.is_wide:
                break
            if taken < begin:
                out.take(taken, begin)
            self._announce(program, out)
            scalars = out.frame.scalars[out.scalars_at[begin] : out.scalars_at[end]]
            if form.same_scalars(scalars):
                scalars = []
            out.call_alone(
                begin, end, form.default_dtype, program.named(ids), program.number, scalars,
                form.relative,
            )  # fmt: skip
            self._follow(kind)
            self._hits += 1
            self._called += end - begin
            taken = end
        return taken

    def _whole_at(
        self, out: Outgoing, at: int, likely: list[_Kind]
    ) -> tuple[_Kind, tuple[int, ...]] | None:
        """Return which of these runs begins there and ends in this frame, and its slots' ids."""
        opcodes = out.frame.opcodes
        for kind in likely:
            form = kind.form
            end = at + len(form.opcodes)
            known = kind.programs or kind.rounded
            if not known or end >= len(opcodes) or not form.stands_at(out.frame, at, end):
                continue
            behind = _after(opcodes, end)
            over = kind.cut or (kind.steps and behind not in _steps())
            if behind in _STOPS or (over and behind >= 0):
                ids = form.bind(out.frame.ids[out.ids_at[at] : out.ids_at[end]])
                if ids is not None:
                    return kind, ids
        return None

    def _follow(self, kind: _Kind) -> None:
        """Note that a run of this kind came now."""
        follow = self._next.setdefault(self._before, [])
        if not (follow and follow[0] is kind):
            if kind in follow:
                follow.remove(kind)
            follow.insert(0, kind)
            del follow[limits.REPLAY_NEXT_MAX :]
        self._before = kind.key
        self._likely = list(self._next.get(kind.key, ()))

    def _find(self, run: Commands) -> tuple[_Kind, tuple[int, ...]] | None:
        """Return the kind of a run that is complete, and its slots' ids, if it was seen before."""
        if run.found is None:
            run.found = self._look_up(run)
        return run.found  # type: ignore[no-any-return]

    def _look_up(self, run: Commands) -> tuple[_Kind, tuple[int, ...]] | None:
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
        self._length = 0
        if lost or len(run) > limits.PROGRAM_COMMANDS_MAX or not _worthwhile(run):
            if len(run):
                self._before = 0
            return
        self._misses += 1
        key = run.hash() if run.found is None else run.found[0].key
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
                    found = _Kind(form, key, run.opcodes == self._pattern), ()
                    kinds.append(found[0])
            if found is not None:
                self._follow(found[0])
                return
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


def _turn(opcodes: list[int]) -> int:
    """Return after how many of these they repeat themselves, at least once; 0 if they do not."""
    most = min(len(opcodes) // 2, limits.REPLAY_PIECE // 2)
    at = 0
    while at < most:
        try:
            at = opcodes.index(opcodes[0], at + 1, most + 1)
        except ValueError:
            return 0
        if opcodes[at:] == opcodes[:-at]:
            return at
    return 0


def _begin(opcodes: list[int], at: int) -> int:
    """Return where a run may begin, at or after `at`."""
    while at < len(opcodes) and (opcodes[at] in _BESIDE or opcodes[at] in _STOPS):
        at += 1
    return at


def _after(opcodes: list[int], at: int) -> int:
    """Return the first opcode from there on that does not stand beside runs; -1: there is none."""
    while at < len(opcodes) and opcodes[at] in _BESIDE:
        at += 1
    return opcodes[at] if at < len(opcodes) else -1


def _worthwhile(run: Commands) -> bool:
    return len(run) >= limits.REPLAY_COMMANDS_MIN or cmd.BACKWARD in run.opcodes
