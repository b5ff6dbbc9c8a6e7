"""Checks of a running service, from where this runs.

The gateway as a client sees it, its workers as its operator's port tells of them, Ray as another
node would join it.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

import grpc
from farspan import wire
from farspan.core.addresses import split_address
from farspan.core.command import Lost
from farspan.core.errors import AuthError, BadValueError, FarspanError

from farspan_server.config import loopback
from farspan_server.doctor import FAIL, OK, SKIP, WARN, Asked, Found
from farspan_server.doctor_machine import lifetime
from farspan_server.draining import Operator

SKEW_S_WARN: Final = 2.0  # clocks this far apart make certificates and logs hard to believe
_REACH_S: Final = 5.0  # for a connection or a call
_RAY_S: Final = 30.0  # for Ray's own command, which loads all of Ray


def gateway(asked: Asked) -> Iterator[Found]:
    """Whether a client here can use the gateway: port, TLS, token, op table, clock, readiness."""
    if not asked.address:
        yield Found("gateway", SKIP, "no --address")
        return
    try:
        where = split_address(asked.address.removeprefix("grpc://"))
        assert isinstance(where, tuple)
    except (ValueError, AssertionError):
        yield Found("gateway", FAIL, f"{asked.address!r} is no address", "write grpc://host:port")
        return
    began_s = time.perf_counter()
    try:
        socket.create_connection(where, _REACH_S).close()
    except OSError as error:
        yield _unreachable("gateway", asked.address, error)
        return
    said = f"{asked.address} is reached in {1e3 * (time.perf_counter() - began_s):.1f} ms"
    yield Found("gateway", OK, said)
    secure = list(_tls(asked, *where))
    yield from secure
    if any(each.level == FAIL for each in secure):
        return
    with _channel(asked, where) as channel:
        yield from _token(asked, channel)


def _unreachable(check: str, address: str, error: OSError) -> Found:
    if isinstance(error, socket.gaierror):
        return Found(check, FAIL, f"{address}: the name is not known here", "check the name, DNS")
    if isinstance(error, ConnectionRefusedError):
        return Found(
            check, FAIL, f"{address}: nobody listens there",
            "start it, or check its --host and --port: 127.0.0.1 is that machine alone",
        )  # fmt: skip
    return Found(
        check, FAIL, f"{address}: {error.strerror or error or 'no answer'}",
        "a firewall or a wrong route swallows what is sent; check both ends",
    )  # fmt: skip


# --- TLS -----------------------------------------------------------------------------------------
def _tls(asked: Asked, host: str, port: int) -> Iterator[Found]:
    """Whether the certificate of a gateway is one that clients will take."""
    speaks = _speaks_tls(host, port)
    if asked.ca is None:
        if speaks:
            yield Found(
                "tls", FAIL, "the gateway speaks TLS, and no --ca was given to check it by",
                "give --ca with the authority's certificate (ca.pem of `farspan certs`)",
            )  # fmt: skip
        elif loopback(host):
            yield Found("tls", OK, "not used: gateway and client are on one machine")
        else:
            yield Found(
                "tls", WARN, f"{host} is spoken to in clear, token and tensors",
                "give the gateway a certificate, unless a tunnel encrypts all of the way",
            )  # fmt: skip
        return
    if not speaks:
        yield Found(
            "tls", FAIL, "the gateway does not speak TLS",
            "start it with --tls-certificate and --tls-key, or leave out --ca on its own machine",
        )  # fmt: skip
        return
    try:
        context = ssl.create_default_context(cafile=str(asked.ca))
        context.set_alpn_protocols(["h2"])
        if asked.cert is not None:
            context.load_cert_chain(asked.cert, asked.key)
        with _handshake(context, host, port) as found:
            ends = ssl.cert_time_to_seconds(str((found.getpeercert() or {})["notAfter"]))
            version = found.version()
    except ssl.SSLCertVerificationError as error:
        yield _distrust(error, host)
        return
    except (ssl.SSLError, OSError) as error:
        yield Found("tls", FAIL, f"the handshake fails: {error}", "check --ca, --cert and --key")
        return
    until = datetime.datetime.fromtimestamp(ends, datetime.UTC)
    long_ago = datetime.datetime.fromtimestamp(0, datetime.UTC)
    yield lifetime("tls", f"{version}, the gateway's certificate", long_ago, until)


def _handshake(context: ssl.SSLContext, host: str, port: int) -> ssl.SSLSocket:
    return context.wrap_socket(
        socket.create_connection((host, port), _REACH_S), server_hostname=host
    )


def _speaks_tls(host: str, port: int) -> bool:
    """Return whether a port answers the beginning of a handshake, whatever its certificate."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    try:
        _handshake(context, host, port).close()
    except ssl.SSLError as error:  # it may want a certificate of ours: that is TLS too
        return error.reason not in ("WRONG_VERSION_NUMBER", "UNEXPECTED_EOF_WHILE_READING")
    except OSError:
        return False
    return True


