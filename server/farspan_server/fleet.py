"""Which workers there should be: the supervisor's state machine. No clock, socket, Ray or key here.

A *slot* ("cpu:1") is a worker's name as the gateway knows it; a *process* is known by its epoch,
which is never used twice. Processes beyond the slots are spares: started, warm, not announced.
`supervisor.py` carries out the actions that each `handle` returns.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from farspan.core import limits


# --- what happened -------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Started:
    """A process listens."""

    epoch: int
    address: str
    host: str
    pid: int


@dataclass(slots=True, frozen=True)
class Ended:
    """A process is dead or never came up."""

    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Silent:
    """A process has sent no heartbeat for SILENT_S."""

    epoch: int


@dataclass(slots=True, frozen=True)
class Retired:
    """The gateway wants this epoch ended: it is suspect, or its tenant has left it."""

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

    epoch: int
    kind: str
    delay_s: float = 0.0


@dataclass(slots=True, frozen=True)
class Kill:
    """End a process for good; `Ended` will follow."""

    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Announce:
    """Tell the gateway that `slot` is now the process `started`."""

    slot: str
    kind: str
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


@dataclass(slots=True)
class _Pool:
    """The workers of one kind."""

    slots: dict[str, Started | None]
    spares: deque[Started] = field(default_factory=deque)
    failures: int = 0  # starts that failed one after another


class Fleet:
    """The workers there are and should be.

    capacity: slots of each kind. spares: further warm processes of each kind.
    first_epoch: higher than any epoch used before.
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
        self._next_epoch = first_epoch
        self._kinds: dict[int, str] = {}  # of every process, from its Start to its Ended
        self._ended_early: dict[int, str] = {}  # killed, by the reason the gateway will hear

    @property
    def complete(self) -> bool:
        """Whether every slot has a listening process."""
        return all(started for pool in self._pools.values() for started in pool.slots.values())

    def running(self) -> list[Started]:
        """Return the announced processes, by slot."""
        return [s for pool in self._pools.values() for s in pool.slots.values() if s]

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
            case Ended(epoch, reason):
                return self._ended(epoch, reason)
            case Silent(epoch):
                return self._kill(epoch, f"no heartbeat for {limits.SILENT_S:g} s")
            case Retired(epoch, reason):
                return self._kill(epoch, reason)
            case Connected():
                return [*self._announcements(), Sync()]

    def _started(self, started: Started) -> list[Action]:
        kind = self._kinds.get(started.epoch)
        if kind is None:  # it ended while its start was being reported
            return []
        pool = self._pools[kind]
        pool.failures = 0
        pool.spares.append(started)
        return self._fill(kind)

    def _ended(self, epoch: int, reason: str) -> list[Action]:
        kind = self._kinds.pop(epoch, None)
        if kind is None:
            return []
        reason = self._ended_early.pop(epoch, reason)
        pool = self._pools[kind]
        actions: list[Action] = []
        slot = self._slot(pool, epoch)
        if slot is not None:
            pool.slots[slot] = None
            actions.append(Withdraw(slot, epoch, reason))
        elif any(spare.epoch == epoch for spare in pool.spares):
            pool.spares = deque(spare for spare in pool.spares if spare.epoch != epoch)
        else:  # it never listened: whatever is wrong may last, so the next try waits
            pool.failures += 1
        delay_s = min(2.0 ** (pool.failures - 2), limits.RESTART_DELAY_S_MAX)
        return [*actions, *self._fill(kind), self._start(kind, delay_s if pool.failures else 0.0)]

    def _kill(self, epoch: int, reason: str) -> list[Action]:
        if epoch not in self._kinds or epoch in self._ended_early:
            return []
        self._ended_early[epoch] = reason
        return [Kill(epoch, reason)]

    def _fill(self, kind: str) -> list[Action]:
        """Put spares into the empty slots of a kind."""
        pool = self._pools[kind]
        actions: list[Action] = []
        for slot, held in pool.slots.items():
            if held is None and pool.spares:
                pool.slots[slot] = started = pool.spares.popleft()
                actions.append(Announce(slot, kind, started))
        return actions

    def _announcements(self) -> list[Action]:
        return [
            Announce(slot, kind, started)
            for kind, pool in self._pools.items()
            for slot, started in pool.slots.items()
            if started
        ]

    def _slot(self, pool: _Pool, epoch: int) -> str | None:
        held = (slot for slot, started in pool.slots.items() if started and started.epoch == epoch)
        return next(held, None)

    def _start(self, kind: str, delay_s: float = 0.0) -> Start:
        epoch, self._next_epoch = self._next_epoch, self._next_epoch + 1
        self._kinds[epoch] = kind
        return Start(epoch, kind, delay_s)
