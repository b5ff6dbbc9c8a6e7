"""The gateway without gRPC: carries out what the session and pool state machines decide.

One asyncio thread owns everything here; nothing blocks. It moves bytes between clients' queues and
workers' links and decodes no command. `gateway.py` is the shell in front, `workers.py` behind.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final

from farspan import wire
from farspan.core import limits, link
from farspan.core.command import Lost
from farspan.core.errors import (
    CapacityError,
    JournalError,
    ProtocolError,
    SessionClosedError,
    VersionError,
    WorkerLostError,
)

from farspan_server import pool as pools
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_server.config import GatewayConfig
from farspan_server.disk import RealDisk
from farspan_server.keeper import Keeper
from farspan_server.live import KINDS, Live, parse_devices
from farspan_server.supervisor_link import SupervisorLink
from farspan_server.tenancy import Tenancy
from farspan_server.workers import WorkerLink

log = logging.getLogger(__name__)

TICK_S: Final = 0.25  # how late a lease or a deadline may be noticed
FEATURES: Final = frozenset({wire.SHARED_MEMORY})  # optional behaviours that this gateway knows


class Service:
    """All sessions and workers of a gateway."""

    def __init__(self, config: GatewayConfig) -> None:
        self.config = config
        self.tenancy = Tenancy(config)
        self.tenancy.tell_pool = self._tell_pool
        self.supervisor: SupervisorLink | None = None
        self._pool = pools.Pool(config.sessions_per_worker_max)
        self._pool_inputs: deque[pools.Input] = deque()
        self._sessions: dict[str, Live] = {}
        self._channels: dict[int, Live] = {}
        self._links: dict[str, WorkerLink] = {}
        self._tasks: set[asyncio.Task[Any]] = set()
        self._disk = RealDisk()

    # --- lifecycle -------------------------------------------------------------------------------
    async def start(self) -> None:
        """Dial the configured workers and listen for a supervisor."""
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
        """End all sessions and links."""
        for live in list(self._sessions.values()):
            self.give(live, messages.Fault("SessionClosedError", "the gateway shuts down"))
        for task in self._tasks:
            task.cancel()
        if self.supervisor is not None:
            await self.supervisor.stop()
        await asyncio.gather(*(each.close() for each in self._links.values()))
        self.tenancy.stop()

    @property
    def workers(self) -> list[tuple[pools.Worker, int]]:
        """The workers that can be reached and the number of sessions on each."""
        return self._pool.workers

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _clock(self) -> None:
        while True:
            await asyncio.sleep(TICK_S)
            self._tell_pool(pools.Tick())
            for live in list(self._sessions.values()):
                try:
                    self._tick(live)
                except Exception:  # a defect of ours ends this session, never the clock of all
                    log.exception("session %s", live.id)
                    self.give(live, messages.Fault("ServiceError", "the gateway failed"))

    def _tick(self, live: Live) -> None:
        self.give(live, messages.Tick())
        if live.keeper is not None and not live.ended:
            self.written(live, 0, 0)
            live.keeper.look(time.monotonic(), live.machine.received)

    # --- sessions --------------------------------------------------------------------------------
    def open(self, tenant: str, hello: wire.Hello) -> Live:
        """Return a new session; raise VersionError, BadValueError or CapacityError."""
        if hello.major != wire.MAJOR:
            raise VersionError(
                f"the client speaks protocol {hello.major}, the gateway {wire.MAJOR}; "
                "install the same release of farspan on both"
            )
        if hello.table_hash != self.config.table_hash:
            raise VersionError(
                f"the client's op table is {hello.table_hash[:12] or 'missing'}, the gateway's "
                f"{self.config.table_hash[:12]}; install the same release of farspan on both"
            )
        kinds = parse_devices(hello.devices) if hello.devices else ("cpu",)
        if len(self._sessions) >= self.config.sessions_max:
            raise CapacityError(f"the gateway has {self.config.sessions_max} sessions, its most")
        self.tenancy.admit(tenant, kinds)
        wait_s = min(hello.wait_ms / 1000, self.config.wait_s_max)
        journals = self.config.journals
        live = Live(tenant, kinds, wait_s, self.config.lease_s, journals is not None)
        disk = self.tenancy.opened(live, self._disk)
        if journals is not None:
            live.keeper = Keeper(
                disk,
                journals / live.id,
                live.id,
                lambda given: self.give(live, given),
                self.config.snapshot_every_s,
            )
        # What comes through shared memory does not pass here, so that no journal could hold it.
        features = FEATURES - {wire.SHARED_MEMORY} if live.keeper else FEATURES
        live.features = features.intersection(hello.features)
        self._sessions[live.id] = live
        self._channels[live.channel] = live
        log.info("session %s: opened by tenant %s, %s", live.id, tenant, hello.client)
        live.post(
            welcome=wire.Welcome(
                session=live.id,
                epoch=live.machine.epoch,
                kinds=kinds,
                lease_ms=int(self.config.lease_s * 1000),
                features=tuple(sorted(live.features)),
                minor=min(hello.minor, wire.MINOR),
            )
        )
        if hello.devices:
            self.give(live, messages.Reserve())
        return live

    def find(self, tenant: str, session: str) -> Live:
        """Return a session of this tenant; raise SessionClosedError for any other alike."""
        live = self._sessions.get(session)
        if live is None or live.tenant != tenant:
            raise SessionClosedError("there is no such session, or it has ended")
        return live

    def sessions_of(self, tenant: str) -> list[wire.SessionInfo]:
        """Return the tenant's sessions, oldest first."""
        mine = [self.info(live) for live in self._sessions.values() if live.tenant == tenant]
        return mine[:1000]

    def info(self, live: Live) -> wire.SessionInfo:
        """Return what others of its tenant may know of a session."""
        machine = live.machine
        return wire.SessionInfo(
            live.id,
            machine.state,
            live.opened_at_s,
            machine.frames,
            machine.commands,
            live.devices,
        )

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
                        header = link.pack_header(link.FRAME, live.channel, len(data))
                        live.links[device].send(header, data)
                    case messages.EventsOut():
                        live.post(events=out)
                    case messages.Claim():
                        # One that has lost its workers waits until others can have been started.
                        least_s = limits.START_S if live.machine.recoveries else 0.0
                        deadline = time.monotonic() + max(live.wait_s, least_s)
                        for told in self.tenancy.claim(live, deadline):
                            self._tell_pool(told)
                    case messages.Rest():
                        self._rest(live)
                    case messages.End(kind, message):
                        self._end(live, kind, message)
                    case _:
                        assert live.keeper is not None, out
                        self._keep(live.keeper, live.machine, out)
        except JournalError as error:
            self.give(live, messages.Fault("JournalError", str(error)))

    def _keep(self, keeper: Keeper, machine: sessions.Session, out: messages.Output) -> None:
        """Carry out what has to do with a session's journal."""
        match out:
            case messages.Append(header, data):
                keeper.history.frame(header.sequence, data)
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
        live.keeper.rest()
        for each in live.links:
            each.send(link.pack(link.CLOSE, live.channel))
        self._channels.pop(live.channel, None)
        live.channel = secrets.randbits(63)  # late words of the old workers reach nobody
        self._channels[live.channel] = live
        live.links = ()
        self._tell_pool(pools.Released(live.id))

    def written(self, live: Live, count: int, applied: int) -> None:
        """Take that so many event lists went to the client, and the acks up to a frame."""
        self.give(live, messages.Written(count))
        if live.keeper is not None:
            live.written = max(live.written, applied)
            # Long values may be still to come. A snapshot comes behind them over the same link, so
            # that they are here when a replay begins after their frames.
            self.give(live, messages.Confirmed(live.written))

    def _end(self, live: Live, kind: str, message: str) -> None:
        log.info("session %s: ended %s %s", live.id, kind, message)
        self._sessions.pop(live.id, None)
        self._channels.pop(live.channel, None)
        for each in live.links:
            each.send(link.pack(link.CLOSE, live.channel))
        if live.keeper is not None:
            live.keeper.close()
        live.downloads.fail(SessionClosedError("the session has ended"))
        live.assigned.set()
        live.post(last_words=wire.encode_events([Lost(kind, message)]) if kind else None)
        self._tell_pool(pools.Released(live.id))
        self.tenancy.ended(live, kind)

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
                if live.machine.recoveries:
                    message = f"a worker was lost with all that it held, and {message}"
                kind = "WorkerLostError" if live.machine.recoveries else "CapacityError"
                self.give(live, messages.Fault(kind, message))
            case pools.Bereft(session, device, worker, reason):
                self._bereave(session, device, worker, reason)
            case pools.Replace(worker, reason):
                self._supervise(link.Retire(worker.worker, worker.epoch, reason))
            case pools.Want(kind, count):
                self._supervise(link.Wanted(kind, count))

    def _supervise(self, body: link.Fleet) -> None:
        if self.supervisor is not None:
            self.supervisor.send(body)

    def _start(self, live: Live, workers: tuple[pools.Worker, ...]) -> None:
        live.links = tuple(self._links[worker.worker] for worker in workers)
        peers = tuple(
            link.Peer(index, worker.address, worker.key.hex(), worker.epoch)
            for index, worker in enumerate(workers)
        )
        for index, each in enumerate(live.links):
            memory = live.memory_bytes
            restore = live.keeper is not None and live.keeper.restores
            body = link.Open(
                live.id, live.tenant, index, peers, memory, live.names[index], restore,
                steady=live.keeper is not None,
            )  # fmt: skip
            each.send(link.pack_open(live.channel, body))
        live.post(devices=True)
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

    # --- bulk ------------------------------------------------------------------------------------
    async def workers_of(self, live: Live) -> None:
        """Return when the session has its workers; raise what ended it if it has none by then."""
        self.give(live, messages.Reserve())
        await live.assigned.wait()
        if live.ended:
            raise SessionClosedError("the session has ended")

    async def upload(
        self, live: Live, header: wire.TransferHeader, data: AsyncIterator[Any]
    ) -> int:
        """Pass a transfer's bytes to its worker and return their number."""
        if header.device >= len(live.machine.kinds):
            raise ProtocolError(f"upload for device {header.device}, which is not there")
        await self.workers_of(live)
        offset, total = 0, header.total_bytes
        try:
            async for view in data:
                end = offset + len(view)
                if end > total or (not len(view) and total):
                    raise ProtocolError(f"upload of {total} bytes: a chunk that does not fit")
                flags = link.LAST if end == total else 0
                chunk = link.Chunk(header.transfer, total, offset, flags, view)
                await self._pass(live, header.device, chunk)
                offset = end
        except OSError:
            raise WorkerLostError(f"the worker of {live.names[header.device]} is gone") from None
        except BaseException:  # the client has broken off, or sends what is no chunk
            self._give_up(live, header)
            raise
        if offset != total:
            self._give_up(live, header)
            raise ProtocolError(f"upload of {total} bytes: {offset} came")
        if not total:
            chunk = link.Chunk(header.transfer, 0, 0, link.LAST, b"")
            await self._pass(live, header.device, chunk)
        return offset

    async def _pass(self, live: Live, device: int, chunk: link.Chunk) -> None:
        if live.keeper is not None:
            if chunk.offset and chunk.total > live.memory_bytes:
                return  # its worker has refused it at the first piece: no disk need hold the rest
            await live.keeper.send(device, chunk)
            if live.ended:
                raise SessionClosedError("the session has ended")
        else:
            await live.links[device].upload(live.channel, chunk)

    def _give_up(self, live: Live, header: wire.TransferHeader) -> None:
        if live.keeper is None:
            live.links[header.device].give_up(live.channel, header.transfer)
        elif not live.ended:
            live.keeper.give_up(header.device, header.transfer)

    # --- shared memory ---------------------------------------------------------------------------
    async def share(self, live: Live, asked: wire.ShareRequest) -> wire.ShareReply:
        """Ask a session's worker for memory that its client can map; or hand it the proof."""
        if wire.SHARED_MEMORY not in live.features:
            return wire.ShareReply(refused="the session was opened without it")
        await self.workers_of(live)
        if asked.device >= len(live.links):
            raise ProtocolError(f"memory of device {asked.device}, which is not there")
        body = link.Share(proof=asked.proof.hex())
        answer = await live.links[asked.device].share(live.channel, body)
        where = (answer.pid, answer.fd, answer.segment_bytes, bytes.fromhex(answer.digest))
        return wire.ShareReply(*where, answer.refused[:256])

    async def piece(self, live: Live, piece: wire.SharedPiece) -> None:
        """Tell a worker where the next bytes of an upload lie.

        A session that is journalled would read the bytes here, before it passes the piece on.
        """
        if piece.device >= len(live.links):
            raise ProtocolError(f"a piece for device {piece.device}, which is not there")
        place = (piece.transfer, piece.total_bytes, piece.offset, piece.position, piece.piece_bytes)
        with contextlib.suppress(OSError):  # the worker is gone, of which the session hears
            await live.links[piece.device].piece(live.channel, link.Piece(*place))
