"""Commands, events and control messages <-> bytes; the only importer of protobuf code.

What comes in is judged before it becomes objects: sizes, counts and depths against core/limits.py;
anything wrong is a ProtocolError, whatever the bytes. What goes out passes the same judgement, so
`decode(encode(x)) == x`. The contract is protos/farspan/v1/stream.proto; read docs/protocol.md.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any, Final, TypeVar

from google.protobuf.message import DecodeError, EncodeError

from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import limits
from farspan.core.command import (
    BACKWARD,
    FIRST_OPCODE,
    FREE,
    GET,
    GET_SEND,
    PUT,
    ErrorInfo,
    Event,
    Failed,
    Frame,
    Lost,
    Scalar,
    Static,
    Value,
)
from farspan.core.errors import ProtocolError

MAJOR: Final = 1
MINOR: Final = 0
SERVICE: Final = "farspan.v1.Farspan"

#: Largest message on the control stream: one full frame or event list and its envelope.
CONTROL_BYTES_MAX: Final = limits.FRAME_BYTES_MAX + 64 * limits.KiB
#: Largest message on the data connection: one chunk and its envelope.
DATA_BYTES_MAX: Final = limits.CHUNK_BYTES + 4 * limits.KiB

_ID_END: Final = 2**62
_OPCODE_MAX: Final = 2**16 - 1
_WIDE_MODE: Final = 2**64 - 1
_WIDE_MODE_BYTES_MAX: Final = (limits.TENSORS_PER_COMMAND_MAX + 2 + 7) // 8
_MEMO_BYTES_MAX: Final = 256  # longer statics are rare and are not memoised.

# --- frames --------------------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class FrameHeader:
    """What a gateway may know of a frame."""

    sequence: int
    epoch: int
    device: int
    command_count: int
    first_number: int


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame; the same frame gives the same bytes in one process.

    Raises ProtocolError if a bound of core/limits.py is passed or a column has a wrong type.
    """
    _check_frame(frame)
    body = pb.Commands()
    try:
        body.opcodes.extend(frame.opcodes)
        body.counts.extend(frame.counts)
        body.ids.extend(frame.ids)
        body.scalar_counts.extend(frame.scalar_counts)
        _put_modes(body, frame.modes)
        _put_statics(body, frame.statics)
        if frame.scalars:
            _put_scalars(body, frame.scalars)
        first = frame.numbers[0] if frame.numbers else 0
        if frame.numbers != list(range(first, first + len(frame.numbers))):
            body.numbers.extend(frame.numbers)
        if frame.payloads:
            body.payload_bytes.extend(memoryview(p).nbytes for p in frame.payloads)
            body.payloads = b"".join(frame.payloads)
        data: bytes = pb.Frame(
            sequence=frame.sequence,
            epoch=frame.epoch,
            device=frame.device,
            command_count=len(frame.opcodes),
            first_number=first,
            default_dtype=frame.default_dtype,
            body=body.SerializeToString(),
        ).SerializeToString()
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise ProtocolError(f"frame: a column cannot be sent: {error}") from None
    if len(data) > limits.FRAME_BYTES_MAX:
        raise ProtocolError(f"frame: {len(data)} bytes; at most {limits.FRAME_BYTES_MAX}")
    return data


