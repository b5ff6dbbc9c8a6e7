"""Where a program's own memories lie: places shared by what is never alive together.

A memory is alive from the first step that fills it to the last that looks at it. Most lie in one
block, the arena, which all plans of a session share, since one of them runs at a time. What dies
before an output is first written may lie where that output will be: see `Places`.
"""

from __future__ import annotations

import contextlib
from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import limits

from ..store import Storage
from .graph import Memory, Step

if TYPE_CHECKING:
    from ..store import Budget
    from .flat import FlatPlan

ALIGNMENT: Final = 64  # bytes: a cache line, and a vector of AVX-512
_BY_SIZE_MAX: Final = 4_096  # memories; beyond, places are found in order of time
_GUESTS_MAX: Final = 128  # memories that lie where outputs will be
_TRIES_MAX: Final = 4_096  # places looked at for them


@dataclass(frozen=True, slots=True)
class Life:
    """The first and the last step that touch a memory."""

    first: int
    last: int


@dataclass(slots=True)
class Places:
    """Where memories lie: in the arena (None) or in an output's block, at an offset in bytes."""

    at: dict[Memory, tuple[Memory | None, int]]
    nbytes: int  # of the arena


def lives(steps: Sequence[Step]) -> dict[Memory, Life]:
    """Return when each of the program's own memories is needed, those of outputs left out."""
    return {m: life for m, life in _all_lives(steps).items() if not m.output}


def _all_lives(steps: Sequence[Step]) -> dict[Memory, Life]:
    begin: dict[Memory, int] = {}
    end: dict[Memory, int] = {}
    for k, step in enumerate(steps):
        for memory in (*step.reads, *step.writes):
            if memory.input < 0:
                begin.setdefault(memory, k)
                end[memory] = k
    return {memory: Life(first, end[memory]) for memory, first in begin.items()}


def live_bytes(alive: Mapping[Memory, Life], count: int) -> np.ndarray[Any, Any]:
    """Return the bytes of these memories that are alive at each of `count` steps."""
    change = np.zeros(count + 1, np.int64)
    for memory, life in alive.items():
        change[life.first] += rounded(memory.nbytes)
        change[life.last + 1] -= rounded(memory.nbytes)
    return np.cumsum(change[:-1])


def places(steps: Sequence[Step], scratch: Mapping[Memory, Life]) -> Places:
    """Return where each memory of the steps lies, and scratch memory, which has a life of its own.

    Takes time in proportion to the memories, but for those of programs below `_BY_SIZE_MAX`.
    """
    every = _all_lives(steps)
    hosts = {m: life.first for m, life in every.items() if m.output and life.first}
    alive = {m: life for m, life in every.items() if not m.output} | dict(scratch)
    found = _guests(alive, hosts, len(steps))
    rest = {m: life for m, life in alive.items() if m not in found}
    pack = _by_size if len(rest) <= _BY_SIZE_MAX else _by_time
    at, nbytes = pack(rest)
    return Places(found | {m: (None, offset) for m, offset in at.items()}, nbytes)


def _guests(
    alive: Mapping[Memory, Life], hosts: Mapping[Memory, int], count: int
) -> dict[Memory, tuple[Memory | None, int]]:
    """Choose what lies in the blocks of outputs that are not written yet: of the fullest step.

    hosts: of each output, the step that touches it first; the largest ones are looked at.
    """
    found: dict[Memory, tuple[Memory | None, int]] = {}
    largest = sorted(hosts, key=lambda m: m.nbytes)[-_GUESTS_MAX:]
    rooms = {m: _Row() for m in largest}  # a guest takes the smallest that will do
    rest = dict(alive)
    live = live_bytes(alive, count)
    tries = 0
    while rooms and len(found) < _GUESTS_MAX:
        fullest = int(live.argmax())
        now = [m for m, life in rest.items() if life.first <= fullest <= life.last]
        guest = None
        for memory in sorted(now, key=lambda m: -m.nbytes)[:_GUESTS_MAX]:
            life, size = rest[memory], rounded(memory.nbytes)
            for host, room in rooms.items():
                if hosts[host] <= life.last or memory.nbytes > host.nbytes:
                    continue
                offset = room.lowest(life, size)
                tries += 1
                if offset + memory.nbytes <= host.nbytes:
                    guest = memory
                    found[guest] = (host, offset)
                    room.add(life, offset, size)
                    break
            if guest is not None:
                break
        if guest is None or tries > _TRIES_MAX:
            return found
        life = rest.pop(guest)
        live[life.first : life.last + 1] -= rounded(guest.nbytes)
    return found


class _Row:
    """Bytes in a row, and what lies there when."""

    def __init__(self, size: int = 64) -> None:
        self._table = np.empty((4, size), np.int64)  # first, last, begin, end
        self._count = 0

    def lowest(self, life: Life, size: int) -> int:
        """Return the lowest offset where so many bytes are free all that time."""
        table = self._table[:, : self._count]
        table = table[:, (table[0] <= life.last) & (table[1] >= life.first)]
        order = table[2].argsort(kind="stable")
        begin, end = table[2][order], table[3][order]
        reach = np.maximum.accumulate(np.concatenate([[0], end]))
        fits = np.flatnonzero(begin - reach[:-1] >= size)
        return int(reach[fits[0] if len(fits) else -1])

    def add(self, life: Life, offset: int, size: int) -> None:
        if self._count == self._table.shape[1]:
            self._table = np.concatenate([self._table, np.empty_like(self._table)], axis=1)
        self._table[:, self._count] = life.first, life.last, offset, offset + size
        self._count += 1


