"""Inputs: what lies in a plan's input slots now, and whether other tensors may take their places.

A plan was made for specs, offsets, sizes and aliasing; tensors that agree in these fit it. What
the session has freed is let go of, so that no plan keeps a batch that is long gone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from farspan.core import limits, tape

from ..store import Foreign
import itertools

if TYPE_CHECKING:
    from ..store import Array, Storage
    from .graph import Graph


class Inputs:
    """The storages of a plan's inputs, by index; None where they were let go of."""

    def __init__(self, graph: Graph, inputs: Sequence[Array]) -> None:
        self._leaves = graph.leaves
        self._pattern = [w.memory.input for w in graph.inputs]
        self._specs = [x._spec for x in inputs]
        self._offsets = [x._offset for x in inputs]
        self._sizes = [x._storage.nbytes for x in inputs]
        self._alone = [self._pattern.count(p) == 1 for p in self._pattern]
        self.storages: list[Storage | None] = [x._storage for x in inputs]
        self._bound = [x.array for x in inputs]
        self._count: dict[int, int] = {}  # inputs in each memory
        for x in inputs:
            key = id(x._storage.memory)
            self._count[key] = self._count.get(key, 0) + 1
        #: Those that were not there at the Call before, which may go before the next one.
        self.fleeting: Sequence[int] = range(len(inputs))

    def place(self, inputs: Sequence[Array]) -> Sequence[int] | None:
        """Take these instead; return which differ. None, and nothing changes, if they do not fit.

        Of inputs in one memory, if one differs all do.
        """
        bound = self._bound
        changed = [i for i, x in enumerate(inputs) if x.array is not bound[i]]
        for i in self._leaves:
            node = inputs[i]._node
            if node is not None and type(node) is not tape.Leaf and not is_dead(inputs[i]):
                return None
        if not changed:
            self.fleeting = ()
            return ()
        for i in changed:
            x = inputs[i]
            if (
                x._spec is not self._specs[i]
                or x._offset != self._offsets[i]
                or x._storage.nbytes != self._sizes[i]
            ):
                return None
        if not self._same_aliases(inputs, changed):
            return None
        if any(type(inputs[i]._storage.memory) is Foreign for i in changed) and overlap(inputs):
            return None
        for i in changed:
            bound[i], self.storages[i] = inputs[i].array, inputs[i]._storage
        self.fleeting = changed
        return changed

    def _same_aliases(self, inputs: Sequence[Array], changed: Sequence[int]) -> bool:
        """Return whether those inputs share memory that should; the counts follow if so."""
        count = dict(self._count)
        for i in changed:
            storage, new = self.storages[i], id(inputs[i]._storage.memory)
            if storage is not None:
                _drop_one(count, id(storage.memory))
            count[new] = count.get(new, 0) + 1
        if not all(self._alone[i] and count[id(inputs[i]._storage.memory)] == 1 for i in changed):
            pattern = pattern_of(inputs)
            if pattern != self._pattern:
                return False
            if any(
                x._storage is not inputs[p]._storage for x, p in zip(inputs, pattern, strict=True)
            ):
                return False  # `.data` of one of them: its writes are counted apart
        self._count = count
        return True

    def let_go(self) -> list[int]:
        """Let go of large inputs that are nobody's any more; return which."""
        gone = []
        for i in self.fleeting:
            storage = self.storages[i]
            if storage is None or storage.nbytes < limits.FREE_BYTES:
                continue
            held = self._count[id(storage.memory)]
            if sys.getrefcount(storage) == held + 2:  # ours, this name, and the question's
                gone += [k for k, other in enumerate(self.storages) if other is storage]
                del self._count[id(storage.memory)]
                for k in gone:
                    self.storages[k] = self._bound[k] = None
        self.fleeting = ()
        return gone

    def forget(self) -> None:
        """Let go of all inputs."""
        self.storages = [None] * len(self.storages)
        self._bound = [None] * len(self._bound)
        self._count.clear()
        self.fleeting = ()


def _drop_one(count: dict[int, int], key: int) -> None:
    count[key] -= 1
    if not count[key]:
        del count[key]


def pattern_of(inputs: Sequence[Array]) -> list[int]:
    """Return for each input the first one in the same memory."""
    first: dict[int, int] = {}
    return [first.setdefault(id(x._storage.memory), i) for i, x in enumerate(inputs)]


def overlap(inputs: Sequence[Array]) -> bool:
    """Return whether two memories that `from_numpy` brought have bytes in common."""
    foreign = {id(m): m for m in (x._storage.memory for x in inputs) if type(m) is Foreign}
    ranges = sorted((m.begin, m.begin + m.nbytes) for m in foreign.values())
    return any(end > begin for (_, end), (begin, _) in itertools.pairwise(ranges))


def is_dead(x: Array) -> bool:
    """Return whether no gradient can go back from a tensor: its graph was let go."""
    edge = tape.edge_of(x)
    return edge is None or any(node.freed for node in tape.reachable([edge]))
