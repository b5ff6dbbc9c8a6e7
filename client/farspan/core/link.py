"""The framed link between gateway, workers and supervisor, as bytes: opening, header, bodies.

Sans I/O: callers own sockets, TLS, clocks and randomness; nothing here waits. Both sides prove the
per-epoch key before the first message, and every length is checked before it is read.

    listener -> dialer   nonce (32)                    the dialer reads CHALLENGE_BYTES
    dialer -> listener   nonce (32), its proof (32)    the listener reads REPLY_BYTES, holds nothing
    listener -> dialer   its proof (32)                the dialer reads PROOF_BYTES
    dialer -> listener   PURPOSE, then messages both ways: header (16), payload
"""

from __future__ import annotations

import hashlib
import hmac
import json
import struct
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final

import numpy as np

from farspan.core import limits
from farspan.core.buffers import POOL
from farspan.core.command import ErrorInfo
from farspan.core.errors import AuthError, ProtocolError

# --- kinds of message ----------------------------------------------------------------------------
PURPOSE: Final = 0  # dialer -> listener, first: JSON, see Purpose
OPEN: Final = 1  # gateway -> worker: JSON, see Open
FRAME: Final = 2  # gateway -> worker: an encoded frame as the gateway received it
EVENTS: Final = 3  # worker -> gateway: applied (u64), then encoded events; see pack_events
TRANSFER: Final = 4  # a chunk of tensor bytes; see Chunk
CLOSE: Final = 5  # gateway -> worker: forget the session of this channel; worker -> gateway: done
HEARTBEAT: Final = 6  # worker -> gateway: JSON, the worker's counts, every HEARTBEAT_S
STATUS: Final = 7  # a question with an empty payload and its answer: JSON, the worker's counts
SHARE: Final = 9  # gateway <-> worker, on the bulk link: JSON, see Share
PIECE: Final = 10  # gateway -> worker, on the bulk link: a chunk in shared memory; see Piece
CUT: Final = 11  # gateway -> worker: take a snapshot after the frames before; see pack_cut
HELLO: Final = 12  # worker -> gateway, first on a control link: JSON; see words.Greeting
FAULT: Final = 13  # worker -> gateway: JSON; see words.Fault
LOAD: Final = 14  # gateway <-> worker, on the bulk link: JSON; see words.Load
SWITCH: Final = 15  # worker -> gateway: may I? gateway -> worker, among frames: do; words.Switch
FLEET: Final = 8  # supervisor <-> gateway: JSON; see WorkerUp, WorkerGone, Synced, Retire, Wanted

# --- purposes of a link --------------------------------------------------------------------------
CONTROL: Final = "control"  # gateway -> worker: OPEN, FRAME, CLOSE, STATUS; one at a time
BULK: Final = "bulk"  # gateway -> worker: TRANSFER both ways, beside the control link
PEER: Final = "peer"  # worker -> worker: TRANSFER
WATCH: Final = "watch"  # supervisor -> worker: heartbeats and STATUS
SUPERVISOR: Final = "supervisor"  # supervisor -> gateway: FLEET
PURPOSES: Final = (CONTROL, BULK, PEER, WATCH, SUPERVISOR)

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 32
PROOF_BYTES: Final = 32
CHALLENGE_BYTES: Final = NONCE_BYTES
REPLY_BYTES: Final = NONCE_BYTES + PROOF_BYTES

_HEADER: Final = struct.Struct("<IBxxxQ")  # payload bytes, kind, channel
_CHUNK: Final = struct.Struct("<QQQB")  # transfer, total bytes, offset, flags
_PIECE: Final = struct.Struct("<QQQQQ")  # the fields of Piece
_APPLIED: Final = struct.Struct("<Q")
_CUT: Final = struct.Struct("<QQ")  # number, base
HEADER_BYTES: Final = _HEADER.size
LAST: Final = 1  # flag: no chunk follows
ERROR: Final = 2  # flag: the payload is an ErrorInfo as JSON; the transfer will not come

JSON_BYTES_MAX: Final = 64 * limits.KiB  # 64 devices take about 16 KiB.
EVENTS_BYTES_MAX: Final = limits.FRAME_BYTES_MAX  # a worker splits what is longer.

