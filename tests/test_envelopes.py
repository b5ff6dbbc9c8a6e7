"""Laws of the envelopes by hand: what they write is protobuf's, and they read as protobuf does."""

from __future__ import annotations

from typing import Any

import pytest
from farspan import wire
from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core.command import FREE, GET, Frame
from farspan.core.errors import ProtocolError
from farspan.wire import forms
from farspan.wire.envelopes import (
    decode_header,
    decode_parts,
    decode_short,
    decode_value,
    encode_parts,
    encode_short,
    encode_value,
)
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

PARTS = st.lists(st.binary(max_size=300), max_size=4)
NUMBERS = st.integers(0, 2**62 - 1) | st.sampled_from([0, 1, 127, 128, 2**31, 2**32 - 1])
SMALL = st.integers(0, 2**32 - 1)
#: Tags of Up, Down and Frame, lengths and continued numbers more often than chance has them.
LIKELY = st.lists(
    st.sampled_from([8, 16, 18, 24, 32, 40, 48, 58, 0, 1, 2, 127, 128, 255]) | st.integers(0, 255),
    max_size=24,
).map(bytes)


@given(PARTS, NUMBERS, NUMBERS)
def test_envelopes_are_what_protobuf_would_write(
    parts: list[bytes], applied: int, durable: int
) -> None:
    down = pb.Down(events=parts, applied=applied, durable=durable).SerializeToString()
    assert encode_parts(parts, applied, durable) == down
    assert decode_parts(down) == (tuple(parts), applied, durable)
    assert encode_parts(parts) == pb.Up(frames=parts).SerializeToString()
    up = pb.Up(frames=parts, confirmed=durable).SerializeToString()
    assert encode_parts(parts, 0, durable) == up
    assert wire.decode(wire.Up, up) == wire.Up(frames=tuple(parts), confirmed=durable)


@given(
    st.tuples(NUMBERS, NUMBERS, SMALL, SMALL, NUMBERS, SMALL, st.binary(min_size=1, max_size=300))
)
def test_a_header_is_read_as_protobuf_wrote_it(values: tuple[int | bytes, ...]) -> None:
    names = [field.name for field in pb.Frame.DESCRIPTOR.fields]
    frame = pb.Frame(**dict(zip(names, values, strict=True)))
    data = frame.SerializeToString()
    assert decode_header(data) == (list(values[:6]), len(data) - len(frame.body))


SIZES = st.integers(0, 2**62 - 1) | st.integers(0, 200)
SHAPES = st.lists(SIZES, max_size=6)
SMALLS = st.lists(st.integers(0, 2**16 - 1) | st.integers(0, 127), max_size=8)


@given(NUMBERS, st.integers(0, 255), SHAPES, st.binary(max_size=300))
def test_a_value_is_what_protobuf_would_write(
    request: int, dtype: int, shape: list[int], data: bytes
) -> None:
    value = pb.Value(request=request, dtype=dtype, shape=shape, data=data)
    written = pb.EventList(events=[pb.Event(value=value)]).SerializeToString()
    assert encode_value(request, dtype, shape, data) == written
    assert decode_value(written) == (request, dtype, shape, data)


@given(
    st.tuples(SMALLS.filter(bool), st.lists(NUMBERS), SMALLS, st.lists(NUMBERS), SMALLS, SMALLS),
    st.lists(st.binary(max_size=200), max_size=4),
)
def test_commands_are_what_protobuf_would_write(
    columns: tuple[list[int], ...], table: list[bytes]
) -> None:
    names = "opcodes", "modes", "counts", "ids", "statics", "scalar_counts"
    body = pb.Commands(**dict(zip(names, columns, strict=True)), static_table=table)
    frame = pb.Frame(sequence=300, first_number=1, body=body.SerializeToString())
    assert encode_short((300, 0, 0, 0, 1, 0), columns, table) == frame.SerializeToString()
    assert decode_short(frame.body) == (columns, table)


