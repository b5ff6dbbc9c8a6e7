"""Control messages and chunks <-> bytes: opening, acks, lists, bulk tensor bytes.

One class a message, frozen but for those of every frame (that costs more than the rest of their
making); what a field means and may hold stands in stream.proto.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Final, TypeVar

from google.protobuf.message import EncodeError

from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import limits
from farspan.core.command import NumericsChange
from farspan.core.errors import ProtocolError
from farspan.wire.checks import ID_END, at_most, few_fields, parse
from farspan.wire.envelopes import decode_parts, encode_parts

MAJOR: Final = 1
#: 2: Trace, and the Gets of a trace; 3: Define, Call, and a Free has no number; 4: Undefine, Get 8,
#: Share; 5: Resume, attach, Keep; 6: Move, numerics of devices, pages of List, calls beside the
#: stream carry the session's secret.
MINOR: Final = 6
LONG_PAYLOADS_MINOR: Final = 6  # frames carry tensors of up to PAYLOAD_BYTES_MAX since then.
#: Metadata of calls beside the stream: Welcome's secret, so that a client that another has taken
#: the session from changes nothing of it any more.
SECRET_METADATA: Final = "farspan-secret-bin"
SHARED_MEMORY: Final = "shared-memory"  # a feature: Share, pieces, positions of values
SHARED_UPLOADS: Final = "shared-uploads"  # a feature: pieces in Upload, and segments one by one
SERVICE: Final = "farspan.v1.Farspan"

#: Largest message on the control stream: one full frame or event list and its envelope.
CONTROL_BYTES_MAX: Final = limits.FRAME_BYTES_MAX + 64 * limits.KiB
#: Largest message on the data connection: one chunk and its envelope.
DATA_BYTES_MAX: Final = limits.CHUNK_BYTES + 4 * limits.KiB


@dataclass(slots=True, frozen=True)
class Device:
    """Where a device of a session runs."""

    name: str
    kind: str
    host: str
    pid: int
    epoch: int
    worker: str = ""
    numerics: str = ""


@dataclass(slots=True, frozen=True)
class Resume:
    """Goes on with a session: who it is, and what it knows."""

    session: str
    secret: bytes = field(repr=False)  # it stands in no log
    attempt: int
    confirmed: int = 0
    applied: int = 0


@dataclass(slots=True, frozen=True)
class Hello:
    """Opens a session; stream.proto says what each field means and may hold."""

    table_hash: str
    devices: str = ""
    wait_ms: int = 0
    client: str = ""
    features: tuple[str, ...] = ()
    major: int = MAJOR
    minor: int = MINOR
    resume: Resume | None = None
    attach: str = ""
    durability: str = ""
    allow_numerics_change: bool = False


@dataclass(slots=True, frozen=True)
class Welcome:
    """The session is open."""

    session: str
    epoch: int
    kinds: tuple[str, ...]
    credit_frames: int = limits.CREDIT_FRAMES
    credit_bytes: int = limits.CREDIT_BYTES
    lease_ms: int = 0
    features: tuple[str, ...] = ()
    major: int = MAJOR
    minor: int = MINOR
    secret: bytes = field(default=b"", repr=False)
    received: int = 0
    durability: str = ""


@dataclass(slots=True, frozen=True)
class SharedPiece:
    """The next bytes of an upload, in shared memory. `total_bytes` 0 gives the transfer up."""

    device: int
    transfer: int
    total_bytes: int
    offset: int
    position: int
    piece_bytes: int


@dataclass(slots=True)
class Up:
    """A message of the client on the control stream."""

    hello: Hello | None = None
    frames: tuple[bytes, ...] = ()
    reserve: bool = False
    close: bool = False
    pieces: tuple[SharedPiece, ...] = ()
    confirmed: int = 0
    detach: bool = False


@dataclass(slots=True)
class Down:
    """A message of the gateway on the control stream. Events come before the ack beside them."""

    welcome: Welcome | None = None
    events: tuple[bytes, ...] = ()
    line: int = 0
    devices: tuple[Device, ...] = ()
    applied: int = 0
    durable: int = 0
    numerics: tuple[NumericsChange, ...] = ()


@dataclass(slots=True, frozen=True)
class TransferHeader:
    """What an upload is."""

    session: str
    device: int
    transfer: int
    total_bytes: int


@dataclass(slots=True, frozen=True)
class DownloadRequest:
    """Which value's bytes to send, or, with `give_up`, not to keep a worker waiting for."""

    session: str
    request: int
    give_up: bool = False