#: The most payload bytes of each kind; a kind that is not here does not exist.
PAYLOAD_BYTES_MAX: Final = {
    PURPOSE: JSON_BYTES_MAX,
    OPEN: JSON_BYTES_MAX,
    FRAME: limits.FRAME_BYTES_MAX,
    EVENTS: EVENTS_BYTES_MAX,
    TRANSFER: limits.CHUNK_BYTES + _CHUNK.size,
    CLOSE: 0,
    HEARTBEAT: JSON_BYTES_MAX,
    STATUS: JSON_BYTES_MAX,
    FLEET: JSON_BYTES_MAX,
    SHARE: JSON_BYTES_MAX,
    PIECE: _PIECE.size,
    CUT: _CUT.size,
    HELLO: JSON_BYTES_MAX,
    FAULT: JSON_BYTES_MAX,
    LOAD: JSON_BYTES_MAX,
    SWITCH: 256,
}

# Transfers of our own, with numbers that no client may give. Of cut n: a device's part of the
# snapshot, worker -> gateway, after a JSON list of the snapshots before it of which it needs files;
# and an empty transfer that says that all before it has come.
RESTORE: Final = 2**62  # gateway -> worker: the snapshot of a session that is opened with one
PARTS: Final = 2**62 + 1  # + n
OLDER: Final = 2**62 + 2**61  # + n
MARKERS: Final = 2**63  # + n * DEVICES_PER_SESSION_MAX + device; of the gateway: its own device


def marker(number: int, device: int) -> int:
    """Return the transfer that says to a worker: all that `device` sent before cut n has come."""
    return MARKERS + number * limits.DEVICES_PER_SESSION_MAX + device


# --- the opening ---------------------------------------------------------------------------------
def _proof(key: bytes, role: bytes, nonces: bytes, binding: bytes) -> bytes:
    # The role stands first, so that neither side can be made to compute the other's proof.
    message = b"farspan link 1 " + role + b"\0" + nonces + binding
    return hmac.digest(key, message, hashlib.sha256)


def _checked(key: bytes, nonce: bytes) -> None:
    assert len(key) == KEY_BYTES, f"a link key has {KEY_BYTES} bytes, not {len(key)}"
    assert len(nonce) == NONCE_BYTES, f"a nonce has {NONCE_BYTES} bytes, not {len(nonce)}"


class Listener:
    """The accepting side of one opening: send `challenge`, read REPLY_BYTES, send `answer(reply)`.

    nonce: NONCE_BYTES fresh random bytes, never used twice. binding: the hash of this side's
    certificate under TLS, else empty; both sides must have seen the same.
    """

    def __init__(self, key: bytes, nonce: bytes, binding: bytes = b"") -> None:
        _checked(key, nonce)
        self._key = key
        self._binding = binding
        self.challenge = nonce

    def answer(self, reply: bytes) -> bytes:
        """Return the listener's proof; raise AuthError if the dialer's is wrong."""
        nonces, proof = self.challenge + bytes(reply[:NONCE_BYTES]), bytes(reply[NONCE_BYTES:])
        if not hmac.compare_digest(proof, _proof(self._key, b"dialer", nonces, self._binding)):
            raise AuthError("link opening: the dialer does not hold this epoch's key")
        return _proof(self._key, b"listener", nonces, self._binding)


class Dialer:
    """The connecting side: read CHALLENGE_BYTES, send `reply(challenge)`, read a proof, `accept`.

    nonce: NONCE_BYTES fresh random bytes, never used twice. binding: the hash of the listener's
    certificate under TLS, else empty.
    """

    def __init__(self, key: bytes, nonce: bytes, binding: bytes = b"") -> None:
        _checked(key, nonce)
        self._key = key
        self._nonce = nonce
        self._binding = binding
        self._expected = b""

    def reply(self, challenge: bytes) -> bytes:
        """Return the REPLY_BYTES that prove the key for this challenge."""
        if len(challenge) != CHALLENGE_BYTES:
            raise ProtocolError(f"link opening: a challenge of {len(challenge)} bytes")
        nonces = bytes(challenge) + self._nonce
        self._expected = _proof(self._key, b"listener", nonces, self._binding)
        return self._nonce + _proof(self._key, b"dialer", nonces, self._binding)

    def accept(self, proof: bytes) -> None:
        """Return if the listener holds the key too; raise AuthError if not."""
        if not hmac.compare_digest(bytes(proof), self._expected):
            raise AuthError("link opening: the listener does not hold this epoch's key")


