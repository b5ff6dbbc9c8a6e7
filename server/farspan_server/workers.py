"""Links to workers: dials them, keeps their sessions' messages flowing, notices when they are gone.

One control and one bulk connection a worker. It decides nothing: what it hears goes to a listener
(the service), and whoever holds a worker is the pool's business. Keys are never logged.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections import deque
from collections.abc import Awaitable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Final, Protocol

from farspan.core import limits, link, words
from farspan.core.errors import FarspanError, ProtocolError

from farspan_server.link import Link, Payload, dial
from farspan_server.pool_messages import Worker

log = logging.getLogger(__name__)

BUSY: Final = "asked twice"  # about a session's memory, before the answer to the first question
_CHECKS: Final = 8  # looks at the clock within SUSPECT_S
_REDIAL_S: Final = 1.0  # pause between attempts to reach a worker that nobody else watches


class Listener(Protocol):
    """What a worker's link tells. Chunks may make it wait: that pauses the bulk link."""

    def joined(self, worker_link: WorkerLink) -> None: ...
    def left(self, worker: Worker, reason: str) -> None: ...
    def leaving(self, worker: Worker) -> None: ...
    def events(self, worker: Worker, channel: int, applied: int, data: bytes) -> None: ...
    def ready(self, worker: Worker, channel: int, switch: words.Switch) -> None: ...
    def faulted(self, worker: Worker, channel: int, fault: words.Fault) -> None: ...
    def closed(self, worker: Worker, channel: int) -> None: ...
    def chunk(self, worker: Worker, channel: int, chunk: link.Chunk) -> Awaitable[None]: ...