@dataclass(slots=True, frozen=True)
class UploadReply:
    """How many bytes were taken."""

    received_bytes: int


@dataclass(slots=True, frozen=True)
class ListRequest:
    """Which sessions has my tenant, behind one of them?"""

    after: str = ""
    after_opened_at_s: float = 0.0


@dataclass(slots=True, frozen=True)
class DescribeRequest:
    """What is this session?"""

    session: str
    worker_status: bool = False


@dataclass(slots=True, frozen=True)
class TraceRequest:
    """Note from now on when a session's frames pass; or end it and tell."""

    session: str
    begin: bool = False


@dataclass(slots=True, frozen=True)
class TraceReply:
    """What was noted, as JSON."""

    records: str


@dataclass(slots=True, frozen=True)
class ShareRequest:
    """Make memory that both of us map; or, with the nonce that stands in it, use it."""

    session: str
    device: int
    proof: bytes = b""


@dataclass(slots=True, frozen=True)
class ShareReply:
    """Where it is, or why there is none."""

    pid: int = 0
    fd: int = 0
    segment_bytes: int = 0
    digest: bytes = b""
    refused: str = ""
    first_position: int = 0


@dataclass(slots=True, frozen=True)
class KeepRequest:
    """Give what a session has a name, once a frame has come; an empty body takes it back."""

    session: str
    sequence: int
    name: str
    body: str = ""


@dataclass(slots=True, frozen=True)
class KeepReply:
    """The name survives the gateway."""


@dataclass(slots=True, frozen=True)
class KeptRequest:
    """Which names has this session?"""

    session: str


@dataclass(slots=True, frozen=True)
class KeptEntry:
    """A name, and what its client said of it."""

    name: str
    body: str


@dataclass(slots=True, frozen=True)
class KeptReply:
    """The names of a session."""

    entries: tuple[KeptEntry, ...] = ()


@dataclass(slots=True, frozen=True)
class CloseRequest:
    """End this session."""

    session: str


@dataclass(slots=True, frozen=True)
class CloseReply:
    """It has ended."""


@dataclass(slots=True, frozen=True)
class SessionInfo:
    """A session as others may see it."""

    session: str
    state: str
    opened_at_s: float
    frames: int
    commands: int
    devices: tuple[Device, ...] = ()


@dataclass(slots=True, frozen=True)
class ListReply:
    """The caller's sessions, a page of them."""

    sessions: tuple[SessionInfo, ...] = ()
    more: bool = False


@dataclass(slots=True, frozen=True)
class DescribeReply:
    """One session; a JSON object a device if asked for."""

    session: SessionInfo | None
    worker_status: tuple[str, ...] = ()
    numerics: tuple[NumericsChange, ...] = ()


@dataclass(slots=True, frozen=True)
class MoveRequest:
    """Let this session go on with other workers."""

    session: str
    to: str = ""
    allow_numerics_change: bool = False


@dataclass(slots=True, frozen=True)
class MoveReply:
    """Where it is now."""

    devices: tuple[Device, ...] = ()
    numerics: tuple[NumericsChange, ...] = ()


_T = TypeVar("_T")
_PARTS: Final[dict[str, type[Any]]] = {
    "hello": Hello,
    "welcome": Welcome,
    "devices": Device,
    "sessions": SessionInfo,
    "session": SessionInfo,
    "resume": Resume,
    "entries": KeptEntry,
    "numerics": NumericsChange,
}
#: The most bytes of any message that is not on the control stream or a chunk.
_UNARY_BYTES_MAX: Final = limits.MiB
_ENTRIES_MAX: Final = {
    "devices": limits.DEVICES_PER_SESSION_MAX,
    "features": 64,
    "sessions": limits.SESSIONS_PER_PAGE_MAX,
    "entries": 1000,
    "numerics": limits.NUMERICS_CHANGES_MAX,
    "before": limits.DEVICES_PER_SESSION_MAX,
    "after": limits.DEVICES_PER_SESSION_MAX,
}
_TEXT_BYTES_MAX: Final = {
    "session": 64,
    "table_hash": 128,
    "devices": 256,
    "client": 128,
    "features": 64,
    "attach": 64,
    "to": 1024,
    "numerics": 512,
    "before": 512,
    "after": 512,
    "body": 256 * limits.KiB,
    "durability": 32,
    "proof": 32,
    "secret": 32,
    "digest": 32,
    "worker_status": 64 * limits.KiB,
    "records": limits.MiB,
}