def _distrust(error: ssl.SSLCertVerificationError, host: str) -> Found:
    text, code = error.verify_message, error.verify_code
    if code == 10:
        return Found(
            "tls", FAIL, "the gateway's certificate has ended",
            "make a new one and have the gateway read it; check this machine's clock",
        )  # fmt: skip
    if code == 9:
        return Found("tls", FAIL, "the gateway's certificate is not valid yet", "check the clocks")
    if code in (62, 64):
        return Found(
            "tls", FAIL, f"the gateway's certificate is not for {host}: {text}",
            f"make it with `farspan certs --host {host} ...`, or use a name that it holds",
        )  # fmt: skip
    return Found(
        "tls", FAIL, f"the gateway's certificate is not of the authority in --ca: {text}",
        "give the ca.pem that was made together with the gateway's certificate",
    )  # fmt: skip


# --- calls ---------------------------------------------------------------------------------------
def _channel(asked: Asked, where: tuple[str, int]) -> grpc.Channel:
    target = asked.address.removeprefix("grpc://")
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if asked.ca is None:
        return grpc.insecure_channel(target, options)
    key, cert = asked.key and asked.key.read_bytes(), asked.cert and asked.cert.read_bytes()
    credentials = grpc.ssl_channel_credentials(asked.ca.read_bytes(), key, cert)
    return grpc.secure_channel(target, credentials, options)


def _token(asked: Asked, channel: grpc.Channel) -> Iterator[Found]:
    call = channel.unary_unary(f"/{wire.SERVICE}/List")
    try:
        call(wire.encode(wire.ListRequest()), timeout=_REACH_S, metadata=_bearer(asked))
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.UNAUTHENTICATED:
            what = "does not take this token" if asked.token else "wants a token, and there is none"
            yield Found(
                "token", FAIL, f"the gateway {what}",
                "give --token-file, or set FARSPAN_TOKEN, with what `farspan token new` has shown "
                "(the gateway's own file holds hashes), or a line of TOKEN that the gateway has",
            )  # fmt: skip
        else:
            yield Found(
                "token", FAIL, f"the call failed: {error.details()}",
                "with --tls-client-ca at the gateway, give --cert and --key; else see its log",
            )  # fmt: skip
        return
    yield Found("token", OK, "the gateway takes the token")
    yield from _session(asked, channel)
    yield _ready(asked, channel)


def _bearer(asked: Asked) -> list[tuple[str, str]]:
    return [("authorization", f"Bearer {asked.token}")]


def _session(asked: Asked, channel: grpc.Channel) -> Iterator[Found]:
    """Open a session without devices, and close it: op table and clock."""
    from farspan.core.op import table_hash

    done = threading.Event()

    def up() -> Iterator[bytes]:
        hello = wire.Hello(table_hash=table_hash(), client="farspan doctor", durability="off")
        yield wire.encode(wire.Up(hello=hello))
        done.wait(2 * _REACH_S)
        yield wire.encode(wire.Up(close=True))

    call = channel.stream_stream(f"/{wire.SERVICE}/Session")
    before_s = time.time()
    answers = call(up(), timeout=3 * _REACH_S, metadata=_bearer(asked))
    try:
        down = wire.decode(wire.Down, next(answers))
        after_s = time.time()
        if down.welcome is None:
            yield _refused(down)
            return
        yield Found("op table", OK, f"the gateway's is ours: {table_hash()[:12]}")
        opened_s = _opened_at(channel, asked, down.welcome.session)
    except (grpc.RpcError, StopIteration, FarspanError) as error:
        yield Found("op table", FAIL, f"no session could be opened: {error}", "see its log")
        return
    finally:
        done.set()
        with contextlib.suppress(grpc.RpcError):
            for _ in answers:  # until the gateway has closed it
                pass
    if opened_s is not None:
        ahead_s = max(opened_s - after_s, 0.0) - max(before_s - opened_s, 0.0)
        yield _skew("the gateway's clock", ahead_s)


def _refused(down: wire.Down) -> Found:
    lost = next((e for each in down.events for e in wire.decode_events(each)), None)
    kind, message = (lost.kind, lost.message) if isinstance(lost, Lost) else ("", "no reason given")
    if kind == "VersionError":
        return Found(
            "op table", FAIL, message,
            "install the same release of farspan on client, gateway and workers",
        )  # fmt: skip
    level = WARN if kind == "CapacityError" else FAIL
    return Found("op table", level, f"no session could be opened: {message}", "see its /readyz")


def _opened_at(channel: grpc.Channel, asked: Asked, session: str) -> float | None:
    call = channel.unary_unary(f"/{wire.SERVICE}/List")
    answer = call(wire.encode(wire.ListRequest()), timeout=_REACH_S, metadata=_bearer(asked))
    found = wire.decode(wire.ListReply, answer).sessions
    return next((each.opened_at_s for each in found if each.session == session), None)


