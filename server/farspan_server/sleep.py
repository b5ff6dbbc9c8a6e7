"""Sessions that sleep: of one that nobody uses a gateway knows its name, and the disk the rest.

`service.py` owns those that are awake. A sleeper takes a few hundred bytes, no open file and no
time of the clock; its journal is read when somebody comes to it, and by nobody before.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass

from farspan.core import limits
from farspan.core.errors import CapacityError, JournalError

from farspan_server import session as sessions
from farspan_server.config import GatewayConfig
from farspan_server.journal import JournalBusyError
from farspan_server.live import DURABLE, RESUME_MINOR, Live
from farspan_server.shelf import Shelf
from farspan_server.whole import Whole

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class Sleeper:
    """A session that lies on disk, and what may be told of it without a look there."""

    id: str
    tenant: str
    opened_at_s: float
    slept_at_s: float  # when it was used last
    frames: int = 0
    commands: int = 0
    failure: str = ""  # why its journal could not be written, or opened, when it was tried last
    closing: asyncio.Future[None] | None = None  # of its files, by who had it before
    waking: asyncio.Task[None] | None = None

    @property
    def state(self) -> str:
        """As others may know it."""
        return sessions.FAILED if self.failure else sessions.ASLEEP


class Sleep(Whole):
    """The half of `service.Service` that lets sessions sleep, and wakes them."""

    def __init__(self, config: GatewayConfig) -> None:
        super().__init__(config)  # type: ignore[call-arg]  # of the next half
        self._sleepers: dict[str, Sleeper] = {}
        self._waking = 0  # of them, how many are about to be awake
        self._opening = 0  # new ones that are being made
        self._too_large = ""  # the session of which it was said that it alone is more than may be
        self._openings = asyncio.Semaphore(limits.OPENINGS_OF_JOURNALS)

    @property
    def asleep(self) -> int:
        """How many sessions lie on disk and nowhere else."""
        return len(self._sleepers)

    @property
    def full(self) -> bool:
        """Whether no other session may be awake, those included that are about to be."""
        awake = len(self._sessions) + self._waking + self._opening
        return awake >= self.config.sessions_max

    def sleepers(self) -> Counter[tuple[str, str]]:
        """Return how many sessions sleep, by tenant and state: asleep or failed."""
        return Counter((each.tenant, each.state) for each in self._sleepers.values())

    async def _find_all(self, shelf: Shelf) -> None:
        """Know the sessions of the gateway before this one. JournalError."""
        names = shelf.take()
        for each in await asyncio.to_thread(lambda: list(map(shelf.glance, names))):
            if each is None:
                continue
            try:
                self.tenancy.found(each.session, each.tenant, shelf.place(each.session))
            except OSError as error:  # of one of them: the others are served
                failed = JournalBusyError(f"the journal cannot be read (errno {error.errno})")
                failed.about = {"tenant": each.tenant, "opened_at_s": each.opened_at_s}
                shelf.pass_over(each.session, failed)
                continue
            self._sleepers[each.session] = Sleeper(
                each.session, each.tenant, each.opened_at_s, each.used_at_s
            )
        if names:
            log.info("%d sessions were found on disk", len(self._sleepers))

    # --- waking ----------------------------------------------------------------------------------
    @contextlib.asynccontextmanager
    async def here(self, tenant: str, session: str) -> AsyncIterator[Live]:
        """Find a session, one that sleeps too, and let it not fall asleep within.

        SessionClosedError, JournalError, CapacityError.
        """
        await self.wake(tenant, session)
        live = self.find(tenant, session)
        live.users += 1
        try:
            yield live
        finally:
            live.users -= 1

    async def wake(self, tenant: str, session: str) -> None:
        """Return when a session does not sleep; whether there is one, `find` knows.

        JournalError: the disk fails. CapacityError: it is full, or too many sessions are awake.
        """
        # Over again: until whoever waits here is told, the clock may have put it back to sleep.
        while (sleeper := self._sleepers.get(session)) is not None and sleeper.tenant == tenant:
            self._refuse_late()
            if sleeper.waking is None:
                if self.full:
                    raise CapacityError(
                        f"{self.config.sessions_max} sessions are awake, the gateway's most; this "
                        "one stays on disk"
                    )
                self._waking += 1
                sleeper.waking = self._spawn(self._wake(sleeper))
            await asyncio.shield(sleeper.waking)  # others may wait for it too

    async def _wake(self, sleeper: Sleeper) -> None:
        shelf = self._shelf
        assert shelf is not None
        try:
            if sleeper.closing is not None:
                await sleeper.closing
            async with self._openings:
                found = await asyncio.to_thread(shelf.open, sleeper.id)
        except JournalBusyError as error:  # it lies there until somebody tries again
            sleeper.failure = stays(sleeper.id, str(error))
            raise (CapacityError if error.full else JournalError)(sleeper.failure) from None
        finally:
            sleeper.waking = None
            self._waking -= 1
        del self._sleepers[sleeper.id]
        if found is None:  # it is damaged, and was set aside
            self.tenancy.ended(sleeper, "JournalError")
            return
        past = found.past
        machine = sessions.Session.woken(
            tuple(past.session["kinds"]),
            self.config.lease_s,
            past.epoch,
            past.base,
            dict(past.frames),
            syncs=past.session["durability"] == DURABLE,
            switches=past.switches,
        )
        live = Live(machine, past.session, sleeper.id)
        live.digest, live.minor, live.slept = past.secret, RESUME_MINOR, sleeper
        self.tenancy.limit(live)
        self._keeper(live, found)
        self._sessions[live.id] = live
        self._channels[live.channel] = live

    # --- falling asleep --------------------------------------------------------------------------
    def _let_sleep(self, live: Live) -> None:
        """Put a session that has no client and no workers on the shelf, unless a call uses it."""
        if live.users or live.uploading or live.stream is not None:
            return
        self._lay_down(live)
        self.totals.end(live, "")

    def _lay_down(self, live: Live) -> None:
        assert live.keeper is not None
        self._sessions.pop(live.id, None)
        self._channels.pop(live.channel, None)
        frames, commands = live.count
        sleeper = Sleeper(
            live.id, live.tenant, live.opened_at_s, time.time(), frames, commands, live.failure
        )
        sleeper.closing = live.keeper.close(forget=False)
        self._sleepers[live.id] = sleeper

    def _set_aside(self, live: Live, message: str) -> None:
        """Let a session whose journal failed sleep with what survived, and tell its client."""
        live.failure = stays(live.id, message)
        log.error("session %s: %s", live.id, live.failure)
        self.totals.end(live, "JournalError")
        self.tenancy.failed(live)
        self._lay_down(live)
        self._let_go(live)
        stream, live.stream = live.stream, None
        if stream is not None:
            stream.end("JournalError", live.failure)

    def _forget(self, sleeper: Sleeper, why: str, kind: str = "SessionClosedError") -> None:
        """End a session that nobody is about to wake. kind: what the audit log calls it."""
        shelf = self._shelf
        assert shelf is not None
        log.info("session %s: ended in its sleep: %s", sleeper.id, why)
        del self._sleepers[sleeper.id]
        self.tenancy.ended(sleeper, kind)
        # Behind what still closes its files.
        asyncio.get_running_loop().run_in_executor(self._syncing, shelf.remove, sleeper.id)

    def _let_go_of_old(self) -> None:
        """End sessions that nobody has used for too long, or that take too much of the disk.

        The one that was used last stays, however much it takes: its client may be about to come.
        """
        now_s, total, last = time.time(), 0, ""
        for sleeper in sorted(self._sleepers.values(), key=lambda each: -each.slept_at_s):
            total += self.tenancy.disk.held(sleeper.id)
            if sleeper.waking is not None:
                continue
            if now_s - sleeper.slept_at_s > self.config.retention_s:
                self._forget(sleeper, "its retention is over", "RetentionOver")
                continue
            last = last or sleeper.id
            most = self.config.retention_bytes
            if 0 < most < total and sleeper.id == last:
                if self._too_large != last:
                    self._too_large = last
                    log.warning(
                        "session %s takes %d bytes alone, and sleeping sessions may take %d "
                        "together: it stays, as the one that was used last", last, total, most
                    )  # fmt: skip
            elif 0 < most < total:
                why = f"sleeping sessions take more than {most} bytes, and others were used later"
                self._forget(sleeper, why, "RetentionBytes")


def stays(session: str, reason: str) -> str:
    """Return what those are told whose session lies on disk for this reason."""
    return (
        f'{reason}; the session stays on disk with what survived: farspan.attach("{session}") goes '
        "on from there when the disk works and has room"
    )
