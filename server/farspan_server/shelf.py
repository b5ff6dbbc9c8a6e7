"""The directory where a gateway's sessions lie: one directory a session, the lock, what is damaged.

    DIRECTORY/<session id>/           journal and snapshots of a session; see history.py
    DIRECTORY/damaged-<session id>/   one that could not be read, as it was, and about.json
    DIRECTORY/failed-<session id>/    one of which a sync failed: only what was synced before counts
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
from farspan_server.journal import WATERMARK, JournalBusyError, JournalDamagedError

log = logging.getLogger(__name__)

_ID_LENGTH: Final = 32
_DAMAGED: Final = "damaged-"
_ABOUT: Final = "about.json"
_ENDED: Final = "ended-"
FAILED: Final = "failed-"


@dataclass(slots=True, frozen=True)
class Damaged:
    """A session that was set aside or passed over. `tenant`: empty if its journal tells none."""

    session: str
    tenant: str
    opened_at_s: float
    why: str = "the session's journal is damaged; it was set aside"


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
        self._doubtful: set[str] = set()  # of which a sync has failed
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
        try:
            names = self.disk.names(self.directory)
        except OSError as error:
            self.release()
            raise JournalError(f"journal: the directory cannot be read: {error.strerror}") from None
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
            if name.startswith(FAILED):
                self._doubtful.add(name.removeprefix(FAILED))
        known = (name.removeprefix(FAILED) for name in names)
        return [name for name in known if _is_id(name)]

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
                made.journal.close()
                raise JournalError(f"the journal cannot be written ({error.strerror})") from None
        return made

    def glance(self, session: str) -> Glance | None:
        """Return what there is of an earlier gateway's session; None: nothing to go on with.

        Only its beginning is read, unless that is damaged: `open` judges the rest when somebody
        comes. One that cannot be read is passed over. For a thread.
        """
        try:
            return self._glance(session)
        except JournalBusyError as error:
            self.pass_over(session, error)
        except Exception as error:  # whatever one of them is, the others are served
            log.exception("session %s", session)
            name = error.__class__.__name__
            self.pass_over(session, JournalBusyError(f"the journal cannot be read ({name})"))
        return None

    def _glance(self, session: str) -> Glance | None:
        names = self.disk.names(self.place(session))
        if WATERMARK not in names and len(names) <= 1:
            log.warning("session %s was never opened, or not to stay; it is removed", session)
            self.remove(session)
            return None
        try:
            about = history.first_words(self.disk, self.place(session), names)
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

        One that is damaged is set aside. Reads all of it: for a thread. JournalBusyError: the disk
        fails or is full, and it lies there for another try.
        """
        try:
            self._trust(session)
            found = history.open_(self.disk, self.path(session), session)
        except JournalDamagedError as error:
            self.set_aside(session, error)
            return None
        except JournalBusyError as error:
            if error.doubtful:
                self.doubt(session)
            raise
        except OSError as error:
            what = f"{error.__class__.__name__}, errno {error.errno}"
            raise JournalBusyError(f"the journal cannot be read ({what})") from None
        if not found.past.session.get("stays"):
            found.journal.close()
            self.remove(session)
            return None
        return found

    def doubt(self, session: str) -> None:
        """Note, also for later gateways, that a sync of a session's files has failed."""
        if session in self._doubtful:
            return
        self._doubtful.add(session)
        try:
            os.rename(self.path(session), self.directory / f"{FAILED}{session}")
            self.disk.sync_directory(self.directory)
        except OSError as error:  # at least this process knows
            log.error("session %s: what is doubtful cannot be noted: %s", session, error.strerror)

    def _trust(self, session: str) -> None:
        """Cut off what is doubtful of a session, if a sync has failed, and let it be as others are.

        JournalDamagedError, JournalBusyError, OSError.
        """
        if session not in self._doubtful:
            return
        place = self.place(session)
        history.open_(self.disk, place, session, doubtful=True).journal.close()
        if place != self.path(session):
            os.rename(place, self.path(session))
            self.disk.sync_directory(self.directory)
        self._doubtful.discard(session)

    def place(self, session: str) -> Path:
        """Return where a session's files are now."""
        aside = self.directory / f"{FAILED}{session}"
        return aside if session in self._doubtful and aside.exists() else self.path(session)

    def pass_over(self, session: str, error: JournalBusyError) -> None:
        """Leave a session that cannot be read where it is, as damaged until the next start."""
        log.error("session %s is passed over: %s", session, error)
        about = error.about or {}
        opened = float(about.get("opened_at_s", 0.0))
        why = f"{error}; the gateway looks again when it is started"
        self.damaged[session] = Damaged(session, str(about.get("tenant", "")), opened, why)

    def remove(self, session: str) -> None:
        """Remove a session's files, damaged ones too."""
        discard(self.place(session))
        self._doubtful.discard(session)
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
            for each in os.scandir(self.place(session)):
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
            os.rename(self.place(session), place)
            self._doubtful.discard(session)
            self.disk.replace(place / _ABOUT, json.dumps(known).encode())
        except OSError as failure:
            raise JournalError(
                f"journal: a damaged session cannot be set aside ({failure.strerror})"
            ) from None
        self._know_damaged(session)

    def _know_damaged(self, session: str) -> None:
        body: dict[str, Any] = {}
        opened_at_s = 0.0
        # Whatever lies there, the gateway serves the others.
        with contextlib.suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
            place = self.directory / f"{_DAMAGED}{session}" / _ABOUT
            body = {**json.loads(place.read_bytes())}
            opened_at_s = float(body.get("opened_at_s", 0.0))
        if _is_id(session):
            tenant = str(body.get("tenant", ""))
            self.damaged[session] = Damaged(session, tenant, opened_at_s)


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
