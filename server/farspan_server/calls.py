"""Every call of a client: whose it is, how many there are, and its end when its token is revoked.

Wraps the handlers of `gateway.py`, which see none of it. A call that is refused here has had no
body read.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import grpc
import grpc.aio
from farspan.core.errors import AuthError, FarspanError

from farspan_server.auth import Caller
from farspan_server.door import address_of
from farspan_server.tenancy import Tenancy
from farspan_server.totals import Totals

_CODES = {
    "AuthError": grpc.StatusCode.UNAUTHENTICATED,
    "CapacityError": grpc.StatusCode.RESOURCE_EXHAUSTED,
}
_REVOKED = "AuthError: the token is not good any more"


def watched(handler: Any, tenancy: Tenancy) -> Any:
    """Return a handler that does the same within what its tenant may have."""
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_answering(handler.unary_unary, tenancy))
    if handler.stream_unary is not None:
        return grpc.stream_unary_rpc_method_handler(_answering(handler.stream_unary, tenancy))
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(_telling(handler.unary_stream, tenancy))
    return grpc.stream_stream_rpc_method_handler(_session(handler.stream_stream, tenancy))


def _answering(behaviour: Callable[..., Any], tenancy: Tenancy) -> Callable[..., Any]:
    async def run(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with _call(tenancy, context):
            return await behaviour(request, context)

    return run


def _telling(behaviour: Callable[..., Any], tenancy: Tenancy) -> Callable[..., Any]:
    async def run(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with _call(tenancy, context):
            async for each in behaviour(request, context):
                yield each

    return run


def _session(behaviour: Callable[..., Any], tenancy: Tenancy) -> Callable[..., Any]:
    """A stream of a session stays open for days: its token may be revoked meanwhile."""

    async def run(request: Any, context: grpc.aio.ServicerContext) -> None:
        async with _call(tenancy, context) as caller:
            task = asyncio.current_task()
            assert task is not None
            revoked = False

            def end() -> None:
                nonlocal revoked
                revoked = True
                task.cancel()

            try:
                with tenancy.stream(caller, end):
                    await behaviour(request, context)
            except asyncio.CancelledError:
                if not revoked or task.uncancel():
                    raise
                await context.abort(grpc.StatusCode.UNAUTHENTICATED, _REVOKED)

    return run


@contextlib.asynccontextmanager
async def _call(tenancy: Tenancy, context: grpc.aio.ServicerContext) -> AsyncIterator[Caller]:
    with contextlib.ExitStack() as stack:
        try:
            caller = stack.enter_context(tenancy.call(context))
        except FarspanError as error:
            name = type(error).__name__
            await context.abort(_CODES.get(name, grpc.StatusCode.INTERNAL), f"{name}: {error}")
            raise AssertionError("abort raises") from None
        yield caller


@contextlib.contextmanager
def hello(tenancy: Tenancy, context: grpc.aio.ServicerContext) -> Iterator[None]:
    """Count a stream that has not said hello yet. CapacityError: too many of its address."""
    address = address_of(context.peer())
    tenancy.door.await_hello(address)
    try:
        yield
    finally:
        tenancy.door.heard(address)


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call without a token that we know, whatever its method.

    open_to_all: methods whose name begins so need none.
    """

    def __init__(self, tenancy: Tenancy, open_to_all: str, totals: Totals) -> None:
        self._tenancy = tenancy
        self._totals = totals
        self._open = open_to_all
        # Stream to stream, so that the refusal reads nothing; on the wire all kinds are alike.
        self._refusal = grpc.stream_stream_rpc_method_handler(self._refuse)

    async def intercept_service(self, continuation: Any, details: Any) -> Any:
        if not details.method.startswith(self._open):
            if self._tenancy.tokens.tenant(details.invocation_metadata) is None:
                return self._refusal
        return await continuation(details)

    async def _refuse(self, _: Any, context: grpc.aio.ServicerContext) -> None:
        self._totals.error("AuthError")
        await self._tenancy.refuse(context.peer())
        error = AuthError("the token is missing or not known here")
        await context.abort(grpc.StatusCode.UNAUTHENTICATED, f"AuthError: {error}")
