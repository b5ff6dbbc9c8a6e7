"""What keeps a journalled session: replays to new workers and parts of snapshots, without any."""

from __future__ import annotations

import asyncio
import functools
import hashlib
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from farspan import wire
from farspan.core import limits, link, words
from farspan.core.command import Frame
from farspan_server import history
from farspan_server import session_messages as messages
from farspan_server.disk import RealDisk
from farspan_server.history import Chunk, History, Part
from farspan_server.journal import JournalDamagedError
from farspan_server.keeper import Keeper, _PartWriter
from farspan_server.live import Stream
from test_gateway import PUT, U8, Cluster, frame, get, put


class Worker:
    """A link that remembers what it was given; `gate` holds pieces up."""

    near = False

    def __init__(self) -> None:
        self.gate = asyncio.Event()
        self.gate.set()
        self.seen: list[Any] = []

    async def upload(self, channel: int, chunk: link.Chunk) -> None:
        await self.gate.wait()
        self.seen.append((chunk.transfer, chunk.offset, bytes(chunk.data)))

    def give_up(self, channel: int, transfer: int) -> None:
        self.seen.append((transfer, "given up"))


def kept(directory: Path, body: Callable[[Keeper, list[Any]], Coroutine[Any, Any, None]]) -> None:
    """Run a test of a keeper on a loop of its own."""

    async def run() -> None:
        given: list[Any] = []
        with ThreadPoolExecutor(1) as syncing:
            disk = RealDisk()
            history = History.create(disk, directory, "s", "", syncs=False)
            keeper = Keeper(disk, directory, history, given.append, 1.0, syncing)
            await asyncio.wait_for(body(keeper, given), 10)
            keeper.close()

    asyncio.run(run())


def begin(keeper: Keeper, last: int = 0) -> Worker:
    """Give the session a worker and a replay to it, as the gateway does."""
    worker = Worker()
    keeper.begin((worker,), 1)  # type: ignore[arg-type]
    keeper.replay(1, last, lambda: True)
    return worker


def test_what_a_snapshot_makes_needless_is_not_removed_while_others_wait(tmp_path: Path) -> None:
    removed: list[tuple[str, bool]] = []

    class Slow(RealDisk):
        """A disk that notes who removes files; large ones take milliseconds."""

        def remove(self, path: Path) -> None:
            removed.append((path.name, threading.current_thread() is threading.main_thread()))
            super().remove(path)

    async def body(keeper: Keeper, given: list[Any]) -> None:
        history = keeper.history
        for disk in (history._disk, history.journal._disk):
            assert isinstance(disk, RealDisk)
        history._disk = history.journal._disk = Slow()
        for number in (1, 2):
            keeper.mark(number, 0)
            await keeper.part(0, link.Chunk(link.PARTS + number, 1, 0, link.LAST, b"x"))
            keeper.commit(number, 0)
        await asyncio.get_running_loop().run_in_executor(keeper._syncing, int)

    kept(tmp_path / "s", body)
    assert {name.partition("-")[0] for name, _ in removed} >= {"snapshot", f"{0:020}.journal"}
    assert not any(on_the_loop for _, on_the_loop in removed)