def decode_frame(data: bytes | memoryview) -> Frame:
    """Return the frame in `data`; its payloads are views of a private copy.

    Raises ProtocolError for anything that `encode_frame` could not have made.
    """
    message = _frame_message(data)
    body = _parse(pb.Commands, message.body, limits.FRAME_BYTES_MAX, "frame")
    count = message.command_count
    columns = (body.opcodes, body.modes, body.counts, body.statics, body.scalar_counts)
    if any(len(column) != count for column in columns):
        raise ProtocolError(f"frame: a column has not {count} entries")
    _at_most("ids", len(body.ids), limits.FRAME_IDS_MAX)
    _at_most("static_table", len(body.static_table), count)
    _at_most("wide_modes", len(body.wide_modes), count)
    _at_most("scalar_kinds", len(body.scalar_kinds), limits.FRAME_IDS_MAX)
    _at_most("payload_bytes", len(body.payload_bytes), count)
    if len(body.numbers) not in (0, count):
        raise ProtocolError(f"frame: {len(body.numbers)} numbers for {count} commands")
    first = message.first_number
    if count and body.numbers and body.numbers[0] != first:
        raise ProtocolError("frame: first_number is not the first of numbers")
    frame = Frame(
        device=message.device,
        sequence=message.sequence,
        epoch=message.epoch,
        default_dtype=message.default_dtype,
        opcodes=body.opcodes[:],
        modes=_modes(body),
        counts=body.counts[:],
        ids=body.ids[:],
        statics=_statics(body),
        scalar_counts=body.scalar_counts[:],
        scalars=_scalars(body) if body.scalar_kinds else [],
        numbers=body.numbers[:] if body.numbers else list(range(first, first + count)),
        payloads=_payloads(body),
    )
    _check_frame(frame)
    return frame


def frame_header(data: bytes | memoryview) -> FrameHeader:
    """Return the header of a frame without looking at its commands."""
    message = _frame_message(data)
    return FrameHeader(
        message.sequence,
        message.epoch,
        message.device,
        message.command_count,
        message.first_number,
    )


def _frame_message(data: bytes | memoryview) -> Any:
    message = _parse(pb.Frame, data, limits.FRAME_BYTES_MAX, "frame")
    _at_most("command_count", message.command_count, limits.FRAME_COMMANDS_MAX)
    _at_most("device", message.device, limits.DEVICES_PER_SESSION_MAX - 1)
    _at_most("default_dtype", message.default_dtype, 255)
    for name in ("sequence", "epoch", "first_number"):
        _at_most(name, getattr(message, name), _ID_END - 1)
    return message


def _check_frame(frame: Frame) -> None:
    """Raise ProtocolError unless the columns fit each other and every bound."""
    count = len(frame.opcodes)
    _at_most("commands", count, limits.FRAME_COMMANDS_MAX)
    for column in (frame.modes, frame.counts, frame.statics, frame.scalar_counts, frame.numbers):
        if len(column) != count:
            raise ProtocolError(f"frame: a column has {len(column)} entries for {count} commands")
    _at_most("payloads", len(frame.payloads), count)
    for payload in frame.payloads:
        _at_most("payload bytes", memoryview(payload).nbytes, limits.INLINE_BYTES_MAX)
    for name, total, column in (
        ("ids", len(frame.ids), frame.counts),
        ("scalars", len(frame.scalars), frame.scalar_counts),
    ):
        _at_most(name, total, limits.FRAME_IDS_MAX)
        if sum(column) != total:
            raise ProtocolError(f"frame: the commands name {sum(column)} {name}, there are {total}")
    if not count:
        return
    _at_most("opcode", max(frame.opcodes), _OPCODE_MAX)
    _at_most("ids of one command", max(frame.counts), limits.TENSORS_PER_COMMAND_MAX)
    _at_most("number", max(frame.numbers), _ID_END - 1)
    if frame.ids:
        _at_most("id", max(frame.ids), _ID_END - 1)
        if min(frame.ids) < 0:
            raise ProtocolError("frame: a negative id")
    if min(frame.opcodes) < FIRST_OPCODE:
        for opcode, static, ids in zip(frame.opcodes, frame.statics, frame.counts, strict=True):
            if opcode < FIRST_OPCODE:
                _check_protocol_command(opcode, static, ids, len(frame.payloads))


