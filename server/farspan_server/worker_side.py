"""The half of the service that has to do with workers: the pool's wishes, drains, what workers say.

`service.py` owns the sessions; a worker that is lost or drained is news to them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable, Collection
from typing import Any, Final

from farspan.core import link, words
from farspan.core.errors import JournalError

from farspan_server import pool as pools
from farspan_server import session_messages as messages
from farspan_server.config import GatewayConfig
from farspan_server.live import KINDS, Live, names_of
from farspan_server.supervisor_link import SupervisorLink
from farspan_server.whole import Whole
from farspan_server.workers import WorkerLink

log = logging.getLogger(__name__)

_AGAIN_S: Final = 0.1  # until a session that was denied workers claims them again


class WorkerSide(Whole):
    """The workers' half of `service.Service`."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.supervisor: SupervisorLink | None = None
        #: Told of a worker that wants to end when its sessions have left, with each heartbeat.
        self.on_leaving: Callable[[pools.Worker], None] | None = None
        self._pool = pools.Pool(config.sessions_per_worker_max)
        self._pool_inputs: deque[pools.Input] = deque()
        self._sessions: dict[str, Live] = {}
        self._channels: dict[int, Live] = {}
        self._links: dict[str, WorkerLink] = {}
        self._tasks: set[asyncio.Task[Any]] = set()

    @property
    def workers(self) -> list[tuple[pools.Worker, int]]:
        """The workers that can be reached and the number of sessions on each."""
        return self._pool.workers

    @property
    def pool(self) -> pools.Pool:
        """The pool, to look at."""
        return self._pool

    @property
    def links(self) -> Collection[WorkerLink]:
        """The workers that are reached or dialled."""
        return self._links.values()

    def _spawn(self, work: Any) -> asyncio.Task[Any]:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # --- the pool --------------------------------------------------------------------------------
    def _tell_pool(self, given: pools.Input) -> None:
        # What follows may tell the pool more; that waits its turn, so that outputs stay in order.
        self._pool_inputs.append(given)
        if len(self._pool_inputs) > 1:
            return
        while self._pool_inputs:
            for out in self._pool.handle(self._pool_inputs[0], time.monotonic()):
                self._obey_pool(out)
            self._pool_inputs.popleft()

    def _obey_pool(self, out: pools.Output) -> None:
        match out:
            case pools.Granted(session, workers) if session in self._sessions:
                self._start(self._sessions[session], workers)
            case pools.Placed(session, place) if session in self._sessions:
                self._sessions[session].post(line=place)
            case pools.Held(session, message) if session in self._sessions:
                self.tenancy.held(self._sessions[session], message)
            case pools.Denied(session, message) if session in self._sessions:
                live = self._sessions[session]
                why = live.machine.replaced
                # Without a client nobody waits: the session goes back to sleep with its lease.
                if live.stays and live.machine.received and not (why and live.stream):
                    self._not_woken(live, message)
                    return
                kind = "WorkerLostError" if why else "CapacityError"
                self.give(live, messages.Fault(kind, why + message))
            case pools.Bereft(session, device, worker, reason):
                self._bereave(session, device, worker, reason)
            case pools.Replace(worker, reason):
                self._supervise(link.Retire(worker.worker, worker.epoch, reason))
            case pools.Want(kind, count):
                self._supervise(link.Wanted(kind, count))

    def _not_woken(self, live: Live, message: str) -> None:
        """Tell the client of a session that slept that there is no worker, and lose nothing."""
        if live.stream is not None:
            stream, live.stream = live.stream, None
            message = f"{message.rstrip('.')}. The session stays on disk; attach to it later."
            stream.end("CapacityError", message)
            self.give(live, messages.ClientGone())
        # In line until its lease ends, when it sleeps again: its client may be back before. Not at
        # once: of a line that is full it would be denied, and claim, and be denied for ever.
        asyncio.get_running_loop().call_later(_AGAIN_S, self.claim_again, live)

    def claim_again(self, live: Live) -> None:
        """Let a session that waits in line wait for what it may have by now."""
        if live.machine.waits and live.id in self._sessions:
            deadline = time.monotonic() + self.config.lease_s + live.wait_s
            for told in self.tenancy.claim(live, deadline):
                self._tell_pool(told)

    def _supervise(self, body: link.Fleet) -> None:
        if self.supervisor is not None:
            self.supervisor.send(body)

    def _start(self, live: Live, workers: tuple[pools.Worker, ...]) -> None:
        live.links = tuple(self._links[worker.worker] for worker in workers)
        peers = tuple(
            link.Peer(index, worker.address, worker.key.hex(), worker.epoch)
            for index, worker in enumerate(workers)
        )
        # What computes it says so to the worker; to its client each device keeps its name.
        names = names_of(tuple(worker.kind for worker in workers))
        for index, each in enumerate(live.links):
            memory = live.memory_bytes
            restore = live.keeper is not None and live.keeper.restores
            body = link.Open(
                live.id, live.tenant, index, peers, memory, names[index], restore,
                steady=live.keeper is not None, command_s_max=self.tenancy.command_s(live.tenant),
                switches=live.keeper is not None and bool(live.about.get("switches")),
            )  # fmt: skip
            each.send(link.pack_open(live.channel, body))
        self.totals.waited(live, time.monotonic())
        try:
            changed = live.pin(workers)
        except JournalError as error:
            self.give(live, messages.JournalFailed(str(error)))
            return
        if changed:
            log.warning(
                "session %s: goes on with workers of another numerics key, as it allows; its bits "
                "may differ after frame %d", live.id, live.machine.base,
            )  # fmt: skip
            self.tenancy.audit.note("numerics changed", tenant=live.tenant, session=live.id)
            if live.keeper is not None:  # who recovers it must know which bits are its own
                self._spawn(live.keeper.durable())
        live.post(devices=live.devices, numerics=live.changes)
        if live.keeper is not None:
            live.keeper.begin(live.links, live.channel)
        self.give(live, messages.Assigned())
        live.assigned.set()

    def _bereave(self, session: str, device: int, worker: pools.Worker, reason: str) -> None:
        live = self._sessions.get(session)
        if live is not None:
            # Nothing of the reason but its kind may hold an address; the host is the client's.
            log.warning("session %s: lost worker %s: %s", live.id, worker.worker, reason)
            message = (
                f"the worker of {live.names[device]} (process {worker.pid} on {worker.host}) is "
                "gone and took the session's tensors there with it; connect again to go on"
            )
            self.give(live, messages.Bereft(message))

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
        if self.on_leaving is not None:
            self.on_leaving(worker)

    # --- what workers say (workers.Listener) -----------------------------------------------------
    def joined(self, worker_link: WorkerLink) -> None:
        worker = worker_link.worker
        log.info("worker %s joined: %s on %s", worker.worker, worker.kind, worker.host)
        self._tell_pool(pools.Joined(worker))

    def left(self, worker: pools.Worker, reason: str) -> None:
        self._tell_pool(pools.Left(worker.worker, worker.epoch, reason))
        if worker.supervised:
            known = self._links.get(worker.worker)
            if known is not None and known.worker.epoch == worker.epoch:
                del self._links[worker.worker]
            self._supervise(link.Retire(worker.worker, worker.epoch, reason))

    def events(self, worker: pools.Worker, channel: int, applied: int, data: bytes) -> None:
        live = self._channels.get(channel)
        if live is not None:
            if live.passing is not None:
                live.passing.answered(applied)
            for device, each in enumerate(live.links):
                if each.worker.worker == worker.worker:
                    self.give(live, messages.EventsIn(device, applied, data))

    def ready(self, worker: pools.Worker, channel: int, switch: words.Switch) -> None:
        live = self._channels.get(channel)
        if live is not None:
            for device, each in enumerate(live.links):
                if each.worker.worker == worker.worker:
                    self.give(live, messages.Ready(device, switch))

    def faulted(self, worker: pools.Worker, channel: int, fault: words.Fault) -> None:
        live = self._channels.get(channel)
        if live is not None and any(each.worker == worker for each in live.links):
            log.warning("session %s: %s", live.id, fault.message)
            self.give(live, messages.Fault(fault.kind, fault.message))

    def closed(self, worker: pools.Worker, channel: int) -> None:
        live = self._channels.get(channel)
        if live is not None:  # unasked: it shuts down, or its own words, a Lost, have come before
            device = next(k for k, each in enumerate(live.links) if each.worker == worker)
            self._bereave(live.id, device, worker, "it ended the session")

    async def chunk(self, worker: pools.Worker, channel: int, chunk: link.Chunk) -> None:
        live = self._channels.get(channel)
        if live is None:
            return
        if chunk.transfer < link.PARTS:
            await live.downloads.put(chunk)
        elif live.keeper is not None:
            names = [each.worker.worker for each in live.links]
            if worker.worker in names:
                await live.keeper.part(names.index(worker.worker), chunk)

    # --- what a supervisor says (supervisor_link.Listener) ---------------------------------------
    def worker_up(self, body: link.WorkerUp) -> None:
        known = self._links.get(body.worker)
        if known is not None:
            if known.worker.epoch >= body.epoch:
                return
            self._spawn(known.close())
            self._tell_pool(pools.Left(body.worker, known.worker.epoch, "it was replaced"))
        key = bytes.fromhex(body.key)
        if len(key) != link.KEY_BYTES or body.kind not in KINDS:
            raise ValueError("a key or kind that cannot be")
        worker = pools.Worker(
            body.worker, body.epoch, body.address, key, body.kind, body.host, body.pid, True
        )
        self._links[body.worker] = WorkerLink(worker, self)

    def worker_gone(self, body: link.WorkerGone) -> None:
        known = self._links.get(body.worker)
        if known is not None and known.worker.supervised and known.worker.epoch <= body.epoch:
            del self._links[body.worker]
            self._spawn(known.close())
            self._tell_pool(pools.Left(body.worker, body.epoch, body.reason))

    def workers_are(self, names: set[str]) -> None:
        for name, known in list(self._links.items()):
            if known.worker.supervised and name not in names:
                gone = link.WorkerGone(name, known.worker.epoch, "its supervisor does not know it")
                self.worker_gone(gone)
