"""The envelopes of every frame by hand: Up of frames, Down of events and acks, a frame's header.

Byte for byte what protobuf makes of them, tests/test_wire.py compares. A reader returns None for
whatever is not made so, and protobuf judges it. Before every value that is read each is made and
read once, by processes whose caches are cold: protobuf's code alone took 10 us each time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

_BYTES: Final = 2  # protobuf's wire types: field number << 3 | type
_REPEATED: Final = 2 << 3 | _BYTES  # `frames` of Up, `events` of Down
_APPLIED: Final = 5 << 3
_DURABLE: Final = 6 << 3
_BODY: Final = 7 << 3 | _BYTES  # of Frame; its numbers are the fields 1 to 6
_SHORT: Final = [bytes((n,)) for n in range(128)]


def encode_parts(parts: Sequence[bytes], applied: int = 0, durable: int = 0) -> bytes:
    """Return an Up of these frames; or a Down of these events, with its acks."""
    out = []
    for part in parts:
        out += (_SHORT[_REPEATED], _varint(len(part)), part)
    if applied:
        out += (_SHORT[_APPLIED], _varint(applied))
    if durable:
        out += (_SHORT[_DURABLE], _varint(durable))
    return b"".join(out)


def decode_parts(data: bytes) -> tuple[tuple[bytes, ...], int, int] | None:
    """Return frames or events, applied and durable of a message that has nothing else."""
    parts, numbers = [], [0, 0]
    at, end, last = 0, len(data), 0
    try:
        while at < end:
            tag = data[at]
            if tag < last:
                return None
            value, at = _number(data, at + 1)
            if tag == _REPEATED:
                if at + value > end:
                    return None
                parts.append(data[at : at + value])
                at += value
            elif tag in (_APPLIED, _DURABLE) and tag != last:
                numbers[tag == _DURABLE] = value
            else:
                return None
            last = tag
    except IndexError:
        return None
    return tuple(parts), numbers[0], numbers[1]


def decode_header(data: bytes) -> list[int] | None:
    """Return the fields 1 to 6 of a Frame that has a body."""
    numbers = [0] * 6
    at, last = 0, 0
    try:
        while (tag := data[at]) != _BODY:
            if tag <= last or tag > _DURABLE or tag & 7:
                return None
            numbers[(tag >> 3) - 1], at = _number(data, at + 1)
            last = tag
        size, at = _number(data, at + 1)
    except IndexError:
        return None
    return numbers if at + size == len(data) else None


def _varint(value: int) -> bytes:
    if value < 128:
        return _SHORT[value]
    out = bytearray()
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