@given(st.lists(st.sampled_from([10, 18, 26, 34, 42, 50, 58, 8, 16, 1, 2, 0, 200]), max_size=24))
def test_commands_and_values_are_left_to_protobuf_or_read_alike(mutated: list[int]) -> None:
    data = bytes(mutated)
    short, value = decode_short(data), decode_value(data)
    if short is not None:
        body = pb.Commands.FromString(data)
        columns, table = short
        read = body.opcodes, body.modes, body.counts, body.ids, body.statics, body.scalar_counts
        assert columns == tuple(map(list, read)) and table == list(body.static_table)
    if value is not None:
        (event,) = pb.EventList.FromString(data).events
        read_value = event.value
        assert value[:2] == (read_value.request, read_value.dtype)
        assert value[2:] == (list(read_value.shape), read_value.data)


@given(LIKELY)
def test_bytes_are_left_to_protobuf_or_read_alike(data: bytes) -> None:
    parts, header = decode_parts(data), decode_header(data)
    if parts is not None and max(parts[1:]) < 2**62:
        down = pb.Down.FromString(data)
        assert parts == (tuple(down.events), down.applied, down.durable)
    if header is not None and max(header[0]) < 2**32:
        frame = pb.Frame.FromString(data)
        assert data[header[1] :] == frame.body
        assert header[0] == [
            frame.sequence, frame.epoch, frame.device, frame.command_count, frame.first_number,
            frame.default_dtype,
        ]  # fmt: skip
    try:
        pb.Down.FromString(data)
    except DecodeError:
        assert parts is None


COMMANDS = st.lists(
    st.sampled_from([(0, 1), (0, 3), (1, 1), (64, 3), (70, 2), (70, 15), (300, 2)]), max_size=9
)
STATICS = st.sampled_from([(), (0, -1), (("a", None), True), ("x" * 130,)])


def frames(data: st.DataObject, commands: list[tuple[int, int]], whole: bool = True) -> Frame:
    """Return a frame of opcodes with so many ids; not whole: a column may be wrong."""
    frame = Frame(data.draw(st.integers(0, 63)), data.draw(NUMBERS), data.draw(NUMBERS))
    number = data.draw(st.integers(1, 2**60))
    for opcode, count in commands:
        ids = data.draw(st.lists(NUMBERS, min_size=count, max_size=count))
        free = opcode == FREE
        static = (data.draw(NUMBERS), 0, 0) if opcode == GET else () if free else data.draw(STATICS)
        frame.add(opcode, ids, static, (), data.draw(st.integers(0, 3)), 0 if free else number)
        number += not free
    if not whole and commands:
        name = data.draw(st.sampled_from(Frame.__slots__[4:-1]))
        column = getattr(frame, name)
        if column:
            column[data.draw(st.integers(0, len(column) - 1))] = data.draw(
                st.sampled_from([-1, "a", 2**62, 2**64, 0, ()])
            )
    return frame


def result(function: Any, *args: Any) -> Any:
    """Return what a function returns, or its refusal."""
    try:
        return function(*args)
    except (ProtocolError, TypeError) as error:
        return type(error), str(error)


@given(st.data(), COMMANDS, st.booleans())
def test_a_frame_of_a_known_form_is_written_and_refused_as_any_other(
    data: st.DataObject, commands: list[tuple[int, int]], whole: bool
) -> None:
    forms._by_columns.clear()
    frame = frames(data, commands, whole)
    first = result(wire.encode_frame, frame)
    if whole:  # another one of its form has been sent
        wire.encode_frame(frames(data, commands))
    assert result(wire.encode_frame, frame) == first


@given(st.data(), COMMANDS, st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255))))
def test_a_frame_of_a_known_form_is_read_and_refused_as_any_other(
    data: st.DataObject, commands: list[tuple[int, int]], changes: list[tuple[int, int]]
) -> None:
    sent = bytearray(wire.encode_frame(frames(data, commands or [(70, 2)])))
    whole = bytes(sent)
    for at, byte in changes:
        sent[at % len(sent)] = byte
    forms._by_head.clear()
    first = result(wire.decode_frame, bytes(sent))
    wire.decode_frame(whole)
    assert result(wire.decode_frame, bytes(sent)) == first


def test_a_negative_number_is_refused_not_sent_as_another() -> None:
    with pytest.raises(ValueError, match="byte must be"):
        encode_value(1, 0, (-3,), b"abc")
    with pytest.raises(ValueError, match="byte must be"):
        encode_short((1, -1), ([], [], [], [], [], []), [])
