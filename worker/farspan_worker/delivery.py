"""What a worker sends beside its control links: long values, snapshots, tensors for its peers.

The half of `server.Worker` that has to do with writers (`outbox.py`): one a link, opened when first
needed. It decides nothing.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from farspan.core import limits, link
from farspan.core.command import ErrorInfo, Send
from farspan.core.errors import ProtocolError, WorkerLostError

from farspan_worker.inbox import Inbox, Session
from farspan_worker.outbox import Parcel, Writer
from farspan_worker.socket_link import Link, dial

log = logging.getLogger(__name__)


class Delivery:
    """The bulk links' half of `server.Worker`."""

    if TYPE_CHECKING:
        _state: threading.Condition
        _closed: threading.Event
        _inbox: Inbox
        _bulk: dict[str, Link]
        _writers: dict[tuple[str, str], Writer]

        def _lose(self, session: Session, kind: str, message: str) -> None: ...
        def _end(self, channel: int, last_words: bytes = b"") -> None: ...

    def _send_to_peer(self, session: Session, event: Send) -> None:
        peer = next((p for p in session.body.devices if p.index == event.device), None)
        if peer is None:
            raise ProtocolError(f"session {session.body.session} has no device {event.device}")
        self._post(session, self._peer_writer(peer), event.transfer, event.error or event.data)

    def _peer_writer(self, peer: link.Peer) -> Writer:
        with self._state:
            writer = self._writers.get((peer.address, peer.key))
            if writer is None:
                connect = partial(
                    dial, peer.address, bytes.fromhex(peer.key), link.Purpose(link.PEER)
                )
                writer = self._writers[peer.address, peer.key] = self._writer(connect)
            return writer

    def _bulk_writer(self, owner: Link) -> Writer:
        with self._state:
            writer = self._writers.get((link.BULK, owner.purpose.owner))
            if writer is None:
                writer = self._writer(partial(self._bulk_of, owner.purpose.owner))
                self._writers[link.BULK, owner.purpose.owner] = writer
            return writer

    def _bulk_of(self, owner: str) -> Link:
        with self._state:
            self._state.wait_for(
                lambda: owner in self._bulk or self._closed.is_set(), limits.CONNECT_S
            )
            if owner not in self._bulk:
                raise WorkerLostError("the gateway opened no bulk link")
            return self._bulk[owner]

    def _writer(self, connect: Callable[[], Link]) -> Writer:
        def lost(session: Session, message: str) -> None:
            if session.body.steady:  # its gateway goes on with others: the client hears nothing
                log.warning("session %s ends here: %s", session.body.session, message)
                with self._state:
                    self._end(session.channel)
                return
            self._lose(session, "WorkerLostError", f"bytes could not be delivered: {message}")

        return Writer(connect, self._parcel_sent, lost)

    def _post(self, session: Session, writer: Writer, transfer: int, data: Any) -> None:
        held = data if isinstance(data, ErrorInfo) else memoryview(data)
        parcel = Parcel(session, transfer, held)
        with self._state:
            session.unsent_bytes += parcel.nbytes
        writer.put(parcel)

    def _parcel_sent(self, parcel: Parcel) -> None:
        with self._state:
            parcel.session.unsent_bytes -= parcel.nbytes if parcel.counted else 0
            if parcel.cut is not None:
                self._inbox.ran(parcel.session, parcel.cut)
            self._inbox.wake(parcel.session)
