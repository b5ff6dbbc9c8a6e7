"""Threads that write bulk bytes, so that the thread that runs frames never waits for a reader.

One `Writer` a destination: the gateway's bulk link, or a peer's listener, dialled when first used.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass

from farspan.core import link
from farspan.core.command import ErrorInfo
from farspan.core.errors import FarspanError

from farspan_worker.inbox import Cut, Session
from farspan_worker.socket_link import Link

log = logging.getLogger(__name__)


@dataclass(slots=True, frozen=True)
class Parcel:
    """One transfer to write for a session; if `counted`, in its `unsent_bytes` until then.

    cut: the session waits at this cut until the parcel is written, since `data` is its own memory.
    """

    session: Session
    transfer: int
    data: memoryview | list[memoryview] | ErrorInfo
    counted: bool = True
    cut: Cut | None = None

    @property
    def nbytes(self) -> int:
        return self.data.nbytes if isinstance(self.data, memoryview) else 0


class Writer:
    """Writes parcels in order over the link that `connect` returns; `connect` may wait.

    sent(parcel) is called for each; lost(session, message) when the destination is out of reach.
    """

    def __init__(
        self,
        connect: Callable[[], Link],
        sent: Callable[[Parcel], None],
        lost: Callable[[Session, str], None],
    ) -> None:
        self._connect = connect
        self._sent = sent
        self._lost = lost
        self._parcels: queue.SimpleQueue[Parcel | None] = queue.SimpleQueue()
        self._link: Link | None = None
        self._thread = threading.Thread(target=self._run, name="farspan-writer", daemon=True)
        self._thread.start()

    def put(self, parcel: Parcel) -> None:
        """Queue a parcel. Its data must not change until `sent`."""
        self._parcels.put(parcel)

    def close(self) -> None:
        """Stop after the parcel being written; what is queued is dropped."""
        self._parcels.put(None)
        if self._link is not None:
            self._link.close()

    def _run(self) -> None:
        while (parcel := self._parcels.get()) is not None:
            if not parcel.session.closed:
                try:
                    self._write(parcel)
                except (OSError, FarspanError) as error:
                    self._link = None  # the next parcel dials again
                    self._lost(parcel.session, str(error))
            self._sent(parcel)
            del parcel  # while this waits for another: it may hold a session's snapshot

    def _write(self, parcel: Parcel) -> None:
        if self._link is None:
            self._link = self._connect()
        channel = parcel.session.channel
        if isinstance(parcel.data, ErrorInfo):
            self._link.send(link.pack_failure(channel, parcel.transfer, parcel.data))
            return
        pieces = parcel.data if isinstance(parcel.data, list) else [parcel.data]
        for chunk in link.chunks(parcel.transfer, *pieces):
            self._link.send(link.pack_chunk_header(channel, chunk), chunk.data)
