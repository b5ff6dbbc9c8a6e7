"""From where on plans run by kernels that give other bits than those before: never by time alone.

Loops of inexact programs are compiled behind; until all of a plan's are there, its steps run one by
one. When they are there a journalled session's gateway is asked, who says between which two frames
the plan is switched: a replay, which has the same frames and switches in one order, repeats it.
Exact plans need none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from farspan.core import limits
from farspan.core.errors import ServiceError
from farspan.core.words import Switch

from ..kernels.cpu import loops

if TYPE_CHECKING:
    from ..store import Array
    from .body import Body
    from .graph import Graph


class SwitchError(ServiceError):
    """A session cannot go on with the bits that it had."""


class Switches:
    """The plans of one engine that run by loops. A snapshot keeps `on`."""

    def __init__(self) -> None:
        #: Asks for a switch, which comes by `take` before some later frame, in every replay alike;
        #: None: nobody repeats this session, and plans are switched as soon as they can be.
        self.ask: Callable[[Switch], None] | None = None
        #: Those that were switched, in this order.
        self.on: dict[Switch, None] = {}
        self._asked: set[Switch] = set()

    def take(self, switch: Switch) -> None:
        """Let a plan run by its loops from the next frame on, if it is not one too many."""
        self._asked.discard(switch)
        if len(self.on) < limits.SWITCHES_MAX:
            self.on[switch] = None

    def forget(self, program: int) -> None:
        """Note that a program's number stands for another one from now on."""
        for switch in [s for s in self.on if s.program == program]:
            del self.on[switch]
        self._asked = {s for s in self._asked if s.program != program}

    def decide(self, graph: Graph, program: int, plan: str) -> bool:
        """Return whether a plan runs by its loops; if so, they are compiled: waits for them.

        Asked at a plan's first Call in a frame, until it is so. SwitchError: they ran before and
        cannot be compiled here.
        """
        switch, bound = Switch(program, plan), compiled_behind(graph)
        if switch not in self.on and not loops.waits():
            full = len(self.on) + len(self._asked) >= limits.SWITCHES_MAX
            if full or switch in self._asked or not all(b.ready() for b in bound):
                return False
            if self.ask is not None:
                self._asked.add(switch)
                self.ask(switch)
                return False
            self.on[switch] = None
        wait(bound)
        return True


def wait(bound: Sequence[Any]) -> None:
    """Return when loops are compiled. SwitchError: they cannot be."""
    try:
        for each in bound:
            each.wait()
    except Exception as error:  # the compiler's, of whatever kind
        raise SwitchError(f"loops that ran before cannot be compiled now: {error}") from error


def compiled_behind(graph: Graph) -> list[Any]:
    """Return the ways to run of fused steps that are compiled while others run in their place."""
    return [s.bound for s in graph.steps if s.fused and hasattr(s.bound, "wait")]


def digest_of(body: Body) -> str:
    """Return what tells a program from others that have its number before or after it."""
    commands = [
        (c.op and c.op.name, c.mode, c.slots, c.static, c.begin, c.end, c.relative)
        for c in body.commands
    ]
    text = repr((commands, body.inputs, body.outputs, body.scalars, body.default_dtype))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def key_of(program: str, inputs: Sequence[Array], shared: Any, fixed: Any) -> str:
    """Return a digest of what a plan is for: its program (`digest_of`), specs, places, aliases,
    numbers that it takes as given."""
    specs = [
        (x._spec.dtype.name, x._spec.shape, x._spec.stride, x._offset, x._storage.nbytes)
        for x in inputs
    ]
    text = repr((program, specs, shared, fixed))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
