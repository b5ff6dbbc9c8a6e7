"""A real gateway on a free loopback port, real worker shells with a small engine, real clients."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
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
from farspan_server.certs import make_certificates
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
    timeline = None
    programs = SimpleNamespace(switches=SimpleNamespace())  # it has none that could be switched

    def __init__(self) -> None:
        self.programs = SimpleNamespace(switches=SimpleNamespace(ask=None))  # none is compiled
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
        sent = self.transport.sequence
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
        worker = Worker(KEY, lambda name, memory_bytes_max: Bytes())
        self.workers.append(worker)
        return worker, worker.listen("127.0.0.1:0")

    def start(
        self, workers: int = 1, static: tuple[StaticWorker, ...] = (), **config: Any
    ) -> Cluster:
        static = static or tuple(StaticWorker(self.worker()[1], KEY) for _ in range(workers))
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
        given = {"table_hash": HASH, "timeout": 5.0, "token": TOKEN, **more}
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
    assert device["name"] == "cpu" and device["pid"] == os.getpid() and device["host"]
    (status,) = transport.worker_stats()
    assert status["commands"] == 2


# --- opening -------------------------------------------------------------------------------------
@pytest.mark.parametrize("token", ["", "wrong", TOKEN + "x", TOKEN[:-1]])
def test_a_wrong_token_is_refused(cluster: Cluster, token: str) -> None:
    cluster.start(0)
    with pytest.raises(AuthError, match="token"):
        cluster.connect(token=token)


@pytest.mark.parametrize("method", ["Session", "Upload", "Download", "List", "NoSuch"])
def test_no_method_reads_a_body_without_a_token(cluster: Cluster, method: str) -> None:
    cluster.start(0)
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/{method}")
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff" * 1000, timeout=5)
    assert caught.value.code() == grpc.StatusCode.UNAUTHENTICATED


def test_nobody_there_is_a_connect_error(cluster: Cluster) -> None:
    cluster.address = "grpc://127.0.0.1:1"
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1:1: no gateway answers there"):
        cluster.connect()


def test_another_op_table_or_protocol_is_a_version_error(cluster: Cluster, monkeypatch) -> None:
    cluster.start(0)
    with pytest.raises(VersionError, match="op table is cdcdcd"):
        cluster.connect(table_hash="cd" * 32)
    monkeypatch.setattr(wire, "MAJOR", 9)
    with pytest.raises(VersionError, match="speaks protocol 1, the gateway 9"):
        cluster.connect()


@pytest.mark.parametrize("devices", ["tpu:1", "cpu:0", "cpu:x", ",", "cpu:65", "cpu:-1"])
def test_devices_that_cannot_be_are_refused(cluster: Cluster, devices: str) -> None:
    cluster.start(0)
    with pytest.raises(BadValueError, match="devices"):
        cluster.connect(devices=devices)


def test_health_answers_without_a_token_and_reflection_with_one(cluster: Cluster) -> None:
    from grpc_health.v1 import health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

    cluster.start(0)
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        asked = health_pb2.HealthCheckRequest()  # alive; ready is another question
        answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.RpcError):
            list(stub.ServerReflectionInfo(iter(asked), timeout=5))
        bearer = (("authorization", f"Bearer {TOKEN}"),)
        (listed,) = stub.ServerReflectionInfo(iter(asked), timeout=5, metadata=bearer)
        names = [service.name for service in listed.list_services_response.service]
        assert wire.SERVICE in names


def test_a_config_that_is_open_to_others_is_refused() -> None:
    tokens = {TOKEN: "anna"}
    with pytest.raises(AuthError, match="token"):
        GatewayConfig(tokens={}, table_hash=HASH).check()
    with pytest.raises(AuthError, match="16 characters"):
        Gateway(GatewayConfig(tokens={"short": "anna"}, table_hash=HASH))
    for host in ("0.0.0.0", "::", "example.org", "10.0.0.1"):
        with pytest.raises(AuthError, match="certificate"):
            GatewayConfig(tokens=tokens, table_hash=HASH, host=host).check()
    for host in ("127.0.0.1", "localhost", "[::1]"):
        GatewayConfig(tokens=tokens, table_hash=HASH, host=host).check()
    assert TOKEN not in repr(GatewayConfig(tokens=tokens, table_hash=HASH))


def test_a_second_gateway_on_the_port_fails(cluster: Cluster) -> None:
    cluster.start(0)
    port = int(cluster.address.rpartition(":")[2])
    second = Gateway(GatewayConfig(tokens={TOKEN: "anna"}, table_hash=HASH, port=port))
    with pytest.raises(OSError, match=r"cannot listen on .*: does another program .* --port"):
        cluster.run(second.start())


def test_tls_and_client_certificates(cluster: Cluster, tmp_path: Path) -> None:
    made = make_certificates(tmp_path, ["localhost"])
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
    cluster.start(
        host="localhost",
        tls_certificate=made.server_certificate,
        tls_key=made.server_key,
        tls_client_ca=made.ca_certificate,
    )
    ca, cert, key = map(str, (made.ca_certificate, made.client_certificate, made.client_key))
    client = cluster.connect(tls={"ca": ca, "cert": cert, "key": key})
    client.transport.upload(5, 0, bytes(3 * limits.MiB))
    client.transport.send(put(1, b"x"))
    client.synchronize()
    for tls in (None, {"ca": ca}, True):
        with pytest.raises(ConnectError, match="TLS"):
            cluster.connect(tls=tls, timeout=3)
    with pytest.raises(BadValueError, match="tls"):
        cluster.connect(tls={"ca": ca, "cert": cert})
    with pytest.raises(FileExistsError):
        make_certificates(tmp_path, ["localhost"])


# --- bytes that are none of ours -----------------------------------------------------------------
def hostile(name: str, good: Frame, transport: GrpcTransport) -> list[bytes]:
    """Return the messages of a client that means ill."""
    good.sequence, good.epoch = transport.sequence + 1, transport.epoch
    data = wire.encode_frame(good)
    frames = {
        "truncated": [data[:-3]],
        "random": [b"\xff" * 100],
        "gap": [wire.encode_frame(replace(good, sequence=good.sequence + 1))],
        "stale epoch": [wire.encode_frame(replace(good, epoch=7))],
        "no device": [wire.encode_frame(replace(good, device=5))],
        "reserved command": [data.replace(b"\x0a\x01\x00", b"\x0a\x01\x05", 1)],
        "flood": [
            wire.encode_frame(replace(good, sequence=good.sequence + k))
            for k in range(limits.CREDIT_FRAMES + 1)
        ],
    }
    if name == "crumbs":
        return [wire.encode(wire.Up(frames=(data,) * (limits.UP_FRAMES_MAX + 1)))]
    if name in frames:
        return [wire.encode(wire.Up(frames=tuple(frames[name])))]
    if name == "second hello":
        return [wire.encode(wire.Up(hello=wire.Hello(HASH)))]
    if name == "no message":
        return [b"\xff\xff\xff"]
    assert name == "oversize"
    return [bytes(wire.CONTROL_BYTES_MAX + 1)]


HOSTILE = [
    "truncated",
    "random",
    "gap",
    "stale epoch",
    "no device",
    "reserved command",
    "flood",
    "crumbs",
    "second hello",
    "no message",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_bytes_end_that_session_and_leave_others_served(
    cluster: Cluster, name: str
) -> None:
    cluster.start()
    good, bad = cluster.connect(), cluster.connect()
    good.transport.send(put(1, b"mine"))
    bad.transport.send(frame((HOLD, [], ())) if name == "flood" else put(1, b"x"))
    messages = hostile(name, frame((FREE, [1], ())), bad.transport)
    for message in messages:
        bad.transport._stream.put(Raw(message))
    lost = bad.lost()
    assert lost.kind == "ProtocolError" and "/" not in lost.message
    with pytest.raises(ProtocolError):
        bad.transport.send(put(2, b"x"))
    Bytes.gate.set()
    good.transport.send(get(1, 1))
    assert good.value(1).data == b"mine"
    cluster.connect()


class Raw(wire.Up):
    """Bytes that pass for a message in the transport's queue."""

    __slots__ = ("raw",)

    def __init__(self, raw: bytes) -> None:
        object.__setattr__(self, "raw", raw)


