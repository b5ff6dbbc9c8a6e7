"""The part of the service that an operator looks at and drains through; it keeps nothing itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server.totals import Totals

if TYPE_CHECKING:
    from farspan_server.live import Live
    from farspan_server.workers import WorkerLink


class Sight:
    """The operator's part of `service.Service`, which owns what it shows."""

    totals: Totals
    draining = False  # takes no new sessions
    #: Told of a worker, by its slot, that wants to end when its sessions have left.
    on_leaving: Callable[[str], None] | None = None

    if TYPE_CHECKING:
        _pool: pools.Pool
        _sessions: dict[str, Live]
        _links: dict[str, WorkerLink]

        def _tell_pool(self, given: pools.Input) -> None: ...

    @property
    def workers(self) -> list[tuple[pools.Worker, int]]:
        """The workers that can be reached and the number of sessions on each."""
        return self._pool.workers

    @property
    def pool(self) -> pools.Pool:
        """The pool, to look at."""
        return self._pool

    @property
    def sessions(self) -> Collection[Live]:
        """The sessions that have not ended."""
        return self._sessions.values()

    @property
    def links(self) -> Collection[WorkerLink]:
        """The workers that are reached or dialled."""
        return self._links.values()

    @property
    def ending(self) -> int:
        """How many sessions would end with this gateway."""
        return sum(not live.stays for live in self._sessions.values())

    # --- drains (drain.Ground) -------------------------------------------------------------------
    def find_worker(self, name: str) -> pools.Worker | None:
        """Return a worker that is reached, by its slot."""
        return next((worker for worker, _ in self._pool.workers if worker.worker == name), None)

    def drain_worker(self, name: str) -> list[Live]:
        """Send no new sessions to a worker; return those that it has."""
        self._tell_pool(pools.Drain(name))
        return [
            live
            for live in self._sessions.values()
            if any(each.worker.worker == name for each in live.links)
        ]

    def leaving(self, worker: pools.Worker) -> None:
        """Take that a worker wants to end (workers.Listener)."""
        if self.on_leaving is not None:
            self.on_leaving(worker.worker)

    # --- recoveries ------------------------------------------------------------------------------
    def began_recovery(self, live: Live) -> None:
        """Note that a session has lost its workers, unless it went to sleep."""
        if live.machine.state != sessions.ASLEEP:
            live.lost_s = live.lost_s or time.monotonic()

    def look_for_recovery(self, live: Live) -> None:
        """Count a recovery once others have all that the lost workers had."""
        if live.lost_s and live.keeper is not None and live.keeper.caught_up_s > live.lost_s:
            self.totals.recovery_s.add(live.keeper.caught_up_s - live.lost_s)
            live.lost_s = 0.0