def _by_size(alive: Mapping[Memory, Life]) -> tuple[dict[Memory, int], int]:
    """Place larger ones first, each at the lowest place that is free while it is alive."""
    row, at, nbytes = _Row(), {}, 0
    for memory in sorted(alive, key=lambda m: (-m.nbytes, alive[m].first)):
        size = rounded(memory.nbytes)
        at[memory] = row.lowest(alive[memory], size)
        row.add(alive[memory], at[memory], size)
        nbytes = max(nbytes, at[memory] + size)
    return at, nbytes


def _by_time(alive: Mapping[Memory, Life]) -> tuple[dict[Memory, int], int]:
    """Place them as they come to life, each in the smallest gap that takes it."""
    at: dict[Memory, int] = {}
    ending: dict[int, list[Memory]] = {}
    gaps: dict[int, int] = {}  # by begin, the size
    begins: dict[int, int] = {}  # by end, the begin
    by_size: list[tuple[int, int]] = []  # (size, begin), sorted
    nbytes = now = 0

    def open_gap(begin: int, end: int) -> None:
        if end in gaps:
            end += close_gap(end)
        if begin in begins:
            begin = begins[begin]
            close_gap(begin)
        gaps[begin], begins[end] = end - begin, begin
        insort(by_size, (end - begin, begin))

    def close_gap(begin: int) -> int:
        size = gaps.pop(begin)
        del begins[begin + size], by_size[bisect_left(by_size, (size, begin))]
        return size

    for memory in sorted(alive, key=lambda m: (alive[m].first, -m.nbytes)):
        life, size = alive[memory], rounded(memory.nbytes)
        while now < life.first:
            for gone in ending.pop(now, ()):
                open_gap(at[gone], at[gone] + rounded(gone.nbytes))
            now += 1
        found = bisect_left(by_size, (size, 0))
        if found < len(by_size):
            begin = by_size[found][1]
            left = close_gap(begin) - size
            if left:
                open_gap(begin + size, begin + size + left)
        else:  # at the end, over the gap there, if any
            begin = nbytes
            if nbytes in begins:
                begin = begins[nbytes]
                close_gap(begin)
            nbytes = begin + size
        at[memory] = begin
        ending.setdefault(life.last, []).append(memory)
    return at, nbytes


def rounded(nbytes: int) -> int:
    """Return the bytes that a memory takes when the next one is aligned too."""
    return -(-max(nbytes, 1) // ALIGNMENT) * ALIGNMENT


def block(nbytes: int) -> np.ndarray[Any, Any]:
    """Return uninitialised bytes whose first address is a multiple of ALIGNMENT."""
    raw = np.empty(nbytes + ALIGNMENT, np.uint8)
    begin = -raw.ctypes.data % ALIGNMENT
    return raw[begin : begin + nbytes]


class Arena:
    """The block that the plans of one session share: as large as the largest that is in use.

    A plan that has not run for ARENA_CALLS calls of the session is put to sleep: it lets go of its
    share, and of all else that it keeps, until it runs again.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._plans: dict[FlatPlan, int] = {}  # those awake, and at which call each ran last
        self._calls = 0
        self._preparing: FlatPlan | None = None
        self.storage: Storage | None = None
        budget.spare = self._spare

    @contextlib.contextmanager
    def preparing(self, plan: FlatPlan) -> Iterator[None]:
        """Let a plan take what it needs to run: nothing puts it to sleep meanwhile."""
        before, self._preparing = self._preparing, plan
        try:
            yield
        finally:
            self._preparing = before

    @property
    def nbytes(self) -> int:
        return 0 if self.storage is None else self.storage.nbytes

    def enter(self, plan: FlatPlan) -> None:
        """Have room for a plan. OutOfMemoryError, and nothing changes, if there is none."""
        if plan.arena_bytes > self.nbytes or self.storage is None:
            self._resize(plan.arena_bytes)
        self._plans[plan] = self._calls

    def leave(self, plans: Iterable[FlatPlan]) -> None:
        """Need no more room for these."""
        for plan in plans:
            self._plans.pop(plan, None)
        self._shrink()

    def note(self, plan: FlatPlan) -> None:
        """Note that a plan runs; now and then, put those to sleep that do not."""
        self._calls += 1
        self._plans[plan] = self._calls
        if not self._calls % limits.ARENA_CALLS:
            before = self._calls - limits.ARENA_CALLS
            self.put_to_sleep([p for p, ran in self._plans.items() if ran <= before])

    def put_to_sleep(self, plans: Sequence[FlatPlan] | None = None) -> None:
        """Let these plans, or all, let go of what they keep between calls."""
        gone = list(self._plans) if plans is None else plans
        for plan in gone:
            plan.sleep()
        if gone:
            self.leave(gone)

    def _spare(self) -> None:
        """Keep nothing for plans but the one that is about to run: the session needs the room.

        So whether a command finds room follows from the session's tensors alone, and a replay,
        which begins without plans, comes to the same.
        """
        self.put_to_sleep([plan for plan in self._plans if plan is not self._preparing])

    def _shrink(self) -> None:
        most = max((plan.arena_bytes for plan in self._plans), default=-1)
        if most < 0:
            self.storage = None
        elif most < self.nbytes:
            self._resize(most)

    def _resize(self, nbytes: int) -> None:
        self._budget.make_room(nbytes - self.nbytes)  # which may shrink this one
        self._budget.check(nbytes - self.nbytes)
        self.storage = None  # first: for a moment the account would show both
        try:
            self.storage = Storage(block(nbytes), self._budget)
        except MemoryError:  # the system has less than the budget
            for plan in self._plans:
                plan.sleep()
            self._plans.clear()
            raise
        for plan in self._plans:
            plan.move(None)


__all__ = ["ALIGNMENT", "Arena", "Life", "Places", "block", "live_bytes", "lives", "places"]
