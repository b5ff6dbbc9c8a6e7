"""A disk in memory that forgets what was not synced, fills up, fails, and can be damaged."""

from __future__ import annotations

import errno
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any


class FaultyFile:
    def __init__(self, disk: FaultyDisk, path: Path) -> None:
        self._disk = disk
        self._path = path

    def append(self, parts: Sequence[Any]) -> None:
        data = b"".join(bytes(p) for p in parts)
        room = self._disk.free_bytes
        written = data if room is None else data[: max(room, 0)]
        self._disk.cached[self._path] += written
        if room is not None:
            self._disk.free_bytes = room - len(written)
        if len(written) < len(data):
            raise OSError(errno.ENOSPC, "no space left", str(self._path))

    def truncate(self, size: int) -> None:
        del self._disk.cached[self._path][size:]

    def sync(self) -> None:
        disk, path = self._disk, self._path
        data, dropped = bytearray(disk.cached[path]), disk.dropped.setdefault(path, [])
        if disk.sync_fails:
            dropped.append((len(disk.synced[path]), len(data)))
            raise OSError(errno.EIO, "input/output error", str(path))
        for begin, end in dropped:  # the next sync says nothing of them
            data[begin:end] = bytes(len(data[begin:end]))
        disk.synced[path] = bytes(data)
        disk.syncs += 1

    def close(self) -> None:
        return


class FaultyDisk:
    """`cached` is what a reader sees; `synced` what a loss of power leaves at least."""

    def __init__(self) -> None:
        self.cached: dict[Path, bytearray] = {}
        self.synced: dict[Path, bytes] = {}
        self.named: set[Path] = set()  # names that survive a loss of power
        #: Ranges of files that a failed sync did not write; read until the power goes.
        self.dropped: dict[Path, list[tuple[int, int]]] = {}
        self.free_bytes: int | None = None
        self.sync_fails = False
        self.syncs = 0

    def make_directory(self, directory: Path) -> None:
        return

    def names(self, directory: Path) -> list[str]:
        return sorted(p.name for p in self.cached if p.parent == directory)

    def create(self, path: Path) -> FaultyFile:
        if path in self.cached:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        if self.free_bytes is not None and self.free_bytes <= 0:
            raise OSError(errno.ENOSPC, "no space left", str(path))
        self.cached[path] = bytearray()
        self.synced[path] = b""
        self.dropped.pop(path, None)
        return FaultyFile(self, path)

    def read(self, path: Path) -> bytes:
        if path not in self.cached:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        return bytes(self.cached[path])

    def pieces(self, path: Path, size: int) -> Iterator[bytes]:
        data = self.read(path)
        yield from (data[at : at + size] for at in range(0, len(data), size))

    def sync(self, path: Path) -> None:
        FaultyFile(self, path).sync()

    def overwrite(self, path: Path, data: bytes) -> None:
        self.cached[path] = bytearray(data)
        self.named.add(path)

    def replace(self, path: Path, data: bytes) -> None:
        if self.free_bytes is not None and len(data) > self.free_bytes:
            raise OSError(errno.ENOSPC, "no space left", str(path))
        if self.sync_fails:
            raise OSError(errno.EIO, "input/output error", str(path))
        self.dropped.pop(path, None)
        self.cached[path] = bytearray(data)
        self.synced[path] = data
        self.named.add(path)

    def rename(self, path: Path, to: Path) -> None:
        self.cached[to] = self.cached.pop(path)
        self.synced[to] = self.synced.pop(path, b"")
        self.dropped[to] = self.dropped.pop(path, [])

    def remove(self, path: Path) -> None:
        self.cached.pop(path, None)
        self.synced.pop(path, None)
        self.dropped.pop(path, None)
        self.named.discard(path)

    def sync_directory(self, directory: Path) -> None:
        self.named |= {p for p in self.cached if p.parent == directory}

    def lose_power(self, rng: random.Random) -> None:
        """Forget what was not synced: all of it, none, or a torn part with noise at its end."""
        for path in list(self.cached):
            data, kept = bytes(self.cached[path]), self.synced.get(path, b"")
            if path not in self.named and rng.random() < 0.5:
                self.remove(path)
                continue
            if path.name == "watermark":  # one small write: it is there or the one before is
                continue
            for begin, end in self.dropped.pop(path, ()):
                data = data[:begin] + bytes(len(data[begin:end])) + data[end:]
            extra = data[len(kept) :]
            cut = rng.randrange(len(extra) + 1)
            noise = bytes(rng.randrange(256) for _ in range(min(len(extra) - cut, 9)))
            self.cached[path] = bytearray(kept + extra[:cut] + noise * (rng.random() < 0.5))
            self.synced[path] = bytes(self.cached[path])
            self.named.add(path)
        self.sync_fails, self.free_bytes = False, None
