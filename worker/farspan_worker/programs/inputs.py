"""Inputs: what lies in a plan's input slots now, and whether other tensors may take their places.

A plan was made for specs, offsets, sizes and aliasing; tensors that agree in these fit it. What
the session has freed is let go of, so that no plan keeps a batch that is long gone.
"""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from farspan.core import limits, tape

from ..store import Foreign

if TYPE_CHECKING:
    from ..store import Array, Storage
    from .graph import Graph, Memory


class Inputs:
    """The storages of a plan's inputs, by index; None where they were let go of."""

    def __init__(
        self,
        graph: Graph,
        inputs: Sequence[Array],
        held: Held,
        moved: Callable[[Memory], None],
    ) -> None:
        """moved: to be called with what was let go of."""
        self._memories = [w.memory for w in graph.inputs]
        self._moved = moved
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
        self._held = held
        for storage in self.storages:
            held.add(self, storage)

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
            return ()
        for i in changed:
            x = inputs[i]
            if (
                x._spec is not self._specs[i]
                or x._offset != self._offsets[i]
                or x._storage.nbytes != self._sizes[i]
            ):
                return None
        if any(type(inputs[i]._storage.memory) is Foreign for i in changed) and overlap(inputs):
            return None
        if not self._same_aliases(inputs, changed):
            return None
        for i in changed:
            self._held.remove(self, self.storages[i])
            bound[i], self.storages[i] = inputs[i].array, inputs[i]._storage
            self._held.add(self, self.storages[i])
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

    def let_go(self, storage: Storage) -> None:
        """Let go of what lies in this storage, which is nobody else's any more."""
        gone = [i for i, other in enumerate(self.storages) if other is storage]
        for i in gone:
            self._held.remove(self, storage)
            self.storages[i] = self._bound[i] = None
            _drop_one(self._count, id(storage.memory))
        for memory in {self._memories[i] for i in gone}:
            self._moved(memory)

    def forget(self) -> None:
        """Let go of all inputs."""
        for storage in self.storages:
            self._held.remove(self, storage)
        self.storages = [None] * len(self.storages)
        self._bound = [None] * len(self._bound)
        self._count.clear()


class Held:
    """Which large storages plans have as inputs, so that freeing one frees it there too."""

    def __init__(self) -> None:
        #: By identity of a storage: how often each plan's inputs have it.
        self._plans: dict[int, dict[Inputs, int]] = {}

    def __bool__(self) -> bool:
        return bool(self._plans)

    def __contains__(self, storage: Storage) -> bool:
        return id(storage) in self._plans

    def add(self, inputs: Inputs, storage: Storage | None) -> None:
        if storage is not None and storage.nbytes >= limits.FREE_BYTES:
            users = self._plans.setdefault(id(storage), {})
            users[inputs] = users.get(inputs, 0) + 1

    def remove(self, inputs: Inputs, storage: Storage | None) -> None:
        users = None if storage is None else self._plans.get(id(storage))
        if users is None or inputs not in users:
            return
        users[inputs] -= 1
        if not users[inputs]:
            del users[inputs]
        if not users:
            del self._plans[id(storage)]

    def let_go(self, storage: Storage) -> None:
        """Let plans let go of a storage if nobody else has it; the caller has one name for it."""
        users = self._plans.get(id(storage), {})
        # Beside what plans have there are the caller's name, this one, and the question's own.
        if sys.getrefcount(storage) <= sum(users.values()) + 3:
            for inputs in tuple(users):
                inputs.let_go(storage)


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
    return edge is None or tape.leads_to_freed(edge[0], set())
