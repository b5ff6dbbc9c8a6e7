"""What a journalled session leaves on disk: its frames and uploads, its snapshots, its epoch.

The meaning of a journal's records. A *mark* stands where a snapshot was cut; when all parts of the
snapshot are on disk a *commit* follows, and once that is synced, all before the mark is removed.
So whatever dies, the last committed snapshot and everything after its mark are there.
No time or network; the disk is passed in. `session.py` decides, this remembers.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import struct
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from farspan import wire
from farspan.core import limits, link
from farspan.core.words import Switch

from farspan_server.disk import Buffer, Disk
from farspan_server.journal import (
    HEAD,
    Journal,
    JournalBusyError,
    JournalDamagedError,
    Record,
    beginning,
    glimpse,
    reopen,
)
from farspan_server.switched import Placed

FRAME: Final = 1  # as received
CHUNK: Final = 2  # device, transfer, total, offset, flags; bytes
MARK: Final = 3  # JSON: number, sequence, epoch, secret
COMMIT: Final = 4  # JSON: number, sequence, parts
EPOCH: Final = 5  # JSON: epoch, secret (its hash)
SESSION: Final = 6  # JSON: format, and what the session is; see live.py
KEEP: Final = 7  # JSON: name, body; an empty body takes the name back
UPLOADS: Final = 8  # JSON: format, done; what of the uploads before a mark may be asked for again
SWITCH: Final = 9  # JSON: format, sequence, device, program, plan; see switched.py
FORMAT: Final = 1  # of the records that have one

GIVEN_UP: Final = 255  # flags of a chunk that says: nothing more of this upload will come
_CHUNK: Final = struct.Struct("<IQQQI")
_BEGINNING_BYTES: Final = 16 * limits.KiB  # of a journal, where it tells what its session is


@dataclass(slots=True, frozen=True)
class Part:
    """A device's part of a snapshot: a file of the session's directory, and older ones.

    older: files of snapshots before it, whose memories it refers to, in the order it names them.
    """

    name: str
    nbytes: int
    sha256: str
    older: tuple[Part, ...] = ()

    @property
    def files(self) -> tuple[Part, ...]:
        """All files that it takes, its own first."""
        return (self, *self.older)


def part_name(number: int, device: int) -> str:
    """Return how the file of a device's part of a snapshot is called."""
    return f"{PART_PREFIX}{number}-{device}"


def _names(parts: tuple[Part, ...]) -> set[str]:
    return {file.name for part in parts for file in part.files}


@dataclass(slots=True, frozen=True)
class Chunk:
    """A piece of an upload, as the gateway received it."""

    device: int
    transfer: int
    total: int
    offset: int
    flags: int
    data: memoryview


class Uploads:
    """How far the uploads of a session have come, so that one may be sent again after a break.

    Threads that write pieces add them.
    """

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.come: dict[int, int] = {}  # bytes, of those under way
        self.done: dict[int, int] = {}  # bytes, of the latest ones that are whole

    def add(self, chunk: Chunk) -> None:
        """Take that a piece is in the journal."""
        with self._turn:
            self._add(chunk)

    def _add(self, chunk: Chunk) -> None:
        if chunk.flags == GIVEN_UP:
            self.come.pop(chunk.transfer, None)
            self.done.pop(chunk.transfer, None)
        elif chunk.flags & link.LAST:
            self.come.pop(chunk.transfer, None)
            self.done[chunk.transfer] = chunk.total
            if len(self.done) > limits.UPLOADS_DONE_MAX:
                del self.done[next(iter(self.done))]
        else:
            self.come[chunk.transfer] = chunk.offset + chunk.data.nbytes
            if len(self.come) > limits.UPLOADS_MAX:
                del self.come[next(iter(self.come))]

    def take_back(self, chunk: Chunk) -> None:
        """Take that a piece may not have reached its worker, so that it has to come again."""
        with self._turn:
            self.done.pop(chunk.transfer, None)
            self.come.pop(chunk.transfer, None)
            if chunk.offset:
                self.come[chunk.transfer] = chunk.offset

    def to_json(self) -> dict[str, Any]:
        """Return all of it, for `UPLOADS`."""
        return {"format": FORMAT, "done": list(self.done.items()), "come": list(self.come.items())}


