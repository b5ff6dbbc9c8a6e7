"""Watchdog: whether the worker is still at the same command as long ago. No clock, no thread.

It counts looks instead of comparing times, since a process that was stopped, or a machine that
slept, must not take that for a long command. What follows of it is the server's business.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.command import Lost
from farspan.core.errors import CommandTimeoutError
from farspan.core.op import op_at

if TYPE_CHECKING:
    from farspan.core.command import Frame

_NAMES = {cmd.PUT: "an upload", cmd.BACKWARD: "backward", cmd.CALL: "a program", cmd.GET: "a read"}


class Watchdog:
    """Asked every `every_s` seconds."""

    def __init__(self, every_s: float = limits.HEARTBEAT_S) -> None:
        self._every_s = every_s
        self._doing: Any = None
        self._looks = 0

    def look(self, doing: Any) -> float:
        """Return for how many seconds the same has been going on. doing: None for nothing."""
        if doing is None or doing != self._doing:
            self._doing, self._looks = doing, 0
            return 0.0
        self._looks += 1
        return self._looks * self._every_s


def overdue(frame: Frame, number: int, seconds: float, most: float) -> Lost:
    """Return how a session ends whose command of this number has run for too long."""
    message = (
        f"{name_of(frame, number)} has run for {seconds:g} s, and a command may take {most:g} s "
        "here. Its session has ended, since it would take as long again"
    )
    return Lost(CommandTimeoutError.__name__, message, number)


def name_of(frame: Frame, number: int) -> str:
    """Return what the command of this number in a frame is, for its user."""
    try:
        opcode = frame.opcodes[frame.numbers.index(number)]
    except ValueError:  # within a program the numbers are those of its body
        return "a program"
    return op_at(opcode).base if opcode >= cmd.FIRST_OPCODE else _NAMES.get(opcode, "a command")
