"""The operator's HTTP port: /metrics, /healthz, /readyz, and drains behind a token.

A few threads of their own answer; what they say is asked of the gateway's loop, so that nothing is
read while it changes, and a loop that hangs is seen as such. Without a token nothing can be changed
here, and from other machines nothing be read but whether the gateway is well.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import json
import logging
import socket
import socketserver
import ssl
import threading
from collections.abc import Callable, Coroutine, Iterable
from http import HTTPStatus
from typing import Any, Final, Protocol
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from farspan.core import limits
from farspan.core.errors import FarspanError

from farspan_server.config import OperatorPort

log = logging.getLogger(__name__)

_PATHS: Final = "GET /metrics /healthz /readyz /workers /tenants, POST /drain"
_ANSWER_S: Final = 5.0  # for the loop to answer; also for a peer to send its request
_BODY_BYTES_MAX: Final = 4 * limits.KiB

Answer = tuple[HTTPStatus, str, bytes]  # status, content type, body


class Subject(Protocol):
    """What the port tells of, on the gateway's loop."""

    def metrics(self) -> list[Any]: ...
    def reasons(self) -> list[str]: ...
    def workers(self) -> list[dict[str, Any]]: ...
    def tenants(self) -> list[dict[str, Any]]: ...
    def drain(self, asked: dict[str, Any]) -> None: ...


class Port:
    """Listens until `close`. `address` is then ``http(s)://host:port``."""

    def __init__(self, config: OperatorPort, subject: Subject, tls: ssl.SSLContext | None) -> None:
        from prometheus_client import (
            CollectorRegistry,
            GCCollector,
            PlatformCollector,
            ProcessCollector,
            make_wsgi_app,
        )

        self._config = config
        self._subject = subject
        self._loop = asyncio.get_running_loop()
        registry = CollectorRegistry()
        registry.register(_Collector(lambda: self._ask(subject.metrics)))
        for each in (ProcessCollector, PlatformCollector, GCCollector):
            each(registry=registry)
        self._metrics = make_wsgi_app(registry)
        scheme = "http" if tls is None else "https"
        self._server = _Server((config.host, config.port), self._serve, tls)
        self.address = f"{scheme}://{config.host}:{self._server.server_address[1]}"
        threading.Thread(
            target=self._server.serve_forever, args=(0.1,), name="farspan-operator", daemon=True
        ).start()

    async def close(self) -> None:
        """Stop listening. Waits for the listener, not for answers under way."""
        await asyncio.to_thread(self._server.shutdown)
        self._server.server_close()

    def _ask(self, what: Callable[[], Any]) -> Any:
        """Return what the loop answers; TimeoutError if it does not."""

        async def ask() -> Any:
            return what()

        work: Coroutine[Any, Any, Any] = ask()
        try:
            return asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_S)
        except RuntimeError as error:  # the loop is closed
            work.close()
            raise TimeoutError from error

    # --- requests --------------------------------------------------------------------------------
    def _serve(self, environ: dict[str, Any], start: Callable[..., Any]) -> Iterable[bytes]:
        method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
        trusted = self._trusted(environ)
        try:
            if (method, path) == ("GET", "/metrics"):
                if trusted or self._config.open_to_all or self._config.loopback:
                    return self._metrics(environ, start)  # type: ignore[no-any-return]
                answer = _refusal()
            else:
                answer = self._answer(method, path, environ, trusted)
        except TimeoutError:
            answer = _text(HTTPStatus.SERVICE_UNAVAILABLE, "the gateway does not answer")
        except FarspanError as error:
            answer = _text(HTTPStatus.BAD_REQUEST, str(error))
        status, kind, body = answer
        headers = [("Content-Type", kind), ("Content-Length", str(len(body)))]
        if status is HTTPStatus.UNAUTHORIZED:
            headers.append(("WWW-Authenticate", "Bearer"))
        start(f"{status.value} {status.phrase}", headers)
        return [body]

    def _answer(self, method: str, path: str, environ: dict[str, Any], trusted: bool) -> Answer:
        match method, path:
            case "GET", "/healthz":
                self._ask(lambda: None)
                return _text(HTTPStatus.OK, "ok")
            case "GET", "/readyz":
                reasons = self._ask(self._subject.reasons)
                status = HTTPStatus.SERVICE_UNAVAILABLE if reasons else HTTPStatus.OK
                return _text(status, "\n".join(reasons) or "ready")
            case "GET", "/workers":
                if not trusted:
                    return _refusal()
                return _json(self._ask(self._subject.workers))
            case "GET", "/tenants":
                if not trusted:
                    return _refusal()
                return _json(self._ask(self._subject.tenants))
            case "POST", "/drain":
                if not trusted:
                    return _refusal()
                asked = _body(environ)
                if asked is None:
                    return _text(HTTPStatus.BAD_REQUEST, "the body is no JSON object")
                self._ask(lambda: self._subject.drain(asked))
                return _json(self._ask(self._subject.workers))
        return _text(HTTPStatus.NOT_FOUND, _PATHS)

    def _trusted(self, environ: dict[str, Any]) -> bool:
        scheme, _, token = environ.get("HTTP_AUTHORIZATION", "").partition(" ")
        digests = [
            hashlib.sha256(each.encode("utf-8", "replace")).digest()
            for each in (token.strip(), self._config.token)
        ]
        same = hmac.compare_digest(*digests)
        return same and bool(self._config.token) and scheme.lower() == "bearer"


