"""What is current: the session that factories use, and how `connect` makes one.

The first use of a tensor without a session opens `FARSPAN_ADDRESS`, or `local:` if it is unset.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
from typing import Any

from ._session import Session
from .core.errors import BadValueError, SessionClosedError

_stack: list[Session] = []
_all: set[Session] = set()
_lock = threading.Lock()


def connect(
    address: str | None = None,
    *,
    token: str | None = None,
    devices: str | None = None,
    tls: Any = None,
    timeout: float | None = None,
    replay: bool | None = None,
    shared_memory: bool | None = None,
    reconnect_s: float | None = None,
    durability: str | None = None,
    allow_numerics_change: bool = False,
) -> Session:
    """Open a session and make it the current one.

    address: ``local:`` (this process) or ``grpc://host:port``; default FARSPAN_ADDRESS or local.
    token: the bearer token; default FARSPAN_TOKEN. devices: such as ``"cpu:2"``,
    ``"cpu,cuda:4"``; default FARSPAN_DEVICES or one CPU.
    tls: a CA file's path, or ``{"ca", "cert", "key"}``. timeout: seconds to wait for the gateway,
    and for free workers. replay: whether runs of commands that repeat are sent as one; default
    FARSPAN_REPLAY, or True. shared_memory: whether long tensors go through memory shared with a
    worker on this host; default FARSPAN_SHARED_MEMORY, or True.
    reconnect_s: seconds that the connection may be broken, or the gateway gone, before the session
    is lost to this client with ConnectError; default: the gateway's lease (60) and 60 more; 0: not
    at all. Until then whoever waits for a value waits longer, and nothing is lost.
    durability: what the session survives, ``"durable"``, ``"snapshot-only"`` or ``"off"``; default:
    as the gateway is set up. allow_numerics_change: after a loss, workers of another kind will do.
    Waits. Raises ConnectError, AuthError, VersionError or CapacityError.

    >>> import farspan
    >>> with farspan.connect("local:") as session:
    ...     float(farspan.ones(3).sum())
    3.0
    """
    address = address or os.environ.get("FARSPAN_ADDRESS") or "local:"
    devices = devices or os.environ.get("FARSPAN_DEVICES")
    if address.startswith("local:"):
        from ._local import LocalTransport

        transport: Any = LocalTransport(devices or "cpu")
    else:
        transport = _dialled(
            address,
            token,
            tls=tls,
            devices=devices,  # None: one CPU, taken at the first command
            timeout=timeout,
            shared_memory=_switch(shared_memory, "FARSPAN_SHARED_MEMORY"),
            reconnect_s=reconnect_s,
            durability=durability or "",
            allow_numerics_change=allow_numerics_change,
        )
    return _begin(Session(transport, address, _switch(replay, "FARSPAN_REPLAY")))


def attach(
    session_id: str,
    address: str | None = None,
    *,
    token: str | None = None,
    tls: Any = None,
    timeout: float | None = None,
    replay: bool | None = None,
    shared_memory: bool | None = None,
    reconnect_s: float | None = None,
) -> Session:
    """Take over a session that another client has detached from, lost or still uses; current then.

    session_id: what `Session.detach` returned, or `farspan sessions` lists. The other arguments are
    those of `connect`. What has a name is in `Session.kept`; the rest is freed. A client that still
    uses the session gets SessionClosedError from then on. Waits, also for workers.
    Raises SessionClosedError if there is no such session, and what `connect` raises.
    """
    address = address or os.environ.get("FARSPAN_ADDRESS") or "local:"
    if address.startswith("local:"):
        raise BadValueError("attach: a local: session ends with its process; name a gateway")
    if not session_id:  # it would be a new one
        raise BadValueError("attach: which session? Session.detach returned its id")
    transport = _dialled(
        address,
        token,
        tls=tls,
        timeout=timeout,
        shared_memory=_switch(shared_memory, "FARSPAN_SHARED_MEMORY"),
        reconnect_s=reconnect_s,
        attach=session_id,
    )
    session = Session(transport, address, _switch(replay, "FARSPAN_REPLAY"))
    try:
        session._take_over()
    except BaseException:
        session._leave("this session could not be taken over")
        transport.leave()  # it stays as it is
        raise
    if any(device.type == "cuda" for device in session.devices):
        from ._settings import tell_precision

        tell_precision(session)  # its GPUs are set as the client before wanted it
    return _begin(session)


def _dialled(address: str, token: str | None, **options: Any) -> Any:
    if not address.startswith("grpc://"):
        raise BadValueError(f'address {address!r}: write "local:" or "grpc://host:port"')
    # Forked children never speak over this channel; without this gRPC says so each time.
    os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")
    patience_s = options["reconnect_s"]
    if patience_s is not None and not patience_s >= 0:
        raise BadValueError(f"reconnect_s: {patience_s}; expected seconds, 0 or more")
    from ._transport import connect_grpc
    from .core.op import table_hash

    token = token or os.environ.get("FARSPAN_TOKEN")
    return connect_grpc(address, token, table_hash=table_hash(), **options)


def _begin(session: Session) -> Session:
    push(session)
    settings = sys.modules.get("farspan._settings")  # none of them was set if it is not there
    if settings is not None and settings.get_float32_matmul_precision() != "highest":
        settings.tell_precision(session)
    return session


def opened() -> list[Session]:
    """Return all sessions that are open."""
    with _lock:
        return list(_all)


def _switch(given: bool | None, variable: str) -> bool:
    """Return whether something is on: as given, else as the environment says, else it is."""
    return os.environ.get(variable, "1") not in ("0", "") if given is None else given


def push(session: Session) -> None:
    """Make a session the current one."""
    with _lock:
        if session in _stack:
            _stack.remove(session)
        _stack.append(session)
        _all.add(session)


def forget(session: Session) -> None:
    """Take a closed session out; the one before it becomes current."""
    with _lock:
        if session in _stack:
            _stack.remove(session)
        _all.discard(session)


def current() -> Session:
    """Return the current session, opening the default one if there is none."""
    if _stack:
        session = _stack[-1]
        if session._pid != os.getpid():
            raise SessionClosedError(
                "this session was opened before a fork; a child process must connect for itself"
            )
        return session
    return connect()


_inherited: list[Any] = []


def leave_inherited() -> None:
    """Begin anew in a forked process: the parent's sessions are neither used nor torn down."""
    global _lock
    _lock = threading.Lock()
    _inherited.extend(_all)  # kept alive: ending one would speak over the parent's connection
    _stack.clear()
    _all.clear()


@atexit.register
def _close_all() -> None:
    for session in list(_all):
        session.close()
