"""The floor: how much of a turn of the gateway's loop a tenant may take before others are heard.

Everybody waits for a turn of the loop who comes meanwhile. A tenant has SLICE_S of each, whatever
it sends and over however many streams; its own calls go on one after the other, in the order in
which they came. Nobody waits where nobody has used up a slice.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from typing import Final

#: Looking at some ten frames, or keeping 128 KiB of an upload. A turn of the loop costs 0.02 ms.
SLICE_S: Final = 0.000_25


class Floor:
    """The tenants that talk, on one event loop. clock: seconds."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._spent: dict[str, float] = {}  # of this turn, by tenant
        self._ends = False  # whether the end of this turn will be told
        self._waiting: dict[str, deque[asyncio.Future[None]]] = {}  # behind the one that is next

    async def turn(self, tenant: str, since_s: float | None = None) -> float:
        """Return the time when a tenant may go on, which is now unless its slice is used up.

        since_s: when it was told so last: it has worked since then. None: it comes now.
        """
        now_s = self._clock()
        if since_s is not None:
            self._spent[tenant] = self._spent.get(tenant, 0.0) + now_s - since_s
            if not self._ends:
                self._ends = True
                asyncio.get_running_loop().call_soon(self._end)
        waits = self._spent.get(tenant, 0.0) >= SLICE_S
        if not waits and (since_s is not None or tenant not in self._waiting):
            return now_s
        await self._wait(tenant)
        return self._clock()

    def _end(self) -> None:
        self._ends = False
        self._spent.clear()

    async def _wait(self, tenant: str) -> None:
        queue = self._waiting.get(tenant)
        if queue is None:  # nobody is before it
            self._waiting[tenant] = deque()
        else:
            told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            queue.append(told)
            try:
                await told
            except asyncio.CancelledError:
                if told.done() and not told.cancelled():  # it was told all the same
                    self._next(tenant)
                raise
        try:
            while self._spent.get(tenant, 0.0) >= SLICE_S:
                await asyncio.sleep(0)
        finally:
            self._next(tenant)

    def _next(self, tenant: str) -> None:
        """Let the one behind be the next one."""
        queue = self._waiting[tenant]
        while queue:
            told = queue.popleft()
            if not told.done():
                told.set_result(None)
                return
        del self._waiting[tenant]
