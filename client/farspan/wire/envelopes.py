"""By hand what a read-back is made of: Up of frames, Down of events and acks, short frames.

Byte for byte what protobuf makes of them (tests/test_envelopes.py). A reader returns None for
whatever is not made so, and protobuf judges it. For every value that is read each is made and
read once, by processes whose caches are cold: protobuf's code alone took 10 us each time.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

from farspan._native import fast
from farspan.core import limits

_BYTES: Final = 2  # protobuf's wire types: field number << 3 | type
_REPEATED: Final = 2 << 3 | _BYTES  # `frames` of Up, `events` of Down
_APPLIED: Final = 5 << 3
_DURABLE: Final = 6 << 3  # of Down; of Up it is `confirmed`
_BODY: Final = 7 << 3 | _BYTES  # of Frame; its numbers are the fields 1 to 6
_IDS: Final = 4 << 3 | _BYTES  # of Commands, fixed64; the other columns here are varints
_STATIC: Final = 6 << 3 | _BYTES  # an entry of `static_table`
_COLUMNS: Final = {1 << 3 | _BYTES: 0, 2 << 3 | _BYTES: 1, 3 << 3 | _BYTES: 2, _IDS: 3,
                   5 << 3 | _BYTES: 4, 7 << 3 | _BYTES: 5}  # fmt: skip
_FIRST: Final = 1 << 3 | _BYTES  # `events` of EventList, `value` of Event
#: Commands are read by hand up to these many bytes: longer ones protobuf reads faster.
SHORT_BYTES: Final = 512

_PARTS_MAX: Final = 2 * limits.UP_FRAMES_MAX  # beyond, protobuf reads faster, to refuse it

#: Opcodes, modes, counts, ids, places of statics, scalar counts.
Columns = tuple[list[int], ...]
_SHORT: Final = [bytes((n,)) for n in range(128)]


def encode_parts(parts: Sequence[bytes], applied: int = 0, durable: int = 0) -> bytes:
    """Return a Down of these events, with its acks; or an Up of these frames.

    applied: 0 in an Up. durable: in an Up, what it confirms.
    """
    out = []
    for part in parts:
        size = len(part)
        out += (_SHORT[_REPEATED], _SHORT[size] if size < 128 else _varint(size), part)
    if applied:
        out += (_SHORT[_APPLIED], _varint(applied))
    if durable:
        out += (_SHORT[_DURABLE], _varint(durable))
    return b"".join(out)


def decode_parts(data: bytes) -> tuple[tuple[bytes, ...], int, int] | None:
    """Return frames or events, applied, and durable or confirmed, of one that has nothing else."""
    parts, numbers = [], [0, 0]
    at, end, last = 0, len(data), 0
    try:
        while at < end:
            tag, value = data[at], data[at + 1]
            if tag < last:
                return None
            at += 2
            if value > 127:
                value, at = _number(data, at - 1)
            if tag == _REPEATED:
                if at + value > end:
                    return None
                parts.append(data[at : at + value])
                at += value
                if len(parts) > _PARTS_MAX:
                    return None
            elif tag in (_APPLIED, _DURABLE) and tag != last:
                numbers[tag == _DURABLE] = value
            else:
                return None
            last = tag
    except IndexError:
        return None
    return tuple(parts), numbers[0], numbers[1]


def encode_short(header: Sequence[int], columns: Columns, table: Sequence[bytes]) -> bytes:
    """Return a Frame: its fields 1 to 6, and commands without scalars, payloads and numbers.

    Raises ValueError, TypeError or struct.error for a column that is none.
    """
    return frame_of(header, encode_body(columns, table))


def encode_body(columns: Columns, table: Sequence[bytes]) -> bytes:
    """Return the first fields of Commands, up to scalar counts; raises as `encode_short`."""
    out = []
    for tag, place in _COLUMNS.items():
        if tag == 7 << 3 | _BYTES:
            for static in table:
                out += (_SHORT[_STATIC], _varint(len(static)), static)
        column = columns[place]
        if column:
            packed = _fixed64(column) if tag == _IDS else _packed(column)
            out += (_SHORT[tag], _varint(len(packed)), packed)
    return b"".join(out)


def frame_of(header: Sequence[int], body: bytes) -> bytes:
    """Return a Frame: its fields 1 to 6, and its body."""
    out, field = [], 0
    for n in header:
        field += 8
        if n:
            out += (_SHORT[field], _SHORT[n] if 0 < n < 128 else _varint(n))
    out += (_SHORT[_BODY], _varint(len(body)), body)
    return b"".join(out)


def encode_head(columns: Sequence[Sequence[int]], ids: int) -> bytes:
    """Return the columns of opcodes, modes and counts, and what stands before so many ids."""
    out = []
    for tag, column in zip(_COLUMNS, columns, strict=False):
        packed = _packed(column)
        out += (_SHORT[tag], _varint(len(packed)), packed)
    return b"".join((*out, _SHORT[_IDS], _varint(8 * ids)))


def join_frame(
    header: Sequence[int], head: bytes, ids: bytes, index: list[int], table: Sequence[bytes],
    tail: bytes,
) -> bytes:  # fmt: skip
    """Return a Frame of parts: what `encode_head` returned, ids, statics, and the last column.

    index: places in the table, each below 128.
    """
    out = [head, ids, _SHORT[5 << 3 | _BYTES], _SHORT[len(index)], bytes(index)]
    for static in table:
        size = len(static)
        out += (_SHORT[_STATIC], _SHORT[size] if size < 128 else _varint(size), static)
    out.append(tail)
    return frame_of(header, b"".join(out))


def decode_short(body: bytes) -> tuple[Columns, list[bytes]] | None:
    """Return columns and static table of Commands that have nothing else; their sizes may differ.

    body: at most SHORT_BYTES bytes.
    """
    columns: list[list[int]] = [[], [], [], [], [], []]
    table: list[bytes] = []
    at, end, last = 0, len(body), 0
    try:
        while at < end:
            tag = body[at]
            size, at = _number(body, at + 1)
            data = body[at : at + size]
            at += size
            if at > end or tag < last or (tag == last and tag != _STATIC):
                return None
            if tag == _STATIC:
                table.append(data)
            elif tag == _IDS:
                columns[3] = list(struct.unpack(f"<{size // 8}Q", data))
            else:
                columns[_COLUMNS[tag]] = _unpacked(data)
            last = tag
    except (IndexError, KeyError, struct.error):
        return None
    return tuple(columns), table


def decode_header(data: bytes) -> tuple[list[int], int] | None:
    """Return the fields 1 to 6 of a Frame that has a body, and where the body begins."""
    numbers = [0] * 6
    at, last = 0, 0
    try:
        while (tag := data[at]) != _BODY:
            if tag <= last or tag > _DURABLE or tag & 7:
                return None
            value = data[at + 1]
            at += 2
            if value > 127:
                value, at = _number(data, at - 1)
            numbers[(tag >> 3) - 1] = value
            last = tag
        size = data[at + 1]
        at += 2
        if size > 127:
            size, at = _number(data, at - 1)
    except IndexError:
        return None
    return (numbers, at) if at + size == len(data) else None


def encode_value(request: int, dtype: int, shape: Sequence[int], data: bytes) -> bytes:
    """Return an EventList of one Value that has these bytes.

    Raises ValueError or TypeError for a number that is none.
    """
    out = []
    if request:
        out += (_SHORT[1 << 3], _varint(request))
    if dtype:
        out += (_SHORT[2 << 3], _varint(dtype))
    if shape:
        packed = _packed(shape)
        out += (_SHORT[3 << 3 | _BYTES], _varint(len(packed)), packed)
    out += (_SHORT[4 << 3 | _BYTES], _varint(len(data)), data)
    value = b"".join(out)
    event = b"".join((_SHORT[_FIRST], _varint(len(value)), value))
    return b"".join((_SHORT[_FIRST], _varint(len(event)), event))


def decode_value(data: bytes) -> tuple[int, int, list[int], bytes] | None:
    """Return request, dtype, shape and bytes of an EventList of one Value, if it has bytes."""
    numbers, shape, at, end, last = [0, 0], [], 0, len(data), 0
    try:
        for _ in range(2):  # the list's event, the event's value
            if data[at] != _FIRST:
                return None
            size = data[at + 1]
            at += 2
            if size > 127:
                size, at = _number(data, at - 1)
            if at + size != end:
                return None
        while at < end:
            tag, size = data[at], data[at + 1]
            at += 2
            if size > 127:
                size, at = _number(data, at - 1)
            if tag <= last:
                return None
            if tag == 4 << 3 | _BYTES:
                return (*numbers, shape, data[at:]) if at + size == end else None
            if tag == 3 << 3 | _BYTES:
                shape = _unpacked(data[at : at + size])
                at += size
            elif tag in (1 << 3, 2 << 3):
                numbers[(tag >> 3) - 1] = size
            else:
                return None
            last = tag
    except IndexError:
        pass
    return None


def _fixed64(column: Sequence[int]) -> bytes:
    packed = fast.fixed64(column) if fast else None
    return struct.pack(f"<{len(column)}Q", *column) if packed is None else packed


def _packed(column: Sequence[int]) -> bytes:
    packed = fast.varints(column) if fast else None
    return _packed_plainly(column) if packed is None else packed


def _packed_plainly(column: Sequence[int]) -> bytes:
    try:
        data = bytes(column)
        if data.isascii():  # then each is its own varint
            return data
    except ValueError:
        pass
    return b"".join(map(_known.__getitem__, column))


class _Known(dict[int, bytes]):
    """Varints by their number, those of two bytes once they have been asked for."""

    def __missing__(self, value: int) -> bytes:
        data = _varint(value)
        if len(data) <= 2:
            self[value] = data
        return data


_known: Final = _Known()


def _unpacked(data: bytes) -> list[int]:
    if data.isascii():
        return list(data)
    column, at = [], 0
    while at < len(data):
        value, at = _number(data, at)
        column.append(value)
    return column


def _varint(value: int) -> bytes:
    if 0 <= value < 128:
        return _SHORT[value]
    out = bytearray()  # ValueError for a negative number
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at a place and the place behind it; IndexError if it has over 63 bits."""
    value = data[at]
    if value < 128:
        return value, at + 1
    value &= 127
    for shift in (7, 14, 21, 28, 35, 42, 49, 56):
        at += 1
        byte = data[at]
        if byte < 128:
            return value | byte << shift, at + 1
        value |= (byte & 127) << shift
    raise IndexError
