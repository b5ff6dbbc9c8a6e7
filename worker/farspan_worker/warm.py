"""What a worker process makes before its first session, so that none waits for it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

from farspan_worker import process

if TYPE_CHECKING:
    from farspan_worker.inbox import Engine

log = logging.getLogger(__name__)


def warm_engine() -> Callable[[str, int], Engine]:
    """Return what makes a session's engine, with op table and kernels: no session waits for them.

    It also lets the process keep freed memory, which is a choice for processes of our own only.
    """
    from farspan_worker import kernels
    from farspan_worker.engine import Engine as SessionEngine

    process.keep_freed_memory()
    if kernels.missing():
        log.warning("numpy computes: %s. It comes with farspan[cpu]", kernels.missing())
    if kernels.slower():
        log.warning("ops are not fused: %s. It comes with farspan[cpu]", kernels.slower())
    else:
        from farspan_worker.kernels.cpu.loops import losses

        threading.Thread(target=losses.prepare, name="farspan-losses", daemon=True).start()
    SessionEngine().close()
    return SessionEngine