@dataclass(slots=True)
class Past:
    """What a journal tells of a session: all that `Session.woken` wants to know."""

    epoch: int = 1
    secret: str = ""
    base: int = 0  # the last frame that is in the snapshot
    number: int = 0  # of the snapshot
    parts: tuple[Part, ...] = ()  # of the snapshot, by device
    frames: dict[int, tuple[int, int]] = field(default_factory=dict)  # after it: device, bytes
    begin: int = 0  # the record where a replay begins
    session: dict[str, Any] = field(default_factory=dict)  # what the session is
    kept: dict[str, str] = field(default_factory=dict)  # names that its client gave
    uploads: Uploads = field(default_factory=Uploads)
    switches: tuple[Placed, ...] = ()  # after the snapshot


class History:
    """The journal of one session, by meaning. Made by `create` and `open_`."""

    def __init__(self, disk: Disk, directory: Path, journal: Journal, past: Past) -> None:
        self._disk = disk
        self._directory = directory
        self.journal = journal
        self.past = past
        self._sequence = max(past.frames, default=past.base)
        #: Pieces are written on threads: what a mark says of uploads is what stands before it.
        self._turn = threading.Lock()
        self._waiting: deque[tuple[int, int]] = deque()  # not synced: record, frame
        self._notes: deque[int] = deque()  # records of switches that are not synced
        self.noted = 0  # switches that were written here and survive
        self._marks: dict[int, int] = {}  # snapshots under way: the record of their mark
        # Commits that are not synced: their record, the first record and the files to keep.
        self._commits: deque[tuple[int, int, set[str]]] = deque()
        #: Runs what need not be done before others are heard: large files take 6 ms each to remove.
        self.later: Callable[[Callable[[], None]], object] = lambda work: work()

    @classmethod
    def create(
        cls,
        disk: Disk,
        directory: Path,
        session: str,
        secret: str,
        syncs: bool = True,
        about: dict[str, Any] | None = None,
    ) -> History:
        """Return the history of a new session. JournalError.

        syncs: wait until it survives a loss of power. about: what the session is, for `past`.
        """
        made = cls(disk, directory, Journal.create(disk, directory, session, syncs), Past())
        with made.journal.closed_unless_done():
            made.epoch(1, secret)
            if about is not None:
                made.describe(about)
            if syncs:
                made.journal.sync()
        return made

    @property
    def sequence(self) -> int:
        """The last frame that was written."""
        return self._sequence

    # --- writing ---------------------------------------------------------------------------------
    def frame(self, sequence: int, data: Buffer) -> None:
        """Keep a frame, before it is forwarded. JournalError."""
        with self._turn:
            index = self.journal.append(FRAME, data)
            self._sequence = sequence
            self._waiting.append((index, sequence))
            if self.journal.segment_bytes > limits.JOURNAL_SEGMENT_BYTES:
                self.journal.roll()

    def chunk(self, chunk: Chunk) -> int:
        """Keep a piece of an upload; return its record. May run on another thread. JournalError."""
        stamp = _CHUNK.pack(
            chunk.device, chunk.transfer, chunk.total, chunk.offset, chunk.flags
        )  # fmt: skip
        with self._turn:
            index = self.journal.append(CHUNK, stamp, chunk.data)
            self.past.uploads.add(chunk)
            if self.journal.segment_bytes > limits.JOURNAL_SEGMENT_BYTES:
                self.journal.roll()
        return index

    def give_up(self, device: int, transfer: int) -> int:
        """Keep that an upload will not go on; return its record. JournalError."""
        return self.chunk(Chunk(device, transfer, 0, 0, GIVEN_UP, memoryview(b"")))

    def epoch(self, epoch: int, secret: str) -> None:
        """Note who may send from now on. JournalError."""
        self.past.epoch, self.past.secret = epoch, secret
        self._write(EPOCH, {"epoch": epoch, "secret": secret})

    def describe(self, about: dict[str, Any]) -> None:
        """Note what the session is: all that a gateway which finds it must know. JournalError."""
        self.past.session = about
        self._write(SESSION, {"format": FORMAT} | about)

    def keep(self, name: str, body: str) -> int:
        """Note what a name stands for; return the record. JournalError."""
        index = self._write(KEEP, {"name": name, "body": body})
        keep(self.past.kept, name, body)
        return index

    def switch(self, placed: Placed) -> None:
        """Note a switch, before it is done; all frames up to its own were written. JournalError."""
        body = {"sequence": placed.sequence, "device": placed.device} | asdict(placed.switch)
        self._notes.append(self._write(SWITCH, {"format": FORMAT} | body))

    def mark(self, number: int, sequence: int) -> None:
        """Note where a snapshot is cut: after this frame, before all records that follow."""
        with self._turn:
            self._marks = {number: self.journal.roll()}  # one at a time; others are given up
            past = self.past  # said again: what comes before the mark will be removed
            body = {"number": number, "sequence": sequence}
            self._write(MARK, body | {"epoch": past.epoch, "secret": past.secret})
            self.describe(past.session)
            for name, kept in past.kept.items():
                self._write(KEEP, {"name": name, "body": kept})
            self._write(UPLOADS, past.uploads.to_json())

    def commit(self, number: int, sequence: int, parts: tuple[Part, ...]) -> None:
        """Note that a snapshot's parts are on disk: a replay begins there.

        What led to it is removed once the note survives a loss of power.
        """
        past = self.past
        body = {"number": number, "sequence": sequence, "parts": [asdict(p) for p in parts]}
        index = self._write(COMMIT, body)
        old = _names(past.parts) - _names(parts)  # what nothing refers to any more
        past.base, past.number, past.parts = sequence, number, parts
        past.begin = self._marks.pop(number)
        self._commits.append((index, past.begin, old))

    def _write(self, kind: int, body: dict[str, Any]) -> int:
        return self.journal.append(kind, json.dumps(body).encode())

    def synced(self, index: int) -> int:
        """Take that the journal survives up to a record; return up to which frame. 0: as before."""
        sequence = 0
        while self._waiting and self._waiting[0][0] <= index:
            sequence = self._waiting.popleft()[1]
        while self._notes and self._notes[0] <= index:
            self._notes.popleft()
            self.noted += 1
        while self._commits and self._commits[0][0] <= index:
            _, begin, old = self._commits.popleft()
            self.later(functools.partial(self._remove, begin, old))
        return sequence

    def _remove(self, begin: int, old: set[str]) -> None:
        """Remove what came before a snapshot. May run on another thread."""
        self.journal.forget_before(begin)
        for name in old:
            with contextlib.suppress(OSError):  # it is only space
                self._disk.remove(self._directory / name)

    # --- reading ---------------------------------------------------------------------------------
    def replay(self, last: int | None = None) -> Iterator[bytes | Chunk]:
        """Yield the frames (as bytes) and chunks after the snapshot, as they came.

        last: the record where it ends. May run on another thread. JournalDamagedError.
        """
        for record in self.journal.read(self.past.begin):
            if last is not None and record.index > last:
                return
            if record.kind == FRAME:
                yield bytes(record.payload)
            elif record.kind == CHUNK:
                yield _chunk(record)

    def part(self, device: int) -> bytes:
        """Return a device's part of the snapshot. JournalDamagedError if it is not as written."""
        return b"".join(self.pieces(device))

    def pieces(self, device: int) -> Iterator[bytes]:
        """Yield the files of a device's part, the end of each only when all of it is as written.

        JournalDamagedError.
        """
        for file in self.past.parts[device].files:
            yield from self._pieces(file)

    def _pieces(self, file: Part) -> Iterator[bytes]:
        digest, nbytes, held = hashlib.sha256(), 0, b""
        try:
            for data in self._disk.pieces(self._directory / file.name, limits.CHUNK_BYTES):
                nbytes += len(data)
                if nbytes > file.nbytes:
                    break
                digest.update(data)
                if held:
                    yield held
                held = data
        except FileNotFoundError:
            raise JournalDamagedError(f"snapshot: {file.name} is missing") from None
        if nbytes != file.nbytes or digest.hexdigest() != file.sha256:
            raise JournalDamagedError(f"snapshot: {file.name} is damaged")
        if held:
            yield held


