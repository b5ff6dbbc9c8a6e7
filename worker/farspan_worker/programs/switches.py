"""When plans take up kernels that give other bits than those that ran before: a recorded event.

Loops of inexact programs are compiled behind; until all of a plan's are there, its steps run one by
one. Which Call was the first to run by loops depends on time, so it is told as a Switch; a session
that is replayed with these Switches runs the same kernels at the same Calls. Exact plans have none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from farspan.core import limits
from farspan.core.errors import ServiceError

if TYPE_CHECKING:
    from ..store import Array
    from .graph import Graph


class SwitchError(ServiceError):
    """A session cannot go on with the bits that it had."""


@dataclass(frozen=True, slots=True)
class Switch:
    """From a Call on, a program runs by its loops for one kind of inputs.

    call: the number of the Call. plan: a digest of what the plan is for, equal in every process.
    """

    call: int
    program: int
    plan: str


class Switches:
    """The plans of one engine that run by loops. A snapshot keeps `on`; a journal, the Switches."""

    def __init__(self) -> None:
        #: Hears of each Switch, before the Call that is the first to run by loops.
        self.record: Callable[[Switch], None] | None = None
        #: (program, plan) of those that were switched, in this order.
        self.on: dict[tuple[int, str], None] = {}
        self._recorded: dict[int, Switch] = {}
        self._until = -1

    def replay(self, recorded: Iterable[Switch], until: int) -> None:
        """Switch as recorded, and at no other Call up to number `until`; after it as ever.

        Waits, at a recorded Call, until its loops are compiled.
        """
        self._recorded = {s.call: s for s in recorded}
        self._until = until

    def forget(self, program: int) -> None:
        """Note that a program's number stands for another one from now on."""
        for key in [k for k in self.on if k[0] == program]:
            del self.on[key]

    def decide(self, graph: Graph, program: int, plan: str, call: int) -> bool:
        """Return whether a plan runs by its loops from a Call on; if so, they are compiled.

        Asked at a plan's first Call in a frame, until it is so. SwitchError: what a journal has
        cannot be repeated.
        """
        key = (program, plan)
        bound = compiled_behind(graph)
        if key not in self.on:
            if call <= self._until:
                known = self._recorded.get(call)
                if known is None:
                    return False
                if known != Switch(call, *key):
                    raise SwitchError(f"recorded was {known}, now it is {Switch(call, *key)}")
            elif not all(b.ready() for b in bound):
                return False
            if len(self.on) >= limits.SWITCHES_MAX:
                del self.on[next(iter(self.on))]
            self.on[key] = None
            if self.record is not None:
                self.record(Switch(call, *key))
        try:
            for b in bound:
                b.wait()
        except Exception as error:  # the compiler's, of whatever kind
            raise SwitchError(f"loops that ran before cannot be compiled now: {error}") from error
        return True


def compiled_behind(graph: Graph) -> list[Any]:
    """Return the ways to run of fused steps that are compiled while others run in their place."""
    return [s.bound for s in graph.steps if s.fused and hasattr(s.bound, "wait")]


def key_of(inputs: Sequence[Array], shared: Any, fixed: Any) -> str:
    """Return a digest of what a plan is for: specs, places, aliases, numbers it takes as given."""
    specs = [
        (x._spec.dtype.name, x._spec.shape, x._spec.stride, x._offset, x._storage.nbytes)
        for x in inputs
    ]
    return hashlib.blake2b(repr((specs, shared, fixed)).encode(), digest_size=16).hexdigest()
