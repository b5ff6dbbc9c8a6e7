"""Whether new sessions should come to a gateway, and why not: for load balancers and operators.

Being alive is another question: a gateway that drains or has a full disk is, and serves the
sessions that it has.
"""

from __future__ import annotations

import asyncio
import math
import os
import time
from pathlib import Path
from typing import Final

from farspan.core import limits

from farspan_server.service import Service

LOOK_S: Final = 0.5  # between looks at the disk, and how late the answer may be
PATIENCE_S: Final = 3.0  # without a worker: the last one may be about to be replaced by a spare


class Readiness:
    """What keeps a gateway from taking new sessions. `watch` keeps it up to date."""

    def __init__(self, service: Service, journals: Path | None) -> None:
        self._service = service
        self._journals = journals
        self._disk = ""  # what is wrong with it
        self._reached_s = -math.inf  # when a worker was reached last

    def reasons(self) -> list[str]:
        """Return why no new session should come; empty: all is well. Names no path or address."""
        found = []
        if self._service.draining:
            found.append("the gateway drains")
        now = time.monotonic()
        if self._service.workers:
            self._reached_s = now
        if now - self._reached_s > PATIENCE_S:
            found.append("no worker is reached")
        if self._disk:
            found.append(self._disk)
        return found

    async def look(self) -> None:
        """Look at the disk of the journals, on another thread: a network's may take its time."""
        if self._journals is None:
            return
        try:
            free = await asyncio.to_thread(_free_bytes, self._journals)
        except OSError as error:
            self._disk = f"the journals' disk cannot be read (errno {error.errno})"
            return
        least = limits.DISK_FREE_BYTES_MIN
        full = f"the journals' disk has {free >> 20} MiB left; {least >> 20} are kept free"
        self._disk = full if free < least else ""


def _free_bytes(path: Path) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize
