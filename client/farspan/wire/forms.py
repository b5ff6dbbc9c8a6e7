"""Short frames by their form: one that is sent again differs from the last in its numbers only.

A form is made of a frame that has passed every check. Whoever finds one spares the making, the
reading and the checking of its columns: half of the time that both ends spend on a value that is
read. For whatever is not just so, all functions return None, and `frames.py` judges it.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from typing import Final

from farspan.core import limits
from farspan.core.command import FIRST_OPCODE, FREE, Frame, Static
from farspan.wire.checks import ID_END
from farspan.wire.envelopes import SHORT_BYTES, decode_header, encode_head, join_frame

_COMMANDS_MAX: Final = 8  # more are encoded faster by protobuf
_IDS_MAX: Final = 15  # so that one byte says how long they are
_FORMS_MAX: Final = 1024
#: What `frames.py` asks of a command of the protocol: opcode, static, count of ids, of payloads.
Check = Callable[[int, Static, int, int], None]


class _Form:
    """What frames have in common: opcodes, modes, counts, and where Frees stand."""

    __slots__ = ("count", "counts", "frees", "head", "ids", "ids_count", "modes", "named",
                 "opcodes", "special", "zeros")  # fmt: skip

    def __init__(self, frame: Frame) -> None:
        self.opcodes, self.modes, self.counts = frame.opcodes[:], frame.modes[:], frame.counts[:]
        self.count, self.ids_count = len(frame.opcodes), len(frame.ids)
        self.frees = [k for k, opcode in enumerate(frame.opcodes) if opcode == FREE]
        self.special = [k for k, opcode in enumerate(frame.opcodes) if opcode < FIRST_OPCODE]
        #: The first command that has a number, and how many have one.
        self.named = (next((k for k in range(self.count) if k not in self.frees), -1),
                      self.count - len(self.frees))  # fmt: skip
        self.ids = struct.Struct(f"<{self.ids_count}Q")
        self.head = encode_head((self.opcodes, self.modes, self.counts), self.ids_count)
        self.zeros = bytes((7 << 3 | 2, self.count, *[0] * self.count))  # of scalar counts

    def following(self, first: int) -> list[int]:
        """Return numbers that follow one another from `first`; a Free has none, which is 0."""
        numbers = list(range(first, first + self.named[1]))
        for k in self.frees:
            numbers.insert(k, 0)
        return numbers


_by_columns: dict[tuple[int, ...], _Form] = {}
_by_head: dict[bytes, _Form] = {}


def learn(frame: Frame) -> None:
    """Note the form of a frame that is whole and has passed all checks, if it is a short one."""
    count = len(frame.opcodes)
    if not (0 < count <= _COMMANDS_MAX and 0 < len(frame.ids) <= _IDS_MAX) or frame.scalars:
        return
    if frame.payloads or any(frame.scalar_counts) or max(frame.modes) >= ID_END:
        return
    form = _Form(frame)
    first = frame.numbers[form.named[0]]
    if frame.numbers != form.following(first if form.named[1] else 0):
        return
    if len(_by_head) >= _FORMS_MAX:
        _by_columns.clear()
        _by_head.clear()
    _by_columns[*form.opcodes, *form.modes, *form.counts] = form
    _by_head[form.head] = form


def encode(frame: Frame, interned: Callable[..., tuple[list[int], list[bytes]]], check: Check
           ) -> bytes | None:  # fmt: skip
    """Return the bytes of a frame whose form is known.

    interned(statics) returns each one's place in a table, and the table.
    """
    opcodes, modes, counts, ids = frame.opcodes, frame.modes, frame.counts, frame.ids
    if len(opcodes) > _COMMANDS_MAX or frame.scalars or frame.payloads:
        return None
    form = _by_columns.get((*opcodes, *modes, *counts))
    if form is None or any(frame.scalar_counts):
        return None
    count, statics, numbers = form.count, frame.statics, frame.numbers
    if not (count == len(opcodes) == len(modes) == len(statics) == len(frame.scalar_counts)):
        return None
    if len(ids) != form.ids_count or max(ids) >= ID_END or len(numbers) != count:
        return None
    first = numbers[form.named[0]] if form.named[1] else 0
    if numbers != form.following(first) or first + count >= ID_END:
        return None
    for k in form.special:
        check(opcodes[k], statics[k], counts[k], 0)
    index, table = interned(statics)
    header = (frame.sequence, frame.epoch, frame.device, count, first, frame.default_dtype)
    return join_frame(header, form.head, form.ids.pack(*ids), index, table, form.zeros)


def decode(data: bytes, statics_of: Callable[[Sequence[bytes], list[int]], list[Static]],
           check: Check) -> Frame | None:  # fmt: skip
    """Return the frame in `data` if its form is known.

    statics_of(table, places) decodes statics.
    """
    opened = decode_header(data)
    if opened is None or len(data) - opened[1] > SHORT_BYTES:
        return None
    (sequence, epoch, device, count, first, dtype), begin = opened
    try:
        at = begin + 2 + data[begin + 1]
        at += 2 + data[at + 1]
        at += 4 + data[at + 1]
        form = _by_head.get(data[begin:at])
        if form is None or form.count != count:
            return None
        ids = form.ids.unpack_from(data, at)
        at += form.ids.size
        if data[at] != 5 << 3 | 2 or data[at + 1] != count:
            return None
        index = data[at + 2 : at + 2 + count]
        at += 2 + count
        table = []
        while data[at] == 6 << 3 | 2:
            size = data[at + 1]
            if size > 127:
                return None
            table.append(data[at + 2 : at + 2 + size])
            at += 2 + size
    except (IndexError, struct.error):
        return None
    if data[at:] != form.zeros or len(index) != count or not 0 < len(table) <= count:
        return None
    if max(ids) >= ID_END or max(sequence, epoch, first + count) >= ID_END:
        return None
    if device >= limits.DEVICES_PER_SESSION_MAX or dtype > 255 or max(index) > 127:
        return None
    if first and not form.named[1]:
        return None
    statics = statics_of(table, list(index))
    for k in form.special:
        check(form.opcodes[k], statics[k], form.counts[k], 0)
    return Frame(
        device, sequence, epoch, dtype, form.opcodes[:], form.modes[:], form.counts[:], list(ids),
        statics, [0] * count, [], form.following(first), [],
    )  # fmt: skip
