"""A worker process's shell over real sockets, with an engine that only remembers."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from farspan import wire
from farspan.core import addresses, limits, link
from farspan.core.command import FREE, PUT, ErrorInfo, Event, Frame, Lost, Send, Value
from farspan.core.errors import AuthError, ProtocolError
from farspan_worker.server import Worker
from farspan_worker.socket_link import Link, dial

KEY = b"k" * link.KEY_BYTES
BIG = limits.CHUNK_BYTES + 17


class Recorder:
    """An engine: `answer(frame, transfers)` gives the events; it remembers what it was handed."""

    timeline = None
    steady = False

    def __init__(self, answer: Any, running: threading.Lock) -> None:
        """running: of all engines of a worker."""
        self.running = running
        self.answer = answer or (lambda frame, transfers: [])
        self.seen: list[tuple[int, dict[int, Any]]] = []
        self.overlapped = False
        self.closed = threading.Event()

    def handle(self, frame: Frame, transfers: dict[int, Any]) -> list[Event]:
        self.overlapped |= not self.running.acquire(blocking=False)
        held = {k: t if isinstance(t, ErrorInfo) else bytes(t) for k, t in transfers.items()}
        self.seen.append((frame.sequence, held))
        try:
            return self.answer(frame, transfers)
        finally:
            with contextlib.suppress(RuntimeError):
                self.running.release()

    def close(self) -> None:
        self.closed.set()

    def stats(self) -> dict[str, Any]:
        return {"frames": len(self.seen)}


class Rig:
    """A worker, and a gateway's two links to it."""

    def __init__(self, address: str, answer: Any = None) -> None:
        self.engines: list[Recorder] = []
        running = threading.Lock()

        def make(name: str, memory_bytes_max: int) -> Recorder:
            self.engines.append(Recorder(answer, running))
            return self.engines[-1]

        self.worker = Worker(KEY, make)
        self.address = self.worker.listen(address)
        self.control, self.bulk = self.connect("gw")

    def connect(self, owner: str) -> tuple[Link, Link]:
        return tuple(
            dial(self.address, KEY, link.Purpose(purpose, owner))
            for purpose in (link.CONTROL, link.BULK)
        )

    def open(
        self, channel: int, *, tenant: str = "anna", device: int = 0, peers: Any = (), **more: Any
    ) -> None:
        devices = tuple(peers) or (link.Peer(0, self.address, KEY.hex(), 1),)
        body = link.Open(f"s{channel}", tenant, device, devices, 4 * BIG, **more)
        self.control.send(link.pack_open(channel, body))

    def frame(self, channel: int, sequence: int, transfers: tuple[int, ...] = ()) -> None:
        self.control.send(link.pack(link.FRAME, channel, encoded(sequence, transfers)))

    def upload(self, channel: int, transfer: int, data: bytes) -> None:
        for chunk in link.chunks(transfer, data):
            self.bulk.send(link.pack_chunk_header(channel, chunk), chunk.data)

    def applied(self, source: Link | None = None) -> tuple[int, int, list[Event]]:
        """Return (channel, applied, events) of the next EVENTS message."""
        header, payload = next_of(source or self.control, link.EVENTS)
        applied, events = link.unpack_events(payload)
        return header.channel, applied, wire.decode_events(events) if len(events) else []


def encoded(sequence: int, transfers: tuple[int, ...] = (), device: int = 0) -> bytes:
    frame = Frame(device, sequence)
    for transfer in transfers or ():
        frame.opcodes.append(PUT)
        frame.statics.append((0, (4,), -1, transfer))
    if not transfers:
        frame.opcodes.append(FREE)
        frame.statics.append(())
    for _ in frame.opcodes:
        frame.modes.append(0)
        frame.counts.append(1)
        frame.ids.append(1)
        frame.scalar_counts.append(0)
        frame.numbers.append(len(frame.numbers) + 1)
    return wire.encode_frame(frame)


def next_of(source: Link, kind: int) -> tuple[link.Header, bytes]:
    while True:
        header, payload = source.receive()
        if header.kind == kind:
            return header, payload


def receive_transfer(source: Link) -> tuple[int, int, bytes]:
    assembly = None
    while True:
        header, payload = next_of(source, link.TRANSFER)
        chunk = link.unpack_chunk(payload)
        assembly = assembly or link.Assembly(chunk.total)
        assembly.add(chunk)
        if assembly.done:
            return header.channel, chunk.transfer, bytes(assembly.data)


