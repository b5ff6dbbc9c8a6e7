"""The files of a snapshot: where its memories lie in them, and reading them from this host's disk.

A snapshot is its own file and those of earlier ones that it refers to, whole and in the order that
its header names. `snapshot.py` says what the header means beside that.
"""

from __future__ import annotations

import hashlib
import json
import mmap
import os
import stat
import sys
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from farspan.core import limits
from farspan.core.errors import FarspanError, ProtocolError

from .unchanged import Place

if TYPE_CHECKING:
    from farspan.core.words import StateFile

    from .snapshot import Restorer

VERSION: Final = 2
_READS: Final = (1, 2)  # 1: a snapshot is one file
ALIGN_BYTES: Final = 64  # where data begins, and each memory of a restored engine
_MAPPED_BYTES_MIN: Final = 4 * limits.MiB  # from there on numpy asks for huge pages
_READ_BYTES: Final = 4 * limits.MiB  # at a time
_HASHED_BEHIND: Final = 4  # pieces read and not hashed yet


class Layout:
    """What a snapshot's header says: the structure, and where its memories lie in its files."""

    def __init__(self, state: dict[str, Any], begin: int, files: list[tuple[int, int]]) -> None:
        self.state = state
        self.number = files[0][0]
        self.sizes = dict(files)  # in the order in which they come
        self.places: list[Place] = []  # of all memories
        self.memories: list[Any] = []  # uint8, aligned
        self.rows: list[tuple[int, Any]] = []  # bytes that come, and where to; None: nowhere
        self._begin = begin  # of the data in the snapshot's own file

    def check(self) -> None:
        """Raise ProtocolError if memories lie over each other or beyond their file."""
        ends = dict.fromkeys(self.sizes, 0) | {self.number: self._begin}
        for place in sorted(self.places):
            if not ends[place.number] <= place.offset <= self.sizes[place.number] - place.nbytes:
                raise ProtocolError("snapshot: a memory where none can be")
            ends[place.number] = place.offset + place.nbytes

    def make_room(self) -> None:
        """Make the memories, and say what of the bytes after the header goes where."""
        self.memories = [room_for(place.nbytes) for place in self.places]
        at = dict.fromkeys(self.sizes, 0) | {self.number: self._begin}
        rows: dict[int, list[tuple[int, Any]]] = {number: [] for number in self.sizes}
        for k in sorted(range(len(self.places)), key=self.places.__getitem__):
            number, offset, nbytes = self.places[k]
            rows[number] += [(offset - at[number], None), (nbytes, self.memories[k])]
            at[number] = offset + nbytes
        for number, nbytes in self.sizes.items():
            self.rows += [*rows[number], (nbytes - at[number], None)]


def read_layout(head: bytes, begin: int) -> Layout:
    """Return what a header says; the data begins at `begin`. ProtocolError."""
    try:
        named = json.loads(head)
        state = json.loads(named.pop("__metadata__")["farspan.session"])
        rows = [named[f"memory.{k}"]["data_offsets"] for k in range(len(named))]
        version, number = state["version"], state.get("number", 0)
        older = [(n, size) for n, size in state.get("files", ())]
        there = {k: Place(older[at][0], *where) for k, at, *where in state.get("there", ())}
        mine = iter([Place(number, begin + first, last - first) for first, last in rows])
        places = [there.get(k) or next(mine) for k in range(len(rows) + len(there))]
        own = begin + sum(place.nbytes for place in places if place.number == number)
        made = Layout(state, begin, [(number, own), *older])
        counts = [*made.sizes, *made.sizes.values(), *(x for place in places for x in place)]
    except Exception as error:  # whatever does not fit together
        raise ProtocolError("snapshot: its header cannot be read") from error
    if version not in _READS:
        raise ProtocolError(f"snapshot: of version {version}; this farspan reads {_READS[-1]}")
    if any(type(count) is not int or count < 0 for count in counts):
        raise ProtocolError("snapshot: a memory of no size")
    if not len(made.sizes) == len(older) + 1 <= limits.SNAPSHOT_FILES_MAX + 1:
        raise ProtocolError(f"snapshot: of {len(older) + 1} files")
    made.places = places
    made.check()
    return made


def room_for(nbytes: int) -> Any:
    """Return new memory of so many bytes (uint8), aligned and quick to fill for the first time.

    numpy asks for huge pages, and to find or make such takes the kernel up to five times as long.
    """
    if nbytes < _MAPPED_BYTES_MIN or sys.platform != "linux":
        raw = np.empty(nbytes + ALIGN_BYTES, np.uint8)
        start = -raw.ctypes.data % ALIGN_BYTES
        return raw[start : start + nbytes]
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return np.frombuffer(mmap.mmap(-1, nbytes, flags=flags), np.uint8)


# ----------------------------------------------------------------------- files on this host -----
class UnreachableError(Exception):
    """The files are not to be opened from here; nothing has been read."""


class DamagedError(Exception):
    """A file is not as it was written; the message names it."""


def load(restorer: Restorer, files: Sequence[StateFile], ended: Callable[[], bool]) -> bool:
    """Feed a Restorer with a snapshot's files; return whether all was read: it ends if `ended()`.

    Another thread computes digests meanwhile, of what was read to where it stays. Raises
    UnreachableError, DamagedError, and what the restorer raises; then it is of no use any more.
    """
    with ExitStack() as stack:
        opened = [_open(each, stack) for each in files]
        hashing = stack.enter_context(ThreadPoolExecutor(1, "farspan-hash"))
        try:
            for fd, each in zip(opened, files, strict=True):
                if not _read(restorer, fd, each, hashing, ended):
                    return False
        except FarspanError:  # of bytes that make no sense, which damage may be the reason for
            for fd, each in zip(opened, files, strict=True):
                _check(fd, each)
            raise
    return True


def _read(
    restorer: Restorer, fd: int, file: StateFile, hashing: Executor, ended: Callable[[], bool]
) -> bool:
    digest, left = hashlib.sha256(), file.nbytes
    behind: deque[Future[None]] = deque()
    while left:
        if ended():
            return False
        room, stays = restorer.room()
        room = room[: min(left, _READ_BYTES)]
        count = os.readv(fd, [room])
        if not count:
            raise DamagedError(os.path.basename(file.path))
        behind.append(hashing.submit(digest.update, room[:count]))
        while len(behind) > (_HASHED_BEHIND if stays else 0):
            behind.popleft().result()
        restorer.filled(count)
        left -= count
    for one in behind:
        one.result()
    if digest.hexdigest() != file.sha256:
        raise DamagedError(os.path.basename(file.path))
    return True


def _check(fd: int, file: StateFile) -> None:
    os.lseek(fd, 0, os.SEEK_SET)
    digest = hashlib.sha256()
    while data := os.read(fd, _READ_BYTES):
        digest.update(data)
    if digest.hexdigest() != file.sha256:
        raise DamagedError(os.path.basename(file.path))


def _open(file: StateFile, stack: ExitStack) -> int:
    try:
        fd = os.open(file.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise UnreachableError(f"errno {error.errno}") from None
    stack.callback(os.close, fd)
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size != file.nbytes:
        raise DamagedError(os.path.basename(file.path))
    return fd
