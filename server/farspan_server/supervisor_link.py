"""The listener where a supervisor names its workers and hears which ones the gateway wants.

A supervisor that goes away takes nothing along: the gateway has its own links to the workers.
When it comes back it names all its workers again; `Synced` says that this was all of them.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from typing import Protocol

from farspan.core import link
from farspan.core.errors import ProtocolError

from farspan_server.config import SupervisorPort
from farspan_server.link import Link
from farspan_server.link import Listener as PortListener

log = logging.getLogger(__name__)


class Listener(Protocol):
    """What a supervisor tells."""

    def worker_up(self, body: link.WorkerUp) -> None: ...
    def worker_gone(self, body: link.WorkerGone) -> None: ...
    def workers_are(self, names: set[str]) -> None: ...


class SupervisorLink:
    """One supervisor at a time; a new connection replaces the old one."""

    def __init__(self, port: SupervisorPort, listener: Listener) -> None:
        self._port_listener = PortListener(port.address, port.key)
        self._listener = listener
        self._link: Link | None = None
        self._wanted: dict[str, int] = {}
        self.address = ""
        self.capacity: dict[str, int] = {}

    @property
    def connected(self) -> bool:
        """Whether a supervisor is there now."""
        return self._link is not None

    async def start(self) -> None:
        """Listen; `address` is then what a supervisor dials."""
        await self._port_listener.start(self._serve)
        self.address = self._port_listener.address

    async def stop(self) -> None:
        """Stop listening and end the connection."""
        self._port_listener.close()
        if self._link is not None:
            self._link.close()

    def send(self, body: link.Fleet) -> None:
        """Tell the supervisor; what is wanted is told again to the next one."""
        if isinstance(body, link.Wanted):
            self._wanted[body.kind] = body.count
        if self._link is not None:
            self._link.send(link.pack_fleet(body))

    async def _serve(self, opened: Link) -> None:
        if opened.purpose.purpose != link.SUPERVISOR:
            opened.close()
            return
        if self._link is not None:
            self._link.close()
        self._link = opened
        for kind, count in self._wanted.items():
            opened.send(link.pack_fleet(link.Wanted(kind, count)))
        try:
            await self._hear(opened)
        except ProtocolError as error:
            log.warning("supervisor: %s", error)
        except (OSError, EOFError):
            log.warning("the supervisor went away; its workers go on")
        finally:
            opened.close()
            if self._link is opened:
                self._link = None

    async def _hear(self, opened: Link) -> None:
        named: set[str] = set()
        synced = False
        while True:
            header, payload = await opened.receive()
            if header.kind != link.FLEET:
                raise ProtocolError(f"kind {header.kind} does not come from a supervisor")
            body = link.unpack_fleet(payload)
            if isinstance(body, link.WorkerUp):
                if not synced:
                    named.add(body.worker)
                with suppress(ValueError):
                    self._listener.worker_up(body)
            elif isinstance(body, link.WorkerGone):
                self._listener.worker_gone(body)
            elif isinstance(body, link.Synced):
                self.capacity = body.capacity
                if not synced:
                    self._listener.workers_are(named)
                synced = True
            else:
                raise ProtocolError(f"{type(body).__name__} does not come from a supervisor")
