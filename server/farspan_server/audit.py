"""The audit log: who came from where and what became of it, one JSON object a line.

Append-only, mode 0600, rotated by size. Ids of sessions, tenants and tokens; never a token, a
value, or text that a client chose. Without a file nothing is written.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import os
import time
from io import TextIOWrapper
from pathlib import Path
from typing import Final

from farspan.core import limits

log = logging.getLogger(__name__)

FILE_BYTES: Final = 64 * limits.MiB  # then the next file begins
FILES_MAX: Final = 10  # older ones kept, as NAME.1 to NAME.10
Field = str | int | float | None


class Audit:
    """Writes records to a file; the same record to no file at all without one. OSError at first."""

    def __init__(
        self, path: Path | None, file_bytes: int = FILE_BYTES, files_max: int = FILES_MAX
    ) -> None:
        self._handler: _File | None = None
        if path is not None:
            self._handler = _File(path, maxBytes=file_bytes, backupCount=files_max)

    def note(self, what: str, **about: Field) -> None:
        """Write one record: what happened, when (Unix time), and what it is about."""
        if self._handler is None:
            return
        body = {"at_s": round(time.time(), 6), "what": what}
        body |= {name: value for name, value in about.items() if value not in (None, "")}
        record = logging.LogRecord("audit", logging.INFO, "", 0, json.dumps(body), None, None)
        self._handler.handle(record)

    def close(self) -> None:
        """Close the file."""
        if self._handler is not None:
            self._handler.close()


class _File(logging.handlers.RotatingFileHandler):
    """The standard library's, for our user only; one that cannot be written says so in the log."""

    _errors = 0
    _told = False

    def _open(self) -> TextIOWrapper:
        def private(name: str, flags: int) -> int:
            return os.open(name, flags | os.O_CLOEXEC, 0o600)

        return open(self.baseFilename, "a", encoding="utf-8", opener=private)

    def emit(self, record: logging.LogRecord) -> None:
        before = self._errors
        super().emit(record)
        if self._errors == before:
            self._told = False

    def handleError(self, record: logging.LogRecord) -> None:
        self._errors += 1
        if not self._told:  # once, not once a record
            self._told = True
            log.exception("the audit log cannot be written")