@pytest.fixture(autouse=True)
def _send_raw(monkeypatch: pytest.MonkeyPatch) -> None:
    encode = wire.encode
    monkeypatch.setattr(wire, "encode", lambda m: m.raw if isinstance(m, Raw) else encode(m))


@pytest.mark.parametrize(
    "rest",
    [{"frames": (b"\xff",)}, {"pieces": (wire.SharedPiece(9, 1, 1, 0, 0, 1),)}],
    ids=lambda rest: next(iter(rest)),
)
def test_a_hello_with_a_bad_rest_leaves_no_session_behind(
    cluster: Cluster, rest: dict[str, Any]
) -> None:
    cluster.start()
    assert cluster.gateway is not None
    sessions = cluster.gateway.service._sessions
    bearer = (("authorization", f"Bearer {TOKEN}"),)
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        call = channel.stream_stream(f"/{wire.SERVICE}/Session")
        first = wire.encode(wire.Up(hello=wire.Hello(HASH), **rest))
        told = [wire.decode(wire.Down, m) for m in call(iter([first]), metadata=bearer, timeout=10)]
    events = [event for down in told for data in down.events for event in wire.decode_events(data)]
    assert [event.kind for event in events] == ["ProtocolError"]
    cluster.until(lambda: not sessions)


def test_a_defect_of_the_gateway_is_an_error_at_the_client_and_no_hang(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    client = cluster.start().connect()

    def defect(data: bytes) -> Any:
        raise LookupError("a defect")

    monkeypatch.setattr(wire, "frame_header", defect)
    client.transport.send(put(1, b"x"))
    lost = client.lost()
    assert lost.kind == "ServiceError" and "LookupError" in lost.message
    assert "a defect" not in lost.message  # only in the log: it might hold anything
    assert "could not be taken" in caplog.text


def test_an_oversize_message_ends_that_stream_and_leaves_others_served(cluster: Cluster) -> None:
    good = cluster.start().connect()
    options = {**OPTIONS, "grpc.max_send_message_length": 64 * limits.MiB}
    bearer = (("authorization", f"Bearer {TOKEN}"),)
    target = cluster.address.removeprefix("grpc://")
    with grpc.insecure_channel(target, options=list(options.items())) as channel:
        hello = wire.encode(wire.Up(hello=wire.Hello(HASH)))
        messages = iter([hello, bytes(wire.CONTROL_BYTES_MAX + 1)])
        call = channel.stream_stream(f"/{wire.SERVICE}/Session")
        with pytest.raises(grpc.RpcError) as caught:
            list(call(messages, metadata=bearer, timeout=10))
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    good.transport.send(put(1, b"mine"))
    good.synchronize()


def test_one_tenant_cannot_touch_the_sessions_of_another(cluster: Cluster) -> None:
    client = cluster.start().connect()
    theirs = client.transport.session_id
    big = bytes(limits.INLINE_BYTES_MAX + 1)
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:

        def refused(method: str, body: Any) -> str:
            make = channel.stream_unary if method == "Upload" else channel.unary_unary
            bearer = (("authorization", f"Bearer {OTHER}"),)
            with pytest.raises(grpc.RpcError) as caught:
                make(f"/{wire.SERVICE}/{method}")(body, timeout=5, metadata=bearer)
            return caught.value.details()

        header = wire.encode_transfer_header(wire.TransferHeader(theirs, 0, 1, len(big)))
        for method, body in (
            ("Describe", wire.encode(wire.DescribeRequest(theirs))),
            ("Close", wire.encode(wire.CloseRequest(theirs))),
            ("Download", wire.encode(wire.DownloadRequest(theirs, 1))),
            ("Upload", iter([header, wire.encode_chunk(memoryview(big))])),
        ):
            no_such = "SessionClosedError: there is no such session, or it has ended"
            assert refused(method, body) == no_such
        mine = (("authorization", f"Bearer {TOKEN}"),)
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        for bearer, count in ((mine, 1), ((("authorization", f"Bearer {OTHER}"),), 0)):
            answer = call(wire.encode(wire.ListRequest()), metadata=bearer)
            assert len(wire.decode(wire.ListReply, answer).sessions) == count


# --- flow ----------------------------------------------------------------------------------------
def test_send_waits_for_credits_and_goes_on(cluster: Cluster) -> None:
    client = cluster.start().connect()
    client.transport.send(frame((HOLD, [], ())))
    for _ in range(limits.CREDIT_FRAMES - 1):
        client.transport.send(frame((FREE, [1], ())))
    assert client.transport.pending() == limits.CREDIT_FRAMES and not client.transport.idle
    done = threading.Event()

    def one_more() -> None:
        client.transport.send(frame((FREE, [1], ())))
        done.set()

    threading.Thread(target=one_more, daemon=True).start()
    assert not done.wait(0.2)
    Bytes.gate.set()
    assert done.wait(5)
    client.synchronize()


def test_frames_sent_before_there_is_a_worker_run_when_there_is(cluster: Cluster) -> None:
    client = cluster.start(0, supervisor=SupervisorPort("127.0.0.1:0", KEY)).connect()
    client.transport.send(put(1, b"early"))
    client.transport.send(get(1, 1))
    Supervisor(cluster).up("w1")
    assert client.value(1).data == b"early"


@pytest.mark.parametrize("size", [limits.INLINE_BYTES_MAX, limits.INLINE_BYTES_MAX + 1, 9_000_001])
def test_tensors_of_any_size_go_up_and_down(cluster: Cluster, size: int) -> None:
    client = cluster.start().connect()
    data = os.urandom(size)
    client.transport.send(frame((PUT, [1], (U8, (size,), -1, 5))))  # its frame may come first
    client.transport.upload(5, 0, memoryview(data))
    client.transport.send(frame(*((GET, [1], (k, GET_BYTES, 0)) for k in range(1, 7))))
    for request in range(1, 7):
        assert client.value(request).data == data
    client.synchronize()
    assert client.transport.stats()["bytes_up"] >= size


def test_a_download_nobody_fetches_holds_up_no_one(cluster: Cluster, monkeypatch) -> None:
    import farspan_server.downloads as downloads

    monkeypatch.setattr(downloads, "STALL_S", 0.2)
    cluster.start()
    lazy, busy = cluster.connect(), cluster.connect()
    lazy.transport._fetch = lambda value: None
    size = (downloads.CHUNKS_HELD_MAX + 4) * limits.CHUNK_BYTES
    for client in (lazy, busy):
        client.transport.upload(5, 0, bytes(size))
        client.transport.send(frame((PUT, [1], (U8, (size,), -1, 5))))
    lazy.transport.send(get(1, 1))
    lazy.synchronize()
    busy.transport.send(get(1, 2))
    assert len(busy.value(2).data) == size


def test_long_transfers_show_progress_on_a_terminal_only(monkeypatch, capsys) -> None:
    from farspan import _progress

    monkeypatch.setattr(limits, "PROGRESS_AFTER_S", -1.0)
    monkeypatch.setattr(_progress, "_rich_bar", lambda: None)
    for terminal in (False, True):
        monkeypatch.setattr(sys.stderr, "isatty", lambda shown=terminal: shown)
        with _progress.Progress("to device 0", 4 * limits.MiB) as progress:
            progress.add(2 * limits.MiB)
        shown = capsys.readouterr().err
        assert ("to device 0: 2 of 4 MiB" in shown) == terminal, shown


# --- endings -------------------------------------------------------------------------------------
def test_a_dead_worker_is_a_worker_lost_error_and_the_gateway_serves_on(cluster: Cluster) -> None:
    client = cluster.start(2).connect(devices="cpu:2")
    bystander = cluster.connect()
    bystander.transport.send(put(1, b"mine"))
    client.transport.send(put(1, b"x", device=1))
    client.synchronize()
    bystander.synchronize()
    on = [each.worker.address for each in _live(cluster, client).links]
    dead = next(w for w in cluster.workers if w.address == on[1])
    alive = _live(cluster, bystander).links[0].worker.address == on[0]
    dead.close()
    lost = client.lost()
    assert lost.kind == "WorkerLostError"
    assert f"cpu:1 (process {os.getpid()} on " in lost.message
    with pytest.raises(WorkerLostError):
        client.transport.send(put(2, b"x"))
    if alive:
        bystander.transport.send(get(1, 1))
        assert bystander.value(1).data == b"mine"


def test_a_silent_worker_is_lost(cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SUSPECT_S", 0.8)
    client = cluster.start().connect()
    client.transport.send(put(1, b"x"))
    client.synchronize()
    monkeypatch.setattr(limits, "HEARTBEAT_S", 100.0)  # seconds until it beats again
    assert client.lost().kind == "WorkerLostError"


def test_closing_gives_the_worker_back(cluster: Cluster) -> None:
    cluster.start(1, sessions_per_worker_max=1)
    first = cluster.connect(devices="cpu")
    with pytest.raises(CapacityError, match="asked for 1 cpu; the gateway has 1 cpu"):
        cluster.connect(devices="cpu", timeout=0.5)
    waiting: list[Client] = []
    thread = threading.Thread(target=lambda: waiting.append(cluster.connect(devices="cpu")))
    thread.start()
    cluster.until(lambda: len(cluster.gateway.service._pool._line) == 1)
    first.transport.close()
    thread.join(5)
    waiting[0].transport.send(put(1, b"x"))
    waiting[0].synchronize()
    with pytest.raises(SessionClosedError):
        first.transport.send(put(1, b"x"))


def test_the_line_tells_its_places(cluster: Cluster, caplog: pytest.LogCaptureFixture) -> None:
    cluster.start(1, sessions_per_worker_max=1)
    cluster.connect(devices="cpu")
    with pytest.raises(CapacityError):
        cluster.connect(devices="cpu", timeout=0.5)
    assert "waiting for workers (cpu): place 1 in line" in caplog.text


def test_a_client_that_vanishes_keeps_its_worker_for_the_lease(cluster: Cluster) -> None:
    cluster.start(1, sessions_per_worker_max=1, lease_s=0.5)
    first = cluster.connect(devices="cpu", reconnect_s=0)
    first.transport._stream.cancel()
    first.lost()
    cluster.until(lambda: _states(cluster) == ["detached"])
    second = cluster.connect(devices="cpu")
    second.transport.send(put(1, b"x"))
    second.synchronize()
    assert _states(cluster) == ["open"]


def test_a_link_that_breaks_while_the_gateway_stops_holds_up_nothing(cluster: Cluster) -> None:
    gateway = cluster.start().gateway
    assert gateway is not None

    async def stop() -> None:
        (link,) = gateway.service._links.values()
        asyncio.get_running_loop().call_soon(link._control._stop, EOFError("gone"))
        await gateway.stop(0.1)

    cluster.gateway = None
    cluster.run(stop())


def test_without_grpcs_core_its_public_face_serves(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = cluster.start().connect()
    assert direct.transport._stream._core is not None, "gRPC's core is not as known any more"
    monkeypatch.setattr("farspan._stream._core_of", lambda call: None)
    client = cluster.connect()
    for number in range(1, 40):
        client.transport.send(put(number, b"x"))
    client.transport.send(get(39, 1))
    assert client.value(1).data == b"x"
    client.transport._stream.put(Raw(b"\xff"))
    assert client.lost().kind == "ProtocolError"
    client.transport.close()
    assert not any(t.name == "farspan-reader" for t in threading.enumerate())


def test_two_tenants_never_share_a_worker(cluster: Cluster) -> None:
    cluster.start()
    cluster.connect(devices="cpu")
    cluster.connect(devices="cpu")  # the same tenant shares it
    with pytest.raises(CapacityError):
        cluster.connect(devices="cpu", timeout=0.5, token=OTHER)


def test_values_stand_between_their_acknowledgement_and_a_loss(cluster: Cluster) -> None:
    client = cluster.start().connect()
    value, lost = Value(1, U8, (1,), b"a"), Lost("ServiceError", "over")
    events = wire.encode_events([value, lost])
    client.transport._take(0, wire.encode(wire.Down(events=(events,))))
    assert client.events[-2:] == [value, lost], "a value that came before the end is not lost"

    client = cluster.connect()
    client.transport._ledger.send(b"")
    events = wire.encode_events([value])
    client.transport._take(0, wire.encode(wire.Down(events=(events,), applied=1, durable=1)))
    assert client.events[-2:] == [Acked(1, 1), value], "its reader finds the frame acknowledged"


def test_a_transport_refuses_to_serve_a_forked_process(cluster: Cluster) -> None:
    client = cluster.start().connect()
    client.transport._pid -= 1
    with pytest.raises(SessionClosedError, match=r"before fork"):
        client.transport.send(put(1, b"x"))
    with pytest.raises(SessionClosedError):
        client.transport.upload(1, 0, b"x")
    client.transport.close()  # leaves the parent's connections alone
    client.transport._pid += 1
    client.transport.send(put(1, b"x"))
    client.synchronize()


FROZEN = """
import asyncio, sys
from farspan_server.config import GatewayConfig
from farspan_server.gateway import Gateway
async def main():
    gateway = Gateway(GatewayConfig(tokens={sys.argv[1]: "anna"}, table_hash=sys.argv[2]))
    print(await gateway.start(), flush=True)
    await asyncio.sleep(60)
asyncio.run(main())
"""


@pytest.mark.slow
def test_a_frozen_gateway_is_noticed(cluster: Cluster) -> None:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", FROZEN, TOKEN, HASH]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert process.stdout is not None
        cluster.address = process.stdout.readline().strip()
        client = cluster.connect(reconnect_s=0)
        process.send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert client.lost(timeout=25).kind == "ConnectError"
        assert time.monotonic() - begun < 20  # keepalive 10 s, ping timeout 5 s
    finally:
        process.kill()
        process.wait()


def test_a_gateway_that_stops_tells_its_clients(cluster: Cluster) -> None:
    client = cluster.start().connect()
    cluster.run(cluster.gateway.stop(0.5))
    assert client.lost().kind in ("SessionClosedError", "ConnectError")
    with pytest.raises(FarspanError):
        client.transport.send(put(1, b"x"))


# --- supervisor ----------------------------------------------------------------------------------
class Supervisor:
    """What a supervisor says and hears, over a real link."""

    def __init__(self, cluster: Cluster) -> None:
        from farspan_worker.socket_link import dial

        self.cluster = cluster
        address = cluster.gateway.supervisor_address
        self.link = dial(address, KEY, link.Purpose(link.SUPERVISOR))
        self.heard: list[link.Fleet] = []
        threading.Thread(target=self._hear, daemon=True).start()

    def _hear(self) -> None:
        try:
            while True:
                self.heard.append(link.unpack_fleet(self.link.receive()[1]))
        except (OSError, EOFError, ValueError):
            return

    def up(self, name: str, epoch: int = 1) -> Worker:
        worker, address = self.cluster.worker()
        body = link.WorkerUp(name, epoch, address, KEY.hex(), "cpu", "node-7", 4321)
        self.link.send(link.pack_fleet(body))
        return worker


def test_a_supervisor_brings_workers_and_hears_what_is_wanted(cluster: Cluster) -> None:
    cluster.start(0, supervisor=SupervisorPort("127.0.0.1:0", KEY))
    supervisor = Supervisor(cluster)
    client = cluster.connect()
    client.transport.send(put(1, b"x"))
    cluster.until(lambda: link.Wanted("cpu", 1) in supervisor.heard)
    worker = supervisor.up("w1")
    client.synchronize()
    (device,) = client.transport.devices
    assert (device["host"], device["pid"], device["epoch"]) == ("node-7", 4321, 1)
    cluster.until(lambda: supervisor.heard[-1] == link.Wanted("cpu", 0))
    worker.close()
    assert client.lost().kind == "WorkerLostError"
    cluster.until(lambda: isinstance(supervisor.heard[-1], link.Retire))
    supervisor.up("w1", epoch=2)
    again = cluster.connect(devices="cpu")
    assert again.transport.devices[0]["epoch"] == 2


def test_another_tenants_worker_is_replaced_not_reused(cluster: Cluster) -> None:
    cluster.start(0, supervisor=SupervisorPort("127.0.0.1:0", KEY))
    supervisor = Supervisor(cluster)
    supervisor.up("w1")
    cluster.connect(devices="cpu").transport.close()
    waiting: list[Client] = []
    thread = threading.Thread(
        target=lambda: waiting.append(cluster.connect(devices="cpu", token=OTHER))
    )
    thread.start()
    cluster.until(
        lambda: link.Retire("w1", 1, "its tenant has left") in supervisor.heard,
    )
    supervisor.up("w1", epoch=2)
    thread.join(5)
    assert waiting[0].transport.devices[0]["epoch"] == 2


def test_a_supervisor_that_names_its_workers_again_loses_those_it_forgot(cluster: Cluster) -> None:
    cluster.start(0, supervisor=SupervisorPort("127.0.0.1:0", KEY))
    first = Supervisor(cluster)
    first.up("w1")
    client = cluster.connect(devices="cpu")
    first.link.close()
    client.transport.send(put(1, b"x"))  # goes on without it
    client.synchronize()
    second = Supervisor(cluster)
    second.up("w2")
    second.link.send(link.pack_fleet(link.Synced({"cpu": 1})))
    assert client.lost().kind == "WorkerLostError"
    cluster.connect(devices="cpu")


def _live(cluster: Cluster, client: Client) -> Any:
    return cluster.gateway.service._sessions[client.transport.session_id]


def _states(cluster: Cluster) -> list[str]:
    service = cluster.gateway.service
    return [live.machine.state for live in service.sessions] + ["asleep"] * service.asleep
