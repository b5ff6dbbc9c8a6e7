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
