"""A file that may be changed while the gateway runs: what it says, read again when it changes.

The one that makes new content calls `look`; nobody is called back. A file that is gone or says
nonsense changes nothing: what it said before stays, and the error is told once.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")


class Watched(Generic[T]):
    """Files and what they mean together. `read` raises OSError or FarspanError at nonsense."""

    def __init__(self, paths: tuple[Path, ...], read: Callable[[], T]) -> None:
        self._paths = paths
        self._read = read
        self._seen = self._signs()
        self.value = read()

    def look(self, *, again: bool = False) -> bool:
        """Return whether there is a new `value`; raise what reading it raised, once a change.

        again: read it even if it looks as it did.
        """
        signs = self._signs()
        if signs == self._seen and not again:
            return False
        self._seen = signs
        self.value = self._read()
        return True

    def _signs(self) -> list[tuple[int, ...]]:
        signs: list[tuple[int, ...]] = []
        for path in self._paths:
            try:
                found = os.stat(path)
            except OSError:
                signs.append(())
            else:
                signs.append((found.st_mtime_ns, found.st_ctime_ns, found.st_size, found.st_ino))
        return signs
