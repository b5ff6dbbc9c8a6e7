"""The client's end of the wire: one gRPC control stream and one data connection a session.

A synchronous face over gRPC's threads; no asyncio in user code. It sends frames, waits for credits
and hands events to a sink. `_ledger.py` numbers frames and keeps them, `_reconnect.py` outlasts a
broken stream. When a frame is sent is the session's decision; what it means is not known here.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import grpc

from farspan import wire
from farspan._ledger import RESTAMP_BYTES
from farspan._reconnect import Reconnecting
from farspan._signals import Uninterrupted
from farspan.core import limits
from farspan.core.command import Acked, Changed, Event, Frame, Lost, Value
from farspan.core.errors import (
    BY_NAME,
    AuthError,
    BadValueError,
    ConnectError,
    FarspanError,
    ProtocolError,
    ServiceError,
    SessionClosedError,
    VersionError,
)

log = logging.getLogger("farspan")

#: Seconds that `send` waits for credits; a worker may be busy for minutes with what it has.
CREDIT_WAIT_S: Final = 600.0
#: Seconds until a waiting `send` says that it waits.
CREDIT_NOTICE_S: Final = 5.0
LINE_S: Final = 600.0  # seconds in line for workers, unless the caller says otherwise
CLOSE_S: Final = 2.0
#: Bits of the numbers of commands and tensors below the epoch in which their client came.
EPOCH_NUMBERS: Final = 40

OPTIONS: Final[dict[str, int]] = {
    # One dict, because a duplicate key would lose silently. Sizes are never unlimited.
    "grpc.max_receive_message_length": wire.CONTROL_BYTES_MAX,
    "grpc.max_send_message_length": wire.CONTROL_BYTES_MAX,
    "grpc.use_local_subchannel_pool": 1,  # control and data get a connection each
    "grpc.enable_retries": 0,
    "grpc.http2.bdp_probe": 0,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,  # without it a frozen gateway goes unnoticed
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.enable_http_proxy": 0,
    # A gateway that was killed is back within seconds; by default gRPC looks again in two minutes.
    "grpc.initial_reconnect_backoff_ms": 100,
    "grpc.max_reconnect_backoff_ms": 2_000,
}

Sink = Callable[[Event], None]


def connect_grpc(
    address: str,
    token: str | None,
    *,
    tls: bool | str | Mapping[str, str] | None = None,
    devices: str | None = None,
    table_hash: str,
    timeout: float | None = None,
    shared_memory: bool = True,
    reconnect_s: float | None = None,
    durability: str = "",
    allow_numerics_change: bool = False,
    attach: str = "",
) -> GrpcTransport:
    """Return the transport of a new session.

    address: ``grpc://host:port``. tls: a CA file, or ``{"ca", "cert", "key", "server_name"}``, or
    True for the system's authorities. devices: as ``"cpu:2"``; then waits in line for them; None
    takes one cpu at the first frame. timeout: seconds for the gateway to answer and, after that,
    for workers to become free; None waits CONNECT_S and LINE_S. shared_memory: whether long tensors
    may go through memory that a worker on this host shares with this process. reconnect_s: how long
    a gateway may be away before the session is lost to this client; None: the session's lease and
    RESTART_S; 0: not at all. durability, allow_numerics_change: as `farspan.connect` has them.
    attach: the id of a session to take over, instead of a new one.
    Raises ConnectError, AuthError, VersionError, CapacityError, BadValueError, SessionClosedError.
    """
    if not token:
        raise AuthError(f"{address}: no token given; pass token= or set FARSPAN_TOKEN")
    wait = LINE_S if timeout is None else timeout
    transport = GrpcTransport(address, token, tls, reconnect_s)
    if not shared_memory:
        transport._shared.refuse("it is switched off here")
    try:
        hello = wire.Hello(
            table_hash=table_hash,
            devices=devices or "",
            wait_ms=int(wait * 1000),
            client=f"farspan/{os.getpid()}",
            features=(wire.SHARED_MEMORY, wire.SHARED_UPLOADS) if shared_memory else (),
            attach=attach,
            durability=durability,
            allow_numerics_change=allow_numerics_change,
        )
        transport._open(hello, limits.CONNECT_S if timeout is None else timeout, wait)
    except BaseException:
        transport.close()
        raise
    return transport


class GrpcTransport(Reconnecting):
    """One session's connections. Made by `connect_grpc`; any thread may use it."""

    #: A command that waits for company must be sent by somebody's timer.
    needs_timer = True

    def __init__(
        self, address: str, token: str, tls: Any, reconnect_s: float | None = None
    ) -> None:
        super().__init__(reconnect_s)
        self._target = target_of(address)
        self.address = f"grpc://{self._target}"
        self._metadata = (("authorization", f"Bearer {token}"),)
        self._make_channel = _channel_maker(self._target, tls)
        self._pid = os.getpid()
        self._changed = threading.Condition()  # guards all below, and what `_reconnect.py` has
        self._taking = threading.Lock()  # held while a message is delivered; before `_changed`
        self._welcome: wire.Welcome | None = None
        self._devices: tuple[wire.Device, ...] = ()
        self._lost: Lost | None = None
        self._closing = False
        self._early: list[Event] = []  # events that came before there was a sink
        self._sink: Sink = self._early.append
        self._first_number = 1
        self._receiver = 0  # the thread of gRPC's that takes what comes

    # --- opening ---------------------------------------------------------------------------------
    def _open(self, hello: wire.Hello, timeout: float, wait: float) -> None:
        self._hello = hello
        self._dial(hello)
        with self._changed:
            self._await(lambda: self._welcome is not None, timeout, "the gateway did not answer")
            assert self._welcome is not None
            self._check_answer(hello, self._welcome)
            if hello.attach:
                self._first_number = (self._welcome.epoch << EPOCH_NUMBERS) + 1
            if hello.features and wire.SHARED_MEMORY not in self._welcome.features:
                self._shared.refuse("the gateway does not offer it")
            if hello.devices:
                # The gateway ends the wait; the client only outlasts it.
                outlast = wait + limits.CONNECT_S
                self._reserved = True
                self._await(lambda: bool(self._devices), outlast, "no worker was assigned")

    def _check_answer(self, hello: wire.Hello, welcome: wire.Welcome) -> None:
        """Raise VersionError if an older gateway has not understood what was asked for."""
        if hello.attach and welcome.session != hello.attach:
            raise VersionError(f"{self.address}: the gateway is too old to give a session over")
        if hello.durability not in ("", welcome.durability):
            raise VersionError(
                f'{self.address}: the gateway is too old for durability="{hello.durability}"'
            )

    def _await(self, ready: Callable[[], bool], timeout: float, failure: str) -> None:
        """Wait on the condition; raise what the session was lost to, or ConnectError."""
        self._wait_until(lambda: ready() or self._lost is not None or self._closing, timeout)
        if not ready():
            self._check()
            raise ConnectError(f"{self.address}: {failure} within {timeout:.0f} s")

    def _wait_until(self, ready: Callable[[], bool], timeout: float) -> bool:
        """Wait on the condition in short steps, so that Ctrl-C is prompt everywhere."""
        deadline = time.monotonic() + timeout
        while not ready():
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            self._changed.wait(min(left, 0.1))
        return True

    # --- what a session is -----------------------------------------------------------------------
    @property
    def epoch(self) -> int:
        assert self._welcome is not None
        return self._welcome.epoch

    @property
    def payload_bytes_max(self) -> int:
        """Bytes of a tensor that go up in a frame: more where an upload is a call of its own."""
        assert self._welcome is not None
        messages = self._welcome.durability == "off" and self._shared.may
        known = self._welcome.minor >= wire.LONG_PAYLOADS_MINOR
        return limits.PAYLOAD_BYTES_MAX if known and not messages else limits.INLINE_BYTES_MAX

    @property
    def lasts(self) -> bool:
        """Whether the session outlasts a broken stream."""
        return bool(self._patience_s)

    @property
    def first_number(self) -> int:
        """Where this client's numbers begin: no other client of the session has used them."""
        return self._first_number

    @property
    def sequence(self) -> int:
        """The number of the last frame, of any client of the session."""
        return self._ledger.sent

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kind of each device of the session; known without a wait."""
        assert self._welcome is not None
        return self._welcome.kinds

    @property
    def devices(self) -> list[dict[str, Any]]:
        """Where the session's devices are: name, kind, host, pid, epoch of each.

        Waits for the workers if the session has none yet. Raises what the session was lost to.
        """
        with self._changed:
            if not self._devices:
                self._reserved = True
                self._put(wire.Up(reserve=True))
            outlast = LINE_S + limits.CONNECT_S
            self._await(lambda: bool(self._devices), outlast, "no worker was assigned")
            return _told(self._devices)

    @property
    def numerics(self) -> list[str]:
        """The numerics key of each device's worker, as far as there are some. Does not wait."""
        return [each.numerics for each in self._devices]

    watched = False

    @property
    def idle(self) -> bool:
        """Nothing sent waits for its acknowledgement: a frame sent now goes out at once."""
        return self._ledger.sent == self._ledger.applied

    @property
    def ready(self) -> bool:
        """Whether a frame of any size could be sent now without a wait for credits."""
        return self._ledger.has_credit(limits.FRAME_BYTES_MAX)

    def pending(self) -> int:
        """Return the number of frames that are not acknowledged yet."""
        return self._ledger.pending

    def stats(self) -> dict[str, Any]:
        """Return frames sent and bytes each way, and what of them went by which way."""
        counts = self._counts
        return {
            "frames": counts.frames,
            "bytes_up": counts.bytes_up,
            "bytes_down": counts.bytes_down,
            "bulk": self._bulk_stats(),
        }

    def worker_stats(self) -> list[dict[str, Any]]:
        """Return what each worker counted itself of this session, by device. Waits."""
        asked = wire.DescribeRequest(self.session_id, worker_status=True)
        texts = wire.decode(wire.DescribeReply, self._call_once("Describe", asked)).worker_status
        return [dict(json.loads(text).get("engine", {})) for text in texts]

    def trace(self, begin: bool) -> dict[str, Any]:
        """Let the gateway note from now on when frames pass, or end it; return what it noted.

        Waits. VersionError if the gateway is too old to know.
        """
        answer = self._call_once("Trace", wire.TraceRequest(self.session_id, begin))
        records: dict[str, Any] = json.loads(wire.decode(wire.TraceReply, answer).records)
        return records

    def move(self, to: str, allow_numerics_change: bool) -> list[dict[str, Any]]:
        """Let the session go on with other workers; return its devices. Waits until it has them."""
        asked = wire.MoveRequest(self.session_id, to, allow_numerics_change)
        answer = wire.decode(wire.MoveReply, self._call_once("Move", asked, limits.MOVE_S))
        return _told(answer.devices)

    def _call_once(self, method: str, asked: Any, timeout_s: float = limits.CONNECT_S) -> bytes:
        """Return the answer to a unary call that may be made twice; again if it breaks."""
        self._check()
        data = wire.encode(asked)

        def ask() -> bytes:
            call = self._data_channel().unary_unary(f"/{wire.SERVICE}/{method}")
            answer: bytes = call(data, metadata=self._credentials, timeout=timeout_s)
            return answer

        return self._persist(ask)

    # --- sending ---------------------------------------------------------------------------------
    def send(self, frame: Frame) -> int:
        """Number a frame, queue it and return its sequence number; waits for credits if need be.

        Raises the error that the session was lost to, ServiceError after CREDIT_WAIT_S without
        credits, ProtocolError if it is too long; then, and after a KeyboardInterrupt while it
        waits, nothing was sent and the frame's sequence is 0.
        """
        frame.sequence = 0
        with self._changed:
            data = self._encode(frame)
            ledger = self._ledger
            if not ledger.has_credit(len(data)):
                self._wait_for_credit(len(data))
                data = self._encode(frame)  # another thread may have sent meanwhile
            size = len(data)
            assert self._stream is not None
            with Uninterrupted():  # it is sent and counted, or it is not
                now = ledger.send(data)
                frame.sequence = ledger.sent
                self._counts.frames += 1
                self._counts.bytes_up += size
                if now:
                    self._stream.put_uninterrupted(data)
            return frame.sequence

    def _encode(self, frame: Frame) -> bytes:
        self._check()
        frame.sequence = self._ledger.sent + 1
        frame.epoch = self.epoch
        try:
            data = wire.encode_frame(frame)
        finally:
            frame.sequence = 0
        if len(data) > limits.FRAME_BYTES_MAX - RESTAMP_BYTES:
            raise ProtocolError(f"frame: {len(data)} bytes; it could not be sent again")
        return data

    def _wait_for_credit(self, size_bytes: int) -> None:
        ledger = self._ledger

        def ready() -> bool:
            return self._lost is not None or self._closing or ledger.has_credit(size_bytes)

        if not self._wait_until(ready, CREDIT_NOTICE_S):
            if ledger.connected:  # else it has been told what is waited for
                log.warning("waiting for the worker: it is %d frames behind", ledger.pending)
            # While there is no stream it is the gateway that is waited for, as long as that may be.
            if not self._wait_until(lambda: ready() or not ledger.connected, CREDIT_WAIT_S):
                raise ServiceError(
                    f"{self.address}: the worker took none of {ledger.pending} frames within "
                    f"{CREDIT_WAIT_S:.0f} s; wait for it with synchronize(), or close the session"
                )
            if not self._wait_until(ready, self._patience_s + CREDIT_WAIT_S):
                raise ServiceError(f"{self.address}: the worker took none of its frames")
        self._check()

    def _check(self) -> None:
        if self._pid != os.getpid():
            raise SessionClosedError(
                "this session was opened before fork(); call farspan.connect() in the new process"
            )
        if self._closing:
            raise SessionClosedError("the session is closed")
        if self._lost is not None:
            raise error_of(self._lost)

    # --- receiving -------------------------------------------------------------------------------
    def set_sink(self, sink: Sink) -> None:
        """Deliver events to `sink(event)`, one at a time; it must not wait for other events.

        Acked, Failed and short values come on a thread of gRPC, long ones on another. A Lost is
        the last event.
        """
        with self._changed:
            early, self._early, self._sink = self._early, [], sink
        for event in early:
            sink(event)

    def _take(self, number: int, message: bytes) -> None:
        """Deliver a message of a stream. Runs on gRPC's own thread."""
        with self._taking:
            if number != self._attempt or self._lost is not None:
                return  # that stream was given up, or the session
            self._receiver = threading.get_ident()
            try:
                self._receive(wire.decode(wire.Down, message))
            except FarspanError as error:
                self._fail(Lost(type(error).__name__, str(error)))
            except Exception as error:  # the sink is the session's: its defect must not hang it
                log.exception("farspan: an event could not be delivered")
                self._fail(Lost("ServiceError", f"an event could not be delivered: {error!r}"))

    def _fail(self, lost: Lost) -> None:
        self._lose(lost)
        if self._stream is not None:
            self._stream.cancel()

    def _receive(self, down: wire.Down) -> None:
        if down.line:
            asked = self._hello.devices or "any"
            log.warning("waiting for workers (%s): place %d in line", asked, down.line)
        if down.welcome is not None or down.devices:
            with self._changed:
                if down.welcome is not None:
                    self._welcomed(down.welcome)
                replaced = self._devices and down.devices and down.devices != self._devices
                if replaced and self._shares_uploads:
                    self._shared.renew()
                self._devices = down.devices or self._devices
                self._changed.notify_all()
        if down.numerics:
            # What comes with the first word of a session that was taken over is no news.
            found = bool(self._hello.attach) and down.welcome is not None and not self._attempt
            self._sink(Changed(down.numerics, found))
        values: list[Value] = []  # last, as each wakes a thread that wants to go on
        for data in down.events:
            self._counts.bytes_down += len(data)
            self._bytes_unsaid += len(data)
            self._events_unsaid += 1
            for event in wire.decode_events(data):
                if isinstance(event, Lost):
                    while values:  # nothing is delivered after a loss
                        self._sink(values.pop(0))
                    if not self._refused(event):
                        self._lose(event)
                elif isinstance(event, Value):
                    if event.data is not None or event.error is not None:
                        values.append(event)
                    elif event.position is not None:
                        if self._ledger.is_new(event):  # else its place may be another's by now
                            values.append(self._copied(event))
                            with self._changed:
                                self._ledger.took(event)
                    elif self._ledger.is_new(event):
                        with self._changed:
                            self._ledger.hold(event)
                        self._fetch(event)
                elif self._ledger.is_new(event):
                    self._sink(event)
        if down.applied or down.durable:
            self._acknowledge(down.applied, down.durable)
            self._sink(Acked(down.applied, down.durable))
        for value in values:
            self._sink(value)

    def _acknowledge(self, applied: int, durable: int) -> None:
        ledger = self._ledger
        with self._changed:
            if ledger.acked(applied, durable):
                self._send_waiting()
            if self._secret:
                self._note_confirmed()
            self._changed.notify_all()

    def _lose(self, lost: Lost) -> None:
        with self._changed:
            if self._lost is not None:
                return
            self._lost = lost
            self._changed.notify_all()
            if self._closing:
                return
        self._shared.close()
        self._owes.set()
        if self._stream is not None:
            self._stream.put(None)
        self._sink(lost)

    def _explain(self, error: grpc.RpcError) -> FarspanError:
        """Return our error for gRPC's."""
        code, details = error.code(), error.details() or ""
        kind, _, message = details.partition(": ")
        if kind in BY_NAME and code != grpc.StatusCode.UNAVAILABLE:
            return BY_NAME[kind](f"{self.address}: {message}")
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
            state = "no gateway answers there" if self._welcome is None else "the gateway is gone"
            return ConnectError(
                f"{self.address}: {state} ({details}); is it running, and is TLS set on both sides "
                "or on neither?"
            )
        if code == grpc.StatusCode.UNAUTHENTICATED:
            return AuthError(f"{self.address}: the token was refused")
        if code == grpc.StatusCode.UNIMPLEMENTED and self._welcome is not None:
            return VersionError(f"{self.address}: the gateway is too old to know of this")
        if code == grpc.StatusCode.UNIMPLEMENTED:
            return VersionError(f"{self.address}: the server there is no farspan gateway")
        if code == grpc.StatusCode.RESOURCE_EXHAUSTED:
            return ProtocolError(f"{self.address}: a message was too large: {details}")
        return ServiceError(f"{self.address}: {code.name.lower()}: {details}")

    # --- what outlives the client ----------------------------------------------------------------
    def keep(self, name: str, body: str) -> None:
        """Give what has been made a name that survives what the session survives. Waits."""
        self._call_once("Keep", wire.KeepRequest(self.session_id, self.sequence, name, body))

    def kept(self) -> dict[str, str]:
        """Return the session's names and what they stand for. Waits."""
        answer = self._call_once("Kept", wire.KeptRequest(self.session_id))
        return {e.name: e.body for e in wire.decode(wire.KeptReply, answer).entries}

    def detach(self) -> None:
        """Leave the session, when all that was sent survives what it survives. Waits.

        BadValueError: it would end with its client. Raises what the session was lost to.
        """
        self._check()
        if not self._secret:
            raise BadValueError("this gateway keeps no session without its client")
        ledger = self._ledger
        with self._changed:
            self._await(
                lambda: ledger.connected and ledger.durable >= ledger.sent,
                self._patience_s + CREDIT_WAIT_S,
                "not all of the session could be made to survive",
            )
            last = wire.Up(confirmed=self._confirmed, detach=True)
        self._hang_up(last)

    def leave(self) -> None:
        """Leave the session as it is, without a wait for what is under way."""
        self._hang_up(wire.Up(detach=True))

    # --- the end ---------------------------------------------------------------------------------
    def close(self) -> None:
        """End the session and give its workers back. May be called twice; waits CLOSE_S at most."""
        self._hang_up(wire.Up(close=True))

    def _hang_up(self, last: wire.Up) -> None:
        """Say a last word and end the connections. Once."""
        if self._pid != os.getpid():
            return  # the parent's connections are not ours to end
        with self._changed:
            if self._closing:
                return
            self._closing = True
            over = self._lost is not None
            self._changed.notify_all()
        self._owes.set()
        if self._stream is not None:
            if self._ledger.connected and not over:
                self._stream.put(last)
            self._stream.put(None)
            if not self._ledger.connected and not over and last.close and self._secret:
                self._close_beside()
            elif threading.get_ident() != self._receiver:
                self._stream.wait(CLOSE_S)
            self._stream.cancel()
        self._end_bulk()
        for channel in (self._control, self._data):
            if channel is not None:
                channel.close()

    def _close_beside(self) -> None:
        """Try to end a session that has no stream now; else its lease and retention end it."""
        with contextlib.suppress(grpc.RpcError):
            asked = wire.encode(wire.CloseRequest(self.session_id))
            call = self._data_channel().unary_unary(f"/{wire.SERVICE}/Close")
            call(asked, metadata=self._metadata, timeout=CLOSE_S)


