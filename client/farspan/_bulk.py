"""The half of a transport that moves tensor bytes: uploads, downloads, and which way they take.

By chunks on a connection of their own, so that no tensor stands before a command; or, beside a
worker on this host, through memory that both have mapped (`_shared.py`).
"""

from __future__ import annotations

import logging
import math
import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

import grpc

from farspan import wire
from farspan._progress import Progress
from farspan._shared import Segment, Shared
from farspan.core import limits
from farspan.core.buffers import POOL
from farspan.core.command import ErrorInfo, Event, Value
from farspan.core.dtype import DTYPES
from farspan.core.errors import FarspanError, ProtocolError, SessionClosedError

if TYPE_CHECKING:
    from farspan._stream import Stream

log = logging.getLogger("farspan")

DOWNLOADS_AT_ONCE: Final = 4

_T = TypeVar("_T")


@dataclass(slots=True)
class Counts:
    """What has travelled; bytes are of frames, events and tensors, without gRPC's own."""

    frames: int = 0
    bytes_up: int = 0
    bytes_down: int = 0
    # Of these, long tensors by the way they took.
    shared_up: int = 0
    shared_down: int = 0
    streamed_up: int = 0
    streamed_down: int = 0


class Bulk:
    """The bulk half of `_transport.GrpcTransport`, which owns the session's state."""

    address: str
    session_id: str
    _metadata: Any
    _make_channel: Callable[[], grpc.Channel]
    _changed: threading.Condition
    _sink: Callable[[Event], None]
    _explain: Callable[[grpc.RpcError], FarspanError]
    _stream: Stream | None
    devices: list[dict[str, Any]]

    def __init__(self) -> None:
        self._counts = Counts()
        self._data: grpc.Channel | None = None
        self._fetchers = 0
        self._to_fetch: queue.SimpleQueue[Value | None] = queue.SimpleQueue()
        self._downloads: dict[int, Any] = {}  # calls under way, by request
        self._given_up: deque[int] = deque(maxlen=limits.TRANSFERS_MAX)
        self._shared = Shared(self._share, self._check)

    if TYPE_CHECKING:

        def _check(self) -> None: ...
        def _persist(self, operation: Callable[[], _T]) -> _T: ...
        def _taken(self, request: int) -> None: ...
        def _call_once(self, method: str, asked: Any) -> bytes: ...
        @property
        def _credentials(self) -> Any: ...

    def _bulk_stats(self) -> dict[str, Any]:
        """Return the bytes of long tensors by the way they took, and why they took it."""
        counts = self._counts
        return {
            "shared_memory": self._shared.state,
            "shared_up": counts.shared_up,
            "shared_down": counts.shared_down,
            "streamed_up": counts.streamed_up,
            "streamed_down": counts.streamed_down,
        }

    def _share(self, device: int, proof: bytes) -> wire.ShareReply:
        """Ask for shared memory, or prove that it is mapped. Waits, also for a worker."""
        if not self.devices:
            raise SessionClosedError("the session has no workers")
        asked = wire.ShareRequest(self.session_id, device, proof)
        return wire.decode(wire.ShareReply, self._call_once("Share", asked))

    # --- up --------------------------------------------------------------------------------------
    def upload(self, transfer: int, device: int, data: memoryview | bytes) -> None:
        """Send tensor bytes (C order) to a device; returns when its worker's link has taken them.

        Afterwards `data` may change. Frames and uploads do not wait for each other. Through shared
        memory it returns when they lie there, or, of a journalled session, when the journal has
        them. Raises what the session was lost to.
        """
        self._check()
        view = memoryview(data)
        view = view.cast("B") if view.nbytes else memoryview(b"")
        segment = self._shared.segment(device, view.nbytes)
        if segment is None or (
            self._shares_uploads and not self._share_up(segment, transfer, device, view)
        ):
            self._stream_up(transfer, device, view)
            self._counts.streamed_up += view.nbytes
        elif self._shares_uploads:
            self._counts.shared_up += view.nbytes
        else:
            assert self._stream is not None
            segment.send(view, device, transfer, self._stream.put)
            self._counts.shared_up += view.nbytes
        self._counts.bytes_up += view.nbytes

    @property
    def _shares_uploads(self) -> bool:
        """Whether the gateway reads what lies in shared memory too, for its journal."""
        return False

    def _share_up(self, segment: Segment, transfer: int, device: int, view: memoryview) -> bool:
        """Send bytes through memory that the gateway reads; return whether they were taken.

        If not, nobody reads that segment for this client any more. False at once while another
        thread uses it.
        """
        if not segment.begin():
            return False
        header = wire.TransferHeader(self.session_id, device, transfer, view.nbytes)
        whole = False

        def messages() -> Iterator[bytes]:
            yield wire.encode_transfer_header(header)
            try:
                for piece in segment.pieces(view, device, transfer):
                    yield wire.encode_chunk_piece(piece)
            except FarspanError as error:  # the call ends here, too early, and so it fails
                log.info("an upload through shared memory stops: %s", error)

        method = self._data_channel().stream_unary(f"/{wire.SERVICE}/Upload")
        call = method.future(messages(), metadata=self._credentials)
        try:
            call.result()
            whole = True
        except grpc.RpcError as error:
            log.info("an upload through shared memory broke off: %s", self._explain(error))
        finally:
            segment.end(whole)
            if not whole:
                self._shared.renew()
            call.cancel()
        return whole

    def _stream_up(self, transfer: int, device: int, view: memoryview) -> None:
        header = wire.TransferHeader(self.session_id, device, transfer, view.nbytes)
        with Progress(f"to device {device}", view.nbytes) as progress:
            # From the start each time: what the gateway has of it already it drops.
            self._persist(lambda: self._stream_up_once(header, view, progress))

    def _stream_up_once(
        self, header: wire.TransferHeader, view: memoryview, progress: Progress
    ) -> None:
        progress.restart()

        def messages() -> Iterator[bytes]:
            yield wire.encode_transfer_header(header)
            for offset in range(0, view.nbytes, limits.CHUNK_BYTES):
                chunk = view[offset : offset + limits.CHUNK_BYTES]
                yield wire.encode_chunk(chunk)
                progress.add(chunk.nbytes)

        method = self._data_channel().stream_unary(f"/{wire.SERVICE}/Upload")
        call = method.future(messages(), metadata=self._credentials)
        try:
            call.result()
        finally:
            call.cancel()  # after an interrupt nothing may read `data` any more

    # --- down ------------------------------------------------------------------------------------
    def expect(self, device: int, nbytes: int) -> None:
        """Ask for shared memory before the first long value, so that it need not be streamed."""
        self._shared.ask_for(device)

    def _copied(self, value: Value) -> Value:
        """Return a value whose bytes lie in shared memory with a copy of them."""
        total = math.prod(value.shape) * DTYPES[value.dtype].itemsize
        assert value.position is not None
        try:
            data = self._shared.take(value.device, value.position, total)
        except MemoryError:  # whoever waits for the value must hear of it
            text = f"this process has no memory for a value of {total} bytes"
            return replace(value, error=ErrorInfo("OutOfMemoryError", text, -1), position=None)
        self._counts.bytes_down += total
        self._counts.shared_down += total
        return replace(value, data=data, position=None)

    def _fetch(self, value: Value) -> None:
        self._to_fetch.put(value)
        if self._fetchers < DOWNLOADS_AT_ONCE:
            self._fetchers += 1
            name = f"farspan-download-{self._fetchers}"
            threading.Thread(target=self._fetch_all, name=name, daemon=True).start()

    def give_up(self, request: int) -> None:
        """Stop the download of an answer that nobody waits for any more."""
        with self._changed:
            self._given_up.append(request)
            call = self._downloads.get(request)
        if call is not None:
            call.cancel()

    def _fetch_all(self) -> None:
        while (value := self._to_fetch.get()) is not None:
            try:
                complete = replace(value, data=self._download(value))
            except Exception as error:  # whoever waits for the value must hear of it
                info = ErrorInfo(type(error).__name__, str(error), -1)
                complete = replace(value, error=info)
            finally:
                self._downloads.pop(value.request, None)
            if value.request in self._given_up:
                self._decline(value.request)
            self._sink(complete)
            self._taken(value.request)

    def _decline(self, request: int) -> None:
        """Tell the gateway that nobody wants a value, so that its worker need not wait."""
        asked = wire.encode(wire.DownloadRequest(self.session_id, request, give_up=True))
        method = self._data_channel().unary_stream(f"/{wire.SERVICE}/Download")
        call = method(asked, metadata=self._credentials, timeout=limits.CONNECT_S)
        try:
            next(call, None)  # an older gateway begins to send
        except grpc.RpcError as error:  # then the gateway drops it in its own time
            log.info("a value was given up, but the gateway was not told: %s", self._explain(error))
        finally:
            call.cancel()

    def _download(self, value: Value) -> memoryview:
        """Return a value's bytes, each put into place as it comes; from the start after a break."""
        total = math.prod(value.shape) * DTYPES[value.dtype].itemsize
        whole = memoryview(POOL.take(total))
        with Progress("from the worker", total) as progress:
            self._persist(lambda: self._download_once(value, whole, progress))
        self._counts.bytes_down += total
        self._counts.streamed_down += total
        return whole

    def _download_once(self, value: Value, whole: memoryview, progress: Progress) -> None:
        method = self._data_channel().unary_stream(f"/{wire.SERVICE}/Download")
        asked = wire.encode(wire.DownloadRequest(self.session_id, value.request))
        total, at = whole.nbytes, 0
        progress.restart()
        call = method(asked, metadata=self._credentials)
        with self._changed:
            self._downloads[value.request] = call
            if value.request in self._given_up:
                call.cancel()
        try:
            for message in call:
                chunk = wire.decode_chunk(message)
                if at + chunk.nbytes > total:
                    raise ProtocolError(f"download: more than the {total} bytes of the value")
                whole[at : at + chunk.nbytes] = chunk
                at += chunk.nbytes
                progress.add(chunk.nbytes)
        except grpc.RpcError as error:
            if value.request in self._given_up:
                raise self._explain(error) from None  # nobody waits for it: not again
            raise
        if at != total:
            raise ProtocolError(f"download: {at} of {total} bytes came")

    def _data_channel(self) -> grpc.Channel:
        with self._changed:
            if self._data is None:
                self._data = self._make_channel()
            return self._data

    def _end_bulk(self) -> None:
        """Let the threads that download end, and forget what is mapped."""
        for _ in range(self._fetchers):
            self._to_fetch.put(None)
        self._shared.close()
