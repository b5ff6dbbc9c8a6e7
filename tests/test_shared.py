"""Memory shared with a worker on this host: the same bytes, faster, whoever lies or is killed."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import farspan
import numpy as np
import pytest
from farspan import _shared, wire
from farspan.core import limits, link
from farspan.core import shared as layouts
from farspan.core.command import GET, PUT, ErrorInfo
from farspan.core.errors import FarspanError, ProtocolError, WorkerLostError
from farspan.wire import memory_file
from farspan_server import downloads
from farspan_worker.shared import SWITCH, Segment
from test_gateway import HOLD, U8, Bytes, Client, Cluster, frame, get
from test_up import nothing_is_left, up
from test_worker_server import BIG, Rig, next_of

MIDDLE = 256 * limits.KiB
FEW = 1 << 20  # numbers, of tensors for which it is enough that they are long
SIZES = [
    limits.INLINE_BYTES_MAX + 1,
    MIDDLE,
    limits.SHARED_PIECE_BYTES + 1,
    limits.SHARED_UP_BYTES + 3,
]


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    Bytes.gate.clear()
    made = Cluster()
    yield made
    made.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    made = Rig("127.0.0.1:0")
    yield made
    made.worker.close()


def connect(service: tuple[str, str], **more: Any) -> Any:
    return farspan.connect(service[0], token=service[1], timeout=20, **more)


def ask(rig: Rig, channel: int = 1, proof: str = "") -> link.Share:
    rig.bulk.send(link.pack_share(channel, link.Share(proof=proof)))
    return link.unpack_share(next_of(rig.bulk, link.SHARE)[1])


def mapped(rig: Rig) -> _shared.Segment:
    """Return the segment of a session that is open on channel 1, proved."""
    offer = ask(rig)
    memory = memory_file.mapped(offer.pid, offer.fd)
    assert memory is not None
    segment = _shared.Segment(memory, lambda: None)
    proof = segment.prove(bytes.fromhex(offer.digest))
    assert ask(rig, proof=proof.hex()).refused == ""
    return segment


def in_dev_shm() -> set[str]:
    """Return what lies in /dev/shm, but for the locks of other tests' processes."""
    return {name for name in os.listdir("/dev/shm") if not name.startswith(("sem.", "psm_"))}


def piece(rig: Rig, *fields: int) -> None:
    rig.bulk.send(link.pack_piece(1, link.Piece(*fields)))


# --- the ring ------------------------------------------------------------------------------------
def test_places_never_overlap_and_never_wrap() -> None:
    ring = layouts.Ring(1 << 12)
    random = np.random.default_rng(3)
    held: list[tuple[int, int]] = []
    placed = 0
    for _ in range(5_000):
        size = int(random.integers(1, 1_500))
        position = ring.place(size)
        if position is None:
            assert held, "an empty ring has room for whatever fits into it"
            begin, count = held.pop(0)
            ring.free(begin + count)
            continue
        placed += 1
        at = position % 4096
        assert at + size <= 4096
        for begin, count in held:
            assert at + size <= begin % 4096 or begin % 4096 + count <= at
            assert position >= begin + count
        held.append((position, size))
    assert placed > 2_000


def test_a_ring_takes_no_word_for_more_than_was_placed_and_undoes_its_last_place() -> None:
    ring = layouts.Ring(256)
    assert ring.place(100) == 0
    with pytest.raises(ProtocolError, match="more was taken than was placed"):
        ring.free(101)
    assert ring.place(257) is None
    ring.undo()
    assert ring.place(256) == 256


@pytest.mark.parametrize("position, nbytes", [(0, 257), (200, 57), (-1, 4), (0, -1), (2**62, 3)])
def test_windows_stay_inside_of_the_ring(position: int, nbytes: int) -> None:
    with pytest.raises(ProtocolError):
        layouts.window(np.zeros(256, np.uint8), position, nbytes)