# --- messages ------------------------------------------------------------------------------------
@dataclass(slots=True)
class Header:
    """What stands before every payload. Channel 0 is the link itself."""

    kind: int
    channel: int
    payload_bytes: int


def pack_header(kind: int, channel: int, payload_bytes: int) -> bytes:
    """Return the HEADER_BYTES before a payload of this size."""
    assert payload_bytes <= PAYLOAD_BYTES_MAX[kind], f"kind {kind}: {payload_bytes} bytes"
    return _HEADER.pack(payload_bytes, kind, channel)


def unpack_header(data: bytes | memoryview) -> Header:
    """Return the header in HEADER_BYTES bytes; raise ProtocolError before an oversize read."""
    payload_bytes, kind, channel = _HEADER.unpack(data)
    bound = PAYLOAD_BYTES_MAX.get(kind)
    if bound is None:
        raise ProtocolError(f"link: no message has kind {kind}")
    if payload_bytes > bound:
        raise ProtocolError(f"link: kind {kind} with {payload_bytes} bytes; at most {bound}")
    return Header(kind, channel, payload_bytes)


def pack(kind: int, channel: int = 0, payload: bytes = b"") -> bytes:
    """Return one small message, header and payload."""
    return pack_header(kind, channel, len(payload)) + payload


def pack_json(kind: int, body: dict[str, Any], channel: int = 0) -> bytes:
    """Return one message whose payload is a JSON object."""
    return pack(kind, channel, json.dumps(body, separators=(",", ":")).encode())


