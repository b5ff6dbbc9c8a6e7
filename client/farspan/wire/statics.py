"""Static arguments <-> bytes: a typed tuple of None, bools, ints, strings and tuples."""

from __future__ import annotations

import struct
from typing import Any, Final

from farspan.core import limits
from farspan.core.command import Static
from farspan.core.errors import ProtocolError
from farspan.wire.checks import at_most

_MEMO_BYTES_MAX: Final = 256  # longer statics are rare and are not memoised.
_NONE, _FALSE, _TRUE, _INT, _STR, _TUPLE = range(6)
_I64: Final = struct.Struct("<q")
_U16: Final = struct.Struct("<H")
# Of three ints is a Get, with a number of its own each time: the memos would only fill with them.
_INTS: Final = {int}
_GET: Final = struct.Struct("<BHBqBqBq")
_NOTHING: Final = struct.pack("<BH", _TUPLE, 0)
# Both memos spare the walk over a static seen before. The key of the first is a text because
# 1 == True == 1.0 as dict keys.
_encoded: dict[str, bytes] = {}
_decoded: dict[bytes, Static] = {}


def encode_static(static: Static) -> bytes:
    """Return the bytes of one tuple of None, bools, ints, strings and tuples."""
    if static == () and type(static) is tuple:
        return _NOTHING
    if type(static) is tuple and len(static) == 3 and set(map(type, static)) == _INTS:
        try:
            return _GET.pack(_TUPLE, 3, _INT, static[0], _INT, static[1], _INT, static[2])
        except struct.error:
            raise ProtocolError(f"static: {static} has more than 64 bits") from None
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
        at_most("string bytes", len(data), limits.STRING_BYTES_MAX)
        out.append(_STR)
        out += _U16.pack(len(data))
        out += data
    elif kind is tuple:
        at_most("tuple depth", depth, limits.ATTR_DEPTH_MAX)
        at_most("tuple entries", len(value), limits.INTS_PER_ATTR_MAX)
        out.append(_TUPLE)
        out += _U16.pack(len(value))
        for entry in value:
            _put_value(out, entry, depth + 1)
    else:
        raise ProtocolError(f"static: a {kind.__name__}; expected None, bool, int, str or tuple")


def decode_static(data: bytes) -> Static:
    """Return the tuple in `data`; raise ProtocolError for anything else."""
    if len(data) == _GET.size:
        kind, count, tag1, a, tag2, b, tag3, c = _GET.unpack(data)
        if (kind, count, tag1, tag2, tag3) == (_TUPLE, 3, _INT, _INT, _INT):
            return a, b, c
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
        at_most("string bytes", count, limits.STRING_BYTES_MAX)
        text = data[at : at + count]
        if len(text) != count:
            raise ProtocolError("static: cut short")
        try:
            return text.decode(), at + count
        except UnicodeDecodeError:
            raise ProtocolError("static: a string that is no utf-8") from None
    at_most("tuple depth", depth, limits.ATTR_DEPTH_MAX)
    at_most("tuple entries", count, limits.INTS_PER_ATTR_MAX)
    entries = []
    for _ in range(count):
        entry, at = _value(data, at, depth + 1)
        entries.append(entry)
    return tuple(entries), at
