"""What a journal needs of a disk, and the real one.

A protocol of a few calls, so that a simulated disk can lose what was not synced, fill up or fail.
Paths are directories and plain names: nothing that a client sends becomes part of one.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

Buffer = bytes | bytearray | memoryview


class File(Protocol):
    """A file that grows at its end. Errors are OSErrors."""

    def append(self, parts: Sequence[Buffer]) -> None:
        """Write the parts at the end, all or (with an error) fewer bytes of them."""

    def truncate(self, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self) -> None:
        """Wait until all that was appended survives a loss of power."""

    def close(self) -> None: ...


class Disk(Protocol):
    """Files in directories. Errors are OSErrors."""

    def make_directory(self, directory: Path) -> None:
        """Make a directory for our user only; it may be there."""

    def names(self, directory: Path) -> list[str]:
        """Return the names of the files in a directory, sorted."""

    def create(self, path: Path) -> File:
        """Make a file that was not there."""

    def read(self, path: Path) -> bytes:
        """Return what a file holds."""

    def pieces(self, path: Path, size: int) -> Iterator[bytes]:
        """Yield what a file holds, so many bytes at a time."""

    def sync(self, path: Path) -> None:
        """Wait until what a file holds survives a loss of power."""

    def overwrite(self, path: Path, data: bytes) -> None:
        """Put `data` at the start of a file of the same size; no sync, and never torn here."""

    def replace(self, path: Path, data: bytes) -> None:
        """Make a file hold `data`, or leave it as it was: synced, then renamed."""

    def rename(self, path: Path, to: Path) -> None:
        """Give a file another name in its directory; survives once `sync_directory` is back."""

    def remove(self, path: Path) -> None:
        """Remove a file, if it is there."""

    def sync_directory(self, directory: Path) -> None:
        """Wait until the names in a directory survive a loss of power."""


class RealFile:
    """A file of the operating system."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def append(self, parts: Sequence[Buffer]) -> None:
        left = sum(len(p) if isinstance(p, bytes | bytearray) else p.nbytes for p in parts)
        written = os.writev(self._fd, parts)
        if written == left:
            return
        rest = memoryview(b"".join(parts))[written:]  # rare: a signal, or the disk is full
        while rest:
            rest = rest[os.write(self._fd, rest) :]

    def truncate(self, size: int) -> None:
        os.ftruncate(self._fd, size)

    def sync(self) -> None:
        os.fdatasync(self._fd)

    def close(self) -> None:
        os.close(self._fd)


class RealDisk:
    """The file system of this machine."""

    def make_directory(self, directory: Path) -> None:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def names(self, directory: Path) -> list[str]:
        with contextlib.suppress(FileNotFoundError):
            return sorted(os.listdir(directory))
        return []

    def create(self, path: Path) -> RealFile:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC
        return RealFile(os.open(path, flags, 0o600))

    def read(self, path: Path) -> bytes:
        return path.read_bytes()

    def pieces(self, path: Path, size: int) -> Iterator[bytes]:
        with path.open("rb", buffering=0) as file:
            while data := file.read(size):
                yield data

    def sync(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
        finally:
            os.close(fd)

    def overwrite(self, path: Path, data: bytes) -> None:
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.pwrite(fd, data, 0)
        finally:
            os.close(fd)

    def replace(self, path: Path, data: bytes) -> None:
        part = path.with_name(path.name + ".part")
        self.remove(part)
        file = self.create(part)
        try:
            file.append([data])
            file.sync()
        finally:
            file.close()
        self.rename(part, path)
        self.sync_directory(path.parent)

    def rename(self, path: Path, to: Path) -> None:
        os.replace(path, to)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_directory(self, directory: Path) -> None:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


class TimedDisk(RealDisk):
    """The file system of this machine; `took(seconds)` is told of each sync of a file."""

    def __init__(self, took: Callable[[float], None]) -> None:
        self._took = took

    def create(self, path: Path) -> RealFile:
        return _TimedFile(super().create(path), self._took)


class _TimedFile(RealFile):
    def __init__(self, file: RealFile, took: Callable[[float], None]) -> None:
        super().__init__(file._fd)
        self._took = took

    def sync(self) -> None:
        begun_s = time.perf_counter()
        super().sync()
        self._took(time.perf_counter() - begun_s)