def unpack_json(payload: bytes | memoryview) -> dict[str, Any]:
    """Return the JSON object in a payload; raise ProtocolError if it is none."""
    try:
        body = json.loads(bytes(payload))
    except (ValueError, RecursionError) as error:
        raise ProtocolError(f"link: a payload that is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ProtocolError("link: a payload that is no JSON object")
    return body


def pack_events(channel: int, applied: int, events: bytes) -> bytes:
    """Return an EVENTS message.

    applied: sequence of the last frame of this session whose events have all been sent with
    this message and those before it. events: what `wire.encode_events` gave, or empty.
    """
    return pack_header(EVENTS, channel, _APPLIED.size + len(events)) + (
        _APPLIED.pack(applied) + events
    )


def unpack_events(payload: bytes | memoryview) -> tuple[int, memoryview]:
    """Return (applied sequence, encoded events) of an EVENTS payload."""
    view = memoryview(payload)
    if len(view) < _APPLIED.size:
        raise ProtocolError(f"link: an EVENTS payload of {len(view)} bytes")
    return _APPLIED.unpack_from(view)[0], view[_APPLIED.size :]


def pack_cut(channel: int, number: int, base: int = 0) -> bytes:
    """Return a CUT message.

    base: a snapshot of which all files are on disk, so that the new one may refer to them; 0: none.
    """
    return pack(CUT, channel, _CUT.pack(number, base))


def unpack_cut(payload: bytes | memoryview) -> tuple[int, int]:
    """Return the number of a cut and its base."""
    if len(payload) != _CUT.size:
        raise ProtocolError(f"link: a CUT payload of {len(payload)} bytes")
    number, base = _CUT.unpack(payload)
    return int(number), int(base)


# --- bulk ----------------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Chunk:
    """A piece of a transfer. Chunks of one transfer travel in order over one link."""

    transfer: int  # of the client's Put, of a Send, or the request of a Get
    total: int  # bytes of the whole transfer
    offset: int
    flags: int
    data: bytes | memoryview

    @property
    def last(self) -> bool:
        return bool(self.flags & LAST)

    @property
    def failed(self) -> bool:
        return bool(self.flags & ERROR)


def pack_chunk_header(channel: int, chunk: Chunk) -> bytes:
    """Return all of a TRANSFER message but its data, so that the data need not be copied."""
    return pack_header(TRANSFER, channel, _CHUNK.size + len(chunk.data)) + _CHUNK.pack(
        chunk.transfer, chunk.total, chunk.offset, chunk.flags
    )


def unpack_chunk(payload: bytes | memoryview) -> Chunk:
    """Return the chunk in a TRANSFER payload; its data is a view of it."""
    view = memoryview(payload)
    if len(view) < _CHUNK.size:
        raise ProtocolError(f"link: a TRANSFER payload of {len(view)} bytes")
    transfer, total, offset, flags = _CHUNK.unpack_from(view)
    data = view[_CHUNK.size :]
    if not flags & ERROR and (
        offset + len(data) > total
        or bool(flags & LAST) != (offset + len(data) == total)
        or not (len(data) or flags & LAST)
    ):
        raise ProtocolError(f"link: a chunk at {offset} of {len(data)} bytes, total {total}")
    return Chunk(transfer, total, offset, flags, data)


def chunks(transfer: int, *data: bytes | memoryview) -> Iterator[Chunk]:
    """Yield the chunks of a transfer, whose bytes may lie in several places; one if there are none.

    >>> [(c.offset, bytes(c.data), c.last) for c in chunks(7, b"ab", b"", b"c")]
    [(0, b'ab', False), (2, b'c', True)]
    """
    pieces = [memoryview(each).cast("B") for each in data if memoryview(each).nbytes]
    total, at = sum(piece.nbytes for piece in pieces), 0
    for piece in pieces or [memoryview(b"")]:
        for offset in range(0, max(piece.nbytes, 1), limits.CHUNK_BYTES):
            part = piece[offset : offset + limits.CHUNK_BYTES]
            begin, at = at, at + part.nbytes
            yield Chunk(transfer, total, begin, LAST if at == total else 0, part)


@dataclass(slots=True, frozen=True)
class Piece:
    """A piece of a transfer that lies in memory which client and worker share."""

    transfer: int
    total: int  # bytes of the whole transfer; 0: the client gives it up
    offset: int
    position: int  # in the ring up; see core/shared.py
    nbytes: int


def pack_piece(channel: int, piece: Piece) -> bytes:
    """Return a PIECE message."""
    return pack_header(PIECE, channel, _PIECE.size) + _PIECE.pack(
        piece.transfer, piece.total, piece.offset, piece.position, piece.nbytes
    )


def unpack_piece(payload: bytes | memoryview) -> Piece:
    """Return the piece in a PIECE payload; ProtocolError if it cannot be one."""
    if len(payload) != _PIECE.size:
        raise ProtocolError(f"link: a PIECE payload of {len(payload)} bytes")
    piece = Piece(*_PIECE.unpack(payload))
    if piece.nbytes > limits.SHARED_PIECE_BYTES or piece.offset + piece.nbytes > piece.total:
        raise ProtocolError(f"link: a piece at {piece.offset} of {piece.nbytes}: {piece.total}")
    if piece.total and not piece.nbytes:
        raise ProtocolError(f"link: transfer {piece.transfer}: a piece without bytes")
    return piece


def pack_failure(channel: int, transfer: int, error: ErrorInfo) -> bytes:
    """Return the TRANSFER message that says why a transfer will not come, or not go on."""
    body = {**asdict(error), "message": error.message[: limits.STRING_BYTES_MAX]}
    return pack(
        TRANSFER, channel, _CHUNK.pack(transfer, 0, 0, LAST | ERROR) + json.dumps(body).encode()
    )


def unpack_failure(chunk: Chunk) -> ErrorInfo:
    """Return the error in a chunk that has `failed`."""
    body = unpack_json(chunk.data)
    kind, message, command = body.get("kind"), body.get("message"), body.get("command")
    if not (isinstance(kind, str) and isinstance(message, str) and isinstance(command, int)):
        raise ProtocolError(f"link: transfer {chunk.transfer} failed without an error")
    return ErrorInfo(kind, message, command)


class Assembly:
    """A transfer being put together; `done` once the last chunk is in.

    The caller checks `total` against its budget before making one.
    """

    def __init__(self, total: int) -> None:
        self.data = POOL.take(total)
        self._filled = 0
        self.done = False

    @property
    def come(self) -> Any:
        """The bytes that have come."""
        return self.data[: self._filled]

    def add(self, chunk: Chunk) -> None:
        """Put a chunk in its place; raise ProtocolError unless it is the next one."""
        if self.has(chunk):
            return  # a replay: it was in the snapshot
        # numpy copies without Python's lock, unlike a bytearray.
        self.room(chunk, len(chunk.data))[:] = np.frombuffer(chunk.data, np.uint8)
        self.filled(len(chunk.data))

    def has(self, chunk: Chunk) -> bool:
        """Return whether a chunk has come before, whole."""
        end = chunk.offset + len(chunk.data)
        return (
            chunk.total == len(self.data)
            and end <= self._filled
            and (self.done or len(chunk.data) > 0)
        )

    def room(self, of: Chunk | Piece, nbytes: int) -> np.ndarray[Any, Any]:
        """Return where the next bytes go; raise ProtocolError if these are not the next ones."""
        if self.done or of.offset != self._filled or of.total != len(self.data):
            raise ProtocolError(
                f"link: transfer {of.transfer}: chunk at {of.offset} of {of.total}, "
                f"expected {self._filled} of {len(self.data)}"
            )
        return self.data[of.offset : of.offset + nbytes]

    def filled(self, nbytes: int) -> None:
        """Note that so many bytes more are in their place."""
        self._filled += nbytes
        self.done = self._filled == len(self.data)


# --- JSON bodies ---------------------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class Purpose:
    """The first message of a link. `owner` ties a gateway's control and bulk links together."""

    purpose: str
    owner: str = ""  # control and bulk: random hex the gateway draws at each connection


@dataclass(slots=True, frozen=True)
class Peer:
    """Where a device of the session lives."""

    index: int  # the session's device index
    address: str  # "host:port" or "unix:/path"
    key: str = field(repr=False)  # hex of KEY_BYTES
    epoch: int = 0


@dataclass(slots=True, frozen=True)
class Open:
    """A session begins on a worker.

    The message's channel is the session's number on *all* its workers, so that peers know it too;
    a gateway draws it at random and never uses it twice, so that late bytes reach no other session.
    """

    session: str
    tenant: str
    device: int  # the session's index of this worker
    devices: tuple[Peer, ...]
    memory_bytes_max: int
    name: str = "cpu"  # of the session's device on this worker, as the client's specs have it
    restore: bool = False  # its state comes as transfer RESTORE, before any frame runs
    steady: bool = False  # which kernels run may not depend on time: another engine repeats it
    command_s_max: float = 0.0  # a command that runs longer ends its session; 0: none does
    switches: bool = False  # the gateway says from where on plans run by loops (words.Switch)


@dataclass(slots=True, frozen=True)
class Share:
    """About shared memory: the gateway's question, with the client's proof; the worker's answer."""

    pid: int = 0
    fd: int = 0
    segment_bytes: int = 0
    digest: str = ""  # hex
    refused: str = ""  # why there is none
    proof: str = ""  # hex; empty in the first question
    first: int = 0  # where the positions begin; not 0: instead of the memory there was
    over: bool = False  # its client has left: what there is, is shared no more


def pack_share(channel: int, body: Share) -> bytes:
    """Return a SHARE message."""
    return pack_json(SHARE, asdict(body), channel)


def unpack_share(payload: bytes | memoryview) -> Share:
    """Return the body of a SHARE message; raise ProtocolError if a field is wrong."""
    body = unpack_json(payload)
    try:
        bytes.fromhex(body["digest"] + body["proof"])
        pid, fd, size = (int(body[name]) for name in ("pid", "fd", "segment_bytes"))
        digest, refused, proof = (str(body[name]) for name in ("digest", "refused", "proof"))
        first, over = int(body.get("first", 0)), bool(body.get("over", False))
        return Share(pid, fd, size, digest, refused, proof, first, over)
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"link: SHARE with a wrong field: {error!r}") from None


