"""Moves: a session goes to other workers because its tenant wants so, while its client goes on.

A snapshot first, so that there is little to replay; then, in one step that nobody can come between,
it lets go of its workers and has the others. What cannot be done is refused before that, and the
session stays where it is. Read `drain.py` for moves that an operator wants.
"""

from __future__ import annotations

import logging
import time
from typing import Final, Protocol

from farspan import wire
from farspan.core import limits
from farspan.core.errors import (
    BadValueError,
    CapacityError,
    ServiceError,
)

from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.drain import CONFIRM_S, cut, until
from farspan_server.live import KINDS, Live
from farspan_server.tenancy import Tenancy

log = logging.getLogger(__name__)

#: Until a call that moves does not wait any longer for the replay, which goes on.
_ARRIVE_S: Final = limits.MOVE_S - 4 * limits.CUT_WAIT_S


class Ground(Protocol):
    """What moves are carried out on: the service."""

    tenancy: Tenancy

    @property
    def pool(self) -> pools.Pool: ...
    def give(self, live: Live, given: messages.Input) -> None: ...
    def claim_again(self, live: Live) -> None: ...


class Moves:
    """The moves of a gateway. One at a time for a session."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self._under_way: set[str] = set()

    async def move(self, live: Live, to: str, allow_numerics_change: bool) -> None:
        """Let a session go on with other workers; returns when they have all that it is.

        to: worker names, comma separated; a kind; "": any others. BadValueError: it cannot move at
        all, or not there. CapacityError: not now. What `Live.check` raises: it ended meanwhile.
        """
        if live.id in self._under_way:
            raise CapacityError("the session is being moved already; try again")
        self._under_way.add(live.id)
        try:
            await self._move(live, to, allow_numerics_change)
        finally:
            self._under_way.discard(live.id)

    async def _move(self, live: Live, to: str, allow: bool) -> None:
        keeper = live.keeper
        if keeper is None:
            raise BadValueError(
                "a session without a journal cannot be moved: there is nothing that other workers "
                'could go on from (durability="off")'
            )
        if not live.links:
            self._without_workers(live, to, allow)
            await keeper.durable()
            live.check()
            return
        moved = self._moved(live, to, allow)
        if moved.workers == tuple(each.worker.worker for each in live.links):
            return  # asked again, after an answer that was lost
        self._check(moved)
        began_s = time.monotonic()
        # With other numerics all that is replayed may come out otherwise: no more than must be.
        await cut(live, keeper, limits.CUT_WAIT_S if allow else CONFIRM_S)
        live.check()
        if not live.links:
            raise ServiceError("the session lost its workers before it could be moved; try again")
        moved = self._moved(live, to, allow)
        self._check(moved)  # others have come and gone meanwhile
        source = ", ".join(each.worker.worker for each in live.links)
        live.moving = moved
        try:
            self._ground.give(live, messages.Leave())
        finally:
            live.moving = None
        live.check()
        target = ", ".join(each.worker.worker for each in live.links)
        log.info("session %s: moved from %s to %s", live.id, source, target)
        self._ground.tenancy.moved(live, source, target)
        await until(lambda: live.ended or live.left or keeper.caught_up_s > began_s, _ARRIVE_S)
        live.check()

    def _moved(self, live: Live, to: str, allow: bool) -> pools.Moved:
        """Return what the pool is to be asked for. BadValueError."""
        kinds, workers = live.worker_kinds, tuple(each.strip() for each in to.split(","))
        if not to:
            workers = ()
        elif to in KINDS:
            kinds, workers = (to,) * len(kinds), ()
        elif len(workers) == len(kinds):  # else the pool says how many it must be
            there = {worker.worker: worker.kind for worker, _ in self._ground.pool.workers}
            kinds = tuple(there.get(name, "cpu") for name in workers)
        if kinds != live.worker_kinds and not allow:
            raise BadValueError(
                f"the session's devices are on {', '.join(live.worker_kinds)}: on "
                f"{', '.join(kinds)} other bits are computed; allow_numerics_change lets it go"
            )
        numerics = () if allow else live.pinned
        claim = pools.Claimed(live.id, live.tenant, kinds, 0.0, live.memory_bytes, numerics)
        return pools.Moved(claim, workers)

    def _check(self, moved: pools.Moved) -> None:
        refusal = self._ground.pool.refusal(moved.claim, moved.workers)
        if refusal:
            raise CapacityError(f"the session stays where it is: {refusal}")

    def _without_workers(self, live: Live, to: str, allow: bool) -> None:
        """Let the next workers of a session that has none now be of any numerics."""
        asleep = live.machine.state == sessions.ASLEEP
        state = "sleeps" if asleep else "waits for workers"
        if to or not allow:
            raise BadValueError(
                f"the session {state}, so there is nothing to be moved; its next workers are of "
                f"the same numerics, or with allow_numerics_change any {live.worker_kinds[0]}"
            )
        live.allow_once()
        if not asleep:
            self._ground.claim_again(live)


def reply(live: Live) -> wire.MoveReply:
    """Return what is answered to who asked for a move."""
    return wire.MoveReply(live.devices, live.changes)
