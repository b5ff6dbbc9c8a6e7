"""Every byte of a journal and of a snapshot: flipped or cut off, none goes unnoticed.

The fast tests of `test_journal.py` do it to small journals; `benchmarks/damage.py` to larger ones.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from farspan import wire
from farspan.core import limits
from farspan.core.command import Frame
from farspan.core.op import OPS, table
from farspan_server import history
from farspan_server.journal import WATERMARK, Journal, JournalDamagedError, reopen
from faulty_disk import FaultyDisk

table()
WHERE = Path("session")
RECORD_BYTES = 2_000  # large records: each try reads the journal up to the damage


def filled(nbytes: int, segments: int = 4) -> FaultyDisk:
    """Return a disk with a synced journal of at least so many bytes."""
    disk, rng = FaultyDisk(), random.Random(3)
    journal = Journal.create(disk, WHERE, "s")
    while journal.nbytes < nbytes:
        if journal.segment_bytes > nbytes // segments:
            journal.roll()
        journal.append(1, rng.randbytes(rng.randrange(RECORD_BYTES)))
    journal.sync()
    return disk


def damaged(files: dict[Path, bytes]) -> Iterator[tuple[Path, int, bytes]]:
    """Yield each file with one byte changed, and each cut at every byte."""
    rng = random.Random(4)
    for path, data in files.items():
        for at in range(len(data)):
            changed = bytearray(data)
            changed[at] ^= 1 << rng.randrange(8)
            yield path, at, bytes(changed)
        for at in range(len(data)):
            yield path, at, data[:at]


def accepted(nbytes: int) -> tuple[int, list[str]]:
    """Return how many ways to damage a journal there were, and what went wrong with them."""
    disk = filled(nbytes)
    whole = {p: bytes(d) for p, d in disk.cached.items()}
    assert sum(map(len, whole.values())) >= nbytes
    tried, wrong = 0, []
    for path, at, data in damaged(whole):
        disk.cached = {**{p: bytearray(d) for p, d in whole.items() if p != path},
                       path: bytearray(data)}  # fmt: skip
        tried += 1
        try:
            reopen(disk, WHERE, "s", lambda record: None)
            wrong.append(f"{path.name} at {at}: accepted")
        except JournalDamagedError as error:
            # The record that holds the byte begins at or before it; a cut names where it ends.
            told = re.search(r"(\d{20}\.journal|watermark)\b.*?\bbyte (\d+)", str(error))
            if told is None or int(told[2]) > at or told[1] not in (path.name, WATERMARK):
                wrong.append(f"{path.name} at {at}: {error}")
    return tried, wrong


@pytest.mark.slow
def test_every_byte_of_a_journal_of_64_kib_is_guarded_and_errors_name_the_place() -> None:
    tried, wrong = accepted(64 * limits.KiB)
    print(f"{tried} ways to damage a journal: {len(wrong)} accepted or unnamed")
    assert tried > 2 * 64 * limits.KiB and not wrong, wrong[:5]


def test_a_small_journals_damage_is_told_with_file_and_place() -> None:
    tried, wrong = accepted(4 * limits.KiB)
    assert tried > 8 * limits.KiB and not wrong, wrong[:5]


def test_every_byte_of_a_snapshot_is_guarded() -> None:
    """A part of a snapshot of 8 KiB, flipped and cut at each of its bytes."""
    disk = FaultyDisk()
    made = history.History.create(disk, WHERE, "s", "00")
    frame = Frame(0, 1, 1, 8)
    frame.add(OPS["ones"].opcode, [1], ((2,), None, None, None, None), number=1)
    made.frame(1, wire.encode_frame(frame))
    data = random.Random(5).randbytes(8 * limits.KiB)
    name = f"{history.PART_PREFIX}1-0"
    disk.replace(WHERE / name, data)
    made.mark(1, 1)
    made.commit(1, 1, (history.Part(name, len(data), history.hashlib.sha256(data).hexdigest()),))
    assert made.part(0) == data
    for at in range(len(data)):
        for changed in (data[:at], data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]):
            disk.cached[WHERE / name] = bytearray(changed)
            with pytest.raises(JournalDamagedError, match=name):
                made.part(0)