def _chunk(record: Record) -> Chunk:
    device, transfer, total, offset, flags = _CHUNK.unpack_from(record.payload)
    return Chunk(device, transfer, total, offset, flags, record.payload[_CHUNK.size :])


def keep(kept: dict[str, str], name: str, body: str) -> None:
    """Let a name stand for a body; an empty one takes it back."""
    if body:
        kept[name] = body
    else:
        kept.pop(name, None)


def open_(disk: Disk, directory: Path, session: str, doubtful: bool = False) -> History:
    """Return a session's history as it lies on disk. JournalDamagedError, JournalBusyError.

    doubtful: as `journal.reopen` has it.
    """
    reader = _PastReader()
    try:
        journal = reopen(disk, directory, session, reader.visit, doubtful)
        made = History(disk, directory, journal, reader.finish())
    except (JournalDamagedError, JournalBusyError) as error:
        error.about = reader.about or _about(disk, directory)
        raise
    known = _names(made.past.parts)
    with contextlib.suppress(OSError):  # they are only space
        for name in disk.names(directory):  # parts of snapshots that were never committed
            if name.startswith(PART_PREFIX) and name not in known:
                disk.remove(directory / name)
    journal.forget_before(made.past.begin)
    return made


def first_words(disk: Disk, directory: Path, names: list[str]) -> dict[str, Any]:
    """Return what the beginning of a journal tells of its session; names: of its files.

    What follows is not looked at. JournalDamagedError: it does not tell. OSError.
    """
    for record in beginning(disk, directory, names, _BEGINNING_BYTES):
        if record.kind == SESSION:
            with contextlib.suppress(ValueError, KeyError, TypeError):
                return _formatted(record)
    raise JournalDamagedError("journal: its beginning does not say what it is")