_ENTRIES: Final = (Device, SessionInfo, SharedPiece, KeptEntry, NumericsChange)


def encode(message: Any) -> bytes:
    """Return the bytes of a control message: one of the classes above."""
    try:
        kind = type(message)
        if (
            kind is Down
            and message.welcome is None
            and not (message.line or message.devices or message.numerics)
        ):
            return encode_parts(message.events, message.applied, message.durable)
        if (
            kind is Up
            and message.hello is None
            and not (message.reserve or message.close or message.pieces or message.detach)
        ):
            return encode_parts(message.frames, 0, message.confirmed)
        data: bytes = _filled(message).SerializeToString()
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise ProtocolError(f"{type(message).__name__}: cannot be sent: {error}") from None
    return data


def decode(kind: type[_T], data: bytes) -> _T:
    """Return the control message of class `kind` in `data`; raise ProtocolError if it is none."""
    result: Any
    bound = CONTROL_BYTES_MAX if kind in (Up, Down) else _UNARY_BYTES_MAX
    plain = None
    if bound is CONTROL_BYTES_MAX:
        at_most(f"{kind.__name__} bytes", len(data), bound)
        plain = decode_parts(data)
    if plain is None or (kind is Up and plain[1]):
        if kind is Up:
            few_fields(data, limits.FRAME_COMMANDS_MAX, kind.__name__)
        message = parse(getattr(pb, kind.__name__), data, bound, kind.__name__)
        result = _FAST_IN[kind](message) if kind in _FAST_IN else _read(kind, message)
    elif kind is Up:
        result = Up(None, plain[0], False, False, (), plain[2])
    else:
        result = Down(None, plain[0], 0, (), plain[1], plain[2])
    if kind is Down:
        at_most("applied", result.applied, ID_END - 1)
        at_most("durable", result.durable, ID_END - 1)
    elif kind is Up:
        at_most("confirmed", result.confirmed, ID_END - 1)
        at_most("frames", len(result.frames), limits.UP_FRAMES_MAX)
    return result  # type: ignore[no-any-return]


def _up(message: Any) -> Up:
    hello = _read(Hello, message.hello) if message.HasField("hello") else None
    pieces: tuple[SharedPiece, ...] = ()
    if message.pieces:
        at_most("pieces", len(message.pieces), limits.SHARED_PIECES_MAX)
        pieces = tuple(map(_piece, message.pieces))
    at_most("frames", len(message.frames), limits.UP_FRAMES_MAX)
    return Up(
        hello,
        tuple(message.frames),
        message.reserve,
        message.close,
        pieces,
        message.confirmed,
        message.detach,
    )


def _piece(message: Any) -> SharedPiece:
    piece: SharedPiece = _read(SharedPiece, message)
    at_most("device", piece.device, limits.DEVICES_PER_SESSION_MAX - 1)
    at_most("piece bytes", piece.piece_bytes, limits.SHARED_PIECE_BYTES)
    if piece.offset + piece.piece_bytes > piece.total_bytes:
        raise ProtocolError(
            f"a piece at {piece.offset} beyond the end of transfer {piece.transfer}"
        )
    return piece


def _down(message: Any) -> Down:
    devices: tuple[Device, ...] = ()
    if message.devices:
        at_most("devices", len(message.devices), limits.DEVICES_PER_SESSION_MAX)
        devices = tuple(_read(Device, device) for device in message.devices)
    changes: tuple[NumericsChange, ...] = ()
    if message.numerics:
        at_most("numerics", len(message.numerics), limits.NUMERICS_CHANGES_MAX)
        changes = tuple(_read(NumericsChange, change) for change in message.numerics)
    return Down(
        _read(Welcome, message.welcome) if message.HasField("welcome") else None,
        tuple(message.events),
        message.line.place if message.HasField("line") else 0,
        devices,
        message.applied,
        message.durable,
        changes,
    )


_FAST_IN: Final[dict[Any, Any]] = {Up: _up, Down: _down}


