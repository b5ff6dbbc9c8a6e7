"""The end of a worker that is asked to end: its sessions leave first, for a bounded time.

It imports neither numpy nor a server. `server.py` tells gateways of `draining` by heartbeats; they
take the sessions away (`farspan_server.drain`).
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from farspan_worker.server import Worker

log = logging.getLogger(__name__)

DRAIN_S: Final = 30.0  # for sessions to leave, unless somebody says otherwise
_LOOK_S: Final = 0.02


def drain(worker: Worker, seconds: float, at_once: threading.Event) -> None:
    """Tell gateways that the worker wants to end, and wait until its sessions have left.

    At most so long, and no longer once `at_once` is set. Gateways hear of it by a heartbeat.
    """
    deadline = time.monotonic() + seconds
    worker.draining = True
    while worker.counts()["sessions"] and time.monotonic() < deadline:
        if at_once.wait(_LOOK_S):
            return


class Leaving:
    """Ends this process when it is told to, once its sessions have left; told twice, at once."""

    def __init__(self, worker: Worker, seconds: float = DRAIN_S) -> None:
        self._worker = worker
        self._seconds = seconds
        self._told = threading.Lock()
        self._at_once = threading.Event()

    def begin(self) -> None:
        """Return at once; the process ends within the time for it."""
        if not self._told.acquire(blocking=False):
            self._at_once.set()
            return
        threading.Thread(target=self._end, daemon=True).start()

    def on_sigterm(self) -> None:
        """Let SIGTERM begin it. Of the main thread, which alone hears of signals."""
        signal.signal(signal.SIGTERM, lambda *_: self.begin())

    def _end(self) -> None:
        code = os.EX_SOFTWARE
        try:
            drain(self._worker, self._seconds, self._at_once)
            self._worker.close()
            code = os.EX_OK
        except Exception:  # it was told to end, and would be told in vain from now on
            log.exception("worker: it ends without order")
        finally:
            os._exit(code)  # whatever else runs in this process is not ours to wait for
