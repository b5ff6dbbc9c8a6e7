"""A gateway of one session in a thread: the production machine, an engine, a journal in memory.

It speaks the wire as the real one does and can die and come back at its port; `Proxy` stands before
it and cuts connections at any byte. Quick enough that each test has its own.
"""

from __future__ import annotations

import contextlib
import queue
import secrets
import socket
import threading
from collections.abc import Iterator
from concurrent import futures
from dataclasses import replace
from typing import Any

import grpc
from farspan import wire
from farspan.core import limits
from farspan.core.command import Lost, Send, Value
from farspan_server import session as sessions
from farspan_server import session_messages as messages
from farspan_worker.engine import Engine

TOKEN = "t" * 32
KINDS = ("cpu",)


class FakeGateway:
    """Serves one session at `address`; `die` and `live_again` may be called at any time."""

    def __init__(self, lease_s: float = 60.0, durable: bool = True) -> None:
        self.lock = threading.RLock()
        self.id = secrets.token_hex(16)
        self.secret = secrets.token_bytes(32) if durable else b""
        self.lease_s = lease_s
        self.machine = sessions.Session(KINDS, lease_s, journalled=True, syncs=durable)
        self.engine = Engine("cpu")
        self.journal: dict[int, bytes] = {}
        self.uploads: dict[int, bytes] = {}
        self.downloads: dict[int, bytes] = {}
        self.kept: dict[str, str] = {}
        self.outbox: queue.Queue[wire.Down | None] = queue.Queue()  # of the live stream
        self.hellos: list[wire.Hello] = []
        self.confirmed: list[int] = []
        self.defects: list[Exception] = []
        self.resent = 0  # frames that came and were there
        self.detached = self.opened = False
        self.refuse: Lost | None = None  # what a resume is answered
        self.port = 0
        self.server: grpc.Server | None = None
        self.live_again()

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    # --- life ------------------------------------------------------------------------------------
    def live_again(self) -> None:
        """Serve, as the journal tells."""
        options = [
            ("grpc.max_receive_message_length", wire.CONTROL_BYTES_MAX), ("grpc.so_reuseport", 0)
        ]  # fmt: skip
        server = grpc.server(futures.ThreadPoolExecutor(16), options=options)
        methods = {
            "Session": grpc.stream_stream_rpc_method_handler(self._session),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "Keep": grpc.unary_unary_rpc_method_handler(self._keep),
            "Kept": grpc.unary_unary_rpc_method_handler(self._kept),
        }
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(wire.SERVICE, methods),)
        )
        for _ in range(100):
            with contextlib.suppress(RuntimeError):
                self.port = server.add_insecure_port(f"127.0.0.1:{self.port}")
                break
        server.start()
        self.server = server

    def die(self) -> None:
        """End all calls at once, and forget all but the journal."""
        assert self.server is not None
        self.server.stop(None).wait(5)
        with self.lock:
            self.outbox.put(None)
            frames = {s: (0, len(data)) for s, data in self.journal.items()}
            epoch = self.machine.epoch
            self.machine = sessions.Session.woken(KINDS, self.lease_s, epoch, 0, frames)
            self.downloads.clear()

    def stop(self) -> None:
        self.outbox.put(None)
        if self.server is not None:
            self.server.stop(None).wait(5)
        assert not self.defects

    # --- the machine -----------------------------------------------------------------------------
    def give(self, given: messages.Input) -> None:
        with self.lock:
            for out in self.machine.handle(given, 0.0):
                self._obey(out)

    def _obey(self, out: messages.Output) -> None:
        match out:
            case messages.Append(header, data):
                self.journal[header.sequence] = bytes(data)
                self.give(messages.Synced(header.sequence))
            case messages.Claim():
                self.engine = Engine("cpu")
                self.give(messages.Assigned())
            case messages.Replay(first, last):
                for sequence in range(first, last + 1):
                    data = self.journal[sequence]
                    self.give(messages.Again(wire.frame_header(data), data))
            case messages.Forward(_, data):
                self._run(data)
            case messages.EventsOut(data, applied, durable):
                self.outbox.put(wire.Down(None, (data,) if data else (), 0, (), applied, durable))
            case messages.Welcomed():
                self._welcome(self.machine.epoch, self.machine.received)
            case messages.Refuse(message):
                raise PermissionError(message)
            case messages.End(kind, message):
                lost = wire.encode_events([Lost(kind or "SessionClosedError", message)])
                self.outbox.put(wire.Down(events=(lost,)))
                self.outbox.put(None)

    def _run(self, data: bytes) -> None:
        frame = wire.decode_frame(data)
        transfers = {t: self.uploads[t] for t in frame.transfers()}
        told: list[Any] = []
        for event in self.engine.handle(frame, transfers):
            assert not isinstance(event, Send)
            if isinstance(event, Value) and event.data is not None:
                data = memoryview(event.data).tobytes()
                event = replace(event, data=data)
                if len(data) > limits.INLINE_BYTES_MAX:
                    self.downloads[event.request] = data
                    event = replace(event, data=None)
            told.append(event)
        events = wire.encode_events(told) if told else b""
        self.give(messages.EventsIn(0, frame.sequence, events))

    # --- calls -----------------------------------------------------------------------------------
    def _session(self, requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        first = wire.decode(wire.Up, next(requests))
        assert first.hello is not None
        outbox = self._open(first.hello)

        def read() -> None:
            try:
                self._hear(first, outbox)
                for message in requests:
                    self._hear(wire.decode(wire.Up, message), outbox)
            except (grpc.RpcError, ConnectionError):
                pass
            except Exception as error:  # a defect of this file
                if context.is_active():
                    self.defects.append(error)
            with self.lock:
                if outbox is self.outbox:
                    self.give(messages.ClientGone())
                    outbox.put(None)

        threading.Thread(target=read, daemon=True).start()
        while (down := outbox.get()) is not None:
            yield wire.encode(down)

    def _open(self, hello: wire.Hello) -> queue.Queue[wire.Down | None]:
        with self.lock:
            self.hellos.append(hello)
            before, outbox = self.outbox, queue.Queue()
            if self.refuse is not None and hello.resume is not None:
                outbox.put(wire.Down(events=(wire.encode_events([self.refuse]),)))
                outbox.put(None)
                return outbox
            if hello.resume is None and not hello.attach:
                self.outbox = outbox
                self._welcome(1, 0, self.secret)
                return outbox
            self.outbox = outbox
            try:
                if hello.attach:
                    fenced = Lost("SessionClosedError", "another client has taken the session over")
                    before.put(wire.Down(events=(wire.encode_events([fenced]),)))
                    self.secret = secrets.token_bytes(32)
                    self.give(messages.Attached())
                else:
                    resume = hello.resume
                    assert resume is not None
                    if resume.secret != self.secret:
                        raise PermissionError("the secret is another")
                    known = (resume.attempt, resume.confirmed, resume.applied)
                    self.give(messages.Resumed(*known))
            except PermissionError as error:
                self.outbox = before
                lost = wire.encode_events([Lost("AuthError", str(error))])
                outbox.put(wire.Down(events=(lost,)))
                outbox.put(None)
                return outbox
            before.put(None)
            return outbox

    def _welcome(self, epoch: int, received: int, secret: bytes = b"") -> None:
        if self.hellos[-1].attach:
            secret = self.secret
        self.outbox.put(
            wire.Down(
                wire.Welcome(
                    self.id, epoch, KINDS, lease_ms=int(self.lease_s * 1000), secret=secret,
                    received=received, durability="durable" if self.secret else "off",
                )
            )
        )  # fmt: skip

    def _hear(self, up: wire.Up, outbox: Any) -> None:
        with self.lock:
            if outbox is not self.outbox:
                raise ConnectionError("fenced")
            for data in up.frames:
                header = wire.frame_header(data)
                self.resent += header.sequence in self.journal
                self.give(messages.FrameIn(header, data))
            if up.reserve:
                self.give(messages.Reserve())
            if up.confirmed:
                self.confirmed.append(up.confirmed)
                self.give(messages.Confirmed(up.confirmed))
            if up.detach:
                self.detached = True
                self.outbox.put(None)
            if up.close:
                self.give(messages.ClientClosed())

    def _upload(self, requests: Iterator[bytes], context: Any) -> bytes:
        header = wire.decode_transfer_header(next(requests))
        data = b"".join(bytes(wire.decode_chunk(each)) for each in requests)
        if len(data) != header.total_bytes:
            context.abort(grpc.StatusCode.CANCELLED, "broken off")
        with self.lock:
            before = self.uploads.setdefault(header.transfer, data)
            assert before == data, "another upload under a number that was used"
        return wire.encode(wire.UploadReply(len(data)))

    def _download(self, body: bytes, context: Any) -> Iterator[bytes]:
        asked = wire.decode(wire.DownloadRequest, body)
        with self.lock:
            data = self.downloads.get(asked.request)
        if data is None:
            context.abort(grpc.StatusCode.UNAVAILABLE, "its worker has not told it again")
            return
        for offset in range(0, len(data), limits.CHUNK_BYTES):
            yield wire.encode_chunk(memoryview(data)[offset : offset + limits.CHUNK_BYTES])

    def _keep(self, body: bytes, context: Any) -> bytes:
        asked = wire.decode(wire.KeepRequest, body)
        with self.lock:
            come = asked.sequence <= self.machine.received
        if not come:  # the client asks again
            context.abort(grpc.StatusCode.UNAVAILABLE, "the frame has not come")
        with self.lock:
            if asked.body:
                self.kept[asked.name] = asked.body
            else:
                self.kept.pop(asked.name, None)
        return wire.encode(wire.KeepReply())

    def _kept(self, body: bytes, context: Any) -> bytes:
        entries = tuple(wire.KeptEntry(*item) for item in self.kept.items())
        return wire.encode(wire.KeptReply(entries))


class Proxy:
    """Passes TCP connections on to a port of this host; `cut` ends those there are, mid-word."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._pairs: list[socket.socket] = []
        self._lock = threading.Lock()
        self.cuts = 0
        self.budget: int | None = None  # bytes until the next cut; None: as many as come
        self.again: Any = None  # () -> the next budget
        self._open = True
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def address(self) -> str:
        return f"grpc://127.0.0.1:{self._listener.getsockname()[1]}"

    def _accept(self) -> None:
        while self._open:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._port), 2)
                server.settimeout(None)
            except OSError:
                client.close()
                continue
            with self._lock:
                self._pairs += [client, server]
            for pair in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=pair, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                with self._lock:
                    budget = self.budget
                    if budget is not None:
                        self.budget = budget - len(data)
                if budget is not None and budget < len(data):
                    target.sendall(data[: max(budget, 0)])  # the rest is lost on the way
                    self.cut()
                    return
                target.sendall(data)
        except OSError:
            pass
        finally:
            _end(source)
            _end(target)

    def cut(self) -> None:
        """End every connection, wherever it is."""
        with self._lock:
            pairs, self._pairs = self._pairs, []
            self.cuts += bool(pairs)
            self.budget = self.again() if self.again else None
        for each in pairs:
            _end(each)

    def close(self) -> None:
        self._open = False
        self.again = self.budget = None
        self._listener.close()
        self.cut()


def _end(each: socket.socket) -> None:
    with contextlib.suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    with contextlib.suppress(OSError):
        each.close()
