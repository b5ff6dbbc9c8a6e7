"""What `farspan status` asks and shows: the caller's sessions, over the same API as any client; or,
of an operator's port, what each tenant has and does."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import grpc
from farspan import wire
from farspan.core import limits
from farspan.core.errors import AuthError, ConnectError, ServiceError, SessionClosedError

_PAGES_MAX = 10_000  # of a list, whatever a gateway says


def sessions(
    address: str,
    token: str,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
) -> tuple[wire.SessionInfo, ...]:
    """Return all sessions of the token's tenant, oldest first, however many pages they are.

    ConnectError, AuthError or ServiceError.
    """
    found: dict[str, wire.SessionInfo] = {}
    asked = wire.ListRequest()
    for _ in range(_PAGES_MAX):
        reply = wire.decode(wire.ListReply, ask(address, token, "List", asked, ca, cert, key))
        found.update({each.session: each for each in reply.sessions})
        if not reply.more or not reply.sessions:
            break
        last = reply.sessions[-1]
        asked = wire.ListRequest(last.session, last.opened_at_s)
    return tuple(found.values())


def ask(
    address: str,
    token: str,
    method: str,
    asked: Any,
    ca: Path | None = None,
    cert: Path | None = None,
    key: Path | None = None,
    timeout_s: float | None = None,
) -> bytes:
    """Return a gateway's answer to a unary call, within CONNECT_S unless it may take longer.

    Raises ConnectError, AuthError, SessionClosedError or ServiceError.
    """
    if not token:
        raise AuthError(f"{address}: no token given; --token-file or the variable FARSPAN_TOKEN")
    target = address.removeprefix("grpc://")
    options = [("grpc.enable_http_proxy", 0), ("grpc.enable_retries", 0)]
    if ca is None:
        channel = grpc.insecure_channel(target, options)
    else:
        credentials = grpc.ssl_channel_credentials(
            ca.read_bytes(), key and key.read_bytes(), cert and cert.read_bytes()
        )
        channel = grpc.secure_channel(target, credentials, options)
    with channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/{method}")
        try:
            answer: bytes = call(
                wire.encode(asked),
                timeout=timeout_s or limits.CONNECT_S,
                metadata=[("authorization", f"Bearer {token}")],
            )
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.UNAUTHENTICATED:
                raise AuthError(
                    f"{address} refuses this token: it is another gateway's, or has ended; "
                    f"`farspan up` prints where its own is"
                ) from None
            if error.code() in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise ConnectError(
                    f"no gateway answers at {address}: is it running, and is TLS set on both "
                    f"sides (--ca here) or on neither?"
                ) from None
            if error.code() == grpc.StatusCode.NOT_FOUND:
                raise SessionClosedError(f"{address}: there is no such session") from None
            raise ServiceError(f"{address}: {error.details()}") from None
    return answer


def table(found: tuple[wire.SessionInfo, ...], now_s: float | None = None) -> str:
    """Return the sessions as lines of text."""
    now_s = time.time() if now_s is None else now_s
    rows = [("session", "state", "age s", "frames", "commands", "devices")]
    for each in found:
        devices = " ".join(f"{d.name}={d.host}/{d.pid}" for d in each.devices) or "-"
        age = f"{max(0.0, now_s - each.opened_at_s):.0f}"
        rows.append((each.session, each.state, age, str(each.frames), str(each.commands), devices))
    return columns(rows)


def rates(
    ask: Callable[[], list[dict[str, Any]]],
    seconds: float,
    wait: Callable[[float], None] = time.sleep,
) -> list[dict[str, Any]]:
    """Return what is told of each tenant, with its commands and bytes a second of `seconds`.

    ask: `Operator.tenants`, which is asked twice; by the gateway's own clock.
    """
    before = {each["tenant"]: each for each in ask()}
    wait(seconds)
    found = ask()
    for each in found:
        old = before.get(each["tenant"], {})
        past_s = each["clock_s"] - old["clock_s"] if old else seconds
        for name in ("commands", "received_bytes", "sent_bytes"):
            more = max(0, each[name] - old.get(name, 0))  # less: another gateway since
            each[f"{name}_per_s"] = more / past_s if past_s > 0 else 0.0
    return found


def tenants_table(found: list[dict[str, Any]]) -> str:
    """Return the tenants, as `rates` tells them, as lines of text."""
    if not found:
        return "no tenant has had a session"
    rows = [
        ("tenant", "sessions", "devices", "memory", "journal", "commands/s", "bytes/s in", "out",
         "commands", "wait s", "slowed s", "quotas hit"),
    ]  # fmt: skip
    for each in found:
        states = " ".join(f"{count} {state}" for state, count in sorted(each["sessions"].items()))
        hits = " ".join(f"{quota}:{count}" for quota, count in sorted(each["refused"].items()))
        mean_s = each["wait_s"] / each["waits"] if each["waits"] else 0.0
        rows.append(
            (
                each["tenant"], states or "-", str(each["devices"]),
                _sized(each["memory_bytes"]), _sized(each["journal_bytes"]),
                f"{each['commands_per_s']:.0f}", _sized(each["received_bytes_per_s"]),
                _sized(each["sent_bytes_per_s"]), str(each["commands"]), f"{mean_s:.2f}",
                f"{each['slowed_s']:.1f}", hits or "-",
            )
        )  # fmt: skip
    return columns(rows)


def _sized(nbytes: float) -> str:
    """Return bytes for a reader.

    >>> _sized(1536), _sized(0)
    ('1.5 KiB', '0 B')
    """
    power = 0
    while nbytes >= 1024 and power < 4:
        nbytes, power = nbytes / 1024, power + 1
    return f"{nbytes:.{1 if power else 0}f} {('B', 'KiB', 'MiB', 'GiB', 'TiB')[power]}"


def columns(rows: Sequence[tuple[str, ...]]) -> str:
    """Return rows, the first of them the names, as lines with aligned columns."""
    widths = [max(len(row[k]) for row in rows) for k in range(len(rows[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)
