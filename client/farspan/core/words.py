"""What gateway and worker say to each other beside frames, events and bytes.

Bodies of HELLO (who a worker is), FAULT (a session must end), LOAD (where its state lies) and
SWITCH (from where on a plan runs by loops); `link.py` has the messages around them.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Final

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


@dataclass(slots=True, frozen=True)
class StateFile:
    """A file of a snapshot: the newest first, then those that it refers to, in its order."""

    path: str
    nbytes: int
    sha256: str  # hex


@dataclass(slots=True, frozen=True)
class Load:
    """Gateway: a session's state lies in files of this host. Worker: the same, and what came of it.

    refused: why the worker cannot open them; then nothing has happened, and the bytes may come as
    transfer RESTORE. damaged: which of them is not as it was written.
    """

    files: tuple[StateFile, ...] = ()
    refused: str = ""
    damaged: str = ""


def pack_load(channel: int, body: Load) -> bytes:
    """Return a LOAD message."""
    return link.pack_json(link.LOAD, asdict(body), channel)


def unpack_load(payload: bytes | memoryview) -> Load:
    """Return the body of a LOAD message; raise ProtocolError if a field is missing or wrong."""
    body = link.unpack_json(payload)
    try:
        files = tuple(StateFile(**each) for each in body["files"])
        load = Load(files, str(body["refused"]), str(body["damaged"]))
    except (KeyError, TypeError) as error:
        raise ProtocolError(f"link: LOAD with a wrong field: {error!r}") from None
    for each in files:
        if type(each.path) is not str or type(each.sha256) is not str:
            raise ProtocolError("link: LOAD of a file without a name or digest")
        if type(each.nbytes) is not int or each.nbytes < 0:
            raise ProtocolError("link: LOAD of a file of no size")
    return load


_DIGEST: Final = re.compile("[0-9a-f]{32}")


@dataclass(slots=True, frozen=True)
class Switch:
    """From the next frame on, a plan of an inexact program runs by its compiled loops.

    They give other bits than the kernels before them. A worker asks for it when they are compiled;
    it is done where the gateway says so, between the same two frames in every replay.
    """

    program: int  # its number
    plan: str  # 32 hex digits: what of the program it is for, equal in every process

    def __post_init__(self) -> None:
        if type(self.program) is not int or not 0 <= self.program < limits.PROGRAMS_MAX:
            raise ProtocolError(f"a switch of program {self.program!r:.40}")
        if type(self.plan) is not str or not _DIGEST.fullmatch(self.plan):
            raise ProtocolError("a switch of a plan without a digest")


def pack_switch(channel: int, body: Switch) -> bytes:
    """Return a SWITCH message."""
    return link.pack_json(link.SWITCH, asdict(body), channel)


def unpack_switch(payload: bytes | memoryview) -> Switch:
    """Return the body of a SWITCH message; raise ProtocolError if a field is missing or wrong."""
    body: dict[str, Any] = link.unpack_json(payload)
    return Switch(body.get("program"), body.get("plan"))  # type: ignore[arg-type]
