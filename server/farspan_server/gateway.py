"""The gRPC shell of the gateway: options, tokens, TLS, generic handlers. It decides nothing.

A call's token is checked before its body is parsed; bodies arrive as bytes and `farspan.wire`
judges them. Errors go out as `Kind: message`, templates without paths or others' names.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Any, Final

import grpc
import grpc.aio
from farspan import wire
from farspan.core import limits
from farspan.core.command import Lost
from farspan.core.errors import (
    AuthError,
    CapacityError,
    ConnectError,
    FarspanError,
    JournalError,
    ProgramError,
    ProtocolError,
    SessionClosedError,
)

from farspan_server import calls, moving
from farspan_server import session_messages as messages
from farspan_server.config import GatewayConfig
from farspan_server.credentials import server_credentials
from farspan_server.live import Live, Stream
from farspan_server.operations import Operations
from farspan_server.passing import Passing
from farspan_server.service import Service
from farspan_server.totals import Totals
from farspan_server.writer import Writer

log = logging.getLogger(__name__)

_HEALTH: Final = "/grpc.health.v1.Health/"  # answers without a token: it says only "serving"
OPTIONS: Final[dict[str, int]] = {
    # A duplicate key would lose silently, hence a dict. Sizes are never unlimited.
    "grpc.max_receive_message_length": wire.CONTROL_BYTES_MAX,
    "grpc.max_send_message_length": wire.CONTROL_BYTES_MAX,
    "grpc.max_metadata_size": 8 * limits.KiB,
    # A client's busier connection has four downloads, uploads and short calls; more than these wait
    # in the client. gRPC keeps refused headers until their stream is over, and of a peer that does
    # not acknowledge settings up to 16 MiB, whatever the options (tests/test_adversary_http2.py).
    "grpc.max_concurrent_streams": 8,
    "grpc.so_reuseport": 0,  # a second gateway on the port must fail, not share it
    "grpc.http2.bdp_probe": 0,
    "grpc.keepalive_time_ms": 10_000,
    "grpc.keepalive_timeout_ms": 5_000,
    "grpc.http2.ping_timeout_ms": 5_000,  # without it a frozen peer goes unnoticed
    "grpc.keepalive_permit_without_calls": 1,
    "grpc.http2.max_pings_without_data": 0,
    "grpc.http2.min_recv_ping_interval_without_data_ms": 5_000,
    "grpc.http2.max_ping_strikes": 0,
    "grpc.enable_retries": 0,
    "grpc.server_handshake_timeout_ms": 10_000,  # of TLS and HTTP/2, for who only connects
}


class Gateway:
    """A gateway in this process. `start` returns when it serves; `address` is then known."""

    def __init__(self, config: GatewayConfig) -> None:
        config.check()
        self.config = config
        self.service = Service(config)
        self.tenancy = self.service.tenancy
        self._moves = moving.Moves(self.service)
        self.operations = Operations(self.service, config)
        self.address = ""
        self._listing = asyncio.Lock()
        self._server: grpc.aio.Server | None = None

    async def start(self) -> str:
        """Serve and return ``grpc://host:port``. OSError if the address is taken."""
        server = grpc.aio.server(
            interceptors=[calls.TokenCheck(self.tenancy, _HEALTH, self.service.totals)],
            options=list(OPTIONS.items()),
            compression=grpc.Compression.NoCompression,
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        health = await _add_health_and_reflection(server)
        where = f"{self.config.host}:{self.config.port}"
        try:
            if self.config.tls_certificate is None:
                port = server.add_insecure_port(where)
            else:
                port = server.add_secure_port(where, self._credentials())
        except RuntimeError as error:
            raise OSError(
                f"gateway: cannot listen on {where}: does another program listen there? "
                f"--port with another number, or 0 for any that is free"
            ) from error
        await self.service.start()
        await server.start()
        self._server = server
        await self.operations.start(health)
        self.address = f"grpc://{self.config.host}:{port}"
        log.info("gateway serves at %s", self.address)
        return self.address

    @property
    def supervisor_address(self) -> str:
        """Where a supervisor dials; empty if none is expected."""
        return self.service.supervisor.address if self.service.supervisor else ""

    async def drain(self, seconds: float) -> None:
        """Take no new sessions; wait, at most so long, for those that would end with this gateway.

        Load balancers are told at once; sessions that survive the gateway are not waited for.
        """
        self.service.draining = True
        await self.operations.look()
        deadline = asyncio.get_running_loop().time() + seconds
        while self.service.ending and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    async def stop(self, grace_s: float = 1.0) -> None:
        """End all sessions, tell their clients, stop serving."""
        await self.operations.stop()
        await self.service.stop()
        if self._server is not None:
            await self._server.stop(grace_s)

    def _credentials(self) -> grpc.ServerCredentials:
        config = self.config
        assert config.tls_key is not None and config.tls_certificate is not None
        return server_credentials(
            config.tls_certificate, config.tls_key, config.tls_client_ca, self.tenancy.certificates
        )

    # --- methods ---------------------------------------------------------------------------------
    def _handlers(self) -> grpc.GenericRpcHandler:
        # No serializers: bytes in, bytes out, so that nothing is parsed before its turn.
        methods = {
            "Session": grpc.stream_stream_rpc_method_handler(self._session),
            "Upload": grpc.stream_unary_rpc_method_handler(self._upload),
            "Download": grpc.unary_stream_rpc_method_handler(self._download),
            "List": self._unary(wire.ListRequest, self._list),
            "Describe": self._unary(wire.DescribeRequest, self._describe),
            "Trace": self._owners(wire.TraceRequest, self._trace),
            "Share": self._owners(wire.ShareRequest, self._share),
            "Keep": self._owners(wire.KeepRequest, self._keep),
            "Kept": self._unary(wire.KeptRequest, self._kept),
            "Move": self._unary(wire.MoveRequest, self._move),
            "Close": self._unary(wire.CloseRequest, self._close, wakes=False),
        }
        counted = {name: calls.watched(each, self.tenancy) for name, each in methods.items()}
        return grpc.method_handlers_generic_handler(wire.SERVICE, counted)

    def _unary(
        self, kind: type[Any], answer: Callable[[str, Any], Awaitable[Any]], wakes: bool = True
    ) -> Any:
        """wakes: the session that is asked about, which stays awake meanwhile."""

        async def handle(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with _answering(context, self.service.totals):
                tenant, asked = self._tenant(context), wire.decode(kind, body)
                if not wakes or not hasattr(asked, "session"):
                    return wire.encode(await answer(tenant, asked))
                async with self.service.here(tenant, asked.session):
                    return wire.encode(await answer(tenant, asked))

        return grpc.unary_unary_rpc_method_handler(handle)

    def _owners(self, kind: type[Any], answer: Callable[..., Awaitable[Any]]) -> Any:
        """Return the handler of a call that only the session's client may make."""

        async def handle(body: bytes, context: grpc.aio.ServicerContext) -> bytes:
            async with _answering(context, self.service.totals):
                asked = wire.decode(kind, body)
                async with self._owned(context, asked.session) as (live, owner):
                    return wire.encode(await answer(live, asked, owner))

        return grpc.unary_unary_rpc_method_handler(handle)

    @contextlib.asynccontextmanager
    async def _owned(
        self, context: grpc.aio.ServicerContext, session: str
    ) -> AsyncIterator[tuple[Live, str]]:
        """Find a session of the caller, who has it now, and who that is; it stays awake within."""
        async with self.service.here(self._tenant(context), session) as live:
            given = dict(context.invocation_metadata() or ()).get(wire.SECRET_METADATA)
            try:
                yield live, live.prove(given if isinstance(given, bytes) else None)
            except JournalError as error:  # with what becomes of the session
                raise JournalError(live.failure or str(error)) from None

    def _tenant(self, context: grpc.aio.ServicerContext) -> str:
        tenant = self.tenancy.tokens.tenant(context.invocation_metadata())
        if tenant is None:  # it came with one, which has been revoked since
            raise AuthError("the token is not good any more")
        return tenant

    async def _list(self, tenant: str, asked: wire.ListRequest) -> wire.ListReply:
        async with self._listing:  # a long one takes milliseconds: others come in between
            found = self.service.sessions_of(tenant, (asked.after_opened_at_s, asked.after))
            await asyncio.sleep(0)
        return found

    async def _describe(self, tenant: str, asked: wire.DescribeRequest) -> wire.DescribeReply:
        live = self.service.find(tenant, asked.session)
        status = await self.service.worker_status(live) if asked.worker_status else []
        told = tuple(json.dumps(s) for s in status)
        info = replace(self.service.info(live), devices=live.devices)
        return wire.DescribeReply(info, told, live.changes)

    async def _trace(self, live: Live, asked: wire.TraceRequest, _: str) -> wire.TraceReply:
        passed, live.passing = live.passing or Passing(), Passing() if asked.begin else None
        return wire.TraceReply(passed.to_json())

    async def _share(self, live: Live, asked: wire.ShareRequest, owner: str) -> wire.ShareReply:
        return await self.service.share(live, asked, owner)

    async def _keep(self, live: Live, asked: wire.KeepRequest, owner: str) -> wire.KeepReply:
        await self.service.keep(live, asked, owner)
        return wire.KeepReply()

    async def _kept(self, tenant: str, asked: wire.KeptRequest) -> wire.KeptReply:
        live = self.service.find(tenant, asked.session)
        return wire.KeptReply(tuple(wire.KeptEntry(*each) for each in live.kept.items()))

    async def _move(self, tenant: str, asked: wire.MoveRequest) -> wire.MoveReply:
        live = self.service.find(tenant, asked.session)
        await self._moves.move(live, asked.to, asked.allow_numerics_change)
        return moving.reply(live)

    async def _close(self, tenant: str, asked: wire.CloseRequest) -> wire.CloseReply:
        await self.service.close(tenant, asked.session)
        return wire.CloseReply()

    # --- the control stream ----------------------------------------------------------------------
    async def _session(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        stream = Stream()
        try:
            live, first = await self._open(stream, context)
        except FarspanError as error:
            log.info("a session was refused: %s", error)
            self.service.totals.error(type(error).__name__)
            self.tenancy.refused(error)
            lost = wire.encode_events([Lost(type(error).__name__, str(error))])
            await context.write(wire.encode(wire.Down(events=(lost,))))
            return
        writer = Writer(
            lambda: self._next(live, stream),
            lambda: stream.over,
            lambda message: context.write(wire.encode(message[0])),
            lambda message: self._written(live, *message),
        )
        stream.look = writer.look
        reader = asyncio.create_task(self._read(live, stream, first, context))
        try:
            await writer.finish()
        except TimeoutError:
            log.info("session %s: its client does not read", live.id)
        finally:
            reader.cancel()
            self.service.gone(live, stream)

    def _next(self, live: Live, stream: Stream) -> tuple[wire.Down, int, int] | None:
        found = stream.take()
        if found is not None:
            live.bytes_sent += found[2]
        return found

    def _written(self, live: Live, down: wire.Down, count: int, size_bytes: int) -> None:
        if live.passing is not None:
            live.passing.written(down.applied)
        self.service.written(live, count, down.applied)

    async def _open(
        self, stream: Stream, context: grpc.aio.ServicerContext
    ) -> tuple[Live, wire.Up]:
        """Return the session of a stream, and its first message, whose rest is yet to be taken."""
        try:
            async with asyncio.timeout(limits.CONNECT_S):
                with calls.hello(self.tenancy, context):
                    first = await context.read()
        except TimeoutError:
            raise ProtocolError("session: no hello came") from None
        if not isinstance(first, bytes):
            raise ProtocolError("session: no hello came")
        up = wire.decode(wire.Up, first)
        hello, tenant = up.hello, self._tenant(context)
        if hello is None:
            raise ProtocolError("session: the first message has no hello")
        if hello.resume is not None and hello.attach:
            raise ProtocolError("session: a hello that resumes and attaches")
        if hello.resume is not None:
            await self.service.wake(tenant, hello.resume.session)
            return self.service.resume(tenant, hello, stream), up
        if hello.attach:
            await self.service.wake(tenant, hello.attach)
            return await self.service.attach(tenant, hello, stream), up
        return await self.service.open(tenant, hello, stream), up

    async def _read(
        self, live: Live, stream: Stream, first: wire.Up, context: grpc.aio.ServicerContext
    ) -> None:
        try:
            await self._take(live, stream, first)
            while isinstance(message := await context.read(), bytes):
                begun_s = await self.tenancy.floor.turn(live.tenant)
                up = wire.decode(wire.Up, message)
                if up.hello is not None:
                    raise ProtocolError("session: a second hello")
                await self._take(live, stream, up, begun_s)
        except ProtocolError as error:
            if live.stream is stream:
                self.service.give(live, messages.Fault("ProtocolError", str(error)))
        except grpc.aio.UsageError:
            return  # the session's end was written while this waited
        # The end of the requests says nothing: a broken stream looks like a half-closed one.

    async def _take(
        self, live: Live, stream: Stream, up: wire.Up, begun_s: float | None = None
    ) -> None:
        try:
            await self._pass(live, stream, up, begun_s)
        except FarspanError:
            raise
        except Exception as error:  # a defect of ours: its client would wait for ever
            log.exception("session %s: a message could not be taken", live.id)
            fault = messages.Fault(
                "ServiceError", f"a message could not be taken: {type(error).__name__}"
            )
            self.service.give(live, fault)

    async def _pass(self, live: Live, stream: Stream, up: wire.Up, begun_s: float | None) -> None:
        """begun_s: when the floor was the tenant's to decode this; see `floor.py`."""
        since_s = await self.tenancy.floor.turn(live.tenant, begun_s)
        for piece in up.pieces:
            if live.stream is stream:
                await self.service.piece(live, piece)
        if live.stream is not stream:
            return  # another one has taken its place: what comes late on this one is not heard
        for data in up.frames:
            live.bytes_received += len(data)
            header = wire.frame_header(data)
            since_s = await self.tenancy.turn(live.tenant, header.command_count, since_s)
            if live.stream is not stream:
                return  # another one has taken its place: what comes late on this is not heard
            if live.passing is not None:
                live.passing.received(header.sequence)
            self.service.give(live, messages.FrameIn(header, data))
            if live.passing is not None:
                live.passing.forwarded(header.sequence)
        if up.confirmed and live.confirms:
            live.downloads.confirmed(up.confirmed)
            self.service.give(live, messages.Confirmed(up.confirmed))
        if up.reserve:
            self.service.give(live, messages.Reserve())
        if up.close:
            self.service.give(live, messages.ClientClosed())
        if up.detach:
            await self.service.detach(live, stream)

    # --- the data connection ---------------------------------------------------------------------
    async def _upload(self, _: Any, context: grpc.aio.ServicerContext) -> bytes:
        async with _answering(context, self.service.totals):
            first = await context.read()
            if not isinstance(first, bytes):
                raise ProtocolError("upload: no header came")
            header = wire.decode_transfer_header(first)
            async with self._owned(context, header.session) as (live, owner):
                received = await self.service.upload(live, header, _parts(context), owner)
            return wire.encode(wire.UploadReply(received))

    async def _download(
        self, body: bytes, context: grpc.aio.ServicerContext
    ) -> AsyncIterator[bytes]:
        async with _answering(context, self.service.totals):
            asked = wire.decode(wire.DownloadRequest, body)
            async with self._owned(context, asked.session) as (live, owner):
                if asked.give_up:
                    live.downloads.give_up(asked.request)
                    return
                async for data in live.downloads.take(asked.request):
                    live.check(owner)
                    live.bytes_sent += len(data)
                    yield wire.encode_chunk(memoryview(data))


async def _parts(
    context: grpc.aio.ServicerContext,
) -> AsyncIterator[memoryview | wire.SharedPiece]:
    while isinstance(message := await context.read(), bytes):
        yield wire.decode_upload(message)


@contextlib.asynccontextmanager
async def _answering(context: grpc.aio.ServicerContext, totals: Totals) -> AsyncIterator[None]:
    """Turn our errors into a status whose details name the error's class."""
    try:
        yield
    except (FarspanError, TimeoutError) as error:
        code = grpc.StatusCode.INTERNAL
        if isinstance(error, SessionClosedError):
            code = grpc.StatusCode.NOT_FOUND
        elif isinstance(error, ConnectError):
            code = grpc.StatusCode.UNAVAILABLE
        elif isinstance(error, CapacityError):
            code = grpc.StatusCode.RESOURCE_EXHAUSTED
        elif isinstance(error, ProtocolError | ProgramError):
            code = grpc.StatusCode.INVALID_ARGUMENT
        known = type(error).__name__ if isinstance(error, FarspanError) else "ServiceError"
        totals.error(known)
        await context.abort(code, f"{known}: {error or 'a worker did not answer in time'}")


async def _add_health_and_reflection(server: grpc.aio.Server) -> Any:
    """Return the health service, which `operations.py` tells of readiness."""
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc
    from grpc_reflection.v1alpha import reflection

    servicer = health.aio.HealthServicer()
    await servicer.set(wire.SERVICE, health_pb2.HealthCheckResponse.NOT_SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    names = (wire.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
    reflection.enable_server_reflection(names, server)
    return servicer
