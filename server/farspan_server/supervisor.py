"""The supervisor process: carries out what `fleet.py` decides, tells the gateway, watches workers.

It may be restarted at any time; the gateway and its sessions go on meanwhile. Workers come from a
launcher: `cluster.py` (Ray actors) or `processes.py` (plain children). This file knows neither.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from farspan.core import limits, link
from farspan.core.errors import FarspanError, ServiceError

from farspan_server import fleet as fleets
from farspan_server.fleet import Action, Fleet, Observation, Started
from farspan_server.link import Link, dial

log = logging.getLogger(__name__)

_RECONNECT_S = 0.2  # between attempts to reach the gateway
_LOOK_S = 0.02  # between looks whether drained workers have ended
_KILL_S = 5.0  # for a launcher to end a process; its epoch is over whether it does or not


class LauncherGoneError(ServiceError):
    """A launcher can start nothing any more: the supervisor ends, and whoever started it acts."""


class Launcher(Protocol):
    """Makes worker processes. A process is known by a number that is used once."""

    async def start(self, process: int, kind: str, key: bytes) -> Started: ...
    async def ended(self, process: int) -> str: ...
    def drain(self, process: int) -> None: ...
    async def kill(self, process: int) -> None: ...
    async def close(self) -> None: ...


class Supervisor:
    """Keeps a fleet of workers and one gateway's knowledge of it.

    key: of the gateway's supervisor listener. ready(workers) is called once every slot is filled.
    """

    def __init__(
        self,
        fleet: Fleet,
        launcher: Launcher,
        gateway: str,
        key: bytes,
        ready: Callable[[list[Started]], None] = lambda workers: None,
    ) -> None:
        self._fleet = fleet
        self._launcher = launcher
        self._gateway = gateway
        self._key = key
        self._ready: Callable[[list[Started]], None] | None = ready
        self._link: Link | None = None
        self._drains = False  # the end is near: nothing is started any more
        self._keys: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lives: dict[int, asyncio.Task[None]] = {}
        self._serving: set[int] = set()  # of those, what has begun to listen
        self._gone: asyncio.Future[None] = asyncio.Future()

    async def run(self) -> None:
        """Supervise until cancelled; then end every worker. LauncherGoneError."""
        gateway = asyncio.ensure_future(self._serve_gateway())
        try:
            self._do(self._fleet.begin())
            await asyncio.wait({gateway, self._gone}, return_when=asyncio.FIRST_COMPLETED)
            (self._gone if self._gone.done() else gateway).result()
        finally:
            gateway.cancel()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._launcher.close()

    async def drain(self, seconds: float) -> None:
        """Let the sessions of all workers leave, and start none any more; at most so long.

        Those with a journal are snapshotted and wait for other workers, those without end first.
        """
        self._drains = True
        for process in list(self._lives):
            if process in self._serving:
                self._launcher.drain(process)
            else:
                self._spawn(self._kill(process, "the supervisor ends"))
        deadline = asyncio.get_running_loop().time() + seconds
        while self._lives and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(_LOOK_S)
        log.info("the workers have been drained; %d are left", len(self._lives))

    # --- what happens, and what is done about it -------------------------------------------------
    def _observe(self, observation: Observation) -> None:
        self._do(self._fleet.handle(observation))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case fleets.Start() if self._drains:
                    pass
                case fleets.Start(process, kind, delay_s):
                    self._keys[process] = secrets.token_bytes(link.KEY_BYTES)
                    self._lives[process] = self._spawn(self._live(process, kind, delay_s))
                case fleets.Kill(process, reason):
                    log.warning("worker process %d is ended: %s", process, reason)
                    self._spawn(self._kill(process, reason))
                case fleets.Announce():
                    log.info("worker %s is pid %d", action.slot, action.started.pid)
                    self._tell(self._worker_up(action))
                case fleets.Withdraw(slot, epoch, reason):
                    log.warning("worker %s is gone: %s", slot, reason)
                    self._tell(link.WorkerGone(slot, epoch, reason))
                case fleets.Sync():
                    self._tell(link.Synced(self._fleet.capacity))
        if self._ready is not None and self._fleet.complete and self._link is not None:
            ready, self._ready = self._ready, None
            ready(self._fleet.running())

    def _worker_up(self, action: fleets.Announce) -> link.WorkerUp:
        return link.WorkerUp(
            worker=action.slot,
            epoch=action.epoch,
            address=action.started.address,
            key=self._keys[action.started.process].hex(),
            kind=action.kind,
            host=action.started.host,
            pid=action.started.pid,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the life of one worker process ----------------------------------------------------------
    async def _live(self, process: int, kind: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            async with asyncio.timeout(limits.START_S):
                started = await self._launcher.start(process, kind, self._keys[process])
                watch = await dial(started.address, self._keys[process], _WATCH)
        except TimeoutError:
            self._spawn(self._kill(process, f"it did not start within {limits.START_S:g} s"))
            return
        except LauncherGoneError as error:
            if not self._gone.done():
                self._gone.set_exception(error)
            return
        except Exception as error:  # whatever the launcher says: try again, ever more slowly
            log.warning("a %s worker did not start: %s", kind, error)
            self._spawn(self._kill(process, str(error)))
            return
        self._serving.add(process)
        self._observe(started)
        ended = asyncio.ensure_future(self._launcher.ended(process))
        listening = asyncio.ensure_future(self._listen(process, watch))
        try:
            await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # the socket knows first; the launcher soon knows why
                await asyncio.wait({ended}, timeout=1.0)
            reason = ended.result() if ended.done() else listening.result()
        finally:
            ended.cancel()
            listening.cancel()
            watch.close()
        self._spawn(self._kill(process, reason))

    async def _listen(self, process: int, watch: Link) -> str:
        """Listen to a worker's heartbeats; return how its link ended."""
        with contextlib.suppress(EOFError, OSError):
            while True:
                try:
                    async with asyncio.timeout(limits.SILENT_S):
                        await watch.receive()
                except TimeoutError:
                    self._observe(fleets.Silent(process))
        return "its link broke"

    async def _kill(self, process: int, reason: str) -> None:
        self._serving.discard(process)
        life = self._lives.pop(process, None)
        if life is None:
            return  # someone else is at it
        life.cancel()
        try:
            async with asyncio.timeout(_KILL_S):
                await self._launcher.kill(process)
        except TimeoutError:
            log.warning("process %d does not confirm its end", process)
        del self._keys[process]
        self._observe(fleets.Ended(process, reason))

    # --- the gateway -----------------------------------------------------------------------------
    async def _serve_gateway(self) -> None:
        purpose = link.Purpose(link.SUPERVISOR)
        while True:
            try:
                self._link = await dial(self._gateway, self._key, purpose)
                self._observe(fleets.Connected())
                while True:
                    _, payload = await self._link.receive()
                    self._hear(link.unpack_fleet(payload))
            except (FarspanError, EOFError, OSError) as error:
                log.info("no gateway at %s: %s", self._gateway, error)
            finally:
                if self._link is not None:
                    self._link.close()
                    self._link = None
            await asyncio.sleep(_RECONNECT_S)

    def _hear(self, message: link.Fleet) -> None:
        match message:
            case link.Retire(slot, epoch, reason):
                self._observe(fleets.Retired(slot, epoch, reason))
            case link.Wanted(kind, count):
                log.info("%d device(s) of kind %s are waited for", count, kind)

    def _tell(self, message: link.Fleet) -> None:
        if self._link is not None:  # whoever connects later hears all of it
            self._link.send(link.pack_fleet(message))


_WATCH = link.Purpose(link.WATCH)