def _skew(what: str, ahead_s: float) -> Found:
    said = f"{what} is {abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} this one"
    if abs(ahead_s) > SKEW_S_WARN:
        return Found("clocks", WARN, said, "run chrony or systemd-timesyncd on both machines")
    return Found("clocks", OK, f"{what} and this one agree")


def _ready(asked: Asked, channel: grpc.Channel) -> Found:
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    question = health_pb2.HealthCheckRequest(service=wire.SERVICE)
    answer = health_pb2_grpc.HealthStub(channel).Check(question, timeout=_REACH_S)
    if answer.status == health_pb2.HealthCheckResponse.SERVING:
        return Found("ready", OK, "new sessions may come")
    return Found(
        "ready", WARN, "the gateway takes no new sessions: it drains, reaches no worker, or its "
        "disk is full", "its /readyz says which; see also its log",
    )  # fmt: skip


# --- workers -------------------------------------------------------------------------------------
def workers(asked: Asked) -> Iterable[Found]:
    """Whether workers are there, alike, and agree about the time."""
    if not asked.operator:
        return [Found("workers", SKIP, "no --operator URL")]
    try:
        there = Operator(asked.operator, asked.operator_token, asked.ca).workers()
    except AuthError as error:
        remedy = "give --operator-token-file, or set FARSPAN_OPERATOR_TOKEN"
        return [Found("workers", FAIL, str(error), remedy)]
    except BadValueError as error:
        return [Found("workers", FAIL, str(error), "write http://host:port")]
    except FarspanError as error:
        remedy = "start the gateway with --metrics-port and --operator-token-file"
        return [Found("workers", FAIL, str(error), remedy)]
    return list(_workers([each for each in there if each["state"] != "gone"]))


def _workers(there: list[dict[str, Any]]) -> Iterator[Found]:
    if not there:
        yield Found(
            "workers", FAIL, "the gateway reaches no worker",
            "see the supervisor's log; farspan up, or farspan supervisor, starts them",
        )  # fmt: skip
        return
    yield Found("workers", OK, f"{len(there)} reached")
    for kind in sorted({each["kind"] for each in there}):
        keys: dict[str, list[str]] = {}
        for each in there:
            if each["kind"] == kind:
                keys.setdefault(each.get("numerics", ""), []).append(each["worker"])
        if len(keys) > 1:
            parts = [f"{' '.join(names)}: {key or 'unknown'}" for key, names in keys.items()]
            yield Found(
                "numerics", WARN, f"{kind} workers differ, so that a session that loses its worker "
                f"waits for one of its kind: {'; '.join(parts)}",
                "same versions on all of them, and one --cpu-level",
            )  # fmt: skip
        else:
            yield Found("numerics", OK, f"{kind} workers compute the same bits")
    for each in there:
        ahead_s = each.get("clock_ahead_s", 0.0)
        if abs(ahead_s) > SKEW_S_WARN:
            yield Found(
                "clocks", WARN, f"the clock of {each['worker']} on {each['host']} is "
                f"{abs(ahead_s):.1f} s {'ahead of' if ahead_s > 0 else 'behind'} the gateway's",
                "run chrony or systemd-timesyncd on both machines",
            )  # fmt: skip


# --- Ray -----------------------------------------------------------------------------------------
def ray(asked: Asked) -> Iterator[Found]:
    """Whether Ray's head answers a node with the token, and only then."""
    if not asked.ray_address:
        yield Found("ray", SKIP, "no --ray-address")
        return
    try:
        where = split_address(asked.ray_address)
        socket.create_connection(where, _REACH_S).close()  # type: ignore[arg-type]
    except (ValueError, TypeError):
        yield Found("ray", FAIL, f"{asked.ray_address!r} is no address", "write host:port")
        return
    except OSError as error:
        yield _unreachable("ray", asked.ray_address, error)
        return
    token = asked.ray_token_file
    if not _ray_answers(asked.ray_address, token):
        yield Found(
            "ray", FAIL, f"{asked.ray_address} listens, and does not answer"
            + (" with this token" if token else " without a token"),
            "give --ray-token-file with the token that the head was started with; same Ray version",
        )  # fmt: skip
        return
    if token is not None and not _ray_answers(asked.ray_address, None):
        yield Found("ray", OK, f"{asked.ray_address} answers with the token, and only so")
    else:
        yield Found(
            "ray", WARN, f"{asked.ray_address} answers without a token: who reaches it runs code",
            "start it with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN_PATH, on a network of its own",
        )  # fmt: skip


def _ray_answers(address: str, token: Path | None) -> bool:
    """Return whether Ray's own command finds the head well. Its library would stay loaded here."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("RAY_AUTH")}
    environment["RAY_AUTH_MODE"] = "disabled" if token is None else "token"
    if token is not None:
        environment["RAY_AUTH_TOKEN_PATH"] = str(token)
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        done = subprocess.run(command, capture_output=True, timeout=_RAY_S, env=environment)
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0