# --- the same bytes ------------------------------------------------------------------------------
@pytest.mark.parametrize("shared", [True, False])
def test_tensors_of_any_size_go_up_and_down(service: Any, shared: bool) -> None:
    with connect(service, shared_memory=shared) as session:
        for size in SIZES:
            array = np.random.default_rng(size).integers(0, 256, size, np.uint8)
            x = farspan.tensor(array)
            assert (x.numpy() == array).all()
            assert (x + 1)[-1].item() == (int(array[-1]) + 1) % 256
        ways = session.stats()["bulk"]
        riding = 0 if shared else sum(SIZES[:2])  # in frames: a call would cost more
        assert SIZES[1] == limits.PAYLOAD_BYTES_MAX
        streamed = 0 if shared else sum(SIZES)
        assert (ways["streamed_up"], ways["streamed_down"]) == (streamed - riding, streamed)
        assert ways["shared_up"] == ways["shared_down"] == sum(SIZES) - streamed
        assert (ways["shared_memory"] == "on") == shared
        assert session.stats()["bytes_up"] > sum(SIZES)


def test_a_value_larger_than_the_ring_is_streamed_and_the_next_is_not(service: Any) -> None:
    with connect(service) as session:
        farspan.tensor(np.ones(SIZES[1], np.uint8))
        large = farspan.ones(limits.SHARED_DOWN_BYTES + 1, dtype=farspan.uint8)
        assert large.numpy().sum() == limits.SHARED_DOWN_BYTES + 1
        assert large[1:].numpy().sum() == limits.SHARED_DOWN_BYTES
        ways = session.stats()["bulk"]
        assert ways["streamed_down"] == limits.SHARED_DOWN_BYTES + 1
        assert ways["shared_down"] == limits.SHARED_DOWN_BYTES


def test_the_first_value_takes_the_short_way_too(service: Any) -> None:
    with connect(service) as session:
        assert farspan.ones(FEW).numpy().sum() == FEW
        assert session.stats()["bulk"]["shared_down"] == 4 * FEW


def test_a_client_without_memory_is_told_and_goes_on(service: Any, monkeypatch: Any) -> None:
    with connect(service):
        x = farspan.ones(FEW)
        take, asked = _shared.POOL.take, []

        def none(nbytes: int) -> Any:
            asked.append(nbytes)
            if len(asked) == 1:
                raise MemoryError
            return take(nbytes)

        monkeypatch.setattr(_shared.POOL, "take", none)
        with pytest.raises(farspan.OutOfMemoryError, match="no memory for a value"):
            x.numpy()
        assert x.numpy().sum() == FEW


def test_values_are_copies_of_their_moment(service: Any) -> None:
    with connect(service):
        x = farspan.tensor(np.zeros(FEW, np.float64))
        arrays = []
        for _ in range(24):  # more than the ring holds at a time
            arrays.append(x.numpy())
            x += 1
        assert [a[-1] for a in arrays] == list(range(24))
        assert all((a == k).all() for k, a in enumerate(arrays))
        assert not x[::2].numpy().flags.writeable
        assert (x.reshape(-1, 1).expand(-1, 2).numpy() == 24).all()


def test_each_device_has_memory_of_its_own(service: Any) -> None:
    with connect(service, devices="cpu:2") as session:
        array = np.arange(FEW)
        x, y = farspan.tensor(array), farspan.tensor(array + 1, device="cpu:1")
        assert ((y.to("cpu") - x).numpy() == 1).all()
        assert (y.numpy() == array + 1).all() and (x.numpy() == array).all()
        assert len(session.transport._shared._segments) == 2
        assert session.stats()["bulk"]["shared_down"] == 3 * array.nbytes