class WorkerLink:
    """A worker that is reached, or is being dialled."""

    def __init__(self, worker: Worker, listener: Listener) -> None:
        self.worker = worker
        self.counts: dict[str, Any] = {}  # of the last heartbeat
        self.clock_ahead_s = 0.0  # of the gateway's, by that heartbeat
        self._listener = listener
        self._control: Link | None = None
        self._bulk: Link | None = None
        self._bulk_turn = asyncio.Lock()
        self._greeting: asyncio.Future[words.Greeting]  # of the link that is open
        self._asked: deque[asyncio.Future[dict[str, Any]]] = deque()
        self._sharing: dict[int, asyncio.Future[link.Share]] = {}  # questions, by channel
        self._loading: dict[int, asyncio.Future[words.Load]] = {}  # the same of files
        self._silent = 0  # looks at the clock since the last message
        self._closing = False
        self._task = asyncio.create_task(self._run())

    # --- for the service -------------------------------------------------------------------------
    def send(self, *parts: bytes | memoryview) -> None:
        """Queue a message on the control link. What is queued is bounded by credits."""
        if self._control is not None:
            self._control.send(*parts)

    async def upload(self, channel: int, chunk: link.Chunk) -> None:
        """Send a chunk on the bulk link; waits until most of what was sent before has left.

        So the next one can be made ready while this one leaves. OSError if the worker is gone.
        """
        async with self._bulk_turn:
            bulk = self._bulk
            if bulk is None:
                raise ConnectionResetError("the worker is gone")
            await bulk.drain()
            bulk.send(link.pack_chunk_header(channel, chunk), chunk.data)

    async def piece(self, channel: int, piece: link.Piece) -> None:
        """Say where bytes lie; waits until most of it has left. OSError if the worker is gone."""
        if self._bulk is None:
            raise ConnectionResetError("the worker is gone")
        self._bulk.send(link.pack_piece(channel, piece))
        await self._bulk.drain()

    def give_up(self, channel: int, transfer: int) -> None:
        """Let the worker forget what has come of a transfer that will not go on. Never waits."""
        if self._bulk is not None:
            self._bulk.send(link.pack_piece(channel, link.Piece(transfer, 0, 0, 0, 0)))

    async def share(self, channel: int, body: link.Share) -> link.Share:
        """Return the worker's answer about shared memory. TimeoutError after CONNECT_S."""
        if self._bulk is None or channel in self._sharing:
            return link.Share(refused="the worker is gone" if self._bulk is None else BUSY)
        answer: asyncio.Future[link.Share] = asyncio.get_running_loop().create_future()
        self._sharing[channel] = answer
        try:
            self._bulk.send(link.pack_share(channel, body))
            return await asyncio.wait_for(answer, limits.CONNECT_S)
        finally:
            del self._sharing[channel]

    @property
    def near(self) -> bool:
        """Whether it sees the files of this host."""
        return self.worker.address.startswith("unix:")

    async def load(self, channel: int, files: tuple[words.StateFile, ...]) -> words.Load:
        """Let a session's worker read its state from files; return what came of it, once it has.

        Waits as long as the worker lives. OSError if it is gone.
        """
        if self._bulk is None:
            raise ConnectionResetError("the worker is gone")
        answer: asyncio.Future[words.Load] = asyncio.get_running_loop().create_future()
        self._loading[channel] = answer
        try:
            self._bulk.send(words.pack_load(channel, words.Load(files)))
            return await answer
        finally:
            self._loading.pop(channel, None)

    async def status(self) -> dict[str, Any]:
        """Return the worker's counters, between two frames. TimeoutError after CONNECT_S."""
        answer: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._asked.append(answer)
        self.send(link.pack(link.STATUS))
        return await asyncio.wait_for(answer, limits.CONNECT_S)

    async def close(self) -> None:
        """End the link without a word to the listener."""
        self._closing = True
        self._task.cancel()
        with suppress(asyncio.CancelledError):
            await self._task

    # --- the link's life -------------------------------------------------------------------------
    async def _run(self) -> None:
        """Keep the worker reached: once for a supervised worker, again and again for another."""
        while True:
            reason = await self._live()
            if self._closing:  # a link that breaks meanwhile swallows the cancellation (TaskGroup)
                return
            self._listener.left(self.worker, reason)
            if self.worker.supervised:
                return
            await asyncio.sleep(_REDIAL_S)
            self.worker = replace(self.worker, epoch=self.worker.epoch + 1)

    async def _live(self) -> str:
        """Dial, serve until something ends it, and return what that was."""
        joined = False
        try:
            owner = secrets.token_hex(16)
            key, address = self.worker.key, self.worker.address
            self._control = await dial(address, key, link.Purpose(link.CONTROL, owner))
            self._bulk = await dial(address, key, link.Purpose(link.BULK, owner))
            self._greeting = asyncio.get_running_loop().create_future()
            async with asyncio.TaskGroup() as group:
                group.create_task(self._hear())
                group.create_task(self._hear_bulk())
                group.create_task(self._watch())
                await self._greeted()
                joined = True
                self._listener.joined(self)
        except* (OSError, EOFError, FarspanError) as errors:
            reason = str(errors.exceptions[0]) or "its link broke"
        except* Exception:  # a defect of ours ends this link, never the gateway
            log.exception("worker %s", self.worker.worker)
            reason = "its link failed"
        finally:
            for each in (self._control, self._bulk):
                if each is not None:
                    each.close()
            self._control = self._bulk = None
            for answer in self._asked:
                answer.cancel()
            self._asked.clear()
            for load in self._loading.values():
                load.cancel()
            for share in self._sharing.values():
                if not share.done():
                    share.set_result(link.Share(refused="the worker is gone"))
        if joined or self.worker.supervised:
            log.warning("worker %s (%s): %s", self.worker.worker, self.worker.address, reason)
        return reason

    async def _greeted(self) -> None:
        """Learn from the worker itself who it is and how it computes."""
        try:
            me = await asyncio.wait_for(self._greeting, limits.CONNECT_S)
        except TimeoutError:
            raise ConnectionResetError("it did not say who it is") from None
        if self.worker.supervised:
            self.worker = replace(self.worker, numerics=me.numerics, tenant=me.tenant)
        else:  # nobody else told us
            self.worker = replace(
                self.worker, host=me.host, pid=me.pid, numerics=me.numerics, tenant=me.tenant
            )

    async def _hear(self) -> None:
        assert self._control is not None
        await self._control.hear(self._heard)

    def _heard(self, header: link.Header, payload: Payload) -> None:
        self._silent = 0
        if header.kind == link.EVENTS:
            applied, events = link.unpack_events(payload)
            self._listener.events(self.worker, header.channel, applied, bytes(events))
        elif header.kind == link.HEARTBEAT:
            self.counts = link.unpack_json(payload)
            self.clock_ahead_s = float(self.counts.get("time_s", time.time())) - time.time()
            if self.counts.get("draining"):
                self._listener.leaving(self.worker)
        elif header.kind == link.CLOSE:
            self._listener.closed(self.worker, header.channel)
        elif header.kind == link.SWITCH:
            self._listener.ready(self.worker, header.channel, words.unpack_switch(payload))
        elif header.kind == link.FAULT:
            self._listener.faulted(self.worker, header.channel, words.unpack_fault(payload))
        elif header.kind == link.HELLO:
            if not self._greeting.done():
                self._greeting.set_result(words.unpack_greeting(payload))
        elif header.kind == link.STATUS:
            counts = link.unpack_json(payload)
            if self._asked and not (answer := self._asked.popleft()).done():
                answer.set_result(counts)
        else:
            raise ProtocolError(f"kind {header.kind} does not come from a worker")

    async def _hear_bulk(self) -> None:
        assert self._bulk is not None
        while True:
            header, payload = await self._bulk.receive()
            if header.kind == link.SHARE:
                answer = self._sharing.get(header.channel)
                if answer is not None and not answer.done():
                    answer.set_result(link.unpack_share(payload))
                continue
            if header.kind == link.LOAD:
                load = self._loading.get(header.channel)
                if load is not None and not load.done():
                    load.set_result(words.unpack_load(payload))
                continue
            if header.kind != link.TRANSFER:
                raise ProtocolError(f"kind {header.kind} does not belong on a bulk link")
            await self._listener.chunk(self.worker, header.channel, link.unpack_chunk(payload))

    async def _watch(self) -> None:
        # Counts looks instead of comparing times: a gateway that was itself stopped or starved
        # for seconds must first read what waits in its sockets.
        self._silent = 0
        while self._silent < _CHECKS:
            await asyncio.sleep(limits.SUSPECT_S / _CHECKS)
            self._silent += 1
        raise ConnectionResetError(f"no heartbeat for {limits.SUSPECT_S} s")
