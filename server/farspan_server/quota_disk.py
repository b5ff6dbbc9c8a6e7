"""A disk that counts what each tenant's sessions keep on it and refuses what would be too much.

It stands between the journals and the real disk: uploads, frames and snapshots are counted alike,
in bytes appended. A session's files lie in a directory of its name. Threads may use it.
"""

from __future__ import annotations

import errno
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from farspan_server.disk import Buffer, Disk, File
from farspan_server.pool import over_quota
from farspan_server.shelf import FAILED

Key = tuple[str, str]  # of a file: its session and its name


class QuotaError(OSError):
    """The tenant's quota of disk is used up. `reason` may be told to its clients."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EDQUOT, "the tenant's quota of disk is used up")
        self.reason = reason


class QuotaDisk:
    """A disk on which each tenant has so much. limit(tenant): bytes; None: all there is."""

    def __init__(self, disk: Disk, limit: Callable[[str], int | None]) -> None:
        self._disk = disk
        self._limit = limit
        self._lock = threading.Lock()  # guards all below
        self._owners: dict[str, str] = {}  # by session
        self._sizes: dict[str, dict[str, int]] = {}  # of files, by session and name
        self._used: Counter[str] = Counter()  # by tenant
        self._refused: Counter[str] = Counter()  # by tenant, how often

    def used(self, tenant: str) -> int:
        """Return the bytes that a tenant's sessions keep on disk."""
        return self._used[tenant]

    def refused(self) -> dict[str, int]:
        """Return how often each tenant wanted to write more than it may."""
        with self._lock:
            return dict(self._refused)

    def held(self, session: str) -> int:
        """Return the bytes that a session keeps on disk."""
        with self._lock:
            return sum(self._sizes.get(session, {}).values())

    def own(self, session: str, tenant: str, directory: Path | None = None) -> None:
        """Charge a session to a tenant from now on, with all that lies there, also beyond limits.

        directory: where an earlier gateway left it. OSError.
        """
        left = {}
        if directory is not None:
            left = {n: (directory / n).stat().st_size for n in self._disk.names(directory)}
        with self._lock:
            self._owners[session] = tenant
            sizes = self._sizes.setdefault(session, {})
            sizes |= left
            self._used[tenant] += sum(sizes.values())

    def forget(self, session: str) -> None:
        """Take that a session's files are removed; what a late thread still writes is nobody's."""
        with self._lock:
            held = sum(self._sizes.pop(session, {}).values())
            tenant = self._owners.pop(session, "")
            if tenant:
                self._used[tenant] -= held
                if not self._used[tenant]:
                    del self._used[tenant]

    def charge(self, key: Key, count: int) -> None:
        """Count bytes that are about to be appended to a file, or taken back. QuotaError."""
        with self._lock:
            self._resize(key, self._size(key) + count)

    def _size(self, key: Key) -> int:
        return self._sizes.get(key[0], {}).get(key[1], 0)

    def _resize(self, key: Key, size: int) -> None:
        """Count a file as so long. Less is never too much, whatever the limit is by now."""
        session, name = key
        more = size - self._size(key)
        tenant = self._owners.get(session)
        if tenant is not None:
            limit = self._limit(tenant)
            if limit is not None and more > 0 and self._used[tenant] + more > limit:
                self._refused[tenant] += 1
                reason = over_quota("bytes of journals", more, self._used[tenant], limit)
                raise QuotaError(reason)
            self._used[tenant] += more
        elif session not in self._sizes:
            return
        if size:
            self._sizes[session][name] = size
        else:
            self._sizes[session].pop(name, None)

    # --- a Disk ----------------------------------------------------------------------------------
    def make_directory(self, directory: Path) -> None:
        self._disk.make_directory(directory)
        with self._lock:  # whose it is may be known later only
            self._sizes.setdefault(directory.name, {})

    def names(self, directory: Path) -> list[str]:
        return self._disk.names(directory)

    def create(self, path: Path) -> File:
        return _QuotaFile(self._disk.create(path), path, self)

    def read(self, path: Path) -> bytes:
        return self._disk.read(path)

    def pieces(self, path: Path, size: int) -> Iterator[bytes]:
        return self._disk.pieces(path, size)

    def sync(self, path: Path) -> None:
        self._disk.sync(path)

    def overwrite(self, path: Path, data: bytes) -> None:
        self._disk.overwrite(path, data)

    def replace(self, path: Path, data: bytes) -> None:
        with self._lock:
            self._resize(_key(path), len(data))
        self._disk.replace(path, data)

    def rename(self, path: Path, to: Path) -> None:
        self._disk.rename(path, to)
        with self._lock:
            size = self._size(_key(path))
            self._resize(_key(to), 0)
            if size:  # as much as before: no limit is asked
                sizes = self._sizes[_key(path)[0]]
                sizes[to.name] = sizes.pop(path.name)

    def remove(self, path: Path) -> None:
        self._disk.remove(path)
        with self._lock:
            self._resize(_key(path), 0)

    def sync_directory(self, directory: Path) -> None:
        self._disk.sync_directory(directory)


def _key(path: Path) -> Key:
    """Return whose a file is, also while its directory says that it is doubtful, and its name."""
    return path.parent.name.removeprefix(FAILED), path.name


class _QuotaFile:
    """A file whose bytes are counted before they are written."""

    def __init__(self, file: File, path: Path, disk: QuotaDisk) -> None:
        self._file = file
        self._key = _key(path)  # once: each frame is charged
        self._disk = disk
        self._size = 0

    def append(self, parts: Sequence[Buffer]) -> None:
        count = sum(len(p) if isinstance(p, bytes | bytearray) else p.nbytes for p in parts)
        self._disk.charge(self._key, count)
        self._size += count
        self._file.append(parts)  # one that fails is cut back, or its directory removed

    def truncate(self, size: int) -> None:
        self._file.truncate(size)
        self._disk.charge(self._key, size - self._size)
        self._size = size

    def sync(self) -> None:
        self._file.sync()

    def close(self) -> None:
        self._file.close()