def _about(disk: Disk, directory: Path) -> dict[str, Any]:
    """Return what a damaged journal tells of its session, if it still does."""
    for record in glimpse(disk, directory):
        if record.kind == SESSION:
            with contextlib.suppress(ValueError, KeyError, TypeError, JournalDamagedError):
                return _formatted(record)
    return {}


PART_PREFIX: Final = "snapshot-"


class _PastReader:
    """Makes a Past of the records of a journal."""

    def __init__(self) -> None:
        self._past = Past()
        self._first: int | None = None
        self._marks: dict[int, tuple[int, int]] = {}  # by snapshot: record, frame
        self._last: int | None = None  # frame
        self._switches: list[Placed] = []

    @property
    def about(self) -> dict[str, Any]:
        return self._past.session

    def visit(self, record: Record) -> None:
        if self._first is None:
            self._first = record.index
        read = _READERS.get(record.kind)
        if read is not None:
            try:
                read(self, record)
            except JournalDamagedError:
                raise
            except Exception:  # whatever a body of other fields or types comes to
                raise JournalDamagedError(f"journal: record {record.index} means nothing") from None

    def _frame(self, record: Record) -> None:
        header = wire.frame_header(record.payload)
        if self._last is not None and header.sequence != self._last + 1:
            raise JournalDamagedError(f"journal: frame {header.sequence} follows {self._last}")
        self._last = header.sequence
        self._past.frames[header.sequence] = (header.device, record.payload.nbytes)

    def _mark(self, record: Record) -> None:
        body = _body(record, "number", "sequence")
        if self._last is None:  # what came before is gone
            self._last = body["sequence"]
        self._marks[body["number"]] = (record.index, body["sequence"])
        self._epoch(record)

    def _commit(self, record: Record) -> None:
        body = _body(record, "number", "sequence")
        past = self._past
        if body["number"] not in self._marks:
            raise JournalDamagedError(f"journal: snapshot {body['number']} has no mark")
        past.begin, past.base = self._marks[body["number"]]
        past.number = body["number"]
        past.parts = tuple(_part(part) for part in body["parts"])
        self._switches = [each for each in self._switches if each.sequence >= past.base]

    def _epoch(self, record: Record) -> None:
        body = _body(record, "epoch")
        self._past.epoch, self._past.secret = body["epoch"], str(body["secret"])

    def _session(self, record: Record) -> None:
        self._past.session = _formatted(record)

    def _kept(self, record: Record) -> None:
        body = json.loads(bytes(record.payload))
        keep(self._past.kept, str(body["name"]), str(body["body"]))

    def _chunk(self, record: Record) -> None:
        self._past.uploads.add(_chunk(record))

    def _uploads(self, record: Record) -> None:
        body, uploads = _formatted(record), self._past.uploads
        uploads.done = {int(k): int(v) for k, v in body["done"]}
        uploads.come = {int(k): int(v) for k, v in body["come"]}

    def _switch(self, record: Record) -> None:
        told = _formatted(record)
        placed = Placed(told["sequence"], told["device"], Switch(told["program"], told["plan"]))
        if type(placed.sequence) is not int or placed.sequence != (self._last or 0):
            raise ValueError("a switch that stands elsewhere")
        kinds = self._past.session.get("kinds")
        most = limits.DEVICES_PER_SESSION_MAX if kinds is None else len(kinds)
        if type(placed.device) is not int or not 0 <= placed.device < most:
            raise ValueError("a switch of no device")
        self._switches.append(placed)
        if len(self._switches) > 2 * limits.SWITCHES_MAX:  # with those of a snapshot under way
            raise ValueError("too many switches")

    def finish(self) -> Past:
        past = self._past
        past.switches = tuple(self._switches)
        past.frames = {s: f for s, f in past.frames.items() if s > past.base}
        if self._first and not past.number:
            raise JournalDamagedError("journal: its beginning is missing, and there is no snapshot")
        if past.frames and min(past.frames) != past.base + 1:
            raise JournalDamagedError(f"journal: frame {past.base + 1} is missing")
        return past