def test_threads_share_the_ring(service: Any) -> None:
    with connect(service) as session:
        wrong: list[int] = []

        def work(seed: int) -> None:
            for k in range(6):
                array = np.random.default_rng((seed, k)).random(FEW // 4)
                wrong.extend([seed] * (not (farspan.tensor(array).numpy() == array).all()))

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
        assert wrong == []
        assert session.stats()["bulk"]["shared_up"] == 24 * 2 * FEW


def test_errors_come_as_ever(service: Any) -> None:
    with connect(service):
        x = farspan.tensor(np.zeros(FEW, np.int64))
        bad = x[x + FEW]
        with pytest.raises(FarspanError, match="index"):
            bad.numpy()
        assert x.numpy().sum() == 0


# --- when it is off ------------------------------------------------------------------------------
def test_the_environment_turns_it_off(service: Any, monkeypatch: Any) -> None:
    monkeypatch.setenv("FARSPAN_SHARED_MEMORY", "0")
    with connect(service) as session:
        assert farspan.tensor(np.ones(FEW)).numpy().sum() == FEW
        assert session.stats()["bulk"]["shared_memory"] == "it is switched off here"


def test_a_worker_may_refuse_and_bytes_go_by_the_stream(cluster: Cluster, monkeypatch: Any) -> None:
    monkeypatch.setenv(SWITCH, "0")
    client = cluster.start().connect()
    round_trip(client, bytes(FEW))
    ways = client.transport.stats()["bulk"]
    assert ways["shared_memory"] == "it is switched off at the worker"
    assert ways["streamed_up"] == ways["streamed_down"] == FEW


def test_without_memory_files_bytes_go_by_the_stream(cluster: Cluster, monkeypatch: Any) -> None:
    def none(*_: Any) -> int:
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr(os, "memfd_create", none)
    client = cluster.start().connect()
    round_trip(client, bytes(FEW))
    state = client.transport.stats()["bulk"]["shared_memory"]
    assert state == "the worker's system gives none"


def test_another_host_is_told_from_this_one(cluster: Cluster, monkeypatch: Any) -> None:
    client = cluster.start().connect()
    offer = Segment.offer
    # As in another container: the numbers lead to some process, not to the worker's memory.
    stranger = os.memfd_create(layouts.MEMORY_NAME, os.MFD_ALLOW_SEALING)
    try:
        monkeypatch.setattr(
            Segment, "offer", lambda self: link.Share(os.getpid(), stranger, *_rest(offer(self)))
        )
        round_trip(client, bytes(FEW))
    finally:
        os.close(stranger)
    assert "another host" in client.transport.stats()["bulk"]["shared_memory"]


def _rest(offer: link.Share) -> tuple[int, str]:
    return offer.segment_bytes, offer.digest


def test_memory_of_another_session_is_no_proof(cluster: Cluster, monkeypatch: Any) -> None:
    client = cluster.start().connect()
    other = Segment()
    mine = other.offer()
    monkeypatch.setattr(
        Segment, "offer", lambda self: link.Share(mine.pid, mine.fd, mine.segment_bytes, "00" * 32)
    )
    round_trip(client, bytes(FEW))
    assert "another process" in client.transport.stats()["bulk"]["shared_memory"]
    other.close()


def test_a_session_that_was_opened_without_it_gets_none(cluster: Cluster) -> None:
    client = cluster.start().connect(shared_memory=False)
    reply = client.transport._share(0, b"")
    assert reply == wire.ShareReply(refused="the session was opened without it")


def test_an_older_peer_goes_on_without(cluster: Cluster, monkeypatch: Any) -> None:
    from farspan_server import arrivals

    monkeypatch.setattr(arrivals, "FEATURES", frozenset())
    client = cluster.start().connect()
    round_trip(client, bytes(FEW))
    assert client.transport.stats()["bulk"]["shared_memory"] == "the gateway does not offer it"


def round_trip(client: Client, data: bytes) -> None:
    client.transport.upload(5, 0, data)
    client.transport.send(frame((PUT, [1], (U8, (len(data),), -1, 5)), (GET, [1], (1, 0, 0))))
    assert client.value(1).data == data


# --- beside what runs ----------------------------------------------------------------------------
def test_uploads_of_any_size_end_while_the_worker_computes(cluster: Cluster) -> None:
    client = cluster.start().connect()
    client.transport.send(frame((HOLD, [], ())))
    data = os.urandom(2 * limits.SHARED_UP_BYTES + 5)
    client.transport.upload(5, 0, data)  # returns, although the engine is held
    client.transport.send(frame((PUT, [1], (U8, (len(data),), -1, 5))))
    client.transport.send(get(1, 1))
    assert client.transport.pending() == 3
    Bytes.gate.set()
    assert client.value(1).data == data


@pytest.mark.parametrize("shared", [True, False])
def test_many_uploads_wait_for_a_worker_that_computes(cluster: Cluster, shared: bool) -> None:
    client = cluster.start().connect(shared_memory=shared)
    round_trip(client, bytes(MIDDLE))
    client.transport.send(frame((HOLD, [], ())))
    count, size = 200, limits.INLINE_BYTES_MAX + 1
    for k in range(count):
        client.transport.upload(10 + k, 0, bytes([k]) * size)
    puts = [(PUT, [10 + k], (U8, (size,), -1, 10 + k)) for k in range(count)]
    client.transport.send(frame(*puts))
    Bytes.gate.set()
    for k in (0, 77, count - 1):
        client.transport.send(get(10 + k, 10 + k))
        assert client.value(10 + k).data == bytes([k]) * size


def test_an_interrupted_stream_leaves_nothing_behind(cluster: Cluster) -> None:
    client = cluster.start().connect(shared_memory=False)
    header = wire.TransferHeader(client.transport.session_id, 0, 6, SIZES[3])

    def messages() -> Iterator[bytes]:
        yield wire.encode_transfer_header(header)
        yield wire.encode_chunk(memoryview(bytes(limits.CHUNK_BYTES)))
        cluster.until(lambda: cluster.workers[0].counts()["transfer_bytes"] == SIZES[3])
        over.wait(10)

    over = threading.Event()
    method = client.transport._data_channel().stream_unary(f"/{wire.SERVICE}/Upload")
    call = method.future(messages(), metadata=client.transport._credentials)
    cluster.until(lambda: cluster.workers[0].counts()["transfer_bytes"] == SIZES[3])
    call.cancel()
    over.set()
    cluster.until(lambda: cluster.workers[0].counts()["transfer_bytes"] == 0)
    round_trip(client, bytes(FEW))


def test_a_value_that_nobody_waits_for_any_more_holds_up_no_other(
    cluster: Cluster, monkeypatch: Any
) -> None:
    monkeypatch.setattr(downloads, "STALL_S", 60.0)
    client = cluster.start().connect(shared_memory=False)
    size = (downloads.CHUNKS_HELD_MAX + 8) * limits.CHUNK_BYTES
    client.transport.upload(6, 0, bytes(size))
    client.transport.send(frame((PUT, [1], (U8, (size,), -1, 6))))
    client.transport.give_up(2)  # Ctrl-C
    client.transport.send(get(1, 2))
    client.transport.send(get(1, 3))
    assert len(client.value(3).data) == size


def test_an_interrupted_upload_leaves_nothing_behind(cluster: Cluster, monkeypatch: Any) -> None:
    client = cluster.start().connect()
    round_trip(client, bytes(SIZES[1]))
    room, calls = _shared.Segment._room, []

    def interrupted(self: Any, nbytes: int) -> int:
        calls.append(nbytes)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return room(self, nbytes)

    monkeypatch.setattr(_shared.Segment, "_room", interrupted)
    with pytest.raises(KeyboardInterrupt):
        client.transport.upload(6, 0, bytes(SIZES[3]))
    cluster.until(lambda: cluster.workers[0].counts()["transfer_bytes"] == 0)
    client.transport.upload(7, 0, bytes(SIZES[3]))
    client.transport.send(frame((PUT, [2], (U8, (SIZES[3],), -1, 7)), (GET, [2], (2, 0, 0))))
    assert len(client.value(2).data) == SIZES[3]


# --- hostile clients -----------------------------------------------------------------------------
@pytest.mark.parametrize(
    "fields",
    [
        (7, BIG, 0, limits.SHARED_UP_BYTES - 1, 2),  # reaches out of the ring
        (7, BIG, 0, 2**64 - 5, 5),  # the end of it is no u64
        (7, 2**40, 0, 2**63, limits.SHARED_PIECE_BYTES),
        (7, BIG, 5, 0, 5),  # a gap
        (7, 2**63, 2**63 - 5, 0, 5),
    ],
)
def test_a_piece_that_cannot_be_ends_that_session_only(rig: Rig, fields: tuple[int, ...]) -> None:
    rig.open(1)
    rig.open(2)
    mapped(rig)
    piece(rig, *fields)
    channel, _, (lost,) = rig.applied()
    assert (channel, lost.kind) == (1, "ProtocolError")
    rig.frame(2, 1)
    assert rig.applied()[:2] == (2, 1)


@pytest.mark.parametrize("payload", [b"", b"x" * 39, b"\xff" * 40, bytes(8) + b"\1" + bytes(31)])
def test_pieces_of_nonsense_end_that_session_only(rig: Rig, payload: bytes) -> None:
    rig.open(1)
    if len(payload) > 40:
        return
    rig.bulk.send(link.pack_header(link.PIECE, 1, len(payload)), payload)
    assert rig.applied()[2][0].kind == "ProtocolError"


def test_no_piece_and_no_second_try_without_the_proof(rig: Rig) -> None:
    rig.open(1)
    offer = ask(rig)
    assert ask(rig).refused == "this session has asked before"
    assert ask(rig, proof="00" * 32).refused == "the proof is wrong"
    assert memory_file.mapped(offer.pid, offer.fd) is None  # nobody can open it any more
    assert ask(rig, proof="00" * 32).refused == "the proof is wrong"
    piece(rig, 7, 5, 0, 0, 5)
    assert rig.applied()[2][0].kind == "ProtocolError"


def test_a_transfer_beyond_the_budget_fails_alone(rig: Rig) -> None:
    rig.open(1)
    mapped(rig)
    piece(rig, 7, 5 * BIG, 0, 0, BIG)
    rig.frame(1, 1, (7,))
    assert rig.applied()[:2] == (1, 1)
    (failed,) = rig.engines[0].seen[0][1].values()
    assert isinstance(failed, ErrorInfo) and failed.kind == "OutOfMemoryError"


def test_bytes_that_change_while_they_are_copied_harm_nobody_else(rig: Rig) -> None:
    rig.open(1)
    segment = mapped(rig)
    over = threading.Event()

    def scribble() -> None:
        while not over.is_set():
            segment._parts.up[: 4 * BIG] += 1

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        for transfer in range(20):  # all of them from the same place
            piece(rig, transfer, BIG, 0, 0, BIG)
            rig.frame(1, transfer + 1, (transfer,))
            assert rig.applied()[:2] == (1, transfer + 1)
    finally:
        over.set()
        thread.join(10)
    assert [len(d) for _, held in rig.engines[0].seen for d in held.values()] == [BIG] * 20


def test_a_word_that_lies_sends_values_by_the_stream(cluster: Cluster) -> None:
    client = cluster.start().connect()
    data = os.urandom(SIZES[1])
    round_trip(client, data)
    ((segment,),) = client.transport._shared._segments.values()
    segment._parts.taken_down[0] = 2**64 - 1
    for request in (2, 3):
        client.transport.send(get(1, request))
        assert client.value(request).data == data
    ways = client.transport.stats()["bulk"]
    assert ways["shared_down"] == len(data) and ways["streamed_down"] == 2 * len(data)


def test_nobody_can_cut_the_memory_short() -> None:
    segment = Segment()
    with pytest.raises(PermissionError):
        os.ftruncate(segment._fd, 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(segment._fd, 2 * layouts.SEGMENT_BYTES)
    segment.close()


def test_a_gateway_cannot_make_a_client_open_what_is_no_memory_of_ours(tmp_path: Path) -> None:
    file = tmp_path / "memfd:farspan "
    file.write_bytes(b"x" * 100)
    opened = [os.open(file, os.O_RDWR), *os.pipe(), os.memfd_create("farspan")]
    os.ftruncate(opened[-1], layouts.SEGMENT_BYTES)  # its size can change: not sealed
    try:
        for fd in opened:
            assert memory_file.mapped(os.getpid(), fd) is None
        assert memory_file.mapped(2**31, 3) is None and memory_file.mapped(1, 10_000) is None
        assert file.read_bytes() == b"x" * 100
    finally:
        for fd in opened:
            os.close(fd)


def test_a_value_in_memory_that_was_never_shared_is_a_protocol_error(cluster: Cluster) -> None:
    client = cluster.start().connect()
    events = wire.encode_events([wire_value(position=64)])
    client.transport._take(0, wire.encode(wire.Down(events=(events,))))
    assert client.lost().kind == "ProtocolError"
    client = cluster.connect()
    round_trip(client, bytes(SIZES[1]))
    far = wire.encode_events([wire_value(position=limits.SHARED_DOWN_BYTES - 5)])
    client.transport._take(0, wire.encode(wire.Down(events=(far,))))
    assert client.lost().kind == "ProtocolError"


def wire_value(position: int) -> Any:
    from farspan.core.command import Value

    return Value(9, U8, (SIZES[1],), None, None, position)


# --- deaths --------------------------------------------------------------------------------------
CHILD = """
import sys, time, numpy as np, farspan
session = farspan.connect(sys.argv[1], token=sys.argv[2], timeout=20)
x = farspan.tensor(np.ones(1 << 20))
assert x.numpy().sum() == 1 << 20 and session.stats()["bulk"]["shared_down"]
print(session.id, flush=True)
while True:
    if sys.argv[3] == "busy":
        assert farspan.tensor(np.ones(1 << 22)).numpy().sum() == 1 << 22
    else:
        time.sleep(0.1)
"""


def segments(pid: int) -> set[str]:
    """Return the inodes of the segments that a process has mapped."""
    maps = Path(f"/proc/{pid}/maps").read_text().splitlines()
    return {line.split()[4] for line in maps if "/memfd:farspan" in line}


def holders(inodes: set[str]) -> set[int]:
    """Return the processes that have any of these mapped or open."""
    found = set()
    for process in Path("/proc").glob("[0-9]*"):
        pid = int(process.name)
        with contextlib.suppress(OSError):
            if segments(pid) & inodes:
                found.add(pid)
            for fd in (process / "fd").iterdir():
                with contextlib.suppress(OSError):  # it may be closed meanwhile
                    if str(fd.stat().st_ino) in inodes and "/memfd:" in os.readlink(fd):
                        found.add(pid)
    return found


def until(true: Any) -> None:
    deadline = time.monotonic() + 15
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture
def alone() -> Iterator[tuple[Any, dict[str, Any], tuple[str, str], Path]]:
    """Return a service of this test's own: process, what it says, address and token, directory."""
    with tempfile.TemporaryDirectory(prefix="u-") as path:
        with up("--no-ray", "--no-journal", "--threads", "1", directory=Path(path)) as (
            process,
            ready,
        ):
            token = Path(ready["token_file"]).read_text().strip()
            yield process, ready, (ready["address"], token), Path(path)
            process.terminate()
            process.wait(15)


@pytest.mark.parametrize("at", ["idle", "busy"])
def test_a_killed_client_leaves_no_memory(alone: Any, at: str) -> None:
    _, ready, service, _ = alone
    before = in_dev_shm()
    (worker,) = ready["pids"]["workers"]
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, *service, at], stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        session = child.stdout.readline().strip()
        memory = segments(worker)
        assert memory and holders(memory) == {worker, child.pid}
    finally:
        child.kill()
        child.wait(10)
    with connect(service) as other:  # as an operator would; else it ends with its lease
        assert session
        other.transport._call_once("Close", wire.CloseRequest(session))
        until(lambda: not holders(memory))
        assert farspan.tensor(np.ones(1 << 20)).numpy().sum() == 1 << 20
    assert in_dev_shm() <= before


def test_a_killed_worker_is_a_worker_lost_error_and_leaves_no_memory(alone: Any) -> None:
    _, ready, service, _ = alone
    before = in_dev_shm()
    (worker,) = ready["pids"]["workers"]
    session = connect(service)
    with pytest.raises(WorkerLostError), session:
        x = farspan.tensor(np.ones(1 << 20))
        assert x.numpy().sum() == 1 << 20
        memory = segments(worker)
        assert memory and holders(memory) == {worker, os.getpid()}
        os.kill(worker, signal.SIGKILL)
        for _ in range(1_000):
            farspan.tensor(np.ones(1 << 20)).sum().item()
    until(lambda: not holders(memory))
    with connect(service) as again:  # the next worker has memory of its own
        assert farspan.tensor(np.ones(1 << 20)).numpy().sum() == 1 << 20
        assert again.stats()["bulk"]["shared_down"] == 8 << 20
    assert in_dev_shm() <= before


def test_a_killed_gateway_leaves_no_memory(alone: Any) -> None:
    process, ready, service, directory = alone
    before = in_dev_shm()
    session = connect(service)
    with pytest.raises(FarspanError), session:
        x = farspan.tensor(np.ones(1 << 20))
        assert x.numpy().sum() == 1 << 20
        memory = segments(ready["pids"]["workers"][0])
        assert memory <= segments(os.getpid()) and memory
        os.kill(ready["pids"]["gateway"], signal.SIGKILL)
        for _ in range(1_000):
            farspan.tensor(np.ones(1 << 20)).sum().item()
    deadline = time.monotonic() + 20
    while holders(memory):  # its worker has heard that the gateway is gone
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.terminate()
    assert process.wait(15) == 0  # another gateway had come up
    assert nothing_is_left(directory)
    assert in_dev_shm() <= before


@pytest.mark.slow
def test_workers_of_ray_share_memory_too() -> None:
    with tempfile.TemporaryDirectory(prefix="u-") as path:
        with up("--no-journal", directory=Path(path)) as (_, ready):
            token = Path(ready["token_file"]).read_text().strip()
            with connect((ready["address"], token)) as session:
                array = np.random.default_rng(0).random(SIZES[3] // 8)
                assert (farspan.tensor(array).numpy() == array).all()
                assert session.stats()["bulk"]["shared_down"] == array.nbytes
        assert nothing_is_left(Path(path))
