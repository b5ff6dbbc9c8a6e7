"""What the halves of `service.Service` have of each other, declared for them and nothing else.

Each half is a class of its own (`arrivals.py`, `sleep.py`, `worker_side.py`, `bulk.py`); who sets a
field, or has a method, is said here: `service.py` where nothing is.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import Executor
from typing import TYPE_CHECKING, Any

from farspan_server import session_messages as messages
from farspan_server.config import GatewayConfig
from farspan_server.history import History
from farspan_server.live import Live
from farspan_server.shelf import Shelf
from farspan_server.tenancy import Tenancy
from farspan_server.totals import Totals


class Whole:
    """The service, as its halves see it."""

    draining: bool
    tenancy: Tenancy
    totals: Totals
    _shelf: Shelf | None
    _syncing: Executor
    # Of worker_side.py.
    config: GatewayConfig
    _sessions: dict[str, Live]
    _channels: dict[int, Live]

    _opening: int

    if TYPE_CHECKING:

        @property
        def full(self) -> bool: ...

        def give(self, live: Live, given: messages.Input) -> None: ...
        def find(self, tenant: str, session: str) -> Live: ...
        def _refuse_late(self) -> None: ...
        def _let_go(self, live: Live) -> None: ...
        # Of worker_side.py, arrivals.py and bulk.py.
        def _spawn(self, work: Any) -> asyncio.Task[Any]: ...
        def _keeper(self, live: Live, history: History) -> None: ...
        async def unshare(self, live: Live) -> None: ...
