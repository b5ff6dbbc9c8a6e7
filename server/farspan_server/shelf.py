"""The directory where a gateway's sessions lie: one directory a session, the lock, what is damaged.

    DIRECTORY/<session id>/           journal and snapshots of a session; see history.py
    DIRECTORY/damaged-<session id>/   one that could not be read, as it was, and about.json
    DIRECTORY/ended-<session id>/     one that is being removed

Mode 0700. One gateway at a time: the lock is on the directory itself and goes with its process.
Names are made here of what the gateway made itself; nothing that a client sends is part of a path.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import os
import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from farspan.core.errors import JournalError

from farspan_server import history
from farspan_server.disk import Disk
from farspan_server.history import History
from farspan_server.journal import WATERMARK, JournalDamagedError

log = logging.getLogger(__name__)

_ID_LENGTH: Final = 32
_DAMAGED: Final = "damaged-"
_ABOUT: Final = "about.json"
_ENDED: Final = "ended-"


@dataclass(slots=True, frozen=True)
class Damaged:
    """A session that was set aside. `tenant` is empty if its journal does not tell."""

    session: str
    tenant: str
    opened_at_s: float


@dataclass(slots=True, frozen=True)
class Glance:
    """A session that lies there, as its first words tell."""

    session: str
    tenant: str
    opened_at_s: float
    used_at_s: float


class Shelf:
    """The sessions on disk of one gateway."""

    def __init__(self, directory: Path, disk: Disk) -> None:
        self.directory = directory
        self.disk = disk
        self.damaged: dict[str, Damaged] = {}
        self._lock = -1

    def take(self) -> list[str]:
        """Lock the directory and return the ids of the sessions in it. JournalError."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self.directory.stat().st_uid != os.geteuid():
                raise JournalError("journal: the directory belongs to another user")
            os.chmod(self.directory, 0o700)
            self._lock = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.release()
            raise JournalError(
                "journal: another gateway uses this directory; give each one of its own"
            ) from None
        except OSError as error:
            self.release()
            raise JournalError(f"journal: the directory cannot be used: {error.strerror}") from None
        names = self.disk.names(self.directory)
        old = [name for name in names if name.startswith("gateway-")]
        if old:
            log.warning(
                "journal: %d directories gateway-* are left of gateways of an older release; they "
                "hold nothing that can be gone on with, and are yours to remove", len(old)
            )  # fmt: skip
        for name in names:
            if name.startswith(_ENDED):  # its gateway died over it
                shutil.rmtree(self.directory / name, ignore_errors=True)
            if name.startswith(_DAMAGED):
                self._know_damaged(name.removeprefix(_DAMAGED))
        return [name for name in names if _is_id(name)]

    def release(self) -> None:
        """Let another gateway have the directory."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def path(self, session: str) -> Path:
        """Return the directory of a session."""
        assert _is_id(session), "a session's id is made by the gateway"
        return self.directory / session

    def create(self, session: str, about: dict[str, Any], digest: str) -> History:
        """Return the history of a new session; one that stays survives a loss of power from here.

        For a thread. JournalError.
        """
        stays = bool(about["stays"])
        path = self.path(session)
        made = History.create(self.disk, path, session, digest, syncs=stays, about=about)
        if stays:
            try:
                self.disk.sync_directory(self.directory)
            except OSError as error:
                raise JournalError(f"the journal cannot be written ({error.strerror})") from None
        return made

    def glance(self, session: str) -> Glance | None:
        """Return what there is of an earlier gateway's session; None: nothing to go on with.

        Only its beginning is read, unless that is damaged: `open` judges the rest when somebody
        comes. For a thread. JournalError: the disk fails.
        """
        names = self.disk.names(self.path(session))
        if WATERMARK not in names and len(names) <= 1:
            log.warning("session %s was never opened, or not to stay; it is removed", session)
            self.remove(session)
            return None
        try:
            about = history.first_words(self.disk, self.path(session), names)
        except (JournalDamagedError, OSError):
            found = self.open(session)  # it is set aside there, or the disk's error is told
            if found is None:
                return None
            about = found.past.session
        if not about.get("stays"):
            self.remove(session)
            return None
        opened_at_s = float(about["opened_at_s"])
        return Glance(session, str(about["tenant"]), opened_at_s, self._used_at_s(session))

    def open(self, session: str) -> History | None:
        """Return the history of a session that sleeps; None: there is none to go on with.

        One that is damaged is set aside. Reads all of it: for a thread. JournalError: the disk
        fails, and nothing was changed.
        """
        try:
            found = history.open_(self.disk, self.path(session), session)
        except JournalDamagedError as error:
            self.set_aside(session, error)
            return None
        if not found.past.session.get("stays"):
            found.journal.close()
            self.remove(session)
            return None
        return found

    def remove(self, session: str) -> None:
        """Remove a session's files, damaged ones too."""
        discard(self.path(session))
        if self.damaged.pop(session, None) is not None:
            shutil.rmtree(self.directory / f"{_DAMAGED}{session}", ignore_errors=True)

    @property
    def free_bytes(self) -> int:
        """Bytes that may still be written to the disk."""
        found = os.statvfs(self.directory)
        return found.f_bavail * found.f_frsize

    def _used_at_s(self, session: str) -> float:
        """Return when something of a session was last written, of time.time()."""
        latest = 0.0
        with contextlib.suppress(OSError):
            for each in os.scandir(self.path(session)):
                latest = max(latest, each.stat().st_mtime)
        return latest

    def set_aside(self, session: str, error: JournalDamagedError) -> None:
        """Move a damaged session out of the way. JournalError."""
        log.error("session %s cannot be gone on with and is set aside: %s", session, error)
        about = error.about or {}
        known = {
            "tenant": str(about.get("tenant", "")),
            "opened_at_s": float(about.get("opened_at_s", time.time())),
            "error": str(error),
        }
        place = self.directory / f"{_DAMAGED}{session}"
        try:
            os.rename(self.path(session), place)
            self.disk.replace(place / _ABOUT, json.dumps(known).encode())
        except OSError as failure:
            raise JournalError(
                f"journal: a damaged session cannot be set aside ({failure.strerror})"
            ) from None
        self._know_damaged(session)

    def _know_damaged(self, session: str) -> None:
        body: dict[str, Any] = {}
        with contextlib.suppress(OSError, ValueError):
            body = json.loads((self.directory / f"{_DAMAGED}{session}" / _ABOUT).read_bytes())
        if _is_id(session):
            opened = float(body.get("opened_at_s", 0.0))
            self.damaged[session] = Damaged(session, str(body.get("tenant", "")), opened)


def discard(directory: Path) -> None:
    """Remove a session's directory: whole or not at all, should the gateway die over it.

    One of which only some files were left would be taken for a damaged one.
    """
    gone = directory.with_name(_ENDED + directory.name)
    with contextlib.suppress(OSError):  # there is none, or the disk refuses
        os.rename(directory, gone)
    for each in (gone, directory):
        shutil.rmtree(each, ignore_errors=True)


def _is_id(name: str) -> bool:
    return len(name) == _ID_LENGTH and all(c in "0123456789abcdef" for c in name)
