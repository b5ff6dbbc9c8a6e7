"""The gateway without gRPC: carries out what the session and pool state machines decide.

One asyncio thread owns everything here; nothing blocks. It moves bytes between clients' queues and
workers' links and decodes no command. `gateway.py` is the shell in front, `workers.py` behind.
"""

from __future__ import annotations

import asyncio
import heapq
import logging
import secrets
import time
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, Final

from farspan import wire
from farspan.core import limits, link, words
from farspan.core.errors import (
    ConnectError,
    JournalError,
    SessionClosedError,
)

from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.arrivals import Arrivals
from farspan_server.bulk import Bulk
from farspan_server.config import GatewayConfig
from farspan_server.disk import TimedDisk
from farspan_server.keeper import Keeper
from farspan_server.live import Live
from farspan_server.shelf import Damaged, Shelf
from farspan_server.sleep import Sleep, Sleeper
from farspan_server.supervisor_link import SupervisorLink
from farspan_server.switched import Placed
from farspan_server.tenancy import Tenancy
from farspan_server.totals import Totals
from farspan_server.worker_side import WorkerSide
from farspan_server.workers import WorkerLink

log = logging.getLogger(__name__)

_RETENTION_LOOK_S: Final = 10.0  # between looks at what lies on disk unused
_DEVICES_PER_PAGE_MAX: Final = 2_000  # of a list: it stays below a message's most bytes
TICK_S: Final = 0.25  # how late a lease or a deadline may be noticed
_TICKS_A_TURN: Final = 64  # sessions of whose leases the clock thinks before others have their turn


