"""Laws of the envelopes by hand: what they write is protobuf's, and they read as protobuf does."""

from __future__ import annotations

from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.wire.envelopes import decode_header, decode_parts, encode_parts
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


@given(
    st.tuples(NUMBERS, NUMBERS, SMALL, SMALL, NUMBERS, SMALL, st.binary(min_size=1, max_size=300))
)
def test_a_header_is_read_as_protobuf_wrote_it(values: tuple[int | bytes, ...]) -> None:
    names = [field.name for field in pb.Frame.DESCRIPTOR.fields]
    frame = pb.Frame(**dict(zip(names, values, strict=True)))
    assert decode_header(frame.SerializeToString()) == list(values[:6])


@given(LIKELY)
def test_bytes_are_left_to_protobuf_or_read_alike(data: bytes) -> None:
    parts, header = decode_parts(data), decode_header(data)
    if parts is not None and max(parts[1:]) < 2**62:
        down = pb.Down.FromString(data)
        assert parts == (tuple(down.events), down.applied, down.durable)
    if header is not None and max(header) < 2**32:
        frame = pb.Frame.FromString(data)
        assert header == [
            frame.sequence, frame.epoch, frame.device, frame.command_count, frame.first_number,
            frame.default_dtype,
        ]  # fmt: skip
    try:
        pb.Down.FromString(data)
    except DecodeError:
        assert parts is None