def _filled(value: Any) -> Any:
    out = getattr(pb, type(value).__name__)()
    for f in fields(value):
        part = getattr(value, f.name)
        if isinstance(part, tuple):
            target = getattr(out, f.name)
            if part and isinstance(part[0], _ENTRIES):
                target.extend(_filled(entry) for entry in part)
            else:
                target.extend(part)
        elif isinstance(part, Hello | Welcome | SessionInfo | Resume):
            getattr(out, f.name).CopyFrom(_filled(part))
        elif f.name == "line":
            if part:
                out.line.place = part
        elif part is not None:
            setattr(out, f.name, part)
    return out


def _read(kind: type[Any], message: Any) -> Any:
    values: dict[str, Any] = {}
    for f in fields(kind):
        part = getattr(message, f.name)
        if isinstance(part, str | bytes | int | float):
            values[f.name] = _bounded(f.name, part)
        elif hasattr(part, "HasField"):
            present = message.HasField(f.name)
            values[f.name] = _read(_PARTS[f.name], part) if present else None
        else:
            at_most(f.name, len(part), _ENTRIES_MAX.get(f.name, limits.FRAME_COMMANDS_MAX))
            values[f.name] = tuple(
                _bounded(f.name, entry)
                if isinstance(entry, str | bytes)
                else _read(_PARTS[f.name], entry)
                for entry in part
            )
    return kind(**values)


def _bounded(name: str, value: Any) -> Any:
    if isinstance(value, str):
        at_most(f"{name} bytes", len(value), _TEXT_BYTES_MAX.get(name, 256))
    elif isinstance(value, bytes):
        bound = _TEXT_BYTES_MAX.get(name, limits.FRAME_BYTES_MAX)
        at_most(f"{name} bytes", len(value), bound)
    elif isinstance(value, int):
        at_most(name, value, ID_END - 1)
    return value


# --- chunks --------------------------------------------------------------------------------------

_DATA_TAG: Final = bytes([pb.Chunk.DESCRIPTOR.fields_by_name["data"].number << 3 | 2])
_PIECE_TAG: Final = bytes([pb.Chunk.DESCRIPTOR.fields_by_name["piece"].number << 3 | 2])


def encode_chunk(data: memoryview) -> bytes:
    """Return a Chunk message with these bytes, copying them once.

    Written by hand: through protobuf's object the bytes would be copied twice more.
    """
    size = data.nbytes
    at_most("chunk bytes", size, limits.CHUNK_BYTES)
    prefix = bytearray(_DATA_TAG)
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, data))


def encode_chunk_piece(piece: SharedPiece) -> bytes:
    """Return a Chunk message that says where bytes lie."""
    data: bytes = pb.Chunk(piece=_filled(piece)).SerializeToString()
    return data


def decode_upload(message: bytes) -> memoryview | SharedPiece:
    """Return the bytes of a Chunk message of an upload, or where they lie. ProtocolError."""
    if message[:1] != _PIECE_TAG:
        return decode_chunk(message)
    chunk = parse(pb.Chunk, message, 4 * limits.KiB, "chunk")
    if chunk.WhichOneof("kind") != "piece":
        raise ProtocolError("chunk: expected one of data")
    return _piece(chunk.piece)


def decode_chunk(message: bytes) -> memoryview:
    """Return the bytes of a Chunk message without a copy; raise ProtocolError if it has none."""
    at_most("chunk bytes", len(message), DATA_BYTES_MAX)
    if message[:1] == _DATA_TAG:
        size = shift = 0
        for at, byte in enumerate(message[1:6], 2):
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                if at + size == len(message) and size <= limits.CHUNK_BYTES:
                    return memoryview(message)[at:]
                break
    raise ProtocolError("chunk: expected one of data")


def encode_transfer_header(header: TransferHeader) -> bytes:
    """Return the first message of an upload."""
    data: bytes = pb.Chunk(header=_filled(header)).SerializeToString()
    return data


def decode_transfer_header(message: bytes) -> TransferHeader:
    """Return the header in the first message of an upload."""
    chunk = parse(pb.Chunk, message, 4 * limits.KiB, "chunk")
    if chunk.WhichOneof("kind") != "header":
        raise ProtocolError("chunk: expected the header first")
    header: TransferHeader = _read(TransferHeader, chunk.header)
    at_most("device", header.device, limits.DEVICES_PER_SESSION_MAX - 1)
    return header
