"""Where `farspan up` keeps sessions unless it is told: below the user's own state directory.

    $XDG_STATE_HOME/farspan/port-7070/    of `--port 7070`, so that it is found again
    $XDG_STATE_HOME/farspan/up/           of a port that is picked; up-2 and so on while in use

Without XDG_STATE_HOME it is ~/.local/state. Mode 0700. A gateway locks what it uses (`shelf.py`).
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from farspan.core.errors import ServiceError

_AT_ONCE_MAX: Final = 64  # services of one user on this machine, with ports that were picked


def journal_of(port: int) -> Path:
    """Return the directory for a service at this port; 0: one that no other uses now.

    ServiceError: there is none that this user can write, or it is in use.
    """
    try:
        home = _home()
        home.mkdir(mode=0o700, parents=True, exist_ok=True)
        if port:
            return _made(home / f"port-{port}")
        for number in range(1, _AT_ONCE_MAX + 1):
            found = _made(home / ("up" if number == 1 else f"up-{number}"))
            if _is_free(found):
                return found
    except (OSError, RuntimeError) as error:  # Path.home() finds none
        why = getattr(error, "strerror", "") or "this user has no home directory"
        raise ServiceError(
            f"sessions cannot be kept in the user's state directory: {why}; name another one with "
            "--journal DIRECTORY, or do without with --no-journal"
        ) from None
    raise ServiceError(
        f"{_AT_ONCE_MAX} services of this user keep sessions already; name a directory for another "
        "one with --journal DIRECTORY"
    )


def _home() -> Path:
    named = os.environ.get("XDG_STATE_HOME", "")
    # The XDG Base Directory Specification has relative ones ignored.
    base = Path(named) if os.path.isabs(named) else Path.home() / ".local" / "state"
    return base / "farspan"


def _made(directory: Path) -> Path:
    directory.mkdir(mode=0o700, exist_ok=True)
    return directory


def _is_free(directory: Path) -> bool:
    """Whether no gateway has the lock. Who takes it before ours does leaves ours with an error."""
    opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(opened)
    return True