@pytest.fixture(params=["127.0.0.1:0", "unix:{}/w.sock", "tls:127.0.0.1:0"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(request.param).format(tmp_path)


@pytest.fixture
def rigs(address: str) -> Iterator[Any]:
    made: list[Rig] = []

    def make(answer: Any = None) -> Rig:
        where = address if not made or "unix" not in address else "127.0.0.1:0"
        made.append(Rig(where, answer))
        return made[-1]

    yield make
    for rig in made:
        rig.worker.close()


def test_frames_run_in_order_one_at_a_time_and_are_acknowledged(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    rig.open(6)
    for sequence in range(1, 20):
        rig.frame(5 + sequence % 2, sequence)
    got = [rig.applied()[:2] for _ in range(19)]
    assert [s for c, s in got if c == 5] == list(range(2, 20, 2))
    assert [s for c, s in got if c == 6] == list(range(1, 20, 2))
    assert not any(engine.overlapped for engine in rig.engines)


def test_a_frame_waits_for_its_bytes_and_holds_up_no_other_session(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    rig.open(6)
    rig.frame(5, 1, transfers=(70,))
    rig.frame(5, 2)
    rig.frame(6, 9)
    assert rig.applied()[:2] == (6, 9)
    data = bytes(range(256)) * (BIG // 256)
    rig.upload(5, 70, data)
    assert rig.applied()[:2] == (5, 1)
    assert rig.applied()[:2] == (5, 2)
    assert rig.engines[0].seen == [(1, {70: data}), (2, {})]


def test_a_cut_among_frames_that_wait_takes_no_credit(rigs: Any) -> None:
    """A client may have all its credits under way, and a replay what came meanwhile as well."""
    rig = rigs()
    for channel, frames in ((1, limits.CREDIT_FRAMES), (2, 2 * limits.CREDIT_FRAMES)):
        rig.open(channel, steady=channel == 2)
        rig.frame(channel, 1, (7,))
        rig.control.send(link.pack_cut(channel, 1))
        for sequence in range(2, frames + 1):
            rig.frame(channel, sequence)
        rig.upload(channel, link.marker(1, 0), b"")
        rig.upload(channel, 7, b"x")
        for sequence in range(1, frames + 1):
            assert rig.applied() == (channel, sequence, [])


def test_a_cut_is_taken_at_once_though_its_marker_came_before_it(rigs: Any) -> None:
    """Nobody sends a frame behind it, as of an idle session that is to move."""
    rig = rigs()
    rig.open(1, steady=True)
    rig.frame(1, 1)
    assert rig.applied()[:2] == (1, 1)
    rig.upload(1, link.marker(1, 0), b"")
    (session,) = rig.worker._inbox.sessions.values()
    until_s = time.monotonic() + 20
    while link.marker(1, 0) not in session.transfers:
        assert time.monotonic() < until_s
        time.sleep(0.001)
    rig.control.send(link.pack_cut(1, 1))
    header, payload = next_of(rig.bulk, link.TRANSFER)
    assert (header.channel, link.unpack_chunk(payload).transfer) == (1, link.PARTS + 1)


def test_a_cut_that_comes_behind_its_bytes_is_taken_at_once(rigs: Any) -> None:
    """No frame follows, and the worker's other sessions have their turns."""
    rig = rigs()
    rig.open(5)
    rig.open(6)
    rig.upload(5, link.marker(1, 0), b"")
    rig.upload(5, 70, b"x")
    rig.frame(5, 1, transfers=(70,))
    assert rig.applied()[:2] == (5, 1)  # so the marker is there
    rig.control.send(link.pack_cut(5, 1))
    chunk = link.unpack_chunk(next_of(rig.bulk, link.TRANSFER)[1])
    assert chunk.transfer == link.PARTS + 1 and chunk.failed  # this engine has nothing to take
    rig.frame(6, 1)
    assert rig.applied()[:2] == (6, 1)


def test_bytes_may_come_before_their_session(rigs: Any) -> None:
    rig = rigs()
    rig.upload(5, 70, b"1234")
    rig.open(5)
    rig.frame(5, 1, transfers=(70,))
    assert rig.applied()[:2] == (5, 1)
    assert rig.engines[0].seen == [(1, {70: b"1234"})]


def test_long_values_go_over_the_bulk_link(rigs: Any) -> None:
    data = bytes(range(256)) * (BIG // 256)
    short, long = Value(1, 0, (2,), b"ab"), Value(2, 0, (len(data),), data)
    rig = rigs(lambda frame, transfers: [short, long])
    rig.open(5)
    rig.frame(5, 1)
    channel, applied, events = rig.applied()
    assert (channel, applied) == (5, 1)
    assert [(e.request, e.data) for e in events] == [(1, b"ab"), (2, None)]
    assert receive_transfer(rig.bulk) == (5, 2, data)


def test_many_events_are_split_and_the_frame_is_acknowledged_last(rigs: Any) -> None:
    values = [Value(i, 0, (1,), bytes(limits.INLINE_BYTES_MAX)) for i in range(64)]
    rig = rigs(lambda frame, transfers: list(values))
    rig.open(5)
    rig.frame(5, 1)
    seen: list[Event] = []
    applied = 0
    while not applied:
        _, applied, events = rig.applied()
        seen += events
    assert [e.request for e in seen] == list(range(64))


def test_sends_travel_from_worker_to_worker(rigs: Any) -> None:
    data = bytes(range(256)) * (BIG // 256)
    source = rigs(
        lambda frame, transfers: [
            Send(1, 70, 0, (len(data),), data),
            Send(1, 71, 0, (4,), error=ErrorInfo("ShapeError", "no", 3)),
        ]
    )
    target = rigs()
    peers = tuple(link.Peer(i, r.address, KEY.hex(), 1) for i, r in enumerate((source, target)))
    source.open(5, peers=peers)
    source.frame(5, 1)
    target.control.send(
        link.pack_open(5, link.Open("s5", "anna", 1, peers, 4 * BIG)),
        link.pack(link.FRAME, 5, encoded(2, (70, 71), device=1)),
    )
    assert source.applied() == (5, 1, [])  # a Send never reaches the gateway
    assert target.applied()[:2] == (5, 2)
    assert target.engines[0].seen == [(2, {70: data, 71: ErrorInfo("ShapeError", "no", 3)})]


def test_a_peer_out_of_reach_ends_the_session_with_a_reason(rigs: Any) -> None:
    rig = rigs(lambda frame, transfers: [Send(1, 70, 0, (4,), b"1234")])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    nowhere = link.Peer(1, f"127.0.0.1:{port}", KEY.hex(), 1)
    rig.open(5, peers=(link.Peer(0, rig.address, KEY.hex(), 1), nowhere))
    rig.frame(5, 1)
    assert rig.applied()[:2] == (5, 1)
    (lost,) = rig.applied()[2]
    assert isinstance(lost, Lost) and lost.kind == "WorkerLostError"
    assert rig.engines[0].closed.wait(5)


def test_a_peer_out_of_reach_is_no_news_for_the_client_of_a_session_that_goes_on(rigs: Any) -> None:
    """The peer died, which the gateway sees in its own time; until then its client waits."""
    rig = rigs(lambda frame, transfers: [Send(1, 70, 0, (4,), b"1234")])
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    nowhere = link.Peer(1, f"127.0.0.1:{port}", KEY.hex(), 1)
    rig.open(5, peers=(link.Peer(0, rig.address, KEY.hex(), 1), nowhere), steady=True)
    rig.frame(5, 1)
    kinds = []
    while not kinds or kinds[-1] != link.CLOSE:
        header, payload = rig.control.receive()
        if header.kind not in (link.HEARTBEAT, link.HELLO):
            kinds.append(header.kind)
            assert header.kind == link.CLOSE or link.unpack_events(payload)[1].nbytes == 0
    assert kinds == [link.EVENTS, link.CLOSE]


def test_a_refused_session_that_is_replayed_is_closed(rigs: Any) -> None:
    rig = rigs()
    rig.open(1, tenant="anna")
    rig.open(2, tenant="bert", steady=True, restore=True)
    channel, _, (lost,) = rig.applied()
    assert channel == 2 and isinstance(lost, Lost) and lost.kind == "CapacityError"
    assert next_of(rig.control, link.CLOSE)[0].channel == 2


@pytest.mark.parametrize("payload", [b"\x01", b"\xff" * 40, encoded(1, device=3)])
def test_a_hostile_frame_ends_its_session_only(rigs: Any, payload: bytes) -> None:
    rig = rigs()
    rig.open(5)
    rig.open(6)
    rig.control.send(link.pack(link.FRAME, 5, payload))
    channel, _, (lost,) = rig.applied()
    assert channel == 5
    assert isinstance(lost, Lost) and lost.kind == "ProtocolError"
    rig.frame(6, 1)
    assert rig.applied()[:2] == (6, 1)


def test_a_defect_in_the_engine_ends_its_session_only(rigs: Any) -> None:
    rig = rigs(lambda frame, transfers: [] if frame.sequence < 2 else 1 // 0)
    rig.open(5)
    rig.open(6)
    rig.frame(5, 2)
    assert rig.applied()[2][0].kind == "ServiceError"
    rig.frame(6, 1)
    assert rig.applied()[:2] == (6, 1)


def test_a_transfer_beyond_the_budget_fails_alone(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    chunk = link.Chunk(70, 1 << 62, 0, 0, b"12")
    rig.bulk.send(link.pack_chunk_header(5, chunk), chunk.data)
    rig.frame(5, 1, transfers=(70,))
    assert rig.applied()[:2] == (5, 1)
    ((_, transfers),) = rig.engines[0].seen
    assert transfers[70].kind == "OutOfMemoryError"


def test_a_worker_process_serves_one_tenant_ever_and_says_which(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    rig.open(6, tenant="bert")
    channel, _, (lost,) = rig.applied()
    assert (channel, lost.kind) == (6, "CapacityError")
    rig.control.send(link.pack(link.CLOSE, 5))
    assert next_of(rig.control, link.CLOSE)[0].channel == 5
    rig.open(8, tenant="bert")  # what the other tenant has freed lies about
    channel, _, (lost,) = rig.applied()
    assert (channel, lost.kind) == (8, "CapacityError")
    rig.open(7)
    rig.frame(7, 1)
    assert rig.applied()[:2] == (7, 1)


def test_sessions_end_with_their_gateway_and_a_newer_one_fences_the_older(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    rig.frame(5, 1)
    rig.applied()
    control, _ = rig.connect("gw2")
    assert rig.engines[0].closed.wait(5)
    with pytest.raises((EOFError, OSError)):
        while True:
            rig.control.receive()
    rig.control = control
    rig.open(8)
    rig.frame(8, 1)
    assert rig.applied()[:2] == (8, 1)


def test_heartbeats_and_status_tell_the_workers_own_counts(rigs: Any) -> None:
    rig = rigs()
    rig.open(5)
    rig.frame(5, 1)
    rig.applied()
    watch = dial(rig.address, KEY, link.Purpose(link.WATCH))
    for source in (rig.control, watch):
        beat = link.unpack_json(next_of(source, link.HEARTBEAT)[1])
        assert (beat["sessions"], beat["frames"], beat["commands"]) == (1, 1, 1)
        source.send(link.pack(link.STATUS))
        status = link.unpack_json(next_of(source, link.STATUS)[1])
        assert status["engines"] == {"s5": {"frames": 1}}


def test_strangers_are_refused_and_hold_nothing(rigs: Any) -> None:
    rig = rigs()
    with pytest.raises(AuthError):
        dial(rig.address, b"x" * link.KEY_BYTES, link.Purpose(link.CONTROL))
    target = addresses.split_address(rig.address)
    family = socket.AF_UNIX if isinstance(target, str) else socket.AF_INET
    idle = [socket.socket(family) for _ in range(limits.OPENINGS_MAX + 8)]
    for sock in idle:
        sock.connect(target)
    for sock in idle:
        sock.close()
    rig.open(5)
    rig.frame(5, 1)
    assert rig.applied()[:2] == (5, 1)


def test_a_stranger_that_sends_byte_by_byte_is_cut_off(rigs: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(limits, "CONNECT_S", 0.3)
    rig = rigs()
    target = addresses.split_address(rig.address)
    sock = socket.socket(socket.AF_UNIX if isinstance(target, str) else socket.AF_INET)
    sock.connect(target)
    begun = time.monotonic()
    with pytest.raises(OSError):
        while True:
            sock.sendall(b"\x16")  # 64 of them take longer than the bound, and no wait is long
            time.sleep(0.02)
            assert time.monotonic() - begun < 5
    sock.close()


def test_an_oversize_message_closes_the_link_and_the_worker_serves_on(rigs: Any) -> None:
    rig = rigs()
    rig.control._sock.sendall(b"\xff\xff\xff\xff" + bytes([link.FRAME]) + bytes(11))
    with pytest.raises((EOFError, OSError, ProtocolError)):
        while True:
            rig.control.receive()
    rig.control, rig.bulk = rig.connect("gw2")
    rig.open(5)
    rig.frame(5, 1)
    assert rig.applied()[:2] == (5, 1)
