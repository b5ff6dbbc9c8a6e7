"""Where a session computes: moves to other workers, and what it is told of their numerics.

The part of `Session` behind `move`, `Changed` and `describe()["numerics"]`. A change is told to the
program where it next waits, never from a thread of the transport. `_session.py` owns the state.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from ._program import CallSite
from ._sites import describe_site, site_from, theirs
from .core import command as cmd
from .core import limits
from .core.errors import NumericsChangedWarning

if TYPE_CHECKING:
    from ._session import Transport

log = logging.getLogger("farspan")

#: Frames that have run whose lines are remembered: those that a move computes again are among them.
_RECENT_MAX: Final = 256
_NAMES: Final = {
    cmd.GET: "a read",
    cmd.PUT: "an upload",
    cmd.BACKWARD: "backward",
    cmd.CALL: "a program",
}
#: Of a session in flight or run: last frame, numbers, sites, opcodes.
Flight = tuple[int, list[int], list[Any], list[int]]


class Moving:
    """The moving part of a session; `_session.Session` owns the state."""

    id: str
    transport: Transport
    _in_flight: deque[Flight]

    def __init__(self) -> None:
        super().__init__()
        self._recent: deque[Flight] = deque(maxlen=_RECENT_MAX)
        self._changes: tuple[cmd.NumericsChange, ...] = ()
        self._began: dict[int, tuple[str, str]] = {}  # by change: op and line of its first command
        self._changes_told = 0  # the last one that the program was told, or found
        self._untold: deque[str] = deque(maxlen=limits.NUMERICS_CHANGES_MAX)  # to warn of at a wait

    if TYPE_CHECKING:

        def flush(self, device: int | None = None) -> None: ...

    def move(self, to: str = "", *, allow_numerics_change: bool = False) -> list[dict[str, Any]]:
        """Let the session go on with other workers, and return its devices as `describe` does.

        to: a worker's name (of several devices one each, comma separated), as `describe` tells it;
        a kind, ``"cpu"`` or ``"cuda"``; or empty for any others. Tensors, graphs and random numbers
        go along, and devices keep their names. allow_numerics_change: workers that compute other
        bits will do too, and other kinds, whose generators begin at a seed made of the state of
        those before; then a NumericsChangedWarning names the command from which bits may differ.
        Waits until they have all of it; other threads may go on meanwhile. BadValueError,
        CapacityError: it cannot be, and the session stays where it is.
        """
        self.flush()
        return self.transport.move(to, allow_numerics_change)

    def numerics(self) -> dict[str, Any]:
        """Return the workers' numerics keys, by device, and how they have changed."""
        changes = []
        for each in self._changes:
            op, line = self._began.get(each.number, ("", ""))
            changes.append(
                {
                    "number": each.number,
                    "command": each.command or None,
                    "op": op or None,
                    "line": line or None,
                    "frame": each.frame,
                    "before": list(each.before),
                    "after": list(each.after),
                }
            )
        return {"keys": list(self.transport.numerics), "changes": changes}

    def _hear_changes(self, event: cmd.Changed) -> None:
        """Take what became of the numerics; runs on a thread of the transport."""
        self._changes = event.changes
        for each in event.changes:
            if each.command and each.number not in self._began:
                self._began[each.number] = self._beginning(each.command)
        there = {each.number for each in event.changes}
        self._began = {number: each for number, each in self._began.items() if number in there}
        named = [each for each in event.changes if each.command]
        if not event.known:
            for each in named:
                if each.number > self._changes_told:
                    text = self._describe_change(each)
                    log.warning("%s", text)
                    self._untold.append(text)
        self._changes_told = max([self._changes_told, *(each.number for each in named)])

    def _describe_change(self, change: cmd.NumericsChange) -> str:
        op, line = self._began[change.number]
        where = f", issued at {line}" if line else ""
        return (
            f"session {self.id} went on with workers of other numerics: from command "
            f"{change.command}{f' ({op})' if op else ''}{where}, bits may differ from what the "
            f"workers before would have computed (before: {', '.join(change.before)}; now: "
            f"{', '.join(change.after)})"
        )

    def _beginning(self, number: int) -> tuple[str, str]:
        """Return the op and the line of a command that is not long ago, else empty texts."""
        for _, numbers, sites, opcodes in chain(list(self._in_flight), list(self._recent)):
            for have, site, opcode in zip(numbers, sites, opcodes, strict=False):
                if have == number:
                    line = site.at(0) if type(site) is CallSite else site
                    return _name_of(opcode), describe_site(line) if line is not None else ""
        return "", ""

    def _tell_changes(self) -> None:
        """Warn the program, at its own line, of what came since the last wait."""
        while self._untold:
            try:
                text = self._untold.popleft()
            except IndexError:
                return  # another thread tells it
            warnings.warn(text, NumericsChangedWarning, stacklevel=_outside())


def _name_of(opcode: int) -> str:
    if opcode >= cmd.FIRST_OPCODE:
        from .core.op import op_at

        return op_at(opcode).name
    return _NAMES.get(opcode, "")


def _outside() -> int:
    """Return the stack level of the innermost line that is not ours, for who calls `warn`."""
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None:
        site_from(frame)  # learns whose file it is
        if frame.f_code.co_filename in theirs:
            return level
        frame, level = frame.f_back, level + 1
    return level
