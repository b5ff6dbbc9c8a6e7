"""How a process of the service begins, and what ends it: signals, its parent, an error.

Asked to stop it has time; asked at once, or twice, it has none.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Callable, Coroutine
from typing import Any


def begin(name: str, parent: int) -> None:
    """Set up logging to stderr and, if a parent is given, end with it."""
    from farspan_worker import logs
    from farspan_worker.process import die_with_parent

    logs.begin(name)
    die_with_parent(parent, signal.SIGHUP)


class Stop(asyncio.Event):
    """Set when the process is to end. `orphaned`: because its parent died, which SIGHUP tells.

    The signal may come before `os.getppid` shows it. Without a parent to watch, the signal means
    what it means to most services: `reload`, if there is something to.
    """

    def __init__(self) -> None:
        super().__init__()
        self.at_once = asyncio.Event()  # nothing may be waited for any more

    orphaned = False
    _asked = False
    watched = False  # there is a parent whose death SIGHUP tells
    reload: Callable[[], None] | None = None

    def hang_up(self) -> None:
        if self.reload is not None and not self.watched:
            self.reload()
            return
        self.orphaned = True
        self.interrupt()

    def terminate(self) -> None:
        """Take SIGTERM; the second one is meant."""
        if self.is_set() or self._asked:
            self.at_once.set()
        self._asked = True
        self.set()

    def interrupt(self) -> None:
        """Take SIGINT, or that there is nobody any more who would wait."""
        self.at_once.set()
        self.set()


async def either(*waits: Any) -> None:
    """Return when one of them is over; those that are no tasks end then."""
    tasks = [asyncio.ensure_future(each) for each in waits]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task, each in zip(tasks, waits, strict=True):
        if task is not each:
            task.cancel()


async def until_stopped(run: Callable[[Stop], Coroutine[Any, Any, None]]) -> int:
    """Run until SIGINT, SIGTERM or the parent's death sets the event; return the exit status."""
    from farspan.core.errors import FarspanError

    stop = Stop()
    loop = asyncio.get_running_loop()
    loop.add_signal_handler(signal.SIGHUP, stop.hang_up)
    loop.add_signal_handler(signal.SIGINT, stop.interrupt)
    loop.add_signal_handler(signal.SIGTERM, stop.terminate)
    try:
        await run(stop)
    except (FarspanError, OSError) as error:
        print(f"farspan: {error}", file=sys.stderr)
        return 1
    return 0
