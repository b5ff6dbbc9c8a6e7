"""What keeps a journalled session: its history on disk, its snapshots, its replays to new workers.

The session's machine decides; this carries out, for one session, what has to do with its journal.
Everything runs on the gateway's loop; what reads and writes much goes to threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from farspan import wire
from farspan.core import limits, link, words

from farspan_server import history
from farspan_server import session_messages as messages
from farspan_server.disk import Buffer, Disk, File
from farspan_server.history import Chunk, History, Part
from farspan_server.journal import JournalDamagedError, JournalError
from farspan_server.shelf import discard
from farspan_server.switched import Placed
from farspan_server.window import Window
from farspan_server.workers import WorkerLink

log = logging.getLogger(__name__)

_READ_AT_ONCE: Final = 64  # records that a thread reads before the loop hears of them
_PIECES_AT_ONCE: Final = 8  # of a snapshot, a MiB each
_SHORT_BYTES: Final = 64 * limits.KiB  # of a piece: written in less time than a thread takes
_ROOM_S: Final = 0.002  # between looks whether workers take more of a replay
_ALL: Final = 2**63  # "every record": those that no replay has begun to read yet

Give = Callable[[messages.Input], None]


class Keeper:
    """The journal, snapshots and replays of one session.

    give: hands an input to the session's machine. every_s: seconds of work between snapshots.
    syncing: one thread, which syncs the journals of all sessions. syncs: frames, before the client
    may forget them. stays: the session survives the gateway, so that snapshots are synced too.
    aside: keeps the files of one that turns out to be damaged, instead of their removal; on a
    thread. doubt: notes that what was not synced of the files is not to be trusted; on a thread.
    every_bytes, every_frames: of journal; then the next snapshot comes sooner.
    """

    def __init__(
        self,
        disk: Disk,
        directory: Path,
        history: History,
        give: Give,
        every_s: float,
        syncing: Executor,
        *,
        syncs: bool = False,
        stays: bool = False,
        aside: Callable[[JournalDamagedError], None] | None = None,
        doubt: Callable[[], None] | None = None,
        every_bytes: int = limits.SNAPSHOT_EVERY_BYTES,
        every_frames: int = limits.SNAPSHOT_EVERY_FRAMES,
    ) -> None:
        self._every_s, self._every_bytes, self._every_frames = every_s, every_bytes, every_frames
        self._disk = disk
        self._directory = directory
        self._give = give
        self.history = history
        history.later = self._later
        self._syncing = syncing
        self._syncs = syncs
        self._stays = stays
        self._aside = aside
        self._doubt = doubt
        self._damage: JournalDamagedError | None = None
        self._sync_under_way = self._sync_again = self._closed = False
        self._sync_timer: asyncio.TimerHandle | None = None
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []  # records to be durable
        self._links: tuple[WorkerLink, ...] = ()
        self._channel = 0
        #: Records up to this one reach the workers by a replay; None: there is none under way.
        self._replayed: int | None = _ALL
        self._caught_up = asyncio.Event()
        self._tasks: set[asyncio.Task[Any]] = set()
        #: By device: held from a piece's record until its worker is told, or the next replay is.
        self._turns: defaultdict[int, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._parts: dict[int, _PartWriter] = {}  # of the snapshot under way, by device
        self._older: dict[int, tuple[Part, ...]] = {}  # files that they refer to
        self._number = history.past.number  # of the last snapshot
        self._under_way: set[int] = set()  # its number, until it is committed or fails
        self._cut_at_s = self._cut_began_s = 0.0
        self._cut_took_s = self._cut_again_s = 0.0
        self._cut_told = False  # the workers take their parts; before, frames are held back
        self._cut_frame = history.past.base
        self._noted = 0  # switches that the machine knows to survive
        self.caught_up_s = 0.0  # when the last replay ended, of time.monotonic()

    # --- workers ---------------------------------------------------------------------------------
    @property
    def restores(self) -> bool:
        """Whether new workers are given a snapshot before any frame."""
        return bool(self.history.past.parts)

    def begin(self, links: tuple[WorkerLink, ...], channel: int) -> None:
        """Take the workers that the session has now; without a replay they have all there is."""
        self._links, self._channel = links, channel
        self._replayed = None
        self._caught_up.set()

    def rest(self) -> None:
        """Be without workers: what is under way ends, what comes will be replayed."""
        self._links = ()
        self._replayed = _ALL
        self._caught_up.clear()
        for task in self._tasks:
            task.cancel()
        self._drop_parts()

    def close(self, forget: bool = True) -> asyncio.Future[None]:
        """End; forget: the session, on disk too, else it lies there for another gateway.

        What is returned is done when the files are closed.
        """
        self.rest()
        self._caught_up.set()
        self._closed = True
        for _, waiting in self._waiting:
            if not waiting.done():
                waiting.set_result(None)
        self._waiting.clear()
        # On the thread that syncs: a file's number may be another file's once it is closed.
        loop = asyncio.get_running_loop()
        return loop.run_in_executor(self._syncing, self._close, forget)

    def _close(self, forget: bool) -> None:
        if self._stays and not forget:
            with contextlib.suppress(JournalError):
                self.history.journal.sync()
        self.history.journal.close()
        if forget and self._damage is not None and self._aside is not None:
            self._damage.about = self.history.past.session
            self._aside(self._damage)
        elif forget:
            discard(self._directory)
        elif self.history.journal.doubtful and self._doubt is not None:
            self._doubt()

    def _later(self, work: Callable[[], None]) -> None:
        """Do something on the thread that syncs, before all that it is given after this."""
        asyncio.get_running_loop().run_in_executor(self._syncing, work)

    # --- what survives ---------------------------------------------------------------------------
    def frame(self, sequence: int, data: Buffer) -> None:
        """Keep a frame; nobody waits until it survives. JournalError."""
        self.history.frame(sequence, data)
        self._sync_soon()

    def switch(self, placed: Placed) -> None:
        """Keep a switch, behind which frames are held until it survives. JournalError."""
        self.history.switch(placed)
        if self._stays:
            self._sync()

    def keep(self, name: str, body: str) -> None:
        """Keep what a name stands for. JournalError."""
        with self._reporting():
            self.history.keep(name, body)

    @contextlib.contextmanager
    def _reporting(self) -> Iterator[None]:
        """Let the session hear, too, of a journal that fails under what a call writes."""
        try:
            yield
        except JournalError:
            if self.history.journal.failed and not self._closed:  # else a record is too long
                self._give(messages.JournalFailed(self.history.journal.failed))
            raise

    async def durable(self) -> None:
        """Wait until all that was written so far survives a loss of power, where that is promised.

        Returns at once when the session ends meanwhile.
        """
        index = self.history.journal.last
        if not self._syncs or self._closed or self.history.journal.durable >= index:
            return
        waiting: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((index, waiting))
        self._sync()
        await waiting

    def _sync_soon(self) -> None:
        """Sync what nobody waits for yet: once much has gathered, or a while after the first."""
        journal = self.history.journal
        if not self._syncs or self._sync_under_way:  # whose end looks again
            return
        if (
            journal.waiting_bytes >= limits.SYNC_BYTES
            or journal.last - journal.durable >= limits.SYNC_RECORDS
        ):
            self._sync()
        elif self._sync_timer is None:
            loop = asyncio.get_running_loop()
            self._sync_timer = loop.call_later(limits.SYNC_DELAY_S, self._sync)

    def _sync(self) -> None:
        if self._sync_timer is not None:
            self._sync_timer.cancel()
            self._sync_timer = None
        if self._closed or self._sync_under_way:
            self._sync_again = True
            return
        self._sync_under_way, self._sync_again = True, False
        loop = asyncio.get_running_loop()
        loop.run_in_executor(self._syncing, self.history.journal.sync).add_done_callback(
            self._synced
        )

    def _synced(self, done: asyncio.Future[int]) -> None:
        self._sync_under_way = False
        if self._closed:
            done.exception()  # nobody asks any more
            return
        try:
            index = done.result()
        except JournalError as error:
            self._give(messages.JournalFailed(str(error)))
            return
        sequence = self.history.synced(index)
        if sequence and self._syncs:
            self._give(messages.Synced(sequence))
        if self.history.noted > self._noted:
            self._noted = self.history.noted
            self._give(messages.Noted(self._noted))
        reached = [each for each in self._waiting if each[0] <= index]
        self._waiting = [each for each in self._waiting if each[0] > index]
        for _, waiting in reached:
            if not waiting.done():
                waiting.set_result(None)
        if self._waiting or self._sync_again:
            self._sync()
        elif self.history.journal.last > index:
            self._sync_soon()

    # --- up --------------------------------------------------------------------------------------
    async def send(self, kept: Chunk, place: tuple[Window, int] | None = None) -> bool:
        """Keep a piece of an upload and pass it to its worker, now or by the next replay.

        place: where the bytes lie in memory that its worker shares with the client.
        Return whether who shares it was told of it, and says when it has them. JournalError.
        """
        # What stands in the journal before a mark goes to its worker before the mark's own word.
        async with self._turns[kept.device]:
            with self._reporting():
                index = await self._written(kept)
            self._sync_soon()  # the disk works while the rest comes
            if self._replayed is None:
                return await self._tell(kept, place)
        while self._replayed is not None:
            if index <= self._replayed:
                return False
            await self._caught_up.wait()
        return await self._tell(kept, place)

    async def _written(self, kept: Chunk) -> int:
        """Write a piece; return its record. Others are heard meanwhile, unless it is short.

        What is cut off waits all the same: whatever follows in the journal follows the piece.
        """
        if kept.data.nbytes <= _SHORT_BYTES:
            return self.history.chunk(kept)
        loop = asyncio.get_running_loop()
        writing = loop.run_in_executor(None, self.history.chunk, kept)
        try:
            return await asyncio.shield(writing)
        except asyncio.CancelledError:
            while not writing.done():
                with contextlib.suppress(asyncio.CancelledError):
                    await asyncio.wait((writing,))
            writing.exception()  # the next one meets it, too
            raise

    async def pass_by(self, kept: Chunk, place: tuple[Window, int] | None) -> bool:
        """Tell a worker of a piece that nobody keeps, if it lies in memory that it shares.

        It lets the client use the place again once it has what lies before it. As `send` otherwise.
        """
        if place is None or place[0].channel != self._channel:
            return False
        return place[0].over or await self._tell(kept, place)

    async def _tell(self, kept: Chunk, place: tuple[Window, int] | None) -> bool:
        """Pass a piece on to its worker; return whether who shares memory has heard of it."""
        shared = place is not None and place[0].channel == self._channel
        with contextlib.suppress(OSError):  # it is lost: the next one gets all there is
            # While a thread wrote, the worker may have been told to share no more. Then nobody
            # needs the place, and what lies before it may still be read.
            if place is not None and shared and not place[0].over:
                where = (kept.transfer, kept.total, kept.offset, place[1], kept.data.nbytes)
                await self._links[kept.device].piece(self._channel, link.Piece(*where))
            else:
                await self._links[kept.device].upload(self._channel, _chunk(kept))
        return shared

    def give_up(self, device: int, transfer: int) -> None:
        """Note that an upload will not go on. JournalError."""
        with self._reporting():
            index = self.history.give_up(device, transfer)
        if self._replayed is None:
            self._links[device].give_up(self._channel, transfer)
        elif self._replayed < index:
            self._spawn(self._give_up_later(device, transfer))

    async def _give_up_later(self, device: int, transfer: int) -> None:
        """Say it behind the pieces that a replay still has to give."""
        await self._caught_up.wait()  # or a second replay comes, and cancels this
        self._links[device].give_up(self._channel, transfer)

    # --- replays ---------------------------------------------------------------------------------
    def replay(self, first: int, last: int, room: Callable[[], bool]) -> None:
        """Begin to give the workers the snapshot, then what came after it; frames by the machine.

        room: whether the machine takes another frame.
        """
        self._replayed = self.history.journal.last
        self._caught_up.clear()
        self._spawn(self._replay(first, last, room, self._replayed))

    async def _replay(self, first: int, last: int, room: Callable[[], bool], end: int) -> None:
        links, channel = self._links, self._channel
        for device, part in enumerate(self.history.past.parts):
            if not (links[device].near and await self._load(links[device], channel, part)):
                await self._pass_on(links[device], channel, device, part)
        records = self.history.replay(end)
        while batch := await asyncio.to_thread(_reading, _some, records):
            for record in batch:
                if isinstance(record, Chunk):
                    await self._again(links, channel, record)
                    continue
                header = wire.frame_header(record)
                if first <= header.sequence <= last:
                    while not room():
                        await asyncio.sleep(_ROOM_S)
                    self._give(messages.Again(header, record))
        self.caught_up_s = time.monotonic()
        self._replayed = None
        self._caught_up.set()

    async def _load(self, worker: WorkerLink, channel: int, part: Part) -> bool:
        """Let a worker of this host read its state itself; return whether it could."""
        place = self._directory.absolute()
        files = [words.StateFile(str(place / f.name), f.nbytes, f.sha256) for f in part.files]
        answer = await worker.load(channel, tuple(files))
        if answer.damaged:
            raise JournalDamagedError(f"snapshot: {answer.damaged} is damaged")
        return not answer.refused

    async def _pass_on(self, worker: WorkerLink, channel: int, device: int, part: Part) -> None:
        """Read a worker's state and send it."""
        total, offset = sum(file.nbytes for file in part.files), 0
        pieces = self.history.pieces(device)
        while batch := await asyncio.to_thread(_reading, _several, pieces):
            for data in batch:
                flags = link.LAST if offset + len(data) == total else 0
                chunk = link.Chunk(link.RESTORE, total, offset, flags, data)
                await worker.upload(channel, chunk)
                offset += len(data)

    async def _again(self, links: tuple[WorkerLink, ...], channel: int, record: Chunk) -> None:
        if record.flags == history.GIVEN_UP:
            links[record.device].give_up(channel, record.transfer)
            return
        await links[record.device].upload(channel, _chunk(record))

    def _spawn(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        error = None if task.cancelled() else task.exception()
        if isinstance(error, OSError) or error is None:
            return  # a worker is lost while it is told: the session hears of it
        log.error("session %s: a replay failed", self._directory.name, exc_info=error)
        if isinstance(error, JournalDamagedError):
            self._damage = error
        elif isinstance(error, JournalError):  # the disk fails; it may be read another time
            self._give(messages.JournalFailed(str(error)))
            return
        self._give(messages.Fault("ServiceError", f"the session cannot be restored: {error}"))

    # --- snapshots -------------------------------------------------------------------------------
    def look(self, now_s: float, received: int) -> None:
        """Ask for a snapshot if it is time: a replay from the last one should take seconds."""
        every_s = max(self._every_s, limits.SNAPSHOT_SHARE * self._cut_took_s)
        new_bytes = self.history.journal.nbytes_since(self.history.past.begin)
        patience_s = limits.LEASE_S if self._cut_told else limits.CUT_HOLD_S
        if self._under_way and now_s - self._cut_at_s > patience_s:
            text = "session %s: a snapshot took longer than %d s and is given up"
            log.warning(text, self._directory.name, patience_s)
            if not self._cut_told:  # a device waits for bytes, all frames for it
                self._cut_again_s = now_s + limits.SNAPSHOT_SHARE * patience_s
            self._fail_cut()
        if received == self._cut_frame or self._replayed is not None or self._under_way:
            return
        if now_s < self._cut_again_s:
            return
        much = new_bytes > self._every_bytes or received - self._cut_frame > self._every_frames
        if now_s - self._cut_at_s >= every_s or much:
            if now_s - self._cut_at_s < self._every_s / 4:
                return
            self._give(messages.Cut(self._number + 1))
            if self._number in self._under_way:
                self._cut_at_s, self._cut_frame = now_s, received

    @property
    def settled(self) -> bool:
        """Whether no replay and no snapshot is under way."""
        return self._replayed is None and not self._under_way

    def cut_now(self, now_s: float, received: int) -> None:
        """Ask for a snapshot before it is time, unless nothing is new or one is under way."""
        if received != self._cut_frame and self.settled:
            self._cut_at_s = 0.0
            self.look(now_s, received)

    def mark(self, number: int, sequence: int) -> None:
        """Note where the snapshot is cut. JournalError."""
        self._drop_parts()
        self._number, self._under_way, self._cut_told = number, {number}, False
        self._cut_began_s = asyncio.get_running_loop().time()
        self.history.mark(number, sequence)

    def take_cut(self, number: int) -> None:
        """Tell the workers to take their parts. What was sent before by the bulk links counts."""
        base, self._cut_told = self.history.past.number, True
        for device, each in enumerate(self._links):
            each.send(link.pack_cut(self._channel, number, base))
            chunk = link.Chunk(link.marker(number, device), 0, 0, link.LAST, b"")
            self._spawn(self._mark_bulk(each, device, self._channel, chunk))

    async def _mark_bulk(
        self, worker: WorkerLink, device: int, channel: int, marker: link.Chunk
    ) -> None:
        """Say that all before a cut has come, behind the pieces that are under way."""
        async with self._turns[device]:
            await worker.upload(channel, marker)

    async def part(self, device: int, chunk: link.Chunk) -> None:
        """Take a piece of a device's part. The part counts when it is whole and on disk."""
        older = chunk.transfer >= link.OLDER
        number = chunk.transfer - (link.OLDER if older else link.PARTS)
        if number not in self._under_way:
            return
        try:
            if chunk.failed:
                raise OSError(link.unpack_failure(chunk).message)
            if older:
                self._older[device] = self._known(device, bytes(chunk.data))
                return
            writer = self._parts.get(device)
            if writer is None:
                path = self._directory / history.part_name(number, device)
                writer = self._parts[device] = _PartWriter(self._disk, path, self._stays)
            await asyncio.to_thread(writer.write, bytes(chunk.data), chunk.last)
        except OSError as error:
            name = self._directory.name
            log.warning("session %s: a snapshot failed, the one before stays: %s", name, error)
            self._fail_cut()
            return
        if chunk.last and self._parts.get(device) is writer:
            self._give(messages.CutTaken(number, device))

    def _known(self, device: int, told: bytes) -> tuple[Part, ...]:
        """Return the files of the last snapshot that a new one refers to. OSError."""
        files = self.history.past.parts[device].files if self.history.past.parts else ()
        known = {file.name: replace(file, older=()) for file in files}
        try:
            return tuple(known[history.part_name(int(n), device)] for n in json.loads(told))
        except (ValueError, TypeError, KeyError):
            raise OSError("it refers to files that the last one does not have") from None

    def _fail_cut(self) -> None:
        for number in self._under_way:
            self._give(messages.CutFailed(number))
        self._drop_parts()

    def commit(self, number: int, sequence: int) -> None:
        """Begin replays at the snapshot from now on. JournalError."""
        parts = tuple(
            replace(self._parts[device].part(), older=self._older.get(device, ()))
            for device in sorted(self._parts)
        )
        self._parts, self._under_way = {}, set()
        self.history.commit(number, sequence, parts)
        if self._stays:
            self._sync()  # what led to the snapshot is removed then
        else:  # it is there as long as this process is: a loss of power ends the session anyway
            self.history.synced(self.history.journal.last)
        self._cut_took_s = asyncio.get_running_loop().time() - self._cut_began_s

    def _drop_parts(self) -> None:
        parts, self._parts, self._under_way = self._parts, {}, set()
        self._older = {}
        for writer in parts.values():
            writer.drop()


def _chunk(kept: Chunk) -> link.Chunk:
    return link.Chunk(kept.transfer, kept.total, kept.offset, kept.flags, kept.data)


def _several(pieces: Iterator[bytes]) -> list[bytes]:
    return list(itertools.islice(pieces, _PIECES_AT_ONCE))


def _some(records: Iterator[Any]) -> list[Any]:
    return list(itertools.islice(records, _READ_AT_ONCE))


def _reading(read: Callable[[Any], Any], what: Any) -> Any:
    """Return read(what); the disk's OSError, which a lost worker's must not look like, is ours."""
    try:
        return read(what)
    except OSError as error:
        name = error.__class__.__name__
        raise JournalError(f"the journal cannot be read ({name}, errno {error.errno})") from error


class _PartWriter:
    """Writes a device's part of a snapshot to its file."""

    def __init__(self, disk: Disk, path: Path, syncs: bool = False) -> None:
        self._disk = disk
        self._syncs = syncs  # it survives a loss of power once it is whole
        self._path = path
        self._file: File | None = disk.create(path)
        self._digest = hashlib.sha256()
        self._bytes = 0
        # A thread writes; its file's number may be another file's as soon as it is closed.
        self._turn = threading.Lock()

    def write(self, data: bytes, last: bool) -> None:
        """Append a piece; after the last one the file is whole. OSError."""
        with self._turn:
            if self._file is None:
                return
            self._file.append([data])
            self._digest.update(data)
            self._bytes += len(data)
            if last:
                if self._syncs:
                    self._file.sync()
                self._file.close()
                self._file = None
                if self._syncs:
                    self._disk.sync_directory(self._path.parent)

    def part(self) -> Part:
        """Return what was written, once it is whole."""
        return Part(self._path.name, self._bytes, self._digest.hexdigest())

    def drop(self) -> None:
        """Remove the file."""
        with self._turn:
            file, self._file = self._file, None
            if file is not None:
                file.close()
        with contextlib.suppress(OSError):
            self._disk.remove(self._path)
