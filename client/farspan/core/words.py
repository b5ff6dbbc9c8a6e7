"""What a worker says on its control link beside events: who it is, and that a session must end.

Bodies of HELLO and FAULT; `link.py` has the messages around them.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

from farspan.core import limits, link
from farspan.core.errors import BY_NAME, ProtocolError


@dataclass(slots=True, frozen=True)
class Greeting:
    """What a worker says of itself to a gateway that has dialled it."""

    host: str
    pid: int
    numerics: str  # its numerics key: equal keys compute equal bits
    tenant: str = ""  # whose sessions this process has had; nobody else's may come


def pack_greeting(body: Greeting) -> bytes:
    """Return a HELLO message."""
    return link.pack_json(link.HELLO, asdict(body))


def unpack_greeting(payload: bytes | memoryview) -> Greeting:
    """Return the body of a HELLO message; raise ProtocolError if a field is missing or wrong."""
    body = link.unpack_json(payload)
    host, pid, numerics = body.get("host"), body.get("pid"), body.get("numerics")
    tenant = body.get("tenant", "")
    if not (isinstance(host, str) and type(pid) is int and isinstance(numerics, str)):
        raise ProtocolError("link: HELLO with a wrong field")
    if not isinstance(tenant, str):
        raise ProtocolError("link: HELLO with a wrong field")
    return Greeting(host, pid, numerics, tenant)


@dataclass(slots=True, frozen=True)
class Fault:
    """The session of this channel must end, and not be run again elsewhere: so it would end."""

    kind: str  # a name in errors.BY_NAME
    message: str


def pack_fault(channel: int, body: Fault) -> bytes:
    """Return a FAULT message."""
    return link.pack_json(link.FAULT, asdict(body), channel)


def unpack_fault(payload: bytes | memoryview) -> Fault:
    """Return the body of a FAULT message; raise ProtocolError if a field is missing or wrong."""
    body = link.unpack_json(payload)
    kind, message = body.get("kind"), body.get("message")
    if not isinstance(message, str) or kind not in BY_NAME:
        raise ProtocolError("link: FAULT with a wrong field")
    return Fault(str(kind), message[: limits.STRING_BYTES_MAX])
