"""A real gateway on a free loopback port, real worker shells with a small engine, real clients."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import grpc
import pytest
from farspan import wire
from farspan._transport import OPTIONS, GrpcTransport, connect_grpc
from farspan.core import limits, link
from farspan.core.command import (
    FREE,
    GET,
    GET_BYTES,
    PUT,
    Acked,
    ErrorInfo,
    Event,
    Failed,
    Frame,
    Lost,
    Value,
)
from farspan.core.errors import (
    AuthError,
    BadValueError,
    CapacityError,
    ConnectError,
    FarspanError,
    ProtocolError,
    SessionClosedError,
    VersionError,
    WorkerLostError,
)
from farspan_server.config import GatewayConfig, StaticWorker, SupervisorPort
from farspan_server.gateway import Gateway
from farspan_worker.server import Worker

KEY = b"k" * link.KEY_BYTES
TOKEN = "a-token-for-tests"
OTHER = "another-token-for-tests"
HASH = "ab" * 32
U8 = 1
HOLD, FAIL = 20, 21  # opcodes that the engine below knows


class Bytes:
    """An engine that keeps bytes: Put stores, Get reads, Free forgets, Hold waits, Fail fails."""

    gate = threading.Event()

    def __init__(self) -> None:
        self.kept: dict[int, bytes] = {}
        self.commands = 0

    def handle(self, frame: Frame, transfers: dict[int, Any]) -> list[Event]:
        events: list[Event] = []
        ids = iter(frame.ids)
        for k, opcode in enumerate(frame.opcodes):
            self.commands += 1
            tensors = [next(ids) for _ in range(frame.counts[k])]
            static = frame.statics[k]
            if opcode == PUT:
                inline = static[2] >= 0
                data = frame.payloads[static[2]] if inline else transfers[static[3]]
                self.kept[tensors[0]] = bytes(data)
            elif opcode == GET:
                data = self.kept[tensors[0]]
                events.append(Value(static[0], U8, (len(data),), data))
            elif opcode == HOLD:
                self.gate.wait(10)
            elif opcode == FAIL:
                events.append(Failed(ErrorInfo("ShapeError", "no", frame.numbers[k])))
        return events

    def close(self) -> None:
        self.kept.clear()

    def stats(self) -> dict[str, Any]:
        return {"commands": self.commands}


class Client:
    """A transport whose events can be waited for."""

    def __init__(self, transport: GrpcTransport) -> None:
        self.transport = transport
        self.events: list[Event] = []
        self._changed = threading.Condition()
        transport.set_sink(self._sink)

    def _sink(self, event: Event) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def wait(self, which: Callable[[Event], bool], timeout: float = 10) -> Event:
        def found() -> Event | None:
            return next((event for event in self.events if which(event)), None)

        with self._changed:
            assert self._changed.wait_for(lambda: found() is not None, timeout), self.events
            event = found()
            assert event is not None
            return event

    def value(self, request: int) -> Value:
        event = self.wait(lambda e: isinstance(e, Value) and e.request == request)
        assert isinstance(event, Value)
        return event

    def lost(self, timeout: float = 10) -> Lost:
        event = self.wait(lambda e: isinstance(e, Lost), timeout)
        assert isinstance(event, Lost)
        return event

    def synchronize(self) -> None:
        sent = self.transport._sequence
        self.wait(lambda e: isinstance(e, Acked) and e.applied >= sent)


def frame(*commands: tuple[int, list[int], tuple], payloads: Any = (), device: int = 0) -> Frame:
    made = Frame(device, payloads=list(payloads))
    for k, (opcode, ids, static) in enumerate(commands):
        made.opcodes.append(opcode)
        made.modes.append(0)
        made.counts.append(len(ids))
        made.ids.extend(ids)
        made.statics.append(static)
        made.scalar_counts.append(0)
        made.numbers.append(k)
    return made


def put(tensor: int, data: bytes, **more: Any) -> Frame:
    return frame((PUT, [tensor], (U8, (len(data),), 0, 0)), payloads=[data], **more)


def get(tensor: int, request: int, **more: Any) -> Frame:
    return frame((GET, [tensor], (request, GET_BYTES, 0)), **more)


class Cluster:
    """A gateway on a thread of its own, workers, clients; all ended by `close`."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.clients: list[GrpcTransport] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.gateway: Gateway | None = None
        self.address = ""

    def run(self, work: Any) -> Any:
        future: Future[Any] = asyncio.run_coroutine_threadsafe(work, self._loop)
        return future.result(10)

    def worker(self) -> tuple[Worker, str]:
        worker = Worker(KEY, lambda memory_bytes_max: Bytes())
        self.workers.append(worker)
        return worker, worker.listen("127.0.0.1:0")

    def start(self, workers: int = 1, **config: Any) -> Cluster:
        static = tuple(StaticWorker(self.worker()[1], KEY) for _ in range(workers))
        given = GatewayConfig(
            **{
                "tokens": {TOKEN: "anna", OTHER: "bert"},
                "table_hash": HASH,
                "workers": static,
                **config,
            }
        )

        async def start() -> Gateway:
            gateway = Gateway(given)
            await gateway.start()
            return gateway

        self.gateway = self.run(start())
        self.address = self.gateway.address
        self.until(lambda: len(self.gateway.service.workers) == workers)
        return self

    def until(self, true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 10
        while not true():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def connect(self, **more: Any) -> Client:
        given = {"table_hash": HASH, "wait": 5.0, "token": TOKEN, **more}
        self.clients.append(connect_grpc(self.address, **given))
        return Client(self.clients[-1])

    def close(self) -> None:
        Bytes.gate.set()
        for client in self.clients:
            client.close()
        if self.gateway is not None:
            self.run(self.gateway.stop(0.1))
        for worker in self.workers:
            worker.close()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    Bytes.gate.clear()
    made = Cluster()
    yield made
    made.close()


def test_what_is_put_is_got_and_acknowledged(cluster: Cluster) -> None:
    client = cluster.start().connect()
    transport = client.transport
    assert transport.idle and transport.kinds == ("cpu",)
    transport.send(put(1, b"hello"))
    transport.send(get(1, 7))
    assert client.value(7) == Value(7, U8, (5,), b"hello")
    client.synchronize()
    assert transport.idle and transport.pending() == 0
    assert transport.stats()["frames"] == 2 and transport.stats()["bytes_up"] > 50
    (device,) = transport.devices
    assert device["name"] == "cpu:0" and device["pid"] == os.getpid() and device["host"]
    (status,) = transport.worker_status()
    assert '"commands": 2' in status
