"""The journal of one session: an append-only log of what its client sent, in segment files.

    segment   = HEAD record, records              a file; its name is the index of its HEAD
    record    = header, payload
    header    = payload bytes u32, kind u8, 3 zero bytes, index u64, digest 16 B   (little endian)
    digest    = sha256(digest of the record before, the header's first 16 bytes, payload)[:16]
    watermark = index u64, digest 16 B of the last record that was synced, check 8 B

The digests are a chain, so that no record can be changed, dropped or moved unnoticed; the watermark
says how far records must be there at all. Beyond it a torn tail is what a loss of power leaves,
and is cut off: nobody was told that it is durable. Appending never waits for the disk to sync;
`sync` does, on a thread of its own. Kinds and payloads mean nothing here; `history.py` knows.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from farspan.core import limits
from farspan.core.errors import JournalError

from farspan_server.disk import Buffer, Disk, File

HEAD: Final = 0  # the kind of the first record of a segment
_HEADER: Final = struct.Struct("<IB3xQ16s")
_STAMPED: Final = 16  # bytes of the header that its digest covers
_WATERMARK: Final = struct.Struct("<Q16s8s")
_DIGEST_BYTES: Final = 16
_SUFFIX: Final = ".journal"
WATERMARK: Final = "watermark"


class JournalDamagedError(JournalError):
    """A journal on disk is not as it was written; the message names the file and the place.

    about: what was read of the session before, if anything; see `history.SESSION`.
    """

    about: dict[str, Any] | None = None


class JournalBusyError(JournalError):
    """A journal on disk cannot be opened now; nothing was changed that another try needs.

    full: there is no room to go on with it; else it cannot be read. doubtful: a sync has failed,
    so that the next try must be told. about: as of JournalDamagedError.
    """

    about: dict[str, Any] | None = None
    full = doubtful = False


@dataclass(slots=True, frozen=True)
class Record:
    """One entry. `index` counts all records of a session from 0, those of kind HEAD included."""

    index: int
    kind: int
    payload: memoryview


class Journal:
    """Appends on one thread, syncs on another. Made by `create` and `reopen`."""

    def __init__(self, disk: Disk, directory: Path, index: int, digest: bytes) -> None:
        self._disk = disk
        self._directory = directory
        self._index = index  # of the next record
        self._digest = digest  # of the record before
        self._bytes = 0  # of the segment that is written
        self._segments: list[tuple[int, int]] = []  # index of the HEAD, bytes; the last one grows
        self._file: File | None = None
        self._failed: str = ""
        self._lock = threading.Lock()  # guards what both threads look at: all above and below
        self._unsynced: dict[int, File] = {}  # before the last one, to sync: by their HEAD's index
        self._dirty = False  # names in the directory to sync
        self.waiting_bytes = 0  # appended since the last sync began
        self.durable = index - 1  # index of the last record that survives a loss of power
        #: A sync has failed: what lies behind `durable` may be read and not be there for all that.
        self.doubtful = False

    @classmethod
    def create(cls, disk: Disk, directory: Path, session: str, syncs: bool = True) -> Journal:
        """Return the journal of a new session; syncs: wait until it survives. JournalError."""
        digest = hashlib.sha256(session.encode()).digest()[:_DIGEST_BYTES]
        made = cls(disk, directory, 0, digest)
        try:
            disk.make_directory(directory)
        except OSError as error:
            raise made._fail(error) from error
        with made.closed_unless_done():
            made.roll()
            if syncs:
                made.sync()
        return made

    @contextlib.contextmanager
    def closed_unless_done(self) -> Iterator[None]:
        """Close the files when what is done here fails: nobody else has them."""
        try:
            yield
        except BaseException:
            self.close()
            raise

    @property
    def last(self) -> int:
        """The index of the record appended last."""
        return self._index - 1

    @property
    def failed(self) -> str:
        """Why nothing more can be written, or ""."""
        return self._failed

    @property
    def segment_bytes(self) -> int:
        """Bytes of the segment that is written."""
        return self._bytes

    @property
    def nbytes(self) -> int:
        """Bytes of all segments."""
        with self._lock:
            return sum(size for _, size in self._segments)

    def nbytes_since(self, index: int) -> int:
        """Bytes of the segments that hold records from this one on."""
        with self._lock:
            after = [size for start, size in self._segments if start >= index]
            return sum(after) if after else self._bytes

    def append(self, kind: int, *parts: Buffer) -> int:
        """Write a record and return its index; it is in the operating system's hands then.

        JournalError: it is not written, and no other will be.
        """
        with self._lock:
            return self._append(kind, parts)

    def roll(self) -> int:
        """Begin a new segment and return the index of its HEAD. JournalError."""
        with self._lock:
            return self._roll()

    def _roll(self) -> int:
        if self._failed:
            raise JournalError(self._failed)
        before = self._file
        head = json.dumps({"format": 1, "before": self._digest.hex()}).encode()
        try:
            self._file = self._disk.create(self._directory / f"{self._index:020}{_SUFFIX}")
        except OSError as error:
            raise self._fail(error) from error
        if before is not None:
            self._unsynced[self._segments[-1][0]] = before
        self._dirty = True
        self._bytes = 0
        self._segments.append((self._index, 0))
        return self._append(HEAD, (head,))

    def _append(self, kind: int, parts: tuple[Buffer, ...]) -> int:
        if self._failed:
            raise JournalError(self._failed)
        if self._file is None:  # one that was reopened has no segment to write until it must
            self._roll()
        assert self._file is not None
        size = sum(len(p) if isinstance(p, bytes | bytearray) else p.nbytes for p in parts)
        if size > limits.JOURNAL_RECORD_BYTES_MAX:  # it would be taken for damage
            raise JournalError(f"a record of {size} bytes is too long for the journal")
        stamped = _HEADER.pack(size, kind, self._index, b"")[:_STAMPED]
        digest = hashlib.sha256(self._digest + stamped)
        for part in parts:
            digest.update(part)
        found = digest.digest()[:_DIGEST_BYTES]
        try:
            self._file.append((stamped + found, *parts))
        except OSError as error:
            failure = self._fail(error)
            self._cut_back()
            raise failure from error
        self._digest = found
        self._bytes += _HEADER.size + size
        self.waiting_bytes += size
        self._segments[-1] = (self._segments[-1][0], self._bytes)
        self._index += 1
        return self._index - 1

    def _cut_back(self) -> None:
        """Drop what was written of a record that failed; a torn tail would be dropped anyway."""
        try:
            assert self._file is not None
            self._file.truncate(self._bytes)
        except OSError:
            return

    def _fail(self, error: OSError) -> JournalError:
        # The number says it all; the text of an OSError holds a path.
        self._failed = getattr(error, "reason", "") or (
            f"the journal cannot be written ({error.__class__.__name__}, errno {error.errno})"
        )
        return JournalError(self._failed)

    def sync(self) -> int:
        """Wait until all that was appended before survives a loss of power; return its last index.

        Runs on a thread of its own. JournalError: how much survives is not known any more, and a
        second try would not tell (the system may drop what it could not write): all is over.
        """
        with self._lock:
            if self._failed:
                raise JournalError(self._failed)
            if self._index - 1 <= self.durable:
                return self.durable
            files, self._unsynced = self._unsynced, {}
            last, digest, current = self._index - 1, self._digest, self._file
            dirty, self._dirty = self._dirty, False
            self.waiting_bytes = 0
        assert current is not None
        try:
            for start in list(files):
                files[start].sync()
                files.pop(start).close()
            current.sync()
            if dirty:
                self._disk.sync_directory(self._directory)
            self._disk.overwrite(self._directory / WATERMARK, _watermark(last, digest))
        except OSError as error:
            with self._lock:
                self.doubtful = True
                self._unsynced |= files  # `close` closes them
                raise self._fail(error) from error
        self.durable = last
        return last

    def read(self, first: int) -> Iterator[Record]:
        """Yield the records from `first` to the one that is the last at this moment.

        May run on another thread than `append`. JournalDamagedError, or an OSError of the disk.
        """
        with self._lock:
            segments, last = list(self._segments), self._index - 1
        for k, (start, size) in enumerate(segments):
            if k + 1 < len(segments) and segments[k + 1][0] <= first:
                continue
            name = f"{start:020}{_SUFFIX}"
            reader = _Reader(self._disk, self._directory, "", start)
            for record in reader.segment(name, size):
                if record.index > last:
                    return
                if record.index >= first:
                    yield record

    def forget_before(self, index: int) -> None:
        """Remove the segments that hold only records before `index`, synced or not."""
        with self._lock:
            gone = [k for k in range(len(self._segments) - 1) if self._segments[k + 1][0] <= index]
            names = [f"{self._segments[k][0]:020}{_SUFFIX}" for k in gone]
            # An open file would keep its blocks; nobody needs these bytes, so none is synced.
            open_ = [self._unsynced.pop(self._segments[k][0], None) for k in gone]
            del self._segments[: len(gone)]
        for file in open_:
            if file is not None:
                file.close()
        for name in names:
            try:
                self._disk.remove(self._directory / name)
            except OSError:
                return  # it is only space; the next one tries again

    def close(self) -> None:
        """Close the files; what is not synced stays so."""
        with self._lock:
            files, self._unsynced = [*self._unsynced.values(), self._file], {}
            self._file, self._failed = None, self._failed or "the journal is closed"
        for file in files:
            if file is not None:
                with contextlib.suppress(OSError):  # of a network's disk: that it was not written
                    file.close()


def _watermark(index: int, digest: bytes) -> bytes:
    check = hashlib.sha256(struct.pack("<Q16s", index, digest)).digest()[:8]
    return _WATERMARK.pack(index, digest, check)


def reopen(
    disk: Disk,
    directory: Path,
    session: str,
    visit: Callable[[Record], None],
    doubtful: bool = False,
) -> Journal:
    """Return a journal to go on with, after `visit` of every record it holds.

    JournalDamagedError; JournalBusyError, and nothing is changed that another try needs.
    What lies beyond a torn tail is cut off; from the first kept record to the watermark all is
    there, as it was written. doubtful: a sync has failed, so that all beyond the watermark is cut
    off, though it may be read: the system shows what it could not write, and says so once.
    New records go to a new segment, which is made with the first of them: one that is only looked
    at stays as it is. A payload is valid during the visit.
    """
    reader = _Reader(disk, directory, session, doubtful=doubtful)
    made = Journal(disk, directory, 0, b"")
    try:
        for record in reader.read():
            visit(record)
        made._index, made._digest = reader.index, reader.digest
        made._segments = list(reader.segments)
        for name, size in reader.torn:
            if size:
                disk.replace(directory / name, disk.read(directory / name)[:size])
            else:
                disk.remove(directory / name)
        made.doubtful = True  # until it is back
        if made.last > reader.durable:  # the last owner died before its sync
            for start, _ in reader.segments:
                disk.sync(directory / f"{start:020}{_SUFFIX}")
            disk.sync_directory(directory)
            disk.overwrite(directory / WATERMARK, _watermark(made.last, reader.digest))
        made.doubtful = False
        made.durable = made.last
    except OSError as error:
        raise _busy(error, made.doubtful) from error
    return made


def _busy(error: OSError, doubtful: bool) -> JournalBusyError:
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    what = "there is no room to go on with the journal" if full else "the journal cannot be read"
    made = JournalBusyError(f"{what} ({error.__class__.__name__}, errno {error.errno})")
    made.full, made.doubtful = full, doubtful
    return made


def beginning(disk: Disk, directory: Path, names: list[str], nbytes: int) -> Iterator[Record]:
    """Yield the records that are whole in the first bytes of a journal; names: of its files.

    Nothing of what follows is looked at but the watermark. JournalDamagedError, OSError.
    """
    reader = _Reader(disk, directory, "")
    reader._read_watermark()
    first = next((name for name in names if name.endswith(_SUFFIX)), "")
    if not first:
        raise JournalDamagedError("journal: there are no segments")
    reader.index, at = reader._number(first), 0
    data = memoryview(next(disk.pieces(directory / first, nbytes), b""))
    while (record := reader._record(data, at, at == 0)) is not None:
        at += _HEADER.size + record.payload.nbytes
        yield record


def glimpse(disk: Disk, directory: Path) -> Iterator[Record]:
    """Yield what can be read of the segments of a damaged journal."""
    names: list[str] = []
    with contextlib.suppress(OSError):
        names = [n for n in disk.names(directory) if n.endswith(_SUFFIX)]
    for name in names:
        with contextlib.suppress(OSError, ValueError, JournalDamagedError):
            size = len(disk.read(directory / name))
            reader = _Reader(disk, directory, "", int(name.removesuffix(_SUFFIX)))
            yield from reader.segment(name, size)


class _Reader:
    """Walks the segments of a journal and checks everything."""

    def __init__(
        self, disk: Disk, directory: Path, session: str, index: int = 0, doubtful: bool = False
    ) -> None:
        self._disk = disk
        self._doubtful = doubtful  # nothing behind the watermark counts
        self._directory = directory
        self._first = hashlib.sha256(session.encode()).digest()[:_DIGEST_BYTES] if session else b""
        self.index = index  # of the next record
        self.digest = b""
        self.segments: list[tuple[int, int]] = []
        self.torn: list[tuple[str, int]] = []  # files to cut, and to how many bytes
        self.durable = -1  # the last record that was synced
        self._end = "its first segment begins at byte 0"  # how far it is whole

    def read(self) -> Iterator[Record]:
        least, digest = self._read_watermark()
        self.durable = least
        names = [n for n in self._disk.names(self._directory) if n.endswith(_SUFFIX)]
        if not names:
            raise JournalDamagedError("journal: there are no segments")
        self.index = self._number(names[0])
        for k, name in enumerate(names):
            yield from self._segment(name, k == 0, least, digest)
            if self.torn:
                self.torn += [(rest, 0) for rest in names[k + 1 :]]
                break
        if self.index <= least:
            raise JournalDamagedError(
                f"journal: {self._end}, record {self.index - 1}; {least} was durable"
            )

    def segment(self, name: str, size: int) -> Iterator[Record]:
        """Yield the records of a segment of which `size` bytes were written."""
        data = memoryview(self._disk.read(self._directory / name))[:size]
        at = 0
        while at < data.nbytes:
            record = self._record(data, at, at == 0)
            if record is None:
                raise JournalDamagedError(f"journal: {name} is damaged at byte {at}")
            at += _HEADER.size + record.payload.nbytes
            yield record

    def _read_watermark(self) -> tuple[int, bytes]:
        try:
            data = self._disk.read(self._directory / WATERMARK)
            index, digest, _ = _WATERMARK.unpack(data)
        except (FileNotFoundError, struct.error):
            raise JournalDamagedError(
                f"journal: {WATERMARK} is missing or cut, at byte 0"
            ) from None
        if _watermark(index, digest) != data:
            raise JournalDamagedError(f"journal: {WATERMARK} is damaged, at byte 0")
        return index, digest

    def _number(self, name: str) -> int:
        text = name.removesuffix(_SUFFIX)
        if len(text) != 20 or not text.isdecimal():
            raise JournalDamagedError(f"journal: a segment named {name[:40]}")
        return int(text)

    def _segment(self, name: str, first: bool, least: int, least_digest: bytes) -> Iterator[Record]:
        start = self._number(name)
        data = memoryview(self._disk.read(self._directory / name))
        at = 0
        follows = start == self.index
        if follows:
            while at < data.nbytes and not (self._doubtful and self.index > least):
                record = self._record(data, at, first and at == 0)
                if record is None:
                    break
                if record.index == least and self.digest != least_digest:
                    raise JournalDamagedError(
                        f"journal: {name} is not the one that was synced, at byte {at}"
                    )
                at += _HEADER.size + record.payload.nbytes
                yield record
        if at < data.nbytes or not at:
            if self.index <= least:
                where = f"{name} is damaged at byte {at}" if follows else self._end
                raise JournalDamagedError(
                    f"journal: {where}, record {self.index}; {least} was durable"
                )
            self.torn.append((name, at))
        if at:
            self.segments.append((start, at))
            self._end = f"{name} ends at byte {at}"

    def _record(self, data: memoryview, at: int, first: bool) -> Record | None:
        """Return the record at a place, or None if there is none that fits."""
        if data.nbytes - at < _HEADER.size:
            return None
        size, kind, index, digest = _HEADER.unpack_from(data, at)
        begin = at + _HEADER.size
        if size > limits.JOURNAL_RECORD_BYTES_MAX or size > data.nbytes - begin:
            return None
        payload = data[begin : begin + size]
        before = self._before(payload) if first else self.digest
        found = hashlib.sha256(before + bytes(data[at : at + _STAMPED]))
        found.update(payload)
        if found.digest()[:_DIGEST_BYTES] != digest or index != self.index:
            return None
        if (kind == HEAD) != (at == 0):
            return None
        if first and index == 0 and self._first and before != self._first:
            return None
        self.index, self.digest = index + 1, digest
        return Record(index, kind, payload)

    def _before(self, head: memoryview) -> bytes:
        """Return what the first segment that is kept says of the one before it."""
        try:
            return bytes.fromhex(json.loads(bytes(head))["before"])
        except (ValueError, KeyError, TypeError):
            return b""