def pack_purpose(purpose: Purpose) -> bytes:
    """Return the first message of a link."""
    return pack_json(PURPOSE, asdict(purpose))


def unpack_purpose(payload: bytes | memoryview) -> Purpose:
    """Return the purpose of a link; raise ProtocolError for one that does not exist."""
    body = unpack_json(payload)
    purpose, owner = body.get("purpose"), body.get("owner", "")
    if purpose not in PURPOSES or not isinstance(owner, str):
        raise ProtocolError(f"link: no link has the purpose {purpose!r}")
    return Purpose(purpose, owner)


def pack_open(channel: int, body: Open) -> bytes:
    """Return an OPEN message."""
    return pack_json(OPEN, asdict(body), channel)


def unpack_open(payload: bytes | memoryview) -> Open:
    """Return the body of an OPEN message; raise ProtocolError if a field is missing or wrong."""
    body = unpack_json(payload)
    try:
        devices = tuple(
            Peer(int(d["index"]), str(d["address"]), str(d["key"]), int(d["epoch"]))
            for d in body["devices"]
        )
        opened = Open(
            session=str(body["session"]),
            tenant=str(body["tenant"]),
            device=int(body["device"]),
            devices=devices,
            memory_bytes_max=int(body["memory_bytes_max"]),
            name=str(body["name"]),
            restore=bool(body.get("restore", False)),
            steady=bool(body.get("steady", False)),
            command_s_max=float(body.get("command_s_max", 0.0)),
            switches=bool(body.get("switches", False)),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"link: OPEN with a wrong field: {error!r}") from None
    if not 0 < len(devices) <= limits.DEVICES_PER_SESSION_MAX:
        raise ProtocolError(f"link: OPEN with {len(devices)} devices")
    return opened


