"""Turns: which of a worker's sessions runs next, and for how many commands. No clock, no thread.

Fair queueing by measured time (start-time fair queueing; Goyal, Vin, Cheng, 1996): of the sessions
that can run, the one that has had the least time is next. One that was idle starts at the time of
the others, so it is served at once but owed nothing. A frame of a worker with several sessions runs
in pieces of about TURN_S; a command is never interrupted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from farspan.core import command as cmd
from farspan.core import limits

if TYPE_CHECKING:
    from farspan.core.command import Frame

    from farspan_worker.inbox import Session

_WEIGHT = 0.25  # of the last turn, in what a session's command takes
_FIRST_S = 1e-4  # what it is taken to be before the first turn


@dataclass(slots=True)
class Share:
    """What a session has had of its worker."""

    served_s: float = 0.0  # of all turns, in the time of `Turns`
    command_s: float = _FIRST_S  # of one command, lately


class Turns:
    """The sessions that can run now, each once."""

    def __init__(self) -> None:
        self._ready: dict[Session, None] = {}
        self._now_s = 0.0  # what the session that ran last had had when it began

    def add(self, session: Session) -> None:
        """Let a session have a turn."""
        share = session.share
        share.served_s = max(share.served_s, self._now_s)
        self._ready[session] = None

    def take(self) -> Session | None:
        """Return whose turn it is; of equals, who came first."""
        if not self._ready:
            return None
        session = min(self._ready, key=lambda s: s.share.served_s)
        del self._ready[session]
        self._now_s = session.share.served_s
        return session

    def commands(self, session: Session, sessions: int) -> int:
        """Return for how many commands its turn is, on a worker with so many sessions."""
        if sessions < 2:
            return limits.FRAME_COMMANDS_MAX
        return max(1, int(limits.TURN_S / session.share.command_s))

    def took(self, session: Session, seconds: float, commands: int) -> None:
        """Charge a turn to its session."""
        share = session.share
        share.served_s += seconds
        lately = seconds / max(1, commands)
        share.command_s += _WEIGHT * (max(lately, 1e-6) - share.command_s)


def piece_of(frame: Frame, commands: int) -> int:
    """Return how many commands make a piece of at least so many: a Define goes with its body."""
    count = 0
    while count < min(commands, len(frame)):
        static = frame.statics[count]
        body = static[1] if frame.opcodes[count] == cmd.DEFINE and len(static) > 1 else 0
        count += 1 + (body if type(body) is int and body > 0 else 0)
    return min(count, len(frame))