class _Collector:
    def __init__(self, collect: Callable[[], list[Any]]) -> None:
        self.collect = collect

    def describe(self) -> list[Any]:
        return []  # asked when it is registered: nothing is there to look at yet


def _text(status: HTTPStatus, text: str) -> Answer:
    return status, "text/plain; charset=utf-8", text.encode() + b"\n"


def _json(body: Any) -> Answer:
    return HTTPStatus.OK, "application/json", json.dumps(body).encode() + b"\n"


def _refusal() -> Answer:
    return _text(HTTPStatus.UNAUTHORIZED, "the operator's token is missing or not the one here")


def _body(environ: dict[str, Any]) -> dict[str, Any] | None:
    length = environ.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > _BODY_BYTES_MAX:
        return None
    try:
        body = json.loads(environ["wsgi.input"].read(int(length)) or b"{}")
    except ValueError:
        return None
    return body if isinstance(body, dict) else None


# --- the server of the standard library, with bounds ----------------------------------------------
class _Handler(WSGIRequestHandler):
    timeout = _ANSWER_S  # of each read and write, the handshake of TLS included

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)

    def handle(self) -> None:
        # A peer that sends a byte now and then is within the timeout of each read.
        ending = threading.Timer(2 * _ANSWER_S, self._cut)
        ending.start()
        try:
            super().handle()
        except OSError as error:  # its peer is gone, too slow or speaks no TLS
            log.debug("an operator's request broke: %s", error)
        finally:
            ending.cancel()

    def _cut(self) -> None:
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    daemon_threads = True

    def __init__(self, where: tuple[str, int], app: Any, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._turns = threading.BoundedSemaphore(limits.OPERATOR_CALLS_MAX)
        host = where[0].strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, where[1]), _Handler)
        self.set_app(app)

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # HTTPServer's would ask a name server for us
        self.server_name, self.server_port = self.server_address[:2]
        self.setup_environ()

    def get_request(self) -> Any:
        opened, peer = self.socket.accept()
        if self._tls is not None:  # the handshake waits for the thread that serves it
            opened = self._tls.wrap_socket(opened, server_side=True, do_handshake_on_connect=False)
        return opened, peer

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._turns.acquire(timeout=1.0):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._turns.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._turns.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.exception("an operator's request failed")
