"""Frames <-> bytes: columns of protobuf, statics interned a frame."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Final

from google.protobuf.message import EncodeError

from farspan._native import fast
from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import limits
from farspan.core.command import (
    BACKWARD,
    CALL,
    DEFINE,
    FIRST_OPCODE,
    FREE,
    GET,
    GET_IDS,
    GET_MEMORY,
    GET_MEMORY_ANEW,
    GET_PROGRAM,
    GET_RELEASE,
    GET_SPEC,
    GET_TRACE,
    GET_TRACE_END,
    GROW,
    LINK,
    PROGRAM_EXACT,
    PUT,
    UNDEFINE,
    Frame,
    Scalar,
    Static,
)
from farspan.core.errors import ProtocolError
from farspan.wire import forms
from farspan.wire.checks import ID_END, are_ints, at_most, is_shape, parse
from farspan.wire.envelopes import (
    SHORT_BYTES,
    decode_header,
    decode_short,
    encode_body,
    encode_short,
    frame_of,
)
from farspan.wire.statics import decode_static, encode_static

_OPCODE_MAX: Final = 2**16 - 1
_SMALL: Final = min(limits.DEVICES_PER_SESSION_MAX, limits.FRAME_COMMANDS_MAX, 255)
_SHORT_COMMANDS: Final = 8  # more are encoded faster by protobuf
_HEADER: Final = (
    "sequence", "epoch", "device", "command_count", "first_number", "default_dtype",
)  # fmt: skip
_WIDE_MODE: Final = 2**64 - 1
_ABOUT_ALL: Final = (
    GET_SPEC, GET_MEMORY, GET_MEMORY_ANEW, GET_PROGRAM, GET_TRACE, GET_TRACE_END,
    GET_RELEASE, GET_IDS,
)  # fmt: skip
_WIDE_MODE_BYTES_MAX: Final = (limits.TENSORS_PER_COMMAND_MAX + 2 + 7) // 8


@dataclass(slots=True)
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
    data: bytes | None
    try:
        data = forms.encode(frame, _interned, _check_protocol_command)
    except (TypeError, ValueError, OverflowError, struct.error):
        data = None  # below it is said what is wrong
    if data is not None and len(data) <= limits.FRAME_BYTES_MAX:
        return data
    _check_frame(frame)
    first = _first_number(frame.numbers)
    header = (
        frame.sequence,
        frame.epoch,
        frame.device,
        len(frame.opcodes),
        first,
        frame.default_dtype,
    )
    try:
        index, table = _interned(frame.statics)
        data = _encode_short(frame, header, index, table)
        if data is not None:
            forms.learn(frame)
        else:
            data = frame_of(header, _encode_columns(frame, first, index, table))
    except (TypeError, ValueError, OverflowError, EncodeError, struct.error) as error:
        raise ProtocolError(f"frame: a column cannot be sent: {error}") from None
    if len(data) > limits.FRAME_BYTES_MAX:
        raise ProtocolError(f"frame: {len(data)} bytes; at most {limits.FRAME_BYTES_MAX}")
    return data


def _encode_short(
    frame: Frame, header: tuple[int, ...], index: list[int], table: list[bytes]
) -> bytes | None:
    """Return the bytes of a frame of few commands without scalars, as most that somebody awaits."""
    if not 0 < len(index) <= _SHORT_COMMANDS or frame.scalars or frame.payloads:
        return None
    if max(frame.modes) >= _WIDE_MODE or frame.numbers != _following(header[4], frame.opcodes):
        return None
    modes, counts = frame.modes, frame.counts
    columns = (frame.opcodes, modes, counts, frame.ids, index, frame.scalar_counts)
    return encode_short(header, columns, table)


def _encode_columns(frame: Frame, first: int, index: list[int], table: list[bytes]) -> bytes:
    body = pb.Commands()  # of what is rare; its fields follow those of every command
    modes = _put_modes(body, frame.modes)
    columns = (frame.opcodes, modes, frame.counts, frame.ids, index, frame.scalar_counts)
    data = encode_body(columns, table)
    if frame.scalars:
        _put_scalars(body, frame.scalars)
    if frame.numbers != _following(first, frame.opcodes):
        body.numbers.extend(frame.numbers)
    if frame.payloads:
        body.payload_bytes.extend(memoryview(p).nbytes for p in frame.payloads)
        body.payloads = b"".join(frame.payloads)
    rest: bytes = body.SerializeToString()
    return data + rest


def decode_frame(data: bytes | memoryview) -> Frame:
    """Return the frame in `data`; its payloads are views of a private copy.

    Raises ProtocolError for anything that `encode_frame` could not have made.
    """
    data = bytes(data)
    known = forms.decode(data, _statics, _check_protocol_command)
    if known is not None:
        return known
    header, default_dtype, body = _opened(data)
    frame = Frame(header.device, header.sequence, header.epoch, default_dtype)
    short = decode_short(body) if len(body) <= SHORT_BYTES else None
    if short is None:
        _decode_columns(frame, header, body)
    else:
        columns, table = short
        frame.opcodes, frame.modes, frame.counts, frame.ids, index, frame.scalar_counts = columns
        at_most("static_table", len(table), header.command_count)
        frame.statics = _statics(table, index)
        frame.numbers = _following(header.first_number, frame.opcodes)
    if len(frame.opcodes) != header.command_count:
        raise ProtocolError(f"frame: a column has not {header.command_count} entries")
    _check_frame(frame)
    if short is not None:
        forms.learn(frame)
    return frame


def _decode_columns(frame: Frame, header: FrameHeader, data: bytes) -> None:
    body = parse(pb.Commands, data, limits.FRAME_BYTES_MAX, "frame")
    count = header.command_count
    # Counts are asked before lists are made of them.
    columns = (body.opcodes, body.modes, body.counts, body.statics, body.scalar_counts)
    if [len(column) for column in columns] != [count] * 5:
        raise ProtocolError(f"frame: a column has not {count} entries")
    at_most("ids", len(body.ids), limits.FRAME_IDS_MAX)
    at_most("static_table", len(body.static_table), count)
    at_most("wide_modes", len(body.wide_modes), count)
    at_most("scalar_kinds", len(body.scalar_kinds), limits.FRAME_IDS_MAX)
    at_most("payload_bytes", len(body.payload_bytes), count)
    opcodes, numbers = body.opcodes[:], body.numbers
    if not numbers:
        numbers = _following(header.first_number, opcodes)
    elif len(numbers) != count:
        raise ProtocolError(f"frame: {len(numbers)} numbers for {count} commands")
    else:
        numbers = numbers[:]
        if _first_number(numbers) != header.first_number:
            raise ProtocolError("frame: first_number is not the first of numbers")
    frame.opcodes, frame.modes, frame.counts = opcodes, _modes(body), body.counts[:]
    frame.ids, frame.numbers = body.ids[:], numbers
    frame.statics = _statics(body.static_table, body.statics[:])
    frame.scalar_counts = body.scalar_counts[:]
    frame.scalars = _scalars(body) if body.scalar_kinds else []
    frame.payloads = _payloads(body)


def frame_header(data: bytes | memoryview) -> FrameHeader:
    """Return the header of a frame without looking at its commands."""
    return _opened(data, with_body=False)[0]


def _opened(data: bytes | memoryview, with_body: bool = True) -> tuple[FrameHeader, int, bytes]:
    """Return header, default dtype and body of a frame; ProtocolError unless all is bounded."""
    at_most("frame bytes", len(data), limits.FRAME_BYTES_MAX)
    data = bytes(data)
    plain = decode_header(data)
    if plain is None:
        message = parse(pb.Frame, data, limits.FRAME_BYTES_MAX, "frame")
        numbers, body = [getattr(message, name) for name in _HEADER], message.body
    else:
        numbers, body = plain[0], data[plain[1] :] if with_body else b""
    sequence, epoch, device, count, first, default_dtype = numbers
    header = FrameHeader(sequence, epoch, device, count, first)
    if max(device, count, default_dtype) < _SMALL and max(sequence, epoch, first) < ID_END:
        return header, default_dtype, body  # within each bound below, as most
    at_most("command_count", header.command_count, limits.FRAME_COMMANDS_MAX)
    at_most("device", header.device, limits.DEVICES_PER_SESSION_MAX - 1)
    at_most("default_dtype", numbers[5], 255)
    at_most("sequence", header.sequence, ID_END - 1)
    at_most("epoch", header.epoch, ID_END - 1)
    at_most("first_number", header.first_number, ID_END - 1)
    return header, numbers[5], body


def restamp(data: bytes, epoch: int) -> bytes:
    """Return an encoded frame with another epoch: of a field given twice, the last one counts."""
    return data + pb.Frame(epoch=epoch).SerializeToString()


def _first_number(numbers: list[int]) -> int:
    """Return the first number that is one: commands that cannot fail have 0."""
    return next(filter(None, numbers), 0)


def _following(first: int, opcodes: list[int]) -> list[int]:
    """Return numbers that follow one another from `first`; a Free has none, which is 0."""
    frees = opcodes.count(FREE)
    numbers = list(range(first, first + len(opcodes) - frees))
    at = -1
    for _ in range(frees):
        at = opcodes.index(FREE, at + 1)
        numbers.insert(at, 0)
    return numbers


def _check_frame(frame: Frame) -> None:
    """Raise ProtocolError unless the columns fit each other and every bound."""
    # Frames of few commands are many, and each is checked at both ends.
    opcodes, ids, scalars = frame.opcodes, frame.ids, frame.scalars
    count = len(opcodes)
    at_most("commands", count, limits.FRAME_COMMANDS_MAX)
    for column in (frame.modes, frame.counts, frame.statics, frame.scalar_counts, frame.numbers):
        if len(column) != count:
            raise ProtocolError(f"frame: a column has {len(column)} entries for {count} commands")
    if frame.payloads:
        at_most("payloads", len(frame.payloads), count)
        for payload in frame.payloads:
            at_most("payload bytes", memoryview(payload).nbytes, limits.PAYLOAD_BYTES_MAX)
    _check_shares("ids", len(ids), frame.counts)
    _check_shares("scalars", len(scalars), frame.scalar_counts)
    if not count:
        return
    kinds = set(opcodes)
    at_most("opcode", max(kinds), _OPCODE_MAX)
    at_most("ids of one command", max(frame.counts), limits.TENSORS_PER_COMMAND_MAX)
    at_most("number", max(frame.numbers), ID_END - 1)
    if ids:
        at_most("id", max(ids), ID_END - 1)
        if min(ids) < 0:
            raise ProtocolError("frame: a negative id")
    if min(kinds) < FIRST_OPCODE:
        end = 0  # of a program's body
        few = {kind for kind in kinds if kind < FIRST_OPCODE}
        for k in compress(range(count), map(few.__contains__, opcodes)):
            opcode, static = frame.opcodes[k], frame.statics[k]
            if k < end and opcode != BACKWARD:
                raise ProtocolError(f"frame: a program may not hold command {opcode}")
            _check_protocol_command(opcode, static, frame.counts[k], len(frame.payloads))
            end = k + 1 + static[1] if opcode == DEFINE else end
        if end > count:
            raise ProtocolError(f"frame: {end - count} commands of a program are missing")


def _check_shares(name: str, total: int, shares: list[int]) -> None:
    at_most(name, total, limits.FRAME_IDS_MAX)
    if sum(shares) != total:
        raise ProtocolError(f"frame: the commands name {sum(shares)} {name}, there are {total}")


def _check_protocol_command(opcode: int, static: Static, ids: int, payloads: int) -> None:
    """Raise ProtocolError unless a command of the protocol has the static it must have."""
    if opcode == FREE:
        ok = static == ()
    elif opcode == GET:
        ok = are_ints(static, 3) and 0 <= static[1] <= GET_IDS and 0 <= static[0] < ID_END
        ok = ok and 0 <= static[2] < max(limits.DEVICES_PER_SESSION_MAX, limits.PROGRAMS_MAX)
        about_all = ok and static[1] in _ABOUT_ALL
        ok = ok and ((ids == 0 and about_all) or (ids == 1 and static[1] < GET_MEMORY))
    elif opcode == PUT:
        ok = ids == 1 and len(static) == 4 and are_ints((static[0], *static[2:]), 3)
        ok = ok and -1 <= static[2] < payloads and static[3] >= 0
        ok = ok and is_shape(static[1])
    elif opcode == BACKWARD:
        ok = len(static) == 2 and are_ints(static[:1], 1) and 0 < 2 * static[0] <= ids
    elif opcode == DEFINE:
        ok = are_ints(static, 4) and 0 <= static[0] < limits.PROGRAMS_MAX
        ok = ok and 0 < static[1] <= limits.PROGRAM_COMMANDS_MAX
        ok = ok and 0 <= static[2] <= limits.TENSORS_PER_COMMAND_MAX
        ok = ok and static[3] in (0, PROGRAM_EXACT)
    elif opcode == CALL:
        ok = are_ints(static, 1) and 0 <= static[0] < limits.PROGRAMS_MAX
    elif opcode == UNDEFINE:
        ok = ids == 0 and len(static) <= limits.PROGRAMS_MAX and are_ints(static, len(static))
        ok = ok and all(0 <= number < limits.PROGRAMS_MAX for number in static)
    elif opcode == GROW:
        ok = ids == 1 and are_ints(static, 1) and static[0] >= 0
    else:
        ok = opcode == LINK and ids == 2 and static == ()
    if not ok:
        raise ProtocolError(f"frame: command {opcode} has not the arguments it must have")


def _put_modes(body: Any, modes: list[int]) -> list[int]:
    """Put those of more than 64 bits into a message, and return the column with their places."""
    if not modes or max(modes) < _WIDE_MODE:
        return modes
    wide = [mode for mode in modes if mode >= _WIDE_MODE]
    body.wide_modes.extend(mode.to_bytes((mode.bit_length() + 7) // 8, "little") for mode in wide)
    for mode in body.wide_modes:
        at_most("bytes of a mode", len(mode), _WIDE_MODE_BYTES_MAX)
    return [min(mode, _WIDE_MODE) for mode in modes]


def _modes(body: Any) -> list[int]:
    modes: list[int] = body.modes[:]
    if modes.count(_WIDE_MODE) != len(body.wide_modes):
        raise ProtocolError("frame: wide modes are missing or left over")
    if body.wide_modes:
        wide = iter(body.wide_modes)
        for k, mode in enumerate(modes):
            if mode == _WIDE_MODE:
                data = next(wide)
                at_most("bytes of a mode", len(data), _WIDE_MODE_BYTES_MAX)
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


# --- statics -------------------------------------------------------------------------------------


def _interned(statics: list[Static]) -> tuple[list[int], list[bytes]]:
    """Return each static's place in a table, and the table."""
    found = fast.places(statics) if fast else None
    if found is not None:
        places, different = found
        encoded = [encode_static(static) for static in different]
        if len(set(encoded)) == len(encoded):
            return places, encoded
    return _interned_plainly(statics)


def _interned_plainly(statics: list[Static]) -> tuple[list[int], list[bytes]]:
    by_identity: dict[int, int] = {}  # the frame keeps them alive, so an id names one object
    table: dict[bytes, int] = {}
    index = []
    for static in statics:
        place = by_identity.get(id(static))
        if place is None:
            place = table.setdefault(encode_static(static), len(table))
            by_identity[id(static)] = place
        index.append(place)
    return index, list(table)


def _statics(encoded: Sequence[bytes], index: list[int]) -> list[Static]:
    table = [decode_static(data) for data in encoded]
    if index and max(index) >= len(table):
        raise ProtocolError("frame: a static that is not in the table")
    return [table[k] for k in index]


# --- scalars -------------------------------------------------------------------------------------

_SCALAR_KIND: Final = {bool: 0, int: 1, float: 2, complex: 3}


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
