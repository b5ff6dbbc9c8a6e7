"""A disk that counts what a tenant's sessions keep on it and refuses what would be too much.

It stands between a session's journal and the real disk: uploads, frames and snapshots are counted
alike, in bytes appended. Threads may use it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from farspan_server.disk import Buffer, Disk, File
from farspan_server.pool import over_quota


class QuotaError(OSError):
    """The tenant's quota of disk is used up. `reason` may be told to its clients."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EDQUOT, "the tenant's quota of disk is used up")
        self.reason = reason


class Account:
    """The bytes that one tenant keeps on disk. limit: None is none."""

    def __init__(self, limit: Callable[[], int | None]) -> None:
        self._limit = limit
        self._used = 0
        self._lock = threading.Lock()

    @property
    def used(self) -> int:
        """Bytes on disk."""
        return self._used

    def add(self, count: int, *, there: bool = False) -> None:
        """Count bytes before they are written, or that are there already; QuotaError if too many.

        Less is never too much, whatever the limit is by now.
        """
        limit = self._limit()
        with self._lock:
            if limit is not None and count > 0 and not there and self._used + count > limit:
                raise QuotaError(over_quota("bytes of journals", count, self._used, limit))
            self._used += count


class QuotaDisk:
    """One session's directory on a disk, charged to its tenant's account."""

    def __init__(self, disk: Disk, account: Account) -> None:
        self._disk = disk
        self._account = account
        self._sizes: dict[Path, int] = {}
        self._lock = threading.Lock()
        self._over = False

    def take_over(self, directory: Path) -> None:
        """Count the files that are there already, also beyond the limit. OSError."""
        for name in self._disk.names(directory):
            path = directory / name
            self._resize(path, path.stat().st_size, there=True)

    def forget(self) -> None:
        """Take that all of it is removed. What a late thread still writes is not counted."""
        with self._lock:
            held, self._sizes, self._over = sum(self._sizes.values()), {}, True
            self._account.add(-held)

    def charge(self, path: Path, count: int) -> None:
        """Count bytes that are about to be appended to a file, or taken back. QuotaError."""
        with self._lock:
            if not self._over:
                self._account.add(count)
                self._sizes[path] = self._sizes.get(path, 0) + count

    def _resize(self, path: Path, size: int, *, there: bool = False) -> None:
        with self._lock:
            if not self._over:
                self._account.add(size - self._sizes.get(path, 0), there=there)
                self._sizes[path] = size

    # --- a Disk ----------------------------------------------------------------------------------
    def make_directory(self, directory: Path) -> None:
        self._disk.make_directory(directory)

    def names(self, directory: Path) -> list[str]:
        return self._disk.names(directory)

    def create(self, path: Path) -> File:
        return _QuotaFile(self._disk.create(path), path, self)

    def read(self, path: Path) -> bytes:
        return self._disk.read(path)

    def sync(self, path: Path) -> None:
        self._disk.sync(path)

    def overwrite(self, path: Path, data: bytes) -> None:
        self._disk.overwrite(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        self._resize(path, len(data))
        self._disk.replace(path, data)

    def rename(self, path: Path, to: Path) -> None:
        self._disk.rename(path, to)
        with self._lock:
            size = self._sizes.pop(path, 0)
            replaced = self._sizes.pop(to, 0)
            if not self._over:
                self._sizes[to] = size
                self._account.add(-replaced)

    def remove(self, path: Path) -> None:
        self._disk.remove(path)
        with self._lock:
            self._account.add(-self._sizes.pop(path, 0))

    def sync_directory(self, directory: Path) -> None:
        self._disk.sync_directory(directory)


class _QuotaFile:
    """A file whose bytes are counted before they are written."""

    def __init__(self, file: File, path: Path, disk: QuotaDisk) -> None:
        self._file = file
        self._path = path
        self._disk = disk
        self._size = 0  # as charged

    def append(self, parts: Sequence[Buffer]) -> None:
        count = sum(len(p) if isinstance(p, bytes | bytearray) else p.nbytes for p in parts)
        self._disk.charge(self._path, count)
        self._size += count
        self._file.append(parts)  # one that fails is cut back, or its directory removed

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._disk.charge(self._path, size - self._size)
        self._size = size

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
