"""The supervisor process: carries out what `fleet.py` decides, tells the gateway, watches workers.

It may be restarted at any time; the gateway and its sessions go on meanwhile. Workers come from a
launcher: `cluster.py` (Ray actors) or `processes.py` (plain children). This file knows neither.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Coroutine
from typing import Any, Protocol

from farspan.core import limits, link
from farspan.core.errors import FarspanError

from farspan_server import fleet as fleets
from farspan_server.fleet import Action, Fleet, Observation, Started
from farspan_server.link import Link, dial

log = logging.getLogger(__name__)

_RECONNECT_S = 0.2  # between attempts to reach the gateway
_KILL_S = 5.0  # for a launcher to end a process; the epoch is fenced whether it does or not


class Launcher(Protocol):
    """Makes worker processes. Each epoch is started once."""

    async def start(self, epoch: int, kind: str, key: bytes) -> Started: ...
    async def ended(self, epoch: int) -> str: ...
    async def kill(self, epoch: int) -> None: ...
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
        self._keys: dict[int, bytes] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._lives: dict[int, asyncio.Task[None]] = {}

    async def run(self) -> None:
        """Supervise until cancelled; then end every worker."""
        try:
            self._do(self._fleet.begin())
            await self._serve_gateway()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)
            await self._launcher.close()

    # --- what happens, and what is done about it -------------------------------------------------
    def _observe(self, observation: Observation) -> None:
        self._do(self._fleet.handle(observation))

    def _do(self, actions: list[Action]) -> None:
        for action in actions:
            match action:
                case fleets.Start(epoch, kind, delay_s):
                    self._keys[epoch] = secrets.token_bytes(link.KEY_BYTES)
                    self._lives[epoch] = self._spawn(self._live(epoch, kind, delay_s))
                case fleets.Kill(epoch, reason):
                    log.warning("worker process of epoch %d is killed: %s", epoch, reason)
                    self._spawn(self._kill(epoch, reason))
                case fleets.Announce(slot, kind, started):
                    log.info("worker %s: epoch %d, pid %d", slot, started.epoch, started.pid)
                    self._tell(self._worker_up(slot, kind, started))
                case fleets.Withdraw(slot, epoch, reason):
                    log.warning("worker %s: epoch %d is gone: %s", slot, epoch, reason)
                    self._tell(link.WorkerGone(slot, epoch, reason))
                case fleets.Sync():
                    self._tell(link.Synced(self._fleet.capacity))
        if self._ready is not None and self._fleet.complete and self._link is not None:
            ready, self._ready = self._ready, None
            ready(self._fleet.running())

    def _worker_up(self, slot: str, kind: str, started: Started) -> link.WorkerUp:
        return link.WorkerUp(
            worker=slot,
            epoch=started.epoch,
            address=started.address,
            key=self._keys[started.epoch].hex(),
            kind=kind,
            host=started.host,
            pid=started.pid,
        )

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the life of one worker process ----------------------------------------------------------
    async def _live(self, epoch: int, kind: str, delay_s: float) -> None:
        await asyncio.sleep(delay_s)
        try:
            async with asyncio.timeout(limits.START_S):
                started = await self._launcher.start(epoch, kind, self._keys[epoch])
        except TimeoutError:
            self._spawn(self._kill(epoch, f"it did not start within {limits.START_S:g} s"))
            return
        except Exception as error:  # whatever the launcher says: try again, ever more slowly
            log.warning("a %s worker did not start: %s", kind, error)
            self._spawn(self._kill(epoch, str(error)))
            return
        self._observe(started)
        ended = asyncio.ensure_future(self._launcher.ended(epoch))
        listening = asyncio.ensure_future(self._listen(started))
        try:
            await asyncio.wait({ended, listening}, return_when=asyncio.FIRST_COMPLETED)
            if not ended.done():  # the socket knows first; the launcher soon knows why
                await asyncio.wait({ended}, timeout=1.0)
            reason = ended.result() if ended.done() else listening.result()
        finally:
            ended.cancel()
            listening.cancel()
        self._spawn(self._kill(epoch, reason))

    async def _listen(self, started: Started) -> str:
        """Listen to a worker's heartbeats; return how it fell silent for good."""
        try:
            watch = await dial(started.address, self._keys[started.epoch], _WATCH)
        except FarspanError as error:
            return str(error)
        try:
            while True:
                try:
                    async with asyncio.timeout(limits.SILENT_S):
                        await watch.receive()
                except TimeoutError:
                    self._observe(fleets.Silent(started.epoch))
        except (EOFError, OSError):
            return "its link broke"
        finally:
            watch.close()

    async def _kill(self, epoch: int, reason: str) -> None:
        life = self._lives.pop(epoch, None)
        if life is None:
            return  # someone else is at it
        life.cancel()
        try:
            async with asyncio.timeout(_KILL_S):
                await self._launcher.kill(epoch)
        except TimeoutError:
            log.warning("the process of epoch %d does not confirm its end", epoch)
        del self._keys[epoch]
        self._observe(fleets.Ended(epoch, reason))

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
            case link.Retire(_, epoch, reason):
                self._observe(fleets.Retired(epoch, reason))
            case link.Wanted(kind, count):
                log.info("%d device(s) of kind %s are waited for", count, kind)

    def _tell(self, message: link.Fleet) -> None:
        if self._link is not None:  # whoever connects later hears all of it
            self._link.send(link.pack_fleet(message))


_WATCH = link.Purpose(link.WATCH)