# --- supervisor and gateway ----------------------------------------------------------------------
@dataclass(slots=True, frozen=True)
class WorkerUp:
    """Supervisor: this worker listens. A known worker with a higher epoch replaces itself."""

    worker: str
    epoch: int
    address: str
    key: str = field(repr=False)
    kind: str = "cpu"  # or "cuda"
    host: str = ""
    pid: int = 0


@dataclass(slots=True, frozen=True)
class WorkerGone:
    """Supervisor: this epoch of the worker is dead, or has been killed; it will not come back."""

    worker: str
    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Synced:
    """Supervisor, after it connected: all its workers have been named; forget any other.

    capacity: workers of each kind there can be at once; sent again when it changes.
    """

    capacity: dict[str, int]


@dataclass(slots=True, frozen=True)
class Retire:
    """Gateway: end this epoch of the worker (suspect, or its tenant has left) and make another."""

    worker: str
    epoch: int
    reason: str


@dataclass(slots=True, frozen=True)
class Wanted:
    """Gateway: so many sessions' devices wait for a worker of this kind."""

    kind: str
    count: int


Fleet = WorkerUp | WorkerGone | Synced | Retire | Wanted
_FLEET: Final[dict[str, type[Any]]] = {
    cls.__name__: cls for cls in (WorkerUp, WorkerGone, Synced, Retire, Wanted)
}
_FLEET_TYPES: Final = {"str": str, "int": int, "dict[str, int]": dict}


def pack_fleet(body: Fleet) -> bytes:
    """Return a FLEET message."""
    return pack_json(FLEET, {"type": type(body).__name__, **asdict(body)})


def unpack_fleet(payload: bytes | memoryview) -> Fleet:
    """Return what a FLEET message says; raise ProtocolError if it says nothing we know."""
    body = unpack_json(payload)
    cls = _FLEET.get(str(body.get("type")))
    if cls is None:
        raise ProtocolError(f"link: no fleet message has the type {body.get('type')!r}")
    values = {f.name: body.get(f.name) for f in fields(cls)}
    for f in fields(cls):
        if not isinstance(values[f.name], _FLEET_TYPES[str(f.type)]):
            raise ProtocolError(f"link: {cls.__name__}.{f.name} is no {f.type}")
    made: Fleet = cls(**values)
    return made
