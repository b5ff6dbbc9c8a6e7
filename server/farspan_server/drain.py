"""Drains: workers give their sessions to others and are replaced, one after another.

A session with a journal gets a snapshot first, so that there is little to replay, and then goes to
other workers the way it would after a loss. One without a journal is waited for, up to a bound;
then it ends. Nothing here is remembered across a restart of the gateway.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from typing import Any, Final, Protocol

from farspan.core import limits

from farspan_server import session_messages as messages
from farspan_server.keeper import Keeper
from farspan_server.live import Live
from farspan_server.pool_messages import Worker

log = logging.getLogger(__name__)

CONFIRM_S: Final = 0.25  # for a client at work to confirm what it was told
_LOOK_S: Final = 0.02  # between looks whether a session or worker has got somewhere

WAITS: Final = "waits"  # for the drain of another
DRAINING: Final = "draining"
REPLACING: Final = "replacing"
ACTIVE: Final = (WAITS, DRAINING, REPLACING)
DONE: Final = "done"
STUCK: Final = "not replaced"  # within START_S: its supervisor is away or cannot


class Ground(Protocol):
    """What drains are carried out on: the service."""

    def find_worker(self, name: str) -> Worker | None: ...
    def drain_worker(self, name: str) -> list[Live]: ...
    def give(self, live: Live, given: messages.Input) -> None: ...


class Drains:
    """All drains of a gateway: those that wait their turn, the one under way, the last of each."""

    def __init__(self, ground: Ground) -> None:
        self._ground = ground
        self.states: dict[str, str] = {}  # by worker
        self._line: dict[str, float] = {}  # by worker: seconds to wait for sessions
        self._task: asyncio.Task[None] | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def begin(self, names: Iterable[str], wait_s: float) -> None:
        """Drain these workers, one after another. Doing it twice does it once."""
        for name in names:
            if self.states.get(name) not in ACTIVE:
                self._line[name] = wait_s
                self.states[name] = WAITS
        if self._line and (self._task is None or self._task.done()):
            self._task = asyncio.create_task(self._run())

    def begin_now(self, name: str, wait_s: float) -> bool:
        """Drain a worker beside all others: it is about to end by itself.

        Return whether it has begun; not while a drain of that name is under way, which may be of
        the worker that had the name before.
        """
        if self.states.get(name) in (DRAINING, REPLACING):
            return False
        self._line.pop(name, None)
        self.states[name] = DRAINING
        task = asyncio.create_task(self._carry_out(name, wait_s))
        self._leaving.add(task)
        task.add_done_callback(self._leaving.discard)
        return True

    def stop(self) -> None:
        """Leave all as it is."""
        for each in (self._task, *self._leaving):
            if each is not None:
                each.cancel()

    async def _run(self) -> None:
        while self._line:
            name = next(iter(self._line))
            await self._carry_out(name, self._line.pop(name))

    async def _carry_out(self, name: str, wait_s: float) -> None:
        try:
            self.states[name] = await self._drain(name, wait_s)
        except Exception:  # a defect of ours: the others' turn comes all the same
            log.exception("drain of %s", name)
            self.states[name] = STUCK
        log.info("drain of worker %s: %s", name, self.states[name])

    async def _drain(self, name: str, wait_s: float) -> str:
        worker = self._ground.find_worker(name)
        if worker is None:
            return DONE
        self.states[name] = DRAINING
        begun_s = time.monotonic()
        lives = self._ground.drain_worker(name)
        log.info("worker %s drains; it has %d session(s)", name, len(lives))
        await asyncio.gather(*(self._empty(live, worker, wait_s) for live in lives))
        log.info("worker %s has no sessions after %.2f s", name, time.monotonic() - begun_s)
        if not worker.supervised:
            return DONE
        self.states[name] = REPLACING
        replaced = await until(lambda: self._is_replaced(worker), limits.START_S)
        return DONE if replaced else STUCK

    def _is_replaced(self, worker: Worker) -> bool:
        now = self._ground.find_worker(worker.worker)
        return now is not None and now.epoch > worker.epoch

    async def _empty(self, live: Live, worker: Worker, wait_s: float) -> None:
        """Return when a session has left a worker."""
        if live.keeper is not None:
            await cut(live, live.keeper)
            if _has(live, worker):
                self._ground.give(live, messages.Leave())
            return
        if not await until(lambda: not _has(live, worker), wait_s):
            text = (
                f"the worker of the session is being restarted, and {wait_s:g} s were not enough "
                "to wait for its end; it has no journal to go on with"
            )
            self._ground.give(live, messages.Fault("WorkerLostError", text))


async def cut(live: Live, keeper: Keeper, confirm_s: float = CONFIRM_S) -> None:
    """Return when a new snapshot is there, so that little is to be replayed, or takes too long.

    confirm_s: for its client to have taken what led to it; one that is away does not.
    """
    await until(lambda: _calm(live, keeper), limits.CUT_WAIT_S)
    keeper.cut_now(time.monotonic(), live.machine.received)
    # Without it the replay is longer, that is all.
    await until(lambda: _calm(live, keeper), limits.CUT_WAIT_S)
    await until(lambda: live.ended or keeper.settled, confirm_s)


def _calm(live: Live, keeper: Keeper) -> bool:
    """Whether no snapshot or replay is under way, but for what an idle client does not confirm."""
    return live.ended or keeper.settled or live.machine.cut_waits_for_client


def _has(live: Live, worker: Worker) -> bool:
    return not live.ended and any(each.worker == worker for each in live.links)


async def until(true: Callable[[], Any], seconds: float) -> bool:
    """Wait until something is true, at most so long; return whether it is."""
    deadline = time.monotonic() + seconds
    while not true():
        if time.monotonic() > deadline:
            return False
        await asyncio.sleep(_LOOK_S)
    return True
