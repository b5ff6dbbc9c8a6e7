"""What processes of the service log: lines of text for people, or of JSON for programs.

The standard library's logging with a formatter of our own. A message's template names its fields:
"session %s: lost worker %s" is about a session and a worker, so a line of JSON has both by name,
and the template itself, by which lines of one kind are found. What peers say cannot begin a new
line. What repeats is told a bounded number of times. Secrets and tensor values are never passed in.
"""

from __future__ import annotations

import json
import logging
import os
import re
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import IO, Any, Final

FORMAT: Final = "FARSPAN_LOG_FORMAT"  # the variable that children inherit
FORMATS: Final = ("text", "json")
FIELDS: Final = ("session", "tenant", "worker", "frame", "snapshot", "process", "device")
REPEATS_MAX: Final = 100  # lines from one template
WINDOW_S: Final = 10.0  # within so long; what is beyond is counted and told with the next one
_TEMPLATES_MAX: Final = 1_000  # remembered; there are fewer in the code
_CHARACTERS_MAX: Final = 4_000  # of a message; a peer may have made it long
_PLACES: Final = re.compile(r"(?:(\w+)\s)?%(?:\.\d+)?([sdrfg%])")


def begin(name: str, to: IO[str] | None = None, level: int = logging.INFO) -> None:
    """Log to stderr from now on, as the variable FARSPAN_LOG_FORMAT says."""
    handler = logging.StreamHandler(to or sys.stderr)
    json_lines = os.environ.get(FORMAT) == "json"
    handler.setFormatter(JsonLines(name) if json_lines else Text(name))
    handler.addFilter(Repeats())
    root = logging.getLogger()
    for each in root.handlers[:]:
        root.removeHandler(each)
    root.addHandler(handler)
    root.setLevel(level)


def fields(record: logging.LogRecord) -> dict[str, Any]:
    """Return what a record is about, by the words before the places in its template."""
    found: dict[str, Any] = {}
    arguments = record.args if isinstance(record.args, tuple) else ()
    places = [place for place in _PLACES.finditer(str(record.msg)) if place[2] != "%"]
    for place, value in zip(places, arguments, strict=False):
        if place[1] in FIELDS and place[1] not in found:
            found[place[1]] = value if isinstance(value, int | float) else str(value)
    return found


class Text(logging.Formatter):
    """A line for people: time, process, level, message."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s {name} %(levelname)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = _one_line(record) + _suppressed(record)
        return super().formatMessage(record)


class JsonLines(logging.Formatter):
    """A line for programs: time (UTC), level, process, message, template, and what it is about."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def format(self, record: logging.LogRecord) -> str:
        record.message = record.getMessage()
        at = datetime.fromtimestamp(record.created, UTC)
        line: dict[str, Any] = {
            "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "level": record.levelname.lower(),
            "part": self._name,
            "pid": record.process,
            "logger": record.name,
            "message": record.message[:_CHARACTERS_MAX],
            "template": str(record.msg)[:_CHARACTERS_MAX],
            **fields(record),
        }
        if getattr(record, "suppressed", 0):
            line["suppressed"] = record.suppressed  # type: ignore[attr-defined]
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class Repeats(logging.Filter):
    """Lets REPEATS_MAX lines of a template through in WINDOW_S; the next one counts the others."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._seen: dict[tuple[str, str], tuple[float, int]] = {}  # begin of the window, lines

    def filter(self, record: logging.LogRecord) -> bool:
        key, now = (record.name, str(record.msg)), self._clock()
        begun, count = self._seen.pop(key, (now, 0))
        if now - begun >= WINDOW_S:
            record.suppressed = max(0, count - REPEATS_MAX)
            begun, count = now, 0
        if len(self._seen) >= _TEMPLATES_MAX:
            del self._seen[next(iter(self._seen))]  # the one that was told the longest ago
        self._seen[key] = begun, count + 1
        return count < REPEATS_MAX


def _one_line(record: logging.LogRecord) -> str:
    text = record.getMessage()[:_CHARACTERS_MAX]
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _suppressed(record: logging.LogRecord) -> str:
    count = getattr(record, "suppressed", 0)
    return f" ({count} more like it were not shown)" if count else ""
