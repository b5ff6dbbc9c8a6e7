"""Bounds, asked before objects are built; every refusal is a ProtocolError."""

from __future__ import annotations

from typing import Any, Final

from google.protobuf.message import DecodeError

from farspan.core import limits
from farspan.core.errors import ProtocolError

#: Ids, numbers and sequence numbers are below this.
ID_END: Final = 2**62
_INTS: Final = {int}


def parse(kind: Any, data: bytes | memoryview, bytes_max: int, name: str) -> Any:
    at_most(f"{name} bytes", len(data), bytes_max)
    try:
        return kind.FromString(data)
    except DecodeError:
        raise ProtocolError(f"{name}: bytes that are no such message") from None


def few_fields(data: bytes | memoryview, bound: int, name: str) -> None:
    """Raise ProtocolError for a message of more fields than `bound`, before they are objects.

    Two bytes say an empty message, which protobuf makes 70 of. Wrong bytes pass: `parse` tells.
    """
    at = count = 0
    end = len(data)
    while at < end:
        count += 1
        if count > bound:
            raise ProtocolError(f"{name}: more than {bound} fields")
        tag, at = _varint(data, at)
        kind = tag & 7
        if kind == 2:
            size, at = _varint(data, at)
            at += size
        elif kind == 0:
            _, at = _varint(data, at)
        elif kind in (1, 5):
            at += 8 if kind == 1 else 4
        else:
            return


def _varint(data: bytes | memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while at < len(data) and shift < 70:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
    return 0, len(data)


def at_most(name: str, value: int, bound: int) -> None:
    if value > bound:
        raise ProtocolError(f"{name}: {value}; at most {bound}")


def are_ints(values: tuple[Any, ...], count: int) -> bool:
    return len(values) == count and set(map(type, values)) <= _INTS


def is_shape(value: Any) -> bool:
    if type(value) is not tuple or len(value) > limits.RANK_MAX:
        return False
    if not are_ints(value, len(value)) or any(size < 0 for size in value):
        return False
    numel = 1
    for size in value:
        numel *= size
    return numel <= limits.NUMEL_MAX
