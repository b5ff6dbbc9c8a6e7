"""A TCP proxy on loopback that cuts a connection after an exact number of bytes, or falls silent.

It runs on a thread of its own, in the process of whoever asks for cuts. Use `plan` before each
connection that is to be cut; all others pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
from dataclasses import dataclass, field
from typing import Any

UP, DOWN = 0, 1  # towards the target, and back


@dataclass
class Plan:
    """What becomes of the next connections, counted from the plan on."""

    connection: int = 0  # which of them is cut
    way: int = UP
    after_bytes: int = -1  # that still pass; -1: no cut
    reset: bool = False  # by a reset instead of an orderly end
    opened: int = 0
    struck: bool = False
    passed: list[list[int]] = field(default_factory=list)  # bytes up and down, by connection


class CuttingProxy:
    """Passes on what comes to `address` to target ("host:port" or "unix:/path"); `with` ends it."""

    def __init__(self, target: str) -> None:
        self._target = target
        self._plan = Plan()
        self._loop = asyncio.new_event_loop()
        self._open: set[_Side] = set()
        self._silent = False
        self.address = ""

    def __enter__(self) -> CuttingProxy:
        ready = threading.Event()

        async def listen() -> None:
            server = await self._loop.create_server(lambda: _Side(self), "127.0.0.1", 0)
            host, port = server.sockets[0].getsockname()[:2]
            self.address = f"{host}:{port}"
            ready.set()

        def run() -> None:
            self._loop.create_task(listen())
            self._loop.run_forever()
            self._loop.close()

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()
        assert ready.wait(10)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def plan(
        self, after_bytes: int = -1, way: int = UP, connection: int = 0, reset: bool = False
    ) -> Plan:
        """Have a later connection cut; return a record of all that comes from now on."""
        self._plan = Plan(connection, way, after_bytes, reset)
        return self._plan

    def cut_all(self) -> None:
        """Cut every connection that is open."""
        self._loop.call_soon_threadsafe(lambda: [side.cut(True) for side in list(self._open)])

    def silence(self, silent: bool) -> None:
        """Read and pass on nothing any more, or go on: what a lost route looks like."""

        def change() -> None:
            self._silent = silent
            for side in list(self._open):
                side.look()

        self._loop.call_soon_threadsafe(change)


class _Side(asyncio.Protocol):
    """One end of a passing connection: the client's, or (with a peer from the start) the target's.

    `way` is where what it receives goes.
    """

    def __init__(self, proxy: CuttingProxy, peer: _Side | None = None) -> None:
        self.proxy = proxy
        self.peer = peer
        self.way = UP if peer is None else DOWN
        self.transport: Any = None
        self.early = bytearray()
        self.plan = proxy._plan if peer is None else peer.plan
        self.over = False
        if peer is None:
            self.number = self.plan.opened
            self.plan.opened += 1
            self.plan.passed.append([0, 0])
        else:
            self.number = peer.number

    def connection_made(self, transport: Any) -> None:
        self.transport = transport
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.proxy._open.add(self)
        self.look()
        if self.peer is None:
            if self._due(self.way, 0) or self._due(DOWN, 0):
                self.cut(self.plan.reset)
                return
            self._task = asyncio.ensure_future(self._connect())
        else:
            self.peer.peer = self
            self.peer.flush()

    async def _connect(self) -> None:
        loop, target = asyncio.get_running_loop(), self.proxy._target
        try:
            if target.startswith("unix:"):
                await loop.create_unix_connection(lambda: _Side(self.proxy, self), target[5:])
            else:
                host, _, port = target.rpartition(":")
                await loop.create_connection(lambda: _Side(self.proxy, self), host, int(port))
        except OSError:
            self.cut(True)

    def _due(self, way: int, more: int) -> bool:
        """Whether the plan ends this connection with so many bytes more."""
        plan = self.plan
        if plan.after_bytes < 0 or plan.way != way or plan.connection != self.number:
            return False
        return plan.passed[self.number][way] + more >= plan.after_bytes

    def data_received(self, data: bytes) -> None:
        self.early += data
        self.flush()

    def flush(self) -> None:
        """Pass on what has come."""
        if self.peer is None or self.over or not self.early or self.peer.transport is None:
            return
        data, self.early = bytes(self.early), bytearray()
        passed = self.plan.passed[self.number]
        if self._due(self.way, len(data)):
            data = data[: self.plan.after_bytes - passed[self.way]]
            passed[self.way] += len(data)
            self.peer.transport.write(data)
            self.cut(self.plan.reset)
            return
        passed[self.way] += len(data)
        self.peer.transport.write(data)

    def look(self) -> None:
        """Read, or not."""
        with contextlib.suppress(RuntimeError):  # it is as it should be
            if self.proxy._silent:
                self.transport.pause_reading()
            else:
                self.transport.resume_reading()

    def cut(self, reset: bool) -> None:
        """End both halves now. What was passed on leaves, unless it is a reset."""
        self.plan.struck = True
        for side in (self, self.peer):
            if side is None or side.over:
                continue
            side.over = True
            if reset and side.transport is not None:
                made = side.transport.get_extra_info("socket")
                made.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                side.transport.abort()
            elif side.transport is not None:
                side.transport.close()

    def eof_received(self) -> bool:
        return False  # both halves end: gRPC and our links do not half-close

    def connection_lost(self, error: Exception | None) -> None:
        self.proxy._open.discard(self)
        self.over = True
        if self.peer is not None and not self.peer.over:
            self.peer.over = True
            if self.peer.transport is not None:
                self.peer.transport.close()