def _check_protocol_command(opcode: int, static: Static, ids: int, payloads: int) -> None:
    """Raise ProtocolError unless a Free, Get, Put or Backward has the static it must have."""
    if opcode == FREE:
        ok = static == ()
    elif opcode == GET:
        ok = ids == 1 and _are_ints(static, 3) and 0 <= static[1] <= GET_SEND
    elif opcode == PUT:
        ok = ids == 1 and len(static) == 4 and _are_ints((static[0], *static[2:]), 3)
        ok = ok and -1 <= static[2] < payloads and static[3] >= 0
        ok = ok and _is_shape(static[1])
    elif opcode == BACKWARD:
        ok = len(static) == 2 and _are_ints(static[:1], 1) and 0 < 2 * static[0] <= ids
    else:
        ok = False
    if not ok:
        raise ProtocolError(f"frame: command {opcode} has not the arguments it must have")


def _are_ints(values: Static, count: int) -> bool:
    return len(values) == count and all(type(v) is int for v in values)


def _is_shape(value: Any) -> bool:
    if type(value) is not tuple or len(value) > limits.RANK_MAX:
        return False
    if not _are_ints(value, len(value)) or any(size < 0 for size in value):
        return False
    numel = 1
    for size in value:
        numel *= size
    return numel <= limits.NUMEL_MAX