def error_of(lost: Lost) -> FarspanError:
    """Return the error that a Lost stands for."""
    return BY_NAME.get(lost.kind, ServiceError)(lost.message)


def _told(devices: tuple[wire.Device, ...]) -> list[dict[str, Any]]:
    names = ("name", "kind", "host", "pid", "epoch", "worker")
    return [{name: getattr(each, name) for name in names} for each in devices]


def target_of(address: str) -> str:
    """Return gRPC's name for ``grpc://host:port``."""
    host, _, port = address.removeprefix("grpc://").rstrip("/").rpartition(":")
    if not host or "://" in host or not port.isdecimal():
        raise BadValueError(f'address: "{address}"; expected grpc://host:port')
    return f"{host}:{port}"


def _channel_maker(target: str, tls: Any) -> Callable[[], grpc.Channel]:
    options: dict[str, Any] = dict(OPTIONS)
    if tls is None or tls is False:
        return lambda: grpc.insecure_channel(target, options=list(options.items()))
    given = {"ca": tls} if isinstance(tls, str | os.PathLike) else {} if tls is True else dict(tls)
    unknown = given.keys() - {"ca", "cert", "key", "server_name"}
    if unknown or ("cert" in given) != ("key" in given):
        raise BadValueError(
            "tls: expected True, a CA file, or a dict of ca, cert, key, server_name"
        )
    if "server_name" in given:
        options["grpc.ssl_target_name_override"] = given.pop("server_name")
    pem = {name: Path(path).read_bytes() for name, path in given.items()}
    credentials = grpc.ssl_channel_credentials(pem.get("ca"), pem.get("key"), pem.get("cert"))
    return lambda: grpc.secure_channel(target, credentials, options=list(options.items()))
