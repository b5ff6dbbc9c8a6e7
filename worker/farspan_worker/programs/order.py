"""Order: steps that free more memory than they take run as early as they can.

A weight's gradient, the last to look at a saved activation, need not wait for the gradient of the
layer before. Bits do not change: a step moves only past steps that do not touch the same memory.
"""

from __future__ import annotations

import itertools
from heapq import heappop, heappush
from typing import Final

from . import arena
from .effects import may_raise, stores
from .graph import Graph, Memory, Step

_RAISING_EDGES_MAX: Final = 65_536  # beyond, steps that store stay in their order


def lower_peak(graph: Graph) -> bool:
    """Reorder the steps, in place, if that lowers the most bytes that are alive at once."""
    steps = graph.steps
    if len(steps) < 3:
        return False
    found = _Schedule(steps).run()
    before, after = (_peak(each) for each in (steps, found))
    if after < before:
        graph.steps = found
        graph.notes.append(f"an order that needs {before - after} bytes less")
    return after < before


def _peak(steps: list[Step]) -> int:
    return int(arena.live_bytes(arena.lives(steps), len(steps)).max(initial=0))


class _Schedule:
    """The steps by number, what each waits for, and what it would free."""

    def __init__(self, steps: list[Step]) -> None:
        self.steps = steps
        self.touched = [tuple(dict.fromkeys((*s.reads, *s.writes))) for s in steps]
        self.after: list[list[int]] = [[] for _ in steps]
        self.waits = [0] * len(steps)  # for how many others
        self.users: dict[Memory, list[int]] = {}
        for k, memories in enumerate(self.touched):
            for memory in memories:
                if memory.input < 0 and not memory.output:
                    self.users.setdefault(memory, []).append(k)
        self.left = {memory: len(users) for memory, users in self.users.items()}
        self._order_by_memory()
        self._order_by_effect()
        self.done = [False] * len(steps)
        self.ready: list[int] = []
        self.good: list[tuple[int, int]] = []  # (bytes that it frees, negative; number)

    def _edge(self, before: int, after: int) -> None:
        if before != after:
            self.after[before].append(after)
            self.waits[after] += 1

    def _order_by_memory(self) -> None:
        writer: dict[Memory, int] = {}
        readers: dict[Memory, list[int]] = {}
        for k, step in enumerate(self.steps):
            for memory in self.touched[k]:
                if memory in writer:
                    self._edge(writer[memory], k)
            for memory in step.writes:
                for reader in readers.pop(memory, ()):
                    self._edge(reader, k)
                writer[memory] = k
            for memory in step.reads:
                readers.setdefault(memory, []).append(k)

    def _order_by_effect(self) -> None:
        """Draws keep their order, and no store comes to stand before a step that may raise."""
        drawn: dict[int, int] = {}
        raising = [k for k, step in enumerate(self.steps) if may_raise(step)]
        storing = [k for k, step in enumerate(self.steps) if stores(step)]
        for k, step in enumerate(self.steps):
            if step.generator >= 0:
                if step.generator in drawn:
                    self._edge(drawn[step.generator], k)
                drawn[step.generator] = k
        if len(raising) * len(storing) <= _RAISING_EDGES_MAX:
            for k in storing:
                for before in raising:
                    if before < k:
                        self._edge(before, k)
            return
        both = sorted({*raising, *storing})
        for before, k in itertools.pairwise(both):
            self._edge(before, k)

    def _freed(self, k: int) -> int:
        """Return by how many bytes less is alive once the step has run."""
        total = 0
        for memory in self.touched[k]:
            left = self.left.get(memory)
            if left is None:
                continue
            new = left == len(self.users[memory])
            total += (left == 1) * memory.nbytes - new * memory.nbytes
        return total

    def _offer(self, k: int) -> None:
        freed = self._freed(k)
        if freed > 0:
            heappush(self.good, (-freed, k))

    def run(self) -> list[Step]:
        for k, count in enumerate(self.waits):
            if not count:
                self._make_ready(k)
        found = []
        while self.ready:
            k = self._next()
            self.done[k] = True
            found.append(self.steps[k])
            for memory in self.touched[k]:
                if memory in self.left:
                    self.left[memory] -= 1
                    if self.left[memory] == 1:
                        last = next(u for u in self.users[memory] if not self.done[u])
                        if not self.waits[last]:
                            self._offer(last)
            for other in self.after[k]:
                self.waits[other] -= 1
                if not self.waits[other]:
                    self._make_ready(other)
            while self.ready and self.done[self.ready[0]]:
                heappop(self.ready)
        return found

    def _make_ready(self, k: int) -> None:
        heappush(self.ready, k)
        self._offer(k)

    def _next(self) -> int:
        while self.good:
            _, k = heappop(self.good)
            if not self.done[k]:
                return k
        while self.done[self.ready[0]]:
            heappop(self.ready)
        return heappop(self.ready)