def _put_modes(body: Any, modes: list[int]) -> None:
    if not modes or max(modes) < _WIDE_MODE:
        body.modes.extend(modes)
        return
    wide = [mode for mode in modes if mode >= _WIDE_MODE]
    body.modes.extend(min(mode, _WIDE_MODE) for mode in modes)
    body.wide_modes.extend(mode.to_bytes((mode.bit_length() + 7) // 8, "little") for mode in wide)
    for mode in body.wide_modes:
        _at_most("bytes of a mode", len(mode), _WIDE_MODE_BYTES_MAX)


def _modes(body: Any) -> list[int]:
    modes: list[int] = body.modes[:]
    if modes.count(_WIDE_MODE) != len(body.wide_modes):
        raise ProtocolError("frame: wide modes are missing or left over")
    if body.wide_modes:
        wide = iter(body.wide_modes)
        for k, mode in enumerate(modes):
            if mode == _WIDE_MODE:
                data = next(wide)
                _at_most("bytes of a mode", len(data), _WIDE_MODE_BYTES_MAX)
                modes[k] = int.from_bytes(data, "little")
                if modes[k] < _WIDE_MODE:
                    raise ProtocolError("frame: a wide mode that is not wide")
    return modes


def _payloads(body: Any) -> list[bytes | memoryview]:
    sizes = body.payload_bytes[:]
    view = memoryview(body.payloads)
    if sum(sizes) != len(view):
        raise ProtocolError("frame: the payloads have not the length they should have")
    payloads: list[bytes | memoryview] = []
    offset = 0
    for size in sizes:
        payloads.append(view[offset : offset + size])
        offset += size
    return payloads


# --- scalars -------------------------------------------------------------------------------------

_SCALAR_KIND: Final = {bool: 0, int: 1, float: 2, complex: 3}
_SCALAR_TYPES: Final = (bool, int, float, complex)


def _put_scalars(body: Any, scalars: list[Scalar]) -> None:
    try:
        kinds = bytes([_SCALAR_KIND[type(s)] for s in scalars])
    except KeyError as error:
        raise ProtocolError(f"frame: a scalar of {error}; expected a Python number") from None
    body.scalar_kinds = kinds
    for kind, value in zip(kinds, scalars, strict=True):
        if kind < 2:
            body.scalar_ints.append(int(value))  # type: ignore[arg-type]
        elif kind == 2:
            body.scalar_floats.append(value)
        else:
            body.scalar_floats.extend((value.real, value.imag))


def _scalars(body: Any) -> list[Scalar]:
    kinds: bytes = body.scalar_kinds
    tally = [kinds.count(kind) for kind in range(4)]
    if (
        sum(tally) != len(kinds)
        or tally[0] + tally[1] != len(body.scalar_ints)
        or tally[2] + 2 * tally[3] != len(body.scalar_floats)
    ):
        raise ProtocolError("frame: the scalars do not match their kinds")
    ints, floats = iter(body.scalar_ints[:]), iter(body.scalar_floats[:])
    scalars: list[Scalar] = []
    for kind in kinds:
        if kind == 2:
            scalars.append(next(floats))
        elif kind == 1:
            scalars.append(next(ints))
        elif kind == 0:
            value = next(ints)
            if value not in (0, 1):
                raise ProtocolError(f"frame: a bool of value {value}")
            scalars.append(value == 1)
        else:
            scalars.append(complex(next(floats), next(floats)))
    return scalars


# --- statics -------------------------------------------------------------------------------------

_NONE, _FALSE, _TRUE, _INT, _STR, _TUPLE = range(6)
_I64: Final = struct.Struct("<q")
_U16: Final = struct.Struct("<H")
# Both memos spare the walk over a static seen before. The key of the first is a text because
# 1 == True == 1.0 as dict keys.
_encoded: dict[str, bytes] = {}
_decoded: dict[bytes, Static] = {}


def _put_statics(body: Any, statics: list[Static]) -> None:
    by_identity: dict[int, int] = {}  # the frame keeps them alive, so an id names one object
    table: dict[bytes, int] = {}
    index = []
    for static in statics:
        place = by_identity.get(id(static))
        if place is None:
            place = table.setdefault(encode_static(static), len(table))
            by_identity[id(static)] = place
        index.append(place)
    body.statics.extend(index)
    body.static_table.extend(table)


def _statics(body: Any) -> list[Static]:
    table = [decode_static(data) for data in body.static_table]
    index = body.statics[:]
    if index and max(index) >= len(table):
        raise ProtocolError("frame: a static that is not in the table")
    return [table[k] for k in index]


def encode_static(static: Static) -> bytes:
    """Return the bytes of one tuple of None, bools, ints, strings and tuples."""
    try:
        key = repr(static)
    except RecursionError:
        raise ProtocolError("static: tuples too deep") from None
    data = _encoded.get(key)
    if data is None:
        if type(static) is not tuple:
            raise ProtocolError(f"static: a {type(static).__name__}; expected a tuple")
        out = bytearray()
        _put_value(out, static, 0)
        data = bytes(out)
        if len(data) <= _MEMO_BYTES_MAX:
            if len(_encoded) >= limits.MEMO_ENTRIES_MAX:
                _encoded.clear()
            _encoded[key] = data
    return data


def _put_value(out: bytearray, value: Any, depth: int) -> None:
    kind = type(value)
    if value is None:
        out.append(_NONE)
    elif kind is bool:
        out.append(_TRUE if value else _FALSE)
    elif kind is int:
        if not -(2**63) <= value < 2**63:
            raise ProtocolError(f"static: {value} has more than 64 bits")
        out.append(_INT)
        out += _I64.pack(value)
    elif kind is str:
        try:
            data = value.encode()
        except UnicodeEncodeError:
            raise ProtocolError("static: a string that is no utf-8") from None
        _at_most("string bytes", len(data), limits.STRING_BYTES_MAX)
        out.append(_STR)
        out += _U16.pack(len(data))
        out += data
    elif kind is tuple:
        _at_most("tuple depth", depth, limits.ATTR_DEPTH_MAX)
        _at_most("tuple entries", len(value), limits.INTS_PER_ATTR_MAX)
        out.append(_TUPLE)
        out += _U16.pack(len(value))
        for entry in value:
            _put_value(out, entry, depth + 1)
    else:
        raise ProtocolError(f"static: a {kind.__name__}; expected None, bool, int, str or tuple")


def decode_static(data: bytes) -> Static:
    """Return the tuple in `data`; raise ProtocolError for anything else."""
    static = _decoded.get(data)
    if static is None:
        if not data or data[0] != _TUPLE:
            raise ProtocolError("static: no tuple")
        try:
            static, end = _value(data, 0, 0)
        except (struct.error, IndexError):
            raise ProtocolError("static: cut short") from None
        if end != len(data):
            raise ProtocolError("static: bytes left over")
        if len(data) <= _MEMO_BYTES_MAX:
            if len(_decoded) >= limits.MEMO_ENTRIES_MAX:
                _decoded.clear()
            _decoded[data] = static
    return static


def _value(data: bytes, at: int, depth: int) -> tuple[Any, int]:
    tag = data[at]
    at += 1
    if tag == _INT:
        return _I64.unpack_from(data, at)[0], at + 8
    if tag <= _TRUE:
        return (None, False, True)[tag], at
    if tag > _TUPLE:
        raise ProtocolError(f"static: no value has tag {tag}")
    count = _U16.unpack_from(data, at)[0]
    at += 2
    if tag == _STR:
        _at_most("string bytes", count, limits.STRING_BYTES_MAX)
        text = data[at : at + count]
        if len(text) != count:
            raise ProtocolError("static: cut short")
        try:
            return text.decode(), at + count
        except UnicodeDecodeError:
            raise ProtocolError("static: a string that is no utf-8") from None
    _at_most("tuple depth", depth, limits.ATTR_DEPTH_MAX)
    _at_most("tuple entries", count, limits.INTS_PER_ATTR_MAX)
    entries = []
    for _ in range(count):
        entry, at = _value(data, at, depth + 1)
        entries.append(entry)
    return tuple(entries), at


# --- events --------------------------------------------------------------------------------------


def encode_events(events: Sequence[Event]) -> bytes:
    """Return the bytes of Value, Failed and Lost events; Acked and Send travel otherwise."""
    message = pb.EventList()
    _at_most("events", len(events), limits.EVENTS_QUEUED_MAX)
    try:
        for event in events:
            _put_event(message.events.add(), event)
        data: bytes = message.SerializeToString()
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise ProtocolError(f"events: one cannot be sent: {error}") from None
    _at_most("event list bytes", len(data), limits.FRAME_BYTES_MAX)
    return data


def encode_event_batches(events: Sequence[Event], bytes_max: int) -> Iterator[bytes]:
    """Yield the events in order as encoded lists of at most `bytes_max` bytes each.

    bytes_max: at least INLINE_BYTES_MAX + 8 KiB, so that any single event fits.
    """
    batch: list[Event] = []
    room = bytes_max
    for event in events:
        data = event.data if isinstance(event, Value) else None
        size = 2 * limits.KiB + (0 if data is None else memoryview(data).nbytes)
        error = event.error if isinstance(event, (Value, Failed)) else None
        size += len(error.message) * 4 if error else 0
        if batch and (size > room or len(batch) == limits.EVENTS_QUEUED_MAX):
            yield encode_events(batch)
            batch, room = [], bytes_max
        batch.append(event)
        room -= size
    if batch:
        yield encode_events(batch)


def decode_events(data: bytes | memoryview) -> list[Event]:
    """Return the events in `data`; raise ProtocolError for anything else."""
    message = _parse(pb.EventList, data, limits.FRAME_BYTES_MAX, "events")
    _at_most("events", len(message.events), limits.EVENTS_QUEUED_MAX)
    return [_event(event) for event in message.events]


def _put_event(out: Any, event: Event) -> None:
    if isinstance(event, Value):
        _at_most("rank", len(event.shape), limits.RANK_MAX)
        value = out.value
        value.request = event.request
        value.dtype = event.dtype
        value.shape.extend(event.shape)
        if event.data is not None:
            _at_most("inline bytes", memoryview(event.data).nbytes, limits.INLINE_BYTES_MAX)
            value.data = bytes(event.data)
        if event.error is not None:
            _put_error(value.error, event.error)
        out.value.SetInParent()
    elif isinstance(event, Failed):
        _put_error(out.failed, event.error)
    elif isinstance(event, Lost):
        _put_error(out.lost, ErrorInfo(event.kind, event.message, -1))
    else:
        raise ProtocolError(f"events: {type(event).__name__} does not travel to a client")


def _put_error(out: Any, error: ErrorInfo) -> None:
    _at_most("kind bytes", len(error.kind), 64)
    data = error.message.encode("utf-8", "replace")
    out.kind = error.kind
    # A message quotes what the user passed, so it may be any length; its beginning says most.
    out.message = data[: limits.STRING_BYTES_MAX].decode("utf-8", "ignore")
    out.command = error.command
    out.SetInParent()


def _event(event: Any) -> Event:
    kind = event.WhichOneof("kind")
    if kind == "failed":
        return Failed(_error(event.failed))
    if kind == "lost":
        error = _error(event.lost)
        return Lost(error.kind, error.message)
    if kind != "value":
        raise ProtocolError("events: one of no known kind")
    value = event.value
    _at_most("request", value.request, _ID_END - 1)
    _at_most("dtype", value.dtype, 255)
    _at_most("rank", len(value.shape), limits.RANK_MAX)
    shape = tuple(value.shape)
    if not _is_shape(shape):
        raise ProtocolError("events: a value with more elements than there can be")
    data = value.data if value.HasField("data") else None
    _at_most("inline bytes", len(data or b""), limits.INLINE_BYTES_MAX)
    error = _error(value.error) if value.HasField("error") else None
    return Value(value.request, value.dtype, shape, data, error)


def _error(error: Any) -> ErrorInfo:
    _at_most("kind bytes", len(error.kind), 64)
    _at_most("message bytes", len(error.message), limits.STRING_BYTES_MAX)
    return ErrorInfo(error.kind, error.message, error.command)


# --- control messages ----------------------------------------------------------------------------


@dataclass(slots=True, frozen=True)
class Device:
    """Where a device of a session runs."""

    name: str
    kind: str
    host: str
    pid: int
    epoch: int


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


@dataclass(slots=True, frozen=True)
class Up:
    """A message of the client on the control stream."""

    hello: Hello | None = None
    frames: tuple[bytes, ...] = ()
    reserve: bool = False
    close: bool = False


@dataclass(slots=True, frozen=True)
class Down:
    """A message of the gateway on the control stream. Events come before the ack beside them."""

    welcome: Welcome | None = None
    events: tuple[bytes, ...] = ()
    line: int = 0
    devices: tuple[Device, ...] = ()
    applied: int = 0
    durable: int = 0


@dataclass(slots=True, frozen=True)
class TransferHeader:
    """What an upload is."""

    session: str
    device: int
    transfer: int
    total_bytes: int


@dataclass(slots=True, frozen=True)
class DownloadRequest:
    """Which value's bytes to send."""

    session: str
    request: int


@dataclass(slots=True, frozen=True)
class UploadReply:
    """How many bytes were taken."""

    received_bytes: int


@dataclass(slots=True, frozen=True)
class ListRequest:
    """Which sessions has my tenant?"""


@dataclass(slots=True, frozen=True)
class DescribeRequest:
    """What is this session?"""

    session: str
    worker_status: bool = False


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
    """The caller's sessions."""

    sessions: tuple[SessionInfo, ...] = ()


@dataclass(slots=True, frozen=True)
class DescribeReply:
    """One session; a JSON object a device if asked for."""

    session: SessionInfo | None
    worker_status: tuple[str, ...] = ()


_T = TypeVar("_T")
_PARTS: Final[dict[str, type[Any]]] = {
    "hello": Hello,
    "welcome": Welcome,
    "devices": Device,
    "sessions": SessionInfo,
    "session": SessionInfo,
    "line": int,
}
#: The most bytes of any message that is not on the control stream or a chunk.
_UNARY_BYTES_MAX: Final = limits.MiB
_ENTRIES_MAX: Final = {"devices": limits.DEVICES_PER_SESSION_MAX, "features": 64, "sessions": 1000}
_TEXT_BYTES_MAX: Final = {
    "session": 64,
    "table_hash": 128,
    "devices": 256,
    "client": 128,
    "features": 64,
    "worker_status": 64 * limits.KiB,
}


def encode(message: Any) -> bytes:
    """Return the bytes of a control message: one of the classes above."""
    try:
        data: bytes = _filled(message).SerializeToString()
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise ProtocolError(f"{type(message).__name__}: cannot be sent: {error}") from None
    return data


def decode(kind: type[_T], data: bytes) -> _T:
    """Return the control message of class `kind` in `data`; raise ProtocolError if it is none."""
    bound = CONTROL_BYTES_MAX if kind in (Up, Down) else _UNARY_BYTES_MAX
    message = _parse(getattr(pb, kind.__name__), data, bound, kind.__name__)
    result: _T = _read(kind, message)
    return result


def _filled(value: Any) -> Any:
    out = getattr(pb, type(value).__name__)()
    for f in fields(value):
        part = getattr(value, f.name)
        if isinstance(part, tuple):
            target = getattr(out, f.name)
            if part and isinstance(part[0], Device | SessionInfo):
                target.extend(_filled(entry) for entry in part)
            else:
                target.extend(part)
        elif isinstance(part, Hello | Welcome | SessionInfo):
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
        if isinstance(part, str | int | float):
            values[f.name] = _bounded(f.name, part)
        elif f.name == "line":
            values[f.name] = part.place
        elif hasattr(part, "HasField"):
            present = message.HasField(f.name)
            values[f.name] = _read(_PARTS[f.name], part) if present else None
        else:
            _at_most(f.name, len(part), _ENTRIES_MAX.get(f.name, limits.FRAME_COMMANDS_MAX))
            nested = _PARTS.get(f.name)
            values[f.name] = tuple(
                _bounded(f.name, entry) if isinstance(entry, str | bytes) else _read(nested, entry)
                for entry in part
            )
    return kind(**values)


def _bounded(name: str, value: Any) -> Any:
    if isinstance(value, str):
        _at_most(f"{name} bytes", len(value), _TEXT_BYTES_MAX.get(name, 256))
    elif isinstance(value, bytes):
        _at_most(f"{name} bytes", len(value), limits.FRAME_BYTES_MAX)
    elif isinstance(value, int):
        _at_most(name, value, _ID_END - 1)
    return value


# --- chunks --------------------------------------------------------------------------------------

_DATA_TAG: Final = bytes([pb.Chunk.DESCRIPTOR.fields_by_name["data"].number << 3 | 2])


def encode_chunk(data: memoryview) -> bytes:
    """Return a Chunk message with these bytes, copying them once.

    Written by hand: through protobuf's object the bytes would be copied twice more.
    """
    size = data.nbytes
    _at_most("chunk bytes", size, limits.CHUNK_BYTES)
    prefix = bytearray(_DATA_TAG)
    while size > 0x7F:
        prefix.append(size & 0x7F | 0x80)
        size >>= 7
    prefix.append(size)
    return b"".join((prefix, data))


def decode_chunk(message: bytes) -> memoryview:
    """Return the bytes of a Chunk message without a copy; raise ProtocolError if it has none."""
    _at_most("chunk bytes", len(message), DATA_BYTES_MAX)
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
    chunk = _parse(pb.Chunk, message, 4 * limits.KiB, "chunk")
    if chunk.WhichOneof("kind") != "header":
        raise ProtocolError("chunk: expected the header first")
    header: TransferHeader = _read(TransferHeader, chunk.header)
    _at_most("device", header.device, limits.DEVICES_PER_SESSION_MAX - 1)
    return header


# --- checks --------------------------------------------------------------------------------------


def _parse(kind: Any, data: bytes | memoryview, bytes_max: int, name: str) -> Any:
    _at_most(f"{name} bytes", len(data), bytes_max)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ProtocolError(f"{name}: bytes that are no such message") from None


def _at_most(name: str, value: int, bound: int) -> None:
    if value > bound:
        raise ProtocolError(f"{name}: {value}; at most {bound}")
