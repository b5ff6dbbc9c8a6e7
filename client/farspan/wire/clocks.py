"""When something happened, told to another process: the clock, and who shares it."""

from __future__ import annotations

import hashlib
import json
import os
import time
from functools import cache
from pathlib import Path
from typing import Any

#: ns of CLOCK_MONOTONIC, which all processes of one boot of a machine share.
now = time.monotonic_ns


@cache
def boot() -> str:
    """Return a name of this boot of this machine: equal where CLOCK_MONOTONIC is one clock.

    A hash, as others need not know the machine's own. Without one every process stands alone.
    """
    try:
        name = Path("/proc/sys/kernel/random/boot_id").read_text()
    except OSError:
        name = f"{os.getpid()} {time.time_ns()}"
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def told(**records: Any) -> str:
    """Return records as JSON, with this process's clock now, boot and id."""
    body = {"boot": boot(), "now_ns": now(), "pid": os.getpid(), **records}
    return json.dumps(body, separators=(",", ":"))
