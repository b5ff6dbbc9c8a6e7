"""The journal of a session: what was durable is found again, and no damage goes unnoticed."""

from __future__ import annotations

import random
import threading
from pathlib import Path

import pytest
from farspan.core import limits
from farspan.core.errors import JournalError
from farspan_server.disk import Disk, RealDisk
from farspan_server.journal import HEAD, Journal, JournalDamagedError, Record, reopen
from faulty_disk import FaultyDisk

WHERE = Path("session")
FRAME = 1


def filled(disk: Disk, directory: Path, count: int, seed: int = 0, roll_every: int = 0) -> Journal:
    rng = random.Random(seed)
    journal = Journal.create(disk, directory, "s")
    for k in range(count):
        if roll_every and k % roll_every == roll_every - 1:
            journal.roll()
        journal.append(FRAME, b"%d:" % k, rng.randbytes(rng.randrange(200)))
    return journal


def opened(disk: Disk, directory: Path, session: str = "s") -> tuple[Journal, list[Record]]:
    records: list[Record] = []
    return reopen(disk, directory, session, records.append), records


def frames(records: list[Record]) -> list[bytes]:
    return [bytes(r.payload) for r in records if r.kind == FRAME]


def expected(count: int, seed: int = 0) -> list[bytes]:
    rng = random.Random(seed)
    return [b"%d:" % k + rng.randbytes(rng.randrange(200)) for k in range(count)]


def test_what_was_appended_is_read_again_across_segments_and_reopenings(tmp_path: Path) -> None:
    disk, where = RealDisk(), tmp_path / "s"
    journal = filled(disk, where, 40, roll_every=7)
    journal.sync()
    journal.close()
    for extra in range(3):
        journal, records = opened(disk, where)
        assert frames(records)[:40] == expected(40)
        assert frames(records)[40:] == [b"more %d" % k for k in range(extra)]
        assert [r.index for r in records] == list(range(len(records)))
        assert journal.append(FRAME, b"more %d" % extra) == journal.last
        assert journal.sync() == journal.last == journal.durable
        journal.close()
    files = list(where.iterdir())
    assert {f.stat().st_mode & 0o777 for f in files} == {0o600}
    assert where.stat().st_mode & 0o777 == 0o700
    size = sum(f.stat().st_size for f in files if f.suffix == ".journal")
    journal, records = opened(disk, where)
    assert journal.nbytes == size, "one that is only looked at stays as it is"
    again = list(journal.read(25))
    assert [r.index for r in again] == list(range(25, journal.last + 1))
    assert frames(again) == frames([r for r in records if r.index >= 25])


def test_segments_before_a_record_are_removed_and_the_rest_is_read_alone(tmp_path: Path) -> None:
    disk, where = RealDisk(), tmp_path / "s"
    journal = filled(disk, where, 10)
    kept = journal.roll()
    journal.append(FRAME, b"after")
    journal.sync()
    before = journal.nbytes
    journal.forget_before(kept)
    assert journal.nbytes < before
    assert len([f for f in where.iterdir() if f.suffix == ".journal"]) == 1
    journal.close()
    _, records = opened(disk, where)
    assert frames(records) == [b"after"]
    assert records[0].index == kept and records[0].kind == HEAD


def test_appending_and_syncing_on_two_threads_loses_nothing(tmp_path: Path) -> None:
    journal = Journal.create(RealDisk(), tmp_path / "s", "s")
    done = threading.Event()

    def sync() -> None:
        while not done.is_set():
            journal.sync()

    thread = threading.Thread(target=sync)
    thread.start()
    for k in range(2_000):
        journal.append(FRAME, b"%d" % k)
        if k % 300 == 0:
            journal.roll()
    done.set()
    thread.join()
    journal.sync()
    journal.close()
    _, records = opened(RealDisk(), tmp_path / "s")
    assert frames(records) == [b"%d" % k for k in range(2_000)]


def test_every_byte_of_a_synced_journal_is_guarded() -> None:
    disk = FaultyDisk()
    filled(disk, WHERE, 200, roll_every=50).sync()
    files = {p: bytes(d) for p, d in disk.cached.items()}
    total = sum(map(len, files.values()))
    assert total > 16 * limits.KiB
    silent = []
    rng = random.Random(1)
    for path, data in files.items():
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            disk.cached = {p: bytearray(d) for p, d in files.items()} | {path: changed}
            try:
                opened(disk, WHERE)
                silent.append((path, at))
            except JournalDamagedError:
                continue
    assert not silent


def test_a_synced_journal_cut_at_any_byte_or_without_a_file_is_refused() -> None:
    disk = FaultyDisk()
    filled(disk, WHERE, 60, roll_every=25).sync()
    files = {p: bytes(d) for p, d in disk.cached.items()}
    for path, data in files.items():
        for at in range(len(data)):
            disk.cached = {p: bytearray(d) for p, d in files.items()} | {path: bytearray(data[:at])}
            with pytest.raises(JournalDamagedError):
                opened(disk, WHERE)
        disk.cached = {p: bytearray(d) for p, d in files.items() if p != path}
        if path.name != "00000000000000000000.journal":  # else: as after forget_before
            with pytest.raises(JournalDamagedError):
                opened(disk, WHERE)
    with pytest.raises(JournalDamagedError):  # another session's files
        disk.cached = {p: bytearray(d) for p, d in files.items()}
        opened(disk, WHERE, "t")


@pytest.mark.parametrize("seed", range(200))
def test_a_loss_of_power_keeps_what_was_durable_and_nothing_that_was_not_written(seed: int) -> None:
    rng = random.Random(seed)
    disk = FaultyDisk()
    journal = Journal.create(disk, WHERE, "s")
    written: list[bytes] = []
    durable = 0
    for _ in range(3):
        for _ in range(rng.randrange(1, 30)):
            match rng.randrange(6):
                case 0:
                    journal.roll()
                case 1:
                    journal.sync()
                    durable = len(written)
                case _:
                    written.append(rng.randbytes(rng.randrange(60)))
                    journal.append(FRAME, written[-1])
        disk.lose_power(rng)
        journal, records = opened(disk, WHERE)
        found = frames(records)
        assert durable <= len(found) and found == written[: len(found)]
        written, durable = found, len(found)


def test_a_full_disk_is_an_error_and_what_was_durable_is_found_again() -> None:
    disk = FaultyDisk()
    journal = filled(disk, WHERE, 10)
    journal.sync()
    disk.free_bytes = 50
    with pytest.raises(JournalError, match=r"errno 28"):
        for k in range(10):
            journal.append(FRAME, b"%d" % k * 10)
    with pytest.raises(JournalError):
        journal.append(FRAME, b"x")
    with pytest.raises(JournalError):
        journal.sync()
    disk.free_bytes = None
    journal.close()
    _, records = opened(disk, WHERE)
    assert frames(records)[:10] == expected(10)
    assert len(frames(records)) in (10, 11)


def test_a_failed_sync_is_never_tried_again() -> None:
    disk = FaultyDisk()
    journal = filled(disk, WHERE, 5)
    journal.sync()
    durable = journal.append(FRAME, b"lost")
    disk.sync_fails = True
    with pytest.raises(JournalError, match="errno 5") as error:
        journal.sync()
    assert "session" not in str(error.value), "no path in what a client may read"
    disk.sync_fails = False
    with pytest.raises(JournalError):
        journal.sync()
    assert journal.durable == durable - 1
    with pytest.raises(JournalError):
        journal.append(FRAME, b"x")


def test_a_removed_segment_holds_no_file_and_no_space_if_nobody_syncs(tmp_path: Path) -> None:
    journal = filled(RealDisk(), tmp_path / "s", 10)
    before = len(list(Path("/proc/self/fd").iterdir()))
    for k in range(20):
        kept = journal.roll()
        journal.append(FRAME, b"%d" % k)
        journal.forget_before(kept)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert journal.sync() == journal.last
    assert [bytes(r.payload) for r in journal.read(kept + 1)] == [b"19"]
    journal.close()
