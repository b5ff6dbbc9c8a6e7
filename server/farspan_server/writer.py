"""What a session's client is told: one message under way, what comes meanwhile rides together.

A message is begun within the turn of the loop that made it: a task that waits for it would stand
a turn, and its timer, before every value that is read. No gRPC here: `write` is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from farspan.core import limits


class Writer:
    """Writes what `take()` returns, until it is `ended()`.

    take: the next message, or None if there is none now. write: begins to write one; its end makes
    room for the next. written: told of each message that has been written.
    """

    def __init__(
        self,
        take: Callable[[], Any],
        ended: Callable[[], bool],
        write: Callable[[Any], Coroutine[Any, Any, None]],
        written: Callable[[Any], None],
    ) -> None:
        self._take = take
        self._ended = ended
        self._write = write
        self._written = written
        self._loop = asyncio.get_running_loop()
        self._finished: asyncio.Future[None] = self._loop.create_future()
        self._busy = False
        self._begun_s = 0.0

    def look(self) -> None:
        """Write what is there, unless a message is under way: its end looks again."""
        if self._busy or self._finished.done():
            return
        message = self._take()
        if message is None:
            if self._ended():
                self._finished.set_result(None)
            return
        self._busy = True
        self._begun_s = self._loop.time()
        begin(self._write(message), lambda error: self._done(message, error))

    def _done(self, message: Any, error: BaseException | None) -> None:
        self._busy = False
        if self._finished.done():
            return  # nobody writes any more
        if error is not None:
            self._finished.set_exception(error)
            return
        self._written(message)
        self.look()

    async def finish(self) -> None:
        """Wait until all is written and ended; raise what a write has raised.

        TimeoutError if a message takes STALLED_S, or a quarter more: the client does not read.
        """
        self.look()
        try:
            while not self._finished.done():
                await asyncio.wait((self._finished,), timeout=limits.STALLED_S / 4)
                if self._busy and self._loop.time() - self._begun_s > limits.STALLED_S:
                    raise TimeoutError
            self._finished.result()
        finally:
            self._finished.cancel()


def begin(work: Coroutine[Any, Any, None], done: Callable[[BaseException | None], None]) -> None:
    """Run a coroutine until it waits, now, and on as what it waits for ends; then `done(error)`.

    Like an eager task of Python 3.12. It may wait for futures only and is never cancelled.
    """

    def step(_: Any = None) -> None:
        try:
            waits_for = work.send(None)
        except StopIteration:
            done(None)
        except (Exception, asyncio.CancelledError) as error:
            done(error)
        else:
            waits_for.add_done_callback(step)

    step()
