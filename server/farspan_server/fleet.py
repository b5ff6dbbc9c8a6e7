"""Which workers there should be: the supervisor's state machine. No clock, socket, Ray or key here.

A *slot* ("cpu:1") is a worker's name as the gateway knows it. A process is known by a number; in a
slot it is known by the slot's epoch, which only grows and is never used twice. Processes beyond
the slots are spares: started, warm, not announced. `supervisor.py` does what `handle` returns.
"""

from __future__ import annotations

import itertools
from collections import deque
from dataclasses import dataclass, field

from farspan.core import limits


# --- what happened -------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Started:
    """A process listens."""

    process: int
    address: str
    host: str
    pid: int


@dataclass(slots=True, frozen=True)
class Ended:
    """A process is dead or never came up."""

    process: int
    reason: str


@dataclass(slots=True, frozen=True)
class Silent:
    """A process has sent no heartbeat for SILENT_S."""

    process: int


@dataclass(slots=True, frozen=True)
class Retired:
    """The gateway wants this epoch ended: it is suspect, or its tenant has left it."""

    slot: str
    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Connected:
    """The gateway can be told; it may know nothing, or too much."""


Observation = Started | Ended | Silent | Retired | Connected


# --- what to do ----------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Start:
    """Make a worker process of this kind."""

    process: int
    kind: str
    delay_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Kill:
    """End a process for good; `Ended` will follow."""

    process: int
    reason: str


@dataclass(slots=True, frozen=True)
class Announce:
    """Tell the gateway that `slot` is now the process `started`."""

    slot: str
    kind: str
    epoch: int
    started: Started


@dataclass(slots=True, frozen=True)
class Withdraw:
    """Tell the gateway that the slot's process is dead."""

    slot: str
    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Sync:
    """Tell the gateway that it has now heard of every worker."""


Action = Start | Kill | Announce | Withdraw | Sync


@dataclass(slots=True, frozen=True)
class _Tenure:
    """A process in a slot."""

    epoch: int
    started: Started


@dataclass(slots=True)
class _Pool:
    """The workers of one kind."""

    slots: dict[str, _Tenure | None]
    spares: deque[Started] = field(default_factory=deque)
    failures: int = 0  # starts that failed one after another


class Fleet:
    """The workers there are and should be.

    capacity: slots of each kind. spares: further warm processes of each kind.
    first_epoch: higher than any epoch that the gateway has seen.
    """

    def __init__(
        self, capacity: dict[str, int], spares: dict[str, int] | None = None, first_epoch: int = 1
    ) -> None:
        self._pools = {
            kind: _Pool({f"{kind}:{k}": None for k in range(count)})
            for kind, count in capacity.items()
        }
        self.capacity = dict(capacity)
        self._spares = dict(spares or {})
        self._epochs = itertools.count(first_epoch)
        self._processes = itertools.count(1)
        self._kinds: dict[int, str] = {}  # of every process, from its Start to its Ended
        self._killed: dict[int, str] = {}  # and why; that is what the gateway hears

    @property
    def complete(self) -> bool:
        """Whether every slot has a listening process."""
        return all(tenure for pool in self._pools.values() for tenure in pool.slots.values())

    def running(self) -> list[Started]:
        """Return the announced processes, by slot."""
        held = (tenure for pool in self._pools.values() for tenure in pool.slots.values())
        return [tenure.started for tenure in held if tenure]

    def begin(self) -> list[Action]:
        """Return the actions that make the fleet."""
        return [
            self._start(kind)
            for kind, pool in self._pools.items()
            for _ in range(len(pool.slots) + self._spares.get(kind, 0))
        ]

    def handle(self, observation: Observation) -> list[Action]:
        """Take one observation and return what to do about it."""
        match observation:
            case Started():
                return self._started(observation)
            case Ended(process, reason):
                return self._ended(process, reason)
            case Silent(process):
                return self._kill(process, f"no heartbeat for {limits.SILENT_S:g} s")
            case Retired(slot, epoch, reason):
                return self._retire(slot, epoch, reason)
            case Connected():
                return [*self._announcements(), Sync()]

    def _started(self, started: Started) -> list[Action]:
        kind = self._kinds.get(started.process)
        if kind is None:  # it ended while its start was being reported
            return []
        pool = self._pools[kind]
        pool.failures = 0
        pool.spares.append(started)
        return self._fill(kind)

    def _ended(self, process: int, reason: str) -> list[Action]:
        kind = self._kinds.pop(process, None)
        if kind is None:
            return []
        reason = self._killed.pop(process, reason)
        pool = self._pools[kind]
        actions: list[Action] = []
        slot = next((s for s, t in pool.slots.items() if t and t.started.process == process), None)
        if slot is not None and (tenure := pool.slots[slot]) is not None:
            pool.slots[slot] = None
            actions.append(Withdraw(slot, tenure.epoch, reason))
        elif any(spare.process == process for spare in pool.spares):
            pool.spares = deque(spare for spare in pool.spares if spare.process != process)
        else:  # it never listened: whatever is wrong may last, so the next try waits
            pool.failures += 1
        delay_s = min(2.0 ** (pool.failures - 2), limits.RESTART_DELAY_S_MAX)
        return [*actions, *self._fill(kind), self._start(kind, delay_s if pool.failures else 0.0)]

    def _retire(self, slot: str, epoch: int, reason: str) -> list[Action]:
        pool = self._pools.get(slot.partition(":")[0])
        tenure = pool.slots.get(slot) if pool else None
        if tenure is None or tenure.epoch != epoch:
            return []  # it has been replaced since
        return self._kill(tenure.started.process, reason)

    def _kill(self, process: int, reason: str) -> list[Action]:
        if process not in self._kinds or process in self._killed:
            return []
        self._killed[process] = reason
        return [Kill(process, reason)]

    def _fill(self, kind: str) -> list[Action]:
        """Put spares into the empty slots of a kind."""
        pool = self._pools[kind]
        actions: list[Action] = []
        for slot, held in pool.slots.items():
            if held is None and pool.spares:
                tenure = _Tenure(next(self._epochs), pool.spares.popleft())
                pool.slots[slot] = tenure
                actions.append(Announce(slot, kind, tenure.epoch, tenure.started))
        return actions

    def _announcements(self) -> list[Action]:
        return [
            Announce(slot, kind, tenure.epoch, tenure.started)
            for kind, pool in self._pools.items()
            for slot, tenure in pool.slots.items()
            if tenure
        ]

    def _start(self, kind: str, delay_s: float = 0.0) -> Start:
        process = next(self._processes)
        self._kinds[process] = kind
        return Start(process, kind, delay_s)
