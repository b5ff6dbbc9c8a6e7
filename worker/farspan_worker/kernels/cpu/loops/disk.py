"""Object code kept on disk between processes: a folder that only its owner can read and write.

What is read here is executed, so it is taken only from files that nobody else could have written,
and only if they are whole. Names are digests of keys: nothing outside of this process chooses one.
Many processes may share the folder. Whatever goes wrong, code is compiled as if there were none.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import logging
import os
import secrets
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from farspan.core import limits

log = logging.getLogger("farspan.worker")

#: The first bytes of a file; another number where what follows means something else.
MAGIC: Final = b"farspan loop 1\n"
_DIGEST: Final = 32  # bytes
_SUFFIX: Final = ".loop"
_STALE_S: Final = 3_600.0  # unfinished files of dead processes go after this long
_TOUCH_S: Final = 3_600.0  # a file that was read counts as used again after this long
_WRITES_A_TRIM: Final = 32


class Disk:
    """One folder of object code. Safe to use from several threads and processes at once."""

    def __init__(self, folder: Path, bytes_max: int = limits.LOOP_CACHE_BYTES_MAX) -> None:
        """OSError: it cannot be made, or is not this user's alone. bytes_max: beyond, the files
        that were not used for longest go."""
        self.folder, self.bytes_max = folder, bytes_max
        self._writes = 0
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with self._opened():
            pass

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Give a descriptor of the folder; OSError if others may write into it."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        at = os.open(self.folder, flags)
        try:
            found = os.fstat(at)
            # A bit for setgid, which folders inherit, lets nobody in.
            if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o777 != 0o700:
                raise PermissionError(
                    f"{self.folder} holds code that is run: it must belong to user "
                    f"{os.geteuid()} with mode 700, not to {found.st_uid} with "
                    f"{stat.S_IMODE(found.st_mode):o}"
                )
            yield at
        finally:
            os.close(at)

    def read(self, key: bytes) -> bytes | None:
        """Return what was written for a key; None if there is nothing whole of this user's."""
        try:
            with self._opened() as folder:
                data = _read(folder, _name(key))
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                log.debug("no loop from disk: %s", error)
            return None
        if data is None or not data.startswith(MAGIC):
            return None
        body = data[len(MAGIC) + _DIGEST :]
        if data[len(MAGIC) : len(MAGIC) + _DIGEST] != _digest(key, body):
            return None
        return body

    def write(self, key: bytes, body: bytes) -> bool:
        """Keep bytes for a key, all or nothing; return whether that was done. Does not raise."""
        if len(body) > limits.LOOP_OBJECT_BYTES_MAX:
            return False
        try:
            with self._opened() as folder:
                _write(folder, _name(key), MAGIC + _digest(key, body) + body)
                if self._writes % _WRITES_A_TRIM == 0:
                    _trim(folder, self.bytes_max)
                self._writes += 1
        except OSError as error:  # a full disk, say
            log.debug("a loop was not kept on disk: %s", error)
            return False
        return True


def _name(key: bytes) -> str:
    return hashlib.blake2b(key, digest_size=_DIGEST).hexdigest() + _SUFFIX


def _digest(key: bytes, body: bytes) -> bytes:
    """Return a checksum that ties the bytes to their key, so that no file passes for another."""
    tied = hashlib.blake2b(key, digest_size=_DIGEST).digest()
    return hashlib.blake2b(body, key=tied, digest_size=_DIGEST).digest()


def _read(folder: int, name: str) -> bytes | None:
    at = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, dir_fd=folder)
    try:
        found = os.fstat(at)
        mine = found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) == 0o600
        if not stat.S_ISREG(found.st_mode) or not mine:
            return None
        if found.st_size > limits.LOOP_OBJECT_BYTES_MAX + len(MAGIC) + _DIGEST:
            return None
        with os.fdopen(os.dup(at), "rb") as file:
            data = file.read(found.st_size)
        if time.time() - found.st_mtime > _TOUCH_S:
            os.utime(at)
        return data
    finally:
        os.close(at)


def _write(folder: int, name: str, data: bytes) -> None:
    """Write a file beside and rename it: who reads meanwhile sees the old one, or the new one."""
    beside = f"{secrets.token_hex(8)}.part"
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    at = os.open(beside, flags, 0o600, dir_fd=folder)
    try:
        with os.fdopen(at, "wb") as file:
            os.fchmod(file.fileno(), 0o600)  # whatever the umask is
            file.write(data)
        os.rename(beside, name, src_dir_fd=folder, dst_dir_fd=folder)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(beside, dir_fd=folder)
        raise


def _trim(folder: int, bytes_max: int) -> None:
    """Remove the files used longest ago until three quarters of the bound are left."""
    now, total = time.time(), 0
    found: list[tuple[float, int, str]] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            with contextlib.suppress(FileNotFoundError):  # another process removed it
                about = entry.stat(follow_symlinks=False)
                if entry.name.endswith(_SUFFIX):
                    found.append((about.st_mtime, about.st_size, entry.name))
                    total += about.st_size
                elif entry.name.endswith(".part") and now - about.st_mtime > _STALE_S:
                    os.unlink(entry.name, dir_fd=folder)
    if total <= bytes_max:
        return
    for _, size, name in sorted(found):
        if total <= bytes_max * 3 // 4:
            return
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=folder)
        total -= size


def folder_of_user() -> Path | None:
    """Return where this user's loops lie; None if FARSPAN_CACHE is "off" or there is no home.

    FARSPAN_CACHE names another folder; else it is in XDG_CACHE_HOME or ~/.cache.
    """
    given = os.environ.get("FARSPAN_CACHE", "")
    if given:
        return None if given in ("off", "0") else Path(given).absolute() / "loops"
    base = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # the XDG specification: others are to be ignored
        base = os.path.expanduser("~/.cache")
        if not os.path.isabs(base):
            return None
    return Path(base) / "farspan" / "loops"


def opened() -> Disk | None:
    """Return this user's folder, None if there is none; says once why it is not used."""
    folder = folder_of_user()
    return None if folder is None else _disk(folder)


@functools.cache
def _disk(folder: Path) -> Disk | None:
    try:
        return Disk(folder)
    except OSError as error:
        log.warning("loops are compiled anew in each process: %s", error)
        return None