def _body(record: Record, *numbers: str) -> dict[str, Any]:
    """Return the JSON of a record; ValueError unless these fields of it are counts."""
    body: dict[str, Any] = json.loads(bytes(record.payload))
    if any(type(body[name]) is not int or body[name] < 0 for name in numbers):
        raise ValueError("a count that is none")
    return body


def _part(told: dict[str, Any], nested: bool = True) -> Part:
    older = told.pop("older", ())
    if older and not nested:
        raise ValueError("an older part of an older part")
    part = Part(**told, older=tuple(_part(each, False) for each in older))
    # The name becomes part of a path: one of ours has no directory in it.
    if not part.name.startswith(PART_PREFIX) or set(part.name) & {"/", "\\", "\0"}:
        raise ValueError("a part of a snapshot outside of its directory")
    if type(part.nbytes) is not int or type(part.sha256) is not str:
        raise ValueError("a part of no size")
    return part


def _formatted(record: Record) -> dict[str, Any]:
    body: dict[str, Any] = json.loads(bytes(record.payload))
    if body.pop("format") != FORMAT:
        raise JournalDamagedError(f"journal: record {record.index} is of a newer release's format")
    return body


_READERS: Final[dict[int, Callable[[_PastReader, Record], None]]] = {
    FRAME: _PastReader._frame,
    MARK: _PastReader._mark,
    COMMIT: _PastReader._commit,
    EPOCH: _PastReader._epoch,
    SESSION: _PastReader._session,
    KEEP: _PastReader._kept,
    UPLOADS: _PastReader._uploads,
    CHUNK: _PastReader._chunk,
    SWITCH: _PastReader._switch,
}
assert HEAD not in _READERS