def test_bytes_without_a_frame_come_again(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        ends = memoryview(b"ab"), memoryview(b"cd")
        for chunk in (Chunk(0, 7, 4, 0, 0, ends[0]), Chunk(0, 7, 4, 2, link.LAST, ends[1])):
            await keeper.send(chunk)  # without a worker: the next replay has it
        worker = begin(keeper)
        await keeper._caught_up.wait()
        assert worker.seen == [(7, 0, b"ab"), (7, 2, b"cd")] and not given

    kept(tmp_path / "s", body)


class Held:
    """A history whose pieces are written, but whose threads do not come back until `go`."""

    def __init__(self, keeper: Keeper) -> None:
        self.write, self.go = keeper.history.chunk, threading.Event()
        self.written: list[int] = []  # offsets, by when they stood in the journal
        keeper.history.chunk = self  # type: ignore[method-assign,assignment]

    def __call__(self, chunk: Chunk) -> int:
        index = self.write(chunk)
        self.written.append(chunk.offset)
        assert threading.current_thread() is not threading.main_thread() and self.go.wait(10)
        return index

    async def has(self, count: int) -> None:
        while len(self.written) < count:
            await asyncio.sleep(0.001)


LONG = memoryview(bytes(100_000))  # of a piece that a thread writes


def test_a_snapshots_marker_goes_behind_a_piece_that_stands_before_its_mark(tmp_path: Path) -> None:
    """The piece's record goes when the snapshot counts, so that the snapshot has to have it."""

    class Told(Worker):
        def send(self, *parts: bytes) -> None:
            """Be told of the cut by the control link."""

    async def body(keeper: Keeper, given: list[Any]) -> None:
        worker, held = Told(), Held(keeper)
        keeper.begin((worker,), 1)  # type: ignore[arg-type]
        sending = asyncio.create_task(keeper.send(Chunk(0, 7, 2 * LONG.nbytes, 0, 0, LONG)))
        await held.has(1)
        keeper.mark(1, 0)
        keeper.take_cut(1)
        for _ in range(10):
            await asyncio.sleep(0)
        assert not worker.seen
        held.go.set()
        await sending
        while len(worker.seen) < 2:
            await asyncio.sleep(0.001)
        assert [each[0] for each in worker.seen] == [7, link.marker(1, 0)]

    kept(tmp_path / "s", body)


def test_a_piece_whose_call_is_cut_off_is_written_before_what_follows(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        held = Held(keeper)
        sending = asyncio.create_task(keeper.send(Chunk(0, 7, 3 * LONG.nbytes, 0, 0, LONG)))
        await held.has(1)
        for _ in range(3):  # impatiently
            sending.cancel()
            await asyncio.sleep(0)
        again = Chunk(0, 7, 3 * LONG.nbytes, LONG.nbytes, 0, LONG)
        after = asyncio.create_task(keeper.send(again))
        await asyncio.sleep(0.01)
        assert not sending.done() and held.written == [0]
        held.go.set()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await after
        assert held.written == [0, LONG.nbytes]
        found = [each.offset for each in keeper.history.replay() if isinstance(each, Chunk)]
        assert found == held.written

    kept(tmp_path / "s", body)


def test_an_upload_is_synced_while_it_comes(tmp_path: Path) -> None:
    """Nobody waits for it yet, but its end will not find all of it in the system's memory."""

    async def body(keeper: Keeper, given: list[Any]) -> None:
        keeper._syncs = True
        data = memoryview(bytes(limits.MiB))
        total = 4 * limits.SYNC_BYTES
        assert keeper.history.journal.durable < 0
        for offset in range(0, 2 * limits.SYNC_BYTES, limits.MiB):
            await keeper.send(Chunk(0, 7, total, offset, 0, data))
        while keeper.history.journal.durable < 4:
            await asyncio.sleep(0.001)
        await keeper.durable()
        assert keeper.history.journal.durable == keeper.history.journal.last

    kept(tmp_path / "s", body)


def test_what_is_durable_rides_with_other_words_or_goes_alone_a_little_later() -> None:
    async def run() -> None:
        stream, told = Stream(), []

        def look() -> None:
            while (found := stream.take()) is not None:
                told.append((found[0].applied, found[0].durable))

        def durable(sequence: int) -> None:
            stream.post(events=messages.EventsOut(b"", 0, sequence))

        stream.look = look
        durable(1)
        durable(2)
        assert not told
        stream.post(events=messages.EventsOut(b"", 3, 0))
        assert told == [(3, 2)]
        durable(3)
        while len(told) < 2:
            await asyncio.sleep(0.001)
        assert told[1:] == [(0, 3)]
        durable(3 + limits.CREDIT_FRAMES)  # so many a client keeps for it
        assert told[2:] == [(0, 3 + limits.CREDIT_FRAMES)]
        durable(4 + limits.CREDIT_FRAMES)
        stream.end()  # nothing follows that it could ride with
        assert told[3:] == [(0, 4 + limits.CREDIT_FRAMES)]

    asyncio.run(run())


def test_an_upload_given_up_during_a_replay_is_given_up_behind_it(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        for k in range(3):
            await keeper.send(Chunk(0, 7, 9, k, 0, memoryview(b"%d" % k)))
        worker = begin(keeper)
        worker.gate.clear()
        await asyncio.sleep(0)
        keeper.give_up(0, 7)
        worker.gate.set()
        await keeper._caught_up.wait()
        while len(worker.seen) < 4:
            await asyncio.sleep(0)
        assert worker.seen == [(7, 0, b"0"), (7, 1, b"1"), (7, 2, b"2"), (7, "given up")]

    kept(tmp_path / "s", body)


def test_a_journal_that_cannot_be_read_sets_the_session_aside(tmp_path: Path) -> None:
    """A worker that is lost during a replay is an OSError too, and that one ends nothing."""

    async def body(keeper: Keeper, given: list[Any]) -> None:
        frame = wire.encode_frame(Frame(0, sequence=1, epoch=1))
        keeper.history.frame(1, frame)
        for file in (tmp_path / "s").glob("*.journal"):
            file.unlink()
        begin(keeper, last=1)
        while not given:
            await asyncio.sleep(0.001)
        (fault,) = given
        assert isinstance(fault, messages.JournalFailed) and "cannot be read" in fault.message
        assert str(tmp_path) not in fault.message

    kept(tmp_path / "s", body)


def test_old_parts_that_cannot_be_removed_harm_nobody(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        (tmp_path / "s" / "a").mkdir()  # no file, so that removing it fails
        for number, name in ((1, "a"), (2, "b")):
            keeper.history.mark(number, number)
            keeper.history.commit(number, number, (Part(name, 0, ""),))
            keeper.history.synced(keeper.history.journal.last)
        assert keeper.history.past.number == 2

    kept(tmp_path / "s", body)


def test_a_part_is_not_written_once_it_is_dropped(tmp_path: Path) -> None:
    writer = _PartWriter(RealDisk(), tmp_path / "part")
    writer.write(b"abc", last=False)
    writer.drop()
    with (tmp_path / "other").open("wb"):  # takes the number of the file that was closed
        writer.write(b"def", last=True)
    assert not (tmp_path / "part").exists() and not (tmp_path / "other").read_bytes()


def test_a_missing_part_names_no_path(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        keeper.history.mark(1, 1)
        keeper.history.commit(1, 1, (Part("gone", 0, ""),))
        begin(keeper)
        while not given:
            await asyncio.sleep(0.001)
        assert "gone is missing" in given[0].message and str(tmp_path) not in given[0].message

    kept(tmp_path / "s", body)


def clustered(directory: Path, body: Callable[[Cluster], None], **config: Any) -> None:
    """Run a test with a gateway that keeps journals, and two workers."""
    cluster = Cluster()
    try:
        cluster.start(2, journals=directory, **config)
        body(cluster)
    finally:
        cluster.close()
    assert not list(directory.iterdir())


def test_an_upload_whose_worker_dies_before_the_first_frame_is_there(tmp_path: Path) -> None:
    def body(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        client = cluster.connect(devices="cpu")
        client.transport.upload(5, 0, memoryview(b"abc"))
        (live,) = cluster.gateway.service._sessions.values()
        (address,) = (each.worker.address for each in live.links)
        next(w for w in cluster.workers if w.address == address).close()
        cluster.until(lambda: live.machine.recoveries >= 1 and bool(live.links))
        client.transport.send(frame((PUT, [1], (U8, (3,), -1, 5))))
        client.transport.send(get(1, 9))
        assert client.value(9).data == b"abc"

    clustered(tmp_path, body)


@pytest.mark.parametrize("overtaken", [False, True])
def test_an_upload_that_is_cut_off_on_its_way_to_the_worker_comes_whole(
    tmp_path: Path, overtaken: bool
) -> None:
    async def pieces() -> AsyncIterator[memoryview]:
        yield memoryview(b"abc")
        if overtaken:
            yield memoryview(b"def")

    total = 6 if overtaken else 3

    async def cut_off(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        service = cluster.gateway.service
        (live,) = service.sessions
        header = wire.TransferHeader(live.id, 0, 5, total)
        async with live.links[0]._bulk_turn:  # others' bytes are before it
            first = asyncio.create_task(service.upload(live, header, pieces()))
            while not (live.uploads.come or live.uploads.done):
                await asyncio.sleep(0.001)
            calls = [asyncio.create_task(service.upload(live, header, pieces()))] * overtaken
            await asyncio.sleep(0.05)
            first.cancel()
            await asyncio.wait([first])
        for each in calls or [service.upload(live, header, pieces())]:
            assert await each == total

    def body(cluster: Cluster) -> None:
        client = cluster.connect(devices="cpu")
        client.transport.send(frame())
        client.synchronize()
        cluster.run(cut_off(cluster))
        client.transport.send(frame((PUT, [1], (U8, (total,), -1, 5))))
        client.transport.send(get(1, 9))
        assert client.value(9).data == b"abcdef"[:total]

    clustered(tmp_path, body)


def test_a_snapshot_does_not_hold_frames_back_for_an_upload_that_does_not_come(
    tmp_path: Path,
) -> None:
    def body(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        client = cluster.connect(devices="cpu:2")
        client.transport.send(put(2, b"here", device=1))
        client.synchronize()
        client.transport.send(frame((PUT, [1], (U8, (3,), -1, 5))))  # waits for its bytes
        (live,) = cluster.gateway.service.sessions
        cluster.until(lambda: live.machine._cut is not None and live.machine._cut.waits)
        client.transport.send(get(2, 9, device=1))
        assert client.value(9).data == b"here"
        assert live.keeper is not None and live.keeper._number >= 1
        client.transport.upload(5, 0, memoryview(b"abc"))
        client.transport.send(get(1, 10))
        assert client.value(10).data == b"abc"
        assert live.keeper._cut_again_s > 0, "the next one comes no sooner than twenty times that"

    clustered(tmp_path, body, snapshot_every_s=0.05)


@pytest.fixture
def older_client(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let clients say the minor version before sessions could be resumed."""
    monkeypatch.setattr(wire, "Hello", functools.partial(wire.Hello, minor=4))


@pytest.mark.usefixtures("older_client")
def test_a_session_of_an_older_client_ends_with_its_lease(
    tmp_path: Path,
) -> None:
    def body(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        client = cluster.connect(devices="cpu")
        client.transport._stream.cancel()
        client.lost()
        cluster.until(lambda: not cluster.gateway.service._sessions)
        cluster.until(lambda: not list(tmp_path.iterdir()))

    clustered(tmp_path, body, lease_s=0.3)


def test_of_an_upload_that_is_too_long_the_disk_holds_one_piece(tmp_path: Path) -> None:
    def body(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        client = cluster.connect(devices="cpu")
        size = 3 * limits.CHUNK_BYTES
        client.transport.upload(5, 0, memoryview(bytes(size)))
        (live,) = cluster.gateway.service._sessions.values()
        assert live.keeper is not None
        assert live.keeper.history.journal.nbytes < 1.5 * limits.CHUNK_BYTES
        held = [s.transfers for w in cluster.workers for s in w._inbox.sessions.values()]
        assert all(x.kind == "OutOfMemoryError" for x in held[0].values()) and len(held[0]) == 1

    clustered(tmp_path, body, memory_bytes_max=2 * limits.CHUNK_BYTES)


def test_a_session_whose_workers_are_all_gone_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "START_S", 0.6)

    def body(cluster: Cluster) -> None:
        client = cluster.connect(devices="cpu", timeout=0.2)
        for worker in cluster.workers:
            worker.close()
        lost = client.lost()
        assert lost.kind == "WorkerLostError" and "no worker became free" in lost.message

    clustered(tmp_path, body)


@pytest.mark.usefixtures("older_client")
def test_a_value_that_an_older_client_does_not_fetch_holds_up_no_snapshot(
    tmp_path: Path,
) -> None:
    def body(cluster: Cluster) -> None:
        assert cluster.gateway is not None
        client = cluster.connect(devices="cpu")
        data = bytes(range(256)) * 1024
        client.transport.upload(5, 0, memoryview(data))
        client.transport.set_sink(lambda event: None)
        client.transport._fetch = lambda value: None  # type: ignore[method-assign]
        client.transport.send(frame((PUT, [1], (U8, (len(data),), -1, 5))))
        client.transport.send(get(1, 9))
        (live,) = cluster.gateway.service._sessions.values()
        cluster.until(lambda: live.machine._confirmed == live.machine.received == 2)
        cluster.until(lambda: 9 in live.downloads._transfers)

    clustered(tmp_path, body)


@pytest.mark.parametrize("more", [{"every_frames": 5}, {"every_bytes": 400}, {}])
def test_a_snapshot_comes_after_so_many_frames_or_bytes(tmp_path: Path, more: Any) -> None:
    async def body() -> None:
        given: list[Any] = []
        with ThreadPoolExecutor(1) as syncing:
            disk = RealDisk()
            history = History.create(disk, tmp_path / "s", "s", "", syncs=False)
            keeper = Keeper(disk, tmp_path / "s", history, given.append, 1000.0, syncing, **more)
            keeper.begin((Worker(),), 1)  # type: ignore[arg-type]
            keeper._cut_at_s = 1.0
            for sequence in range(1, 7):
                keeper.frame(sequence, b"x" * 30)
                keeper.look(500.0, sequence)
                if sequence < 4:
                    assert not given
            assert given == ([messages.Cut(1)] * len(given) if more else []) and bool(
                given
            ) == bool(more)
            keeper.close()

    asyncio.run(body())


def test_a_part_that_refers_to_what_is_not_there_is_no_snapshot(tmp_path: Path) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        keeper.begin((Worker(),), 1)  # type: ignore[arg-type]
        for told in (b"[1]", b"[", b'"x"', b"[null]", b"7"):
            keeper.mark(3, 0)
            await keeper.part(0, link.Chunk(link.OLDER + 3, len(told), 0, link.LAST, told))
            assert given.pop() == messages.CutFailed(3) and not given

    kept(tmp_path / "s", body)


class Near(Worker):
    """A worker of the gateway's host."""

    near = True

    def __init__(self, answer: words.Load) -> None:
        super().__init__()
        self.answer = answer

    async def load(self, channel: int, files: tuple[words.StateFile, ...]) -> words.Load:
        self.seen.append([Path(file.path).name for file in files])
        return self.answer


def committed(keeper: Keeper, directory: Path, *, older: bytes = b"older") -> None:
    """Give the session a snapshot of two files."""
    parts = []
    for number, data in ((2, b"newest"), (1, older)):
        name = history.part_name(number, 0)
        (directory / name).write_bytes(data)
        parts.append(Part(name, len(data), hashlib.sha256(data).hexdigest()))
    keeper.history.mark(2, 0)
    keeper.history.commit(2, 0, (replace(parts[0], older=(parts[1],)),))


@pytest.mark.parametrize(
    ("answer", "passed_on", "fault"),
    [
        (words.Load(), False, ""),
        (words.Load(refused="errno 13"), True, ""),
        (words.Load(damaged="snapshot-1-0"), False, "snapshot-1-0 is damaged"),
    ],
)
def test_a_worker_of_this_host_reads_its_state_itself_if_it_can(
    tmp_path: Path, answer: words.Load, passed_on: bool, fault: str
) -> None:
    async def body(keeper: Keeper, given: list[Any]) -> None:
        committed(keeper, tmp_path / "s")
        worker = Near(answer)
        keeper.begin((worker,), 1)  # type: ignore[arg-type]
        keeper.replay(1, 0, lambda: True)
        while not given and not keeper._caught_up.is_set():
            await asyncio.sleep(0)
        whole = [(link.RESTORE, 0, b"newest"), (link.RESTORE, 6, b"older")]
        assert worker.seen == [["snapshot-2-0", "snapshot-1-0"], *(whole if passed_on else [])]
        assert [fault in each.message for each in given] == ([True] if fault else [])

    kept(tmp_path / "s", body)


def test_older_files_are_there_as_long_as_a_snapshot_needs_them(tmp_path: Path) -> None:
    directory = tmp_path / "s"

    async def body(keeper: Keeper, given: list[Any]) -> None:
        committed(keeper, directory)
        (directory / "snapshot-3-0").write_bytes(b"never committed")
        keeper.history.journal.sync()
        keeper.history.journal.close()
        found = history.open_(RealDisk(), directory, "s")
        assert found.part(0) == b"newestolder"
        names = sorted(path.name for path in directory.glob("snapshot-*"))
        assert names == ["snapshot-1-0", "snapshot-2-0"]
        for name in names:
            data = (directory / name).read_bytes()
            for wrong in (None, data[:-1], b"", data + b"x", data[:-1] + b"!"):
                (directory / name).unlink()
                if wrong is not None:
                    (directory / name).write_bytes(wrong)
                else:
                    (directory / name).symlink_to(directory / "nowhere")
                with pytest.raises(JournalDamagedError, match=name):
                    found.part(0)
            (directory / name).write_bytes(data)
        found.mark(3, 0)
        found.commit(3, 0, (found.past.parts[0].older[0],))  # the newest is not needed any more
        found.synced(found.journal.sync())
        assert [path.name for path in directory.glob("snapshot-*")] == ["snapshot-1-0"]
        found.journal.close()

    kept(directory, body)
