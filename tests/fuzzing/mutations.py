"""Ways to make a valid frame wrong: by field, with values that hurt; and byte by byte."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable
from typing import Any

from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import command as cmd
from farspan.core.command import Frame
from farspan.core.errors import ProtocolError
from farspan.core.op import OPS
from farspan.wire import encode_static

from fuzzing.sessions import Session, by_op

INTS = (
    *range(-9, 10), 15, 16, 31, 32, 33, 63, 64, 65, 100, 127, 128, 255, 256, 1_000, 1_024, 4_096,
    65_535, 65_536, 2**20, 2**24, 2**31 - 1, 2**31, 2**32, 2**32 + 1, 2**40, 2**53 + 1, 2**61,
    2**62 - 1, 2**62, 2**63 - 1, -(2**15), -(2**31), -(2**31) - 1, -(2**32), -(2**62), -(2**63),
)  # fmt: skip
FLOATS = (0.0, -0.0, 1.0, -1.0, 0.5, 1e-320, 1e-30, 1e30, 1e308, -1e308, 2.0**63, -(2.0**63),
          float("inf"), float("-inf"), float("nan"))  # fmt: skip
TEXTS = ("", "x", "f", "i", "sum", "mean", "none", "cpu", "cpu:1", "cuda:0", "cpu:99", "floor",
         "trunc", "linalg", "\0", "é" * 40, "A" * 4_096, "../../etc/passwd", "$(id)")  # fmt: skip
IDS = (0, 1, 2, 3, 10**6, 2**31, 2**32, 2**53, 2**62 - 1, 2**62, 2**63, 2**64 - 1)


def value(rng: random.Random, old: Any, depth: int = 0) -> Any:
    """Return a static value in place of another."""
    if isinstance(old, tuple) and old and rng.random() < 0.8:
        at = rng.randrange(len(old))
        return (*old[:at], value(rng, old[at], depth + 1), *old[at + 1 :])
    draw = rng.random()
    if isinstance(old, tuple) and draw < 0.5:
        return rng.choice([
            (), old + old, old[1:], (*old, rng.choice(INTS)), (rng.choice(INTS),) * len(old),
            old * rng.choice([1, 8, 33, 65]), tuple(reversed(old)), (old,),
        ])[:1_024]  # fmt: skip
    if type(old) is int and draw < 0.5:
        near = rng.choice([old + 1, old - 1, -old, old * 2, old + 2**32, ~old])
        return max(-(2**63), min(near, 2**63 - 1))
    if type(old) is bool and draw < 0.4:
        return not old
    if draw < 0.85:
        return rng.choice(INTS)
    return rng.choice(
        [None, True, False, (), (1,), (2, 2), ((1,), 2), (True, False), (None,), *TEXTS]
    )


def _op_rows(frame: Frame) -> list[int]:
    return [k for k, o in enumerate(frame.opcodes) if o >= cmd.FIRST_OPCODE]


def _a_row(rng: random.Random, frame: Frame) -> int:
    rows = _op_rows(frame)
    return rng.choice(rows) if rows and rng.random() < 0.85 else rng.randrange(len(frame))


def _static(rng: random.Random, frame: Frame, session: Session) -> None:
    at = _a_row(rng, frame)
    made = value(rng, frame.statics[at])
    frame.statics[at] = made if isinstance(made, tuple) else (made,)


def _static_of_another(rng: random.Random, frame: Frame, session: Session) -> None:
    """Arguments that are valid, with tensors that they are not valid for."""
    at = _a_row(rng, frame)
    opcode = frame.opcodes[at]
    if opcode < cmd.FIRST_OPCODE:
        frame.statics[at] = rng.choice(frame.statics)
        return
    for kin in by_op():
        if kin[0].op.opcode == opcode:
            frame.statics[at] = rng.choice(kin).static


def _id(rng: random.Random, frame: Frame, session: Session) -> None:
    if frame.ids:
        at = rng.randrange(len(frame.ids))
        pool = sorted(session.live) if session.live and rng.random() < 0.75 else IDS
        frame.ids[at] = rng.choice(pool)


def _same_id(rng: random.Random, frame: Frame, session: Session) -> None:
    if len(frame.ids) > 1:
        frame.ids[rng.randrange(len(frame.ids))] = rng.choice(frame.ids)


def _mode(rng: random.Random, frame: Frame, session: Session) -> None:
    at = _a_row(rng, frame)
    frame.modes[at] = rng.choice([
        frame.modes[at] ^ 1 << rng.randrange(8), rng.randrange(64), 2**63, 2**64 - 2, 2**65 + 4,
        (1 << rng.randrange(3, 16_000)) - 1,
    ])  # fmt: skip


def _form(rng: random.Random, frame: Frame, session: Session) -> None:
    at = _a_row(rng, frame)
    frame.modes[at] = frame.modes[at] & ~3 | rng.randrange(4)


def _opcode(rng: random.Random, frame: Frame, session: Session) -> None:
    frame.opcodes[_a_row(rng, frame)] = rng.choice(
        [rng.randrange(16), rng.randrange(16, 16 + len(OPS)), 65_535, 9_999]
    )


def _scalar(rng: random.Random, frame: Frame, session: Session) -> None:
    if frame.scalars:
        frame.scalars[rng.randrange(len(frame.scalars))] = rng.choice(
            [*INTS, *FLOATS, True, False, 1j, complex(1e308, float("nan"))]
        )


def _scalar_count(rng: random.Random, frame: Frame, session: Session) -> None:
    at = _a_row(rng, frame)
    begin = sum(frame.scalar_counts[:at])
    if frame.scalar_counts[at] and rng.random() < 0.5:
        del frame.scalars[begin]
        frame.scalar_counts[at] -= 1
    else:
        frame.scalars.insert(begin, rng.choice(FLOATS))
        frame.scalar_counts[at] += 1


def _count(rng: random.Random, frame: Frame, session: Session) -> None:
    at, other = _a_row(rng, frame), rng.randrange(len(frame))
    if frame.counts[at]:
        frame.counts[at] -= 1
        frame.counts[other] += 1


def _more_ids(rng: random.Random, frame: Frame, session: Session) -> None:
    at = _a_row(rng, frame)
    begin = sum(frame.counts[:at])
    if frame.counts[at] and rng.random() < 0.4:
        del frame.ids[begin + rng.randrange(frame.counts[at])]
        frame.counts[at] -= 1
    else:
        extra = rng.choice([*sorted(session.live)[:40], *IDS[:5]])
        times = rng.choice([1, 1, 1, 2, 40])
        frame.ids[begin:begin] = [extra] * times
        frame.counts[at] += times


def _put(rng: random.Random, frame: Frame, session: Session) -> None:
    """Another dtype or shape for some bytes: with the same number of them, if it can be."""
    puts = [k for k, o in enumerate(frame.opcodes) if o == cmd.PUT]
    if not puts:
        return
    at = rng.choice(puts)
    if len(frame.statics[at]) != 4 or not isinstance(frame.statics[at][1], tuple):
        return  # another mutation was there before
    code, shape, payload, transfer = frame.statics[at]
    draw = rng.random()
    if draw < 0.3:
        code = rng.randrange(24)
    elif draw < 0.5:
        shape = value(rng, shape)
    elif draw < 0.7 and shape:
        shape = rng.choice([shape[::-1], (*shape, 1), (1, *shape), (0, *shape), (1,) * 33])
    elif draw < 0.85:
        payload = rng.choice([-2, -1, 0, 1, 2, 99, 2**40])
    else:
        transfer = rng.choice([-1, 0, 1, 2, 2**62])
    frame.statics[at] = (code, shape, payload, transfer)


def _payload(rng: random.Random, frame: Frame, session: Session) -> None:
    """Other bytes: indices that point anywhere, bools that are neither, numbers that are none."""
    if not frame.payloads:
        return
    at = rng.randrange(len(frame.payloads))
    data = bytearray(frame.payloads[at])
    draw = rng.random()
    if draw < 0.6 and len(data) >= 8:
        place = rng.randrange(len(data) // 8) * 8
        data[place : place + 8] = struct.pack("<q", rng.choice(INTS))
    elif draw < 0.8 and data:
        for _ in range(rng.randrange(1, 9)):
            data[rng.randrange(len(data))] = rng.randrange(256)
    elif draw < 0.9:
        data = bytearray(rng.choice([b"\xff", b"\x00", b"\x80", b"\x7f"]) * len(data))
    else:
        data = data[: rng.randrange(len(data) + 1)] + bytes(rng.randrange(9))
    frame.payloads[at] = bytes(data)


def _program(rng: random.Random, frame: Frame, session: Session) -> None:
    """Change what a Define says of its body, a slot, an output, or what a Call brings."""
    found = [k for k, o in enumerate(frame.opcodes) if o in (cmd.DEFINE, cmd.CALL, cmd.UNDEFINE)]
    if not found:
        return
    at = rng.choice(found)
    static = frame.statics[at]
    begin = sum(frame.counts[:at])
    mine = range(begin, begin + frame.counts[at])
    if frame.opcodes[at] != cmd.DEFINE or [*map(type, static)] != [int] * 4:
        if rng.random() < 0.5:
            _scalar_count_at(rng, frame, at)
        else:
            frame.statics[at] = (*static[:-1], rng.choice([*range(5), 63, 64]))
        return
    end = min(at + 1 + max(static[1], 0), len(frame))
    draw = rng.random()
    if draw < 0.3:
        which = rng.randrange(4)
        near = rng.choice([static[which] + 1, static[which] - 1, 0, 64, 4_096])
        frame.statics[at] = (*static[:which], near, *static[which + 1 :])
    elif draw < 0.5 and mine:  # its outputs
        frame.ids[rng.choice(mine)] = rng.randrange(12)
    elif draw < 0.8 and end > at + 1:  # a slot of its body
        body = range(begin + frame.counts[at], sum(frame.counts[:end]))
        if body:
            frame.ids[rng.choice(body)] = rng.randrange(16)
    elif end > at + 1:
        row = rng.randrange(at + 1, end)
        frame.opcodes[row] = rng.choice(
            [cmd.BACKWARD, OPS["nonzero"].opcode, frame.opcodes[row - 1], frame.opcodes[end - 1]]
        )
        if frame.opcodes[row] == cmd.BACKWARD:
            frame.statics[row] = (rng.choice([0, 1, 1, 2]), rng.randrange(4))


def _scalar_count_at(rng: random.Random, frame: Frame, at: int) -> None:
    begin = sum(frame.scalar_counts[:at])
    extra = rng.choice([1, 1, 2, 5])
    frame.scalars[begin:begin] = [rng.choice(FLOATS)] * extra
    frame.scalar_counts[at] += extra


def _number(rng: random.Random, frame: Frame, session: Session) -> None:
    frame.numbers[rng.randrange(len(frame))] = rng.choice(IDS)


def _header(rng: random.Random, frame: Frame, session: Session) -> None:
    draw = rng.random()
    if draw < 0.6:
        frame.default_dtype = rng.choice([*range(24), 255, 256, 2**31])
    elif draw < 0.8:
        frame.device = rng.choice([1, 63, 64, 2**31])
    else:
        frame.sequence = rng.choice(IDS)


def _rows(rng: random.Random, frame: Frame, session: Session) -> None:
    """Drop a command, or say one twice."""
    at = rng.randrange(len(frame))
    ids, numbers = sum(frame.counts[:at]), sum(frame.scalar_counts[:at])
    mine = frame.ids[ids : ids + frame.counts[at]]
    own = frame.scalars[numbers : numbers + frame.scalar_counts[at]]
    columns = (
        frame.opcodes, frame.modes, frame.counts, frame.statics, frame.scalar_counts, frame.numbers,
    )  # fmt: skip
    if rng.random() < 0.6:
        for column in columns:
            column.insert(at, column[at])
        frame.ids[ids:ids], frame.scalars[numbers:numbers] = mine, own
    elif len(frame) > 1:
        for column in columns:
            del column[at]
        del frame.ids[ids : ids + len(mine)], frame.scalars[numbers : numbers + len(own)]


def _column(rng: random.Random, frame: Frame, session: Session) -> None:
    """Make one column longer or shorter than the others."""
    name = rng.choice(["opcodes", "modes", "counts", "statics", "scalar_counts", "numbers", "ids"])
    column = getattr(frame, name)
    if column and rng.random() < 0.5:
        column.pop()
    else:
        column.append(column[-1] if column else 1)


Mutation = Callable[[random.Random, Frame, Session], None]
_WEIGHTS: dict[Mutation, float] = {
    _static: 30, _static_of_another: 8, _id: 12, _same_id: 4, _mode: 4, _form: 4, _opcode: 3,
    _scalar: 8, _scalar_count: 1, _count: 2, _more_ids: 3, _put: 5, _payload: 14, _number: 1,
    _header: 2, _rows: 2, _program: 6, _column: 1,
}  # fmt: skip
_KINDS, _SHARES = list(_WEIGHTS), list(_WEIGHTS.values())


def mutate(rng: random.Random, frame: Frame, session: Session) -> list[str]:
    """Make one to three things of a frame wrong; return their names."""
    kinds = rng.choices(_KINDS, _SHARES, k=rng.choice([1, 1, 2, 3]))
    kinds.sort(key=_KINDS.index)  # _column last: the others count on columns that fit
    for kind in kinds:
        if len(frame):
            kind(rng, frame, session)
    return [kind.__name__ for kind in kinds]


def mutate_bytes(rng: random.Random, data: bytes) -> bytes:
    """Flip, insert, drop, repeat or cut bytes."""
    wrong = bytearray(data)
    for _ in range(rng.choice([1, 1, 1, 2, 4, 16])):
        at = rng.randrange(len(wrong)) if wrong else 0
        draw = rng.randrange(8)
        if draw < 3 and wrong:
            wrong[at] ^= 1 << rng.randrange(8)
        elif draw < 5 and wrong:
            wrong[at] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)])
        elif draw == 5:
            wrong[at:at] = rng.randbytes(rng.randrange(1, 9))
        elif draw == 6:
            del wrong[at : at + rng.randrange(1, 9)]
        else:
            end = at + rng.randrange(1, 65)
            wrong[at:at] = wrong[at:end]
    return bytes(wrong)


def encode_anyhow(frame: Frame) -> bytes:
    """Return the bytes of a frame as the wire has them, whatever it holds: nothing is checked.

    What a column cannot hold at all (a negative or over-long number) is wrapped.
    """
    body = pb.Commands()
    body.opcodes.extend(x & 0xFFFFFFFF for x in frame.opcodes)
    body.counts.extend(x & 0xFFFFFFFF for x in frame.counts)
    body.scalar_counts.extend(x & 0xFFFFFFFF for x in frame.scalar_counts)
    body.ids.extend(x % 2**64 for x in frame.ids)
    body.modes.extend(min(x, 2**64 - 1) for x in frame.modes)
    wide = (x for x in frame.modes if x >= 2**64 - 1)
    body.wide_modes.extend(x.to_bytes((x.bit_length() + 7) // 8, "little") for x in wide)
    table: dict[bytes, int] = {}
    for static in frame.statics:
        body.statics.append(table.setdefault(_encoded(static), len(table)))
    body.static_table.extend(table)
    kinds = []
    for x in frame.scalars:
        kinds.append({bool: 0, int: 1, float: 2, complex: 3}[type(x)])
        if isinstance(x, int):
            body.scalar_ints.append(max(-(2**63), min(int(x), 2**63 - 1)))
        elif isinstance(x, float):
            body.scalar_floats.append(x)
        else:
            body.scalar_floats.extend((x.real, x.imag))
    body.scalar_kinds = bytes(kinds)
    body.numbers.extend(x % 2**64 for x in frame.numbers)
    body.payload_bytes.extend(len(p) for p in frame.payloads)
    body.payloads = b"".join(map(bytes, frame.payloads))
    first = next(filter(None, frame.numbers), 0)
    data: bytes = pb.Frame(
        sequence=frame.sequence % 2**64, epoch=frame.epoch, device=frame.device & 0xFFFFFFFF,
        command_count=len(frame), first_number=first % 2**64,
        default_dtype=frame.default_dtype & 0xFFFFFFFF, body=body.SerializeToString(),
    ).SerializeToString()  # fmt: skip
    return data


def _encoded(static: Any) -> bytes:
    try:
        return encode_static(static)
    except ProtocolError:  # too deep, too long: as such a client would write it
        out = bytearray()
        _put(out, static)
        return bytes(out)


def _put(out: bytearray, x: Any) -> None:
    if isinstance(x, tuple):
        out += b"\x05" + struct.pack("<H", len(x) & 0xFFFF)
        for entry in x:
            _put(out, entry)
    elif isinstance(x, str):
        data = x.encode()[:0xFFFF]
        out += b"\x04" + struct.pack("<H", len(data)) + data
    elif x is None or isinstance(x, bool):
        out.append(0 if x is None else 1 + x)
    else:
        out += b"\x03" + struct.pack("<q", max(-(2**63), min(x, 2**63 - 1)))