class Service(Arrivals, Sleep, WorkerSide, Bulk):
    """All sessions and workers of a gateway."""

    def __init__(self, config: GatewayConfig) -> None:
        super().__init__(config)
        self.draining = False  # takes no new sessions
        self._stopping = False
        self.totals = Totals()
        self.tenancy = Tenancy(config, TimedDisk(self.totals.sync_s.add), self._tell_pool)
        self._shelf = Shelf(config.journals, self.tenancy.disk) if config.journals else None
        #: One thread: while it waits for the disk, what others write gathers for its next turn.
        self._syncing = ThreadPoolExecutor(1, "farspan-sync")

    # --- lifecycle -------------------------------------------------------------------------------
    async def start(self) -> None:
        """Find the sessions on disk, dial the configured workers, listen for a supervisor.

        JournalError: the directory of journals cannot be used.
        """
        if self._shelf is not None:
            await self._find_all(self._shelf)
        else:
            log.info("sessions are not kept: they end with their workers and with this gateway")
        for number, each in enumerate(self.config.workers):
            name = f"static-{number}"
            worker = pools.Worker(name, 1, each.address, each.key, each.kind, "", 0, False)
            self._links[name] = WorkerLink(worker, self)
        if self.config.supervisor is not None:
            self.supervisor = SupervisorLink(self.config.supervisor, self)
            await self.supervisor.start()
        self._spawn(self._clock())
        self.tenancy.start()

    async def stop(self) -> None:
        """End all sessions and links, but for sessions that stay on disk for another gateway."""
        self._stopping = True
        # What is being read may be repaired: another gateway has the directory only after it.
        waking = (each.waking for each in self._sleepers.values())
        await asyncio.gather(*(each for each in waking if each), return_exceptions=True)
        for live in list(self._sessions.values()):
            if live.stays:
                self._leave(live)
            else:
                self.give(live, messages.Fault("SessionClosedError", "the gateway shuts down"))
        for task in self._tasks:
            task.cancel()
        if self.supervisor is not None:
            await self.supervisor.stop()
        await asyncio.gather(*(each.close() for each in self._links.values()))
        await asyncio.to_thread(self._syncing.shutdown)
        if self._shelf is not None:
            self._shelf.release()
        self.tenancy.stop()

    def _leave(self, live: Live) -> None:
        """Let a session lie on disk. Its client finds its stream broken, and tries again."""
        assert live.keeper is not None
        live.keeper.close(forget=False)
        live.left = True
        for each in live.links:
            each.send(link.pack(link.CLOSE, live.channel))
        self._sessions.pop(live.id, None)
        self._channels.pop(live.channel, None)
        live.windows.clear()
        stream, live.stream = live.stream, None  # what comes late is not heard, but sent again
        if stream is not None:
            stream.end()

    @property
    def sessions(self) -> Collection[Live]:
        """The sessions that have not ended and do not sleep; `asleep` counts the others."""
        return self._sessions.values()

    @property
    def ending(self) -> int:
        """How many sessions would end with this gateway."""
        return sum(not live.stays for live in self._sessions.values())

    async def _clock(self) -> None:
        looked_s = time.monotonic()
        while True:
            begun_s = time.monotonic()
            await asyncio.sleep(TICK_S)
            self.totals.lag_s.add(max(0.0, time.monotonic() - begun_s - TICK_S))
            self._tell_pool(pools.Tick())
            if self._shelf is not None and begun_s > looked_s + _RETENTION_LOOK_S:
                looked_s = begun_s
                self._let_go_of_old()
            for number, live in enumerate(list(self._sessions.values()), 1):
                if not number % _TICKS_A_TURN:
                    await asyncio.sleep(0)
                if self._sessions.get(live.id) is not live:  # it ended meanwhile
                    continue
                try:
                    self._tick(live)
                except Exception:  # a defect of ours ends this session, never the clock of all
                    log.exception("session %s", live.id)
                    self.give(live, messages.Fault("ServiceError", "the gateway failed"))

    def _tick(self, live: Live) -> None:
        if live.keeper is not None and live.machine.state == sessions.DETACHED:
            live.keeper.cut_now(time.monotonic(), live.machine.received)  # before it sleeps
        self.give(live, messages.Tick())
        if live.machine.state == sessions.ASLEEP:
            self._let_sleep(live)
            return
        if live.keeper is not None and not live.ended:
            self.written(live, 0, 0)
            live.keeper.look(time.monotonic(), live.machine.received)
            if live.lost_s and live.keeper.caught_up_s > live.lost_s:
                self.totals.recovery_s.add(live.keeper.caught_up_s - live.lost_s)
                live.lost_s = 0.0

    # --- sessions --------------------------------------------------------------------------------
    def find(self, tenant: str, session: str) -> Live:
        """Return a session of this tenant; raise SessionClosedError for any other alike."""
        self._refuse_late()
        live = self._sessions.get(session)
        if live is None or live.tenant != tenant:
            damaged = self._shelf.damaged.get(session) if self._shelf is not None else None
            if damaged is not None and damaged.tenant == tenant:
                raise JournalError(damaged.why)
            raise SessionClosedError("there is no such session, or it has ended")
        return live

    async def close(self, tenant: str, session: str) -> None:
        """End a session of this tenant, or remove one that was set aside. SessionClosedError."""
        self._refuse_late()
        damaged = self._shelf.damaged.get(session) if self._shelf is not None else None
        if self._shelf is not None and damaged is not None and damaged.tenant == tenant:
            await asyncio.to_thread(self._shelf.remove, session)
            return
        sleeper = self._sleepers.get(session)
        if sleeper is not None and sleeper.tenant == tenant and sleeper.waking is None:
            self._forget(sleeper, "its tenant closed it")
            return
        await self.wake(tenant, session)
        closed = messages.Fault("SessionClosedError", "the session was closed by its tenant")
        self.give(self.find(tenant, session), closed)

    def _refuse_late(self) -> None:
        """Raise ConnectError when this gateway stops: the next one will know the session."""
        if self._stopping:
            raise ConnectError("the gateway shuts down")

    def sessions_of(self, tenant: str, after: tuple[float, str]) -> wire.ListReply:
        """Return a page of the tenant's sessions, oldest first.

        after: when the last one of the page before was opened, and its id.
        """
        known = (self._sessions.get(s) or self._sleepers.get(s) for s in self.tenancy.names(tenant))
        mine: list[Live | Sleeper | Damaged] = [each for each in known if each is not None]
        if self._shelf is not None:
            damaged = list(self._shelf.damaged.values())  # threads may find others meanwhile
            mine += [each for each in damaged if each.tenant == tenant]
        mine = [each for each in mine if _age(each) > after]
        page: list[wire.SessionInfo] = []
        devices = 0
        for each in heapq.nsmallest(limits.SESSIONS_PER_PAGE_MAX, mine, key=_age):
            info = self.info(each)
            devices += len(info.devices)
            if page and devices > _DEVICES_PER_PAGE_MAX:
                break
            page.append(info)
        return wire.ListReply(tuple(page), len(page) < len(mine))

    def info(self, known: Live | Sleeper | Damaged) -> wire.SessionInfo:
        """Return what others of its tenant may know of a session."""
        if isinstance(known, Damaged):
            return wire.SessionInfo(known.session, "damaged", known.opened_at_s, 0, 0)
        if isinstance(known, Sleeper):
            count = known.frames, known.commands
            return wire.SessionInfo(known.id, known.state, known.opened_at_s, *count)
        state, opened_at_s = known.machine.state, known.opened_at_s
        devices = tuple(replace(each, numerics="") for each in known.devices)
        return wire.SessionInfo(known.id, state, opened_at_s, *known.count, devices)

    async def worker_status(self, live: Live) -> list[dict[str, Any]]:
        """Return each worker's own counters, with those of this session's engine only."""
        found = []
        for each in live.links:
            counts = dict(await each.status())
            engines = counts.pop("engines", {})
            found.append({**counts, "engine": engines.get(live.id, {})})
        return found

    def give(self, live: Live, given: messages.Input) -> None:
        """Hand an input to a session and carry out what follows."""
        try:
            for out in live.machine.handle(given, time.monotonic()):
                match out:
                    case messages.Forward(device, data):
                        if live.unnamed:
                            self._name_changes(live, data)
                        header = link.pack_header(link.FRAME, live.channel, len(data))
                        live.links[device].send(header, data)
                    case messages.EventsOut():
                        live.post(events=out)
                    case messages.Do(device, switch):
                        live.links[device].send(words.pack_switch(live.channel, switch))
                    case messages.Claim():
                        live.claimed_s = time.monotonic()
                        # One that has lost its workers waits until others can have been started.
                        least_s = limits.START_S if live.machine.replaced else 0.0
                        deadline = time.monotonic() + max(live.wait_s, least_s)
                        for told in self.tenancy.claim(live, deadline):
                            self._tell_pool(told)
                    case messages.Rest():
                        self._rest(live)
                    case messages.Welcomed():
                        self._welcome(live)
                    case messages.Refuse(message, for_now):
                        assert live.coming is not None
                        kind = "CapacityError" if for_now else "SessionClosedError"
                        live.coming.stream.end(kind, message)
                    case messages.SetAside(message):
                        self._set_aside(live, message)
                    case messages.End(kind, message):
                        self._end(live, kind, message)
                    case _:
                        assert live.keeper is not None, out
                        self._keep(live.keeper, live.machine, out)
        except JournalError as error:
            self.give(live, messages.JournalFailed(str(error)))

    def _name_changes(self, live: Live, frame: bytes) -> None:
        """Tell the client which command is the first that new numerics compute. JournalError."""
        command = wire.frame_header(frame).first_number
        if command:  # a Free has none
            live.name_changes(command)
            live.post(numerics=live.changes)

    def _keep(self, keeper: Keeper, machine: sessions.Session, out: messages.Output) -> None:
        """Carry out what has to do with a session's journal."""
        match out:
            case messages.Append(header, data):
                keeper.frame(header.sequence, data)
            case messages.Note(sequence, device, switch):
                keeper.switch(Placed(sequence, device, switch))
            case messages.Replay(first, last):
                keeper.replay(first, last, lambda: machine.room)
            case messages.Mark(number, sequence):
                keeper.mark(number, sequence)
            case messages.TakeCut(number):
                keeper.take_cut(number)
            case messages.Commit(number, sequence):
                keeper.commit(number, sequence)

    def _rest(self, live: Live) -> None:
        """Let go of a session's workers, of which one or all are lost."""
        assert live.keeper is not None
        if live.machine.state != sessions.ASLEEP:
            live.lost_s = live.lost_s or time.monotonic()
        live.keeper.rest()
        for each in live.links:
            each.send(link.pack(link.CLOSE, live.channel))
        self._channels.pop(live.channel, None)
        live.channel = secrets.randbits(63)  # late words of the old workers reach nobody
        self._channels[live.channel] = live
        live.links = ()
        live.windows.clear()
        if live.moving is None:  # else it has others the moment it claims them
            asleep = live.machine.state == sessions.ASLEEP
            self._tell_pool(pools.Released(live.id) if asleep else pools.Rested(live.id))

    def written(self, live: Live, count: int, applied: int) -> None:
        """Take that so many event lists went to the client, and the acks up to a frame."""
        self.give(live, messages.Written(count))
        if live.keeper is not None and not live.confirms:
            live.written = max(live.written, applied)
            # Long values may be still to come. A snapshot comes behind them over the same link, so
            # that they are here when a replay begins after their frames.
            live.downloads.confirmed(live.written)
            self.give(live, messages.Confirmed(live.written))

    def _end(self, live: Live, kind: str, message: str) -> None:
        log.info("session %s: ended %s %s", live.id, kind, message)
        self.totals.end(live, kind)
        self._sessions.pop(live.id, None)
        if live.keeper is not None:
            live.keeper.close()
        self._let_go(live)
        if live.stream is not None:
            live.stream.end(kind, message)
        self.tenancy.ended(live, kind)

    def _let_go(self, live: Live) -> None:
        """Take a session's workers from it, and let whoever waits for something hear that."""
        self._channels.pop(live.channel, None)
        for each in live.links:
            each.send(link.pack(link.CLOSE, live.channel))
        live.windows.clear()
        over = SessionClosedError("the session has ended")
        live.downloads.fail(JournalError(live.failure) if live.failure else over)
        live.assigned.set()
        self._tell_pool(pools.Released(live.id))


def _age(known: Live | Sleeper | Damaged) -> tuple[float, str]:
    """Return a session's place in a list: when it was opened, then its id."""
    return known.opened_at_s, known.session if isinstance(known, Damaged) else known.id
