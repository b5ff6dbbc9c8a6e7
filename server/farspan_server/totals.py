"""What a gateway has counted since it began: sums of ended sessions, durations of rare events.

Plain numbers, for `metrics.py`. What a live session counts anyway is not counted again: it is read
when somebody asks, and added here once, when the session ends.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from farspan.core import limits
from farspan.core.errors import BY_NAME

if TYPE_CHECKING:
    from farspan_server.live import Live

OTHERS: Final = "others"  # the label of tenants beyond the first TENANTS_SHOWN_MAX
SYNC_S: Final = (0.0001, 0.0003, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
RECOVERY_S: Final = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 10.0, 15.0, 30.0, 60.0)
LAG_S: Final = (0.0005, 0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0)


class Durations:
    """How long something took, each time: counts below some bounds, in seconds, and the sum.

    May be told from any thread.
    """

    def __init__(self, bounds_s: tuple[float, ...]) -> None:
        self.bounds_s = bounds_s
        self.sum_s = 0.0
        self._counts = [0] * (len(bounds_s) + 1)
        self._lock = threading.Lock()

    def add(self, seconds: float) -> None:
        """Count one duration."""
        with self._lock:
            self._counts[bisect_left(self.bounds_s, seconds)] += 1
            self.sum_s += seconds

    @property
    def count(self) -> int:
        """How often it was told."""
        return sum(self._counts)

    def read(self) -> tuple[list[tuple[str, int]], float]:
        """Return (bound, how many took at most that long), the last one "+Inf", and the sum."""
        with self._lock:
            below, found = 0, []
            for bound, count in zip((*map(str, self.bounds_s), "+Inf"), self._counts, strict=True):
                below += count
                found.append((bound, below))
            return found, self.sum_s


@dataclass(slots=True)
class Work:
    """What sessions of one tenant came to."""

    sessions: int = 0
    frames: int = 0
    commands: int = 0
    recoveries: int = 0
    bytes_received: int = 0
    bytes_sent: int = 0

    def add(self, live: Live) -> None:
        """Add what a session came to so far."""
        machine = live.machine
        self.sessions += live.slept is None  # else it was counted before it slept
        self.frames += machine.frames
        self.commands += machine.commands
        self.recoveries += machine.recoveries
        self.bytes_received += live.bytes_received
        self.bytes_sent += live.bytes_sent


class Totals:
    """The counts of one gateway."""

    def __init__(self) -> None:
        self.ended: dict[str, Work] = {}  # by the label of their tenant
        self.errors: Counter[str] = Counter()  # told to clients, by the error's name
        self.sync_s = Durations(SYNC_S)
        self.recovery_s = Durations(RECOVERY_S)  # from a loss until the others have all of it
        self.lag_s = Durations(LAG_S)  # by which the event loop came late
        self.waits: dict[str, tuple[int, float]] = {}  # for workers, and seconds, by label
        self._labels: set[str] = set()

    def label(self, tenant: str) -> str:
        """Return how metrics name a tenant: the first ones by name, so that there is a bound."""
        if tenant not in self._labels:
            if len(self._labels) >= limits.TENANTS_SHOWN_MAX:
                return OTHERS
            self._labels.add(tenant)
        return tenant

    def end(self, live: Live, error: str) -> None:
        """Add a session that has ended, with an error's name or "", or that falls asleep."""
        self.ended.setdefault(self.label(live.tenant), Work()).add(live)
        if error:
            self.error(error)

    def waited(self, live: Live, now_s: float) -> None:
        """Count that a session has its workers, and for how long it waited for them."""
        if live.claimed_s:
            count, seconds = self.waits.get(label := self.label(live.tenant), (0, 0.0))
            self.waits[label] = count + 1, seconds + now_s - live.claimed_s
            live.claimed_s = 0.0

    def error(self, name: str) -> None:
        """Count an error that a client is told."""
        self.errors[name if name in BY_NAME else "ServiceError"] += 1
