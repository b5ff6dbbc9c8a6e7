"""Events <-> bytes: what a worker says to a client."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from google.protobuf.message import EncodeError

from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import limits
from farspan.core.command import ErrorInfo, Event, Failed, Lost, Value
from farspan.core.errors import ProtocolError
from farspan.wire.checks import ID_END, at_most, is_shape, parse
from farspan.wire.envelopes import SHORT_BYTES, decode_value, encode_value


def encode_events(events: Sequence[Event]) -> bytes:
    """Return the bytes of Value, Failed and Lost events; Acked and Send travel otherwise."""
    at_most("events", len(events), limits.EVENTS_QUEUED_MAX)
    try:
        if len(events) == 1 and (short := encode_short_value(events[0])) is not None:
            return short
        message = pb.EventList()
        for event in events:
            _put_event(message.events.add(), event)
        data: bytes = message.SerializeToString()
    except (TypeError, ValueError, OverflowError, EncodeError) as error:
        raise ProtocolError(f"events: one cannot be sent: {error}") from None
    at_most("event list bytes", len(data), limits.FRAME_BYTES_MAX)
    return data


def encode_event_batches(events: Sequence[Event], bytes_max: int) -> Iterator[bytes]:
    """Yield the events in order as encoded lists of at most `bytes_max` bytes each.

    bytes_max: at least INLINE_BYTES_MAX + 8 KiB, so that any single event fits.
    """
    batch: list[Event] = []
    room = bytes_max
    for event in events:
        data = event.data if isinstance(event, Value) else None
        size = 2 * limits.KiB + (0 if data is None else memoryview(data).nbytes)
        error = event.error if isinstance(event, (Value, Failed)) else None
        size += len(error.message) * 4 if error else 0
        if batch and (size > room or len(batch) == limits.EVENTS_QUEUED_MAX):
            yield encode_events(batch)
            batch, room = [], bytes_max
        batch.append(event)
        room -= size
    if batch:
        yield encode_events(batch)


def encode_short_value(event: Event) -> bytes | None:
    """Return the event list of a value of few bytes, as most that somebody awaits; else None."""
    if type(event) is not Value or event.error is not None or event.data is None:
        return None
    if event.position is not None or event.device:
        return None
    if len(event.shape) > limits.RANK_MAX or len(event.data) > SHORT_BYTES:
        return None
    if type(event.data) is memoryview and event.data.nbytes > SHORT_BYTES:
        return None
    return encode_value(event.request, event.dtype, event.shape, bytes(event.data))


def decode_events(data: bytes | memoryview) -> list[Event]:
    """Return the events in `data`; raise ProtocolError for anything else."""
    if len(data) <= SHORT_BYTES and (short := decode_value(bytes(data))) is not None:
        request, dtype, shape, inline = short
        return [_checked(request, dtype, shape, inline, None)]
    message = parse(pb.EventList, data, limits.FRAME_BYTES_MAX, "events")
    at_most("events", len(message.events), limits.EVENTS_QUEUED_MAX)
    return [_event(event) for event in message.events]


def _put_event(out: Any, event: Event) -> None:
    if isinstance(event, Value):
        at_most("rank", len(event.shape), limits.RANK_MAX)
        value = out.value
        value.request = event.request
        value.dtype = event.dtype
        value.shape.extend(event.shape)
        if event.data is not None:
            at_most("inline bytes", memoryview(event.data).nbytes, limits.INLINE_BYTES_MAX)
            value.data = bytes(event.data)
        if event.data is None and event.error is None:
            value.device = event.device
        if event.position is not None:
            value.position = event.position
        if event.error is not None:
            _put_error(value.error, event.error)
        out.value.SetInParent()
    elif isinstance(event, Failed):
        _put_error(out.failed, event.error)
    elif isinstance(event, Lost):
        _put_error(out.lost, ErrorInfo(event.kind, event.message, event.command))
    else:
        raise ProtocolError(f"events: {type(event).__name__} does not travel to a client")


def _put_error(out: Any, error: ErrorInfo) -> None:
    at_most("kind bytes", len(error.kind), 64)
    data = error.message.encode("utf-8", "replace")
    out.kind = error.kind
    # A message quotes what the user passed, so it may be any length; its beginning says most.
    out.message = data[: limits.STRING_BYTES_MAX].decode("utf-8", "ignore")
    out.command = error.command
    if error.forward >= 0:
        out.forward = error.forward
    out.SetInParent()


def _event(event: Any) -> Event:
    kind = event.WhichOneof("kind")
    if kind == "failed":
        return Failed(_error(event.failed))
    if kind == "lost":
        lost = _error(event.lost)
        return Lost(lost.kind, lost.message, lost.command)
    if kind != "value":
        raise ProtocolError("events: one of no known kind")
    value = event.value
    data = value.data if value.HasField("data") else None
    error = _error(value.error) if value.HasField("error") else None
    found = _checked(value.request, value.dtype, value.shape, data, error)
    if value.HasField("position"):
        at_most("position", value.position, ID_END - 1)
        found.position = value.position
    at_most("device", value.device, limits.DEVICES_PER_SESSION_MAX - 1)
    found.device = value.device
    return found


def _checked(
    request: int, dtype: int, sizes: Sequence[int], data: bytes | None, error: ErrorInfo | None
) -> Value:
    at_most("request", request, ID_END - 1)
    at_most("dtype", dtype, 255)
    at_most("rank", len(sizes), limits.RANK_MAX)
    shape = tuple(sizes)
    if shape and not is_shape(shape):
        raise ProtocolError("events: a value with more elements than there can be")
    at_most("inline bytes", len(data or b""), limits.INLINE_BYTES_MAX)
    return Value(request, dtype, shape, data, error)


def _error(error: Any) -> ErrorInfo:
    at_most("kind bytes", len(error.kind), 64)
    at_most("message bytes", len(error.message), limits.STRING_BYTES_MAX)
    forward = error.forward if error.HasField("forward") else -1
    return ErrorInfo(error.kind, error.message, error.command, forward)
