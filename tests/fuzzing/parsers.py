"""All else that is decoded from the bytes of others: valid messages, and ways to make them wrong.

Each target has samples, a decoder and the errors that it may raise; others are findings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import random
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from farspan import wire
from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import command as cmd
from farspan.core import link, words
from farspan.core.command import ErrorInfo, Failed, Frame, Lost, Value
from farspan.core.errors import JournalError, OutOfMemoryError, ProtocolError
from farspan.core.op import OPS, table
from farspan_server import history
from farspan_server.journal import Journal
from farspan_worker import snapshot
from farspan_worker.engine import Engine
from faulty_disk import FaultyDisk

from fuzzing.mutations import FLOATS, INTS, TEXTS, mutate_bytes

Samples = list[bytes]
_LENGTH = struct.Struct("<Q")


@dataclasses.dataclass(frozen=True)
class Target:
    """One decoder."""

    samples: Samples
    decode: Callable[[bytes], object]
    message: Any = None  # the protobuf class of the samples, to change by field
    errors: tuple[type[Exception], ...] = (ProtocolError,)
    reseal: Callable[[random.Random, bytes], bytes] | None = None  # a change that checksums follow


# ------------------------------------------------------------------------------ control messages --
_RESUME = wire.Resume("s1", b"x" * 32, 1, 3, 4)
_DEVICE = wire.Device("cpu", "cpu", "host", 12, 1, "cpu:0", "cpu v3 #1")
_CHANGES = (wire.NumericsChange(1, 7, 3, ("a",), ("b",)), wire.NumericsChange(2, 0, 5, (), ("a",)))
_INFO = wire.SessionInfo("s1", "running", 1.5, 2, 3, (_DEVICE,))
_MESSAGES: list[Any] = [
    wire.Up(wire.Hello("hash", "cpu:2", 100, "me", ("shared-memory",), resume=_RESUME)),
    wire.Up(wire.Hello("hash", attach="s1", durability="off")),
    wire.Up(None, (b"frame", b"another"), True, False, (), 7),
    wire.Up(None, (b"frame",), pieces=(wire.SharedPiece(0, 1, 64, 0, 0, 64),)),
    wire.Up(None, (b"f",) * 40, confirmed=3), wire.Up(close=True, detach=True),
    wire.Down(wire.Welcome("s1", 1, ("cpu",), secret=b"s" * 32)),
    wire.Down(None, (b"events",) * 3, 0, (), 4, 3), wire.Down(None, (), 3, (_DEVICE,)),
    wire.TransferHeader("s1", 0, 5, 1_024), wire.DownloadRequest("s1", 4), wire.UploadReply(9),
    wire.ListRequest(), wire.ListReply((_INFO, _INFO)), wire.DescribeRequest("s1", True),
    wire.DescribeReply(_INFO, ("{}",), _CHANGES), wire.MoveRequest("s1", "cpu:1", True),
    wire.MoveReply(_INFO.devices, _CHANGES), wire.ListRequest("s1", 2.0),
    wire.Down(None, (), 0, (), 4, 3, _CHANGES), wire.ListReply((_INFO,), True),
    wire.TraceRequest("s1", True), wire.TraceReply("{}"),
    wire.ShareRequest("s1", 0, b"p" * 32), wire.ShareReply(1, 2, 3, b"d" * 32, "no"),
    wire.KeepRequest("s1", 3, "net", "{}"), wire.KeepReply(), wire.KeptRequest("s1"),
    wire.KeptReply((wire.KeptEntry("net", "{}"),)), wire.CloseRequest("s1"), wire.CloseReply(),
]  # fmt: skip


def _control() -> dict[str, Target]:
    found: dict[str, Target] = {}
    for kind in dict.fromkeys(type(m) for m in _MESSAGES):
        encoded = [wire.encode(m) for m in _MESSAGES if type(m) is kind]
        decode = functools.partial(wire.decode, kind)
        found[kind.__name__] = Target(encoded, decode, getattr(pb, kind.__name__, None))
    header = wire.TransferHeader("s1", 0, 5, 1_024)
    found["chunk"] = Target(
        [wire.encode_chunk(memoryview(b"x" * n)) for n in (0, 1, 200)], wire.decode_chunk, pb.Chunk
    )
    found["upload"] = Target(
        [wire.encode_transfer_header(header)], wire.decode_transfer_header, pb.Chunk
    )
    info = ErrorInfo("ShapeError", "mm: no", 7, 3)
    events = [
        Value(1, 8, (2, 2), b"x" * 16),
        Value(2, 8, (), error=info),
        Value(3, 8, (9,), None, position=64),
        Failed(info),
        Lost("WorkerLostError", "gone"),
    ]
    found["events"] = Target(
        [wire.encode_events(events), wire.encode_events(events[:1]), wire.encode_events([])],
        wire.decode_events, pb.EventList,
    )  # fmt: skip
    frame = Frame(0, 1, 1, 8, payloads=[bytes(48)])
    frame.add(cmd.PUT, [1], (8, (3, 4), 0, 0), number=1)
    frame.add(table()["add.Tensor"].opcode, [1, 1, 2], ("f",), (2.5,), 1 << 80, number=2)
    short = Frame(0, 2, 1, 8)
    short.add(OPS["neg"].opcode, [1, 3], (), number=3)
    samples = [wire.encode_frame(frame), wire.encode_frame(short)]
    found["frame"] = Target(samples, wire.decode_frame, pb.Frame)
    found["header"] = Target(samples, wire.frame_header, pb.Frame)
    return found


# ------------------------------------------------------------------------------------ the links --
def _links() -> dict[str, Target]:
    peer = link.Peer(0, "127.0.0.1:1", "00" * 32, 3)
    opened = link.Open("s1", "tenant", 0, (peer,), 1 << 20)
    file = words.StateFile("/snapshot-1-0", 3, "00")
    bodies = {
        "purpose": (link.pack_purpose(link.Purpose(link.BULK, "ab")), link.unpack_purpose),
        "open": (link.pack_open(5, opened), link.unpack_open),
        "share": (link.pack_share(5, link.Share(1, 2, 3, "00", "", "ff")), link.unpack_share),
        "piece": (link.pack_piece(5, link.Piece(1, 64, 0, 0, 64)), link.unpack_piece),
        "cut": (link.pack_cut(5, 3, 2), link.unpack_cut),
        "load": (words.pack_load(5, words.Load((file,))), words.unpack_load),
        "events of a worker": (link.pack_events(5, 2, b"events"), link.unpack_events),
        "fleet": (link.pack_fleet(link.Retire("w", 1, "x")), link.unpack_fleet),
        "worker up": (link.pack_fleet(link.WorkerUp("w", 1, "a:1", "00")), link.unpack_fleet),
        "synced": (link.pack_fleet(link.Synced({"cpu": 2})), link.unpack_fleet),
    }  # fmt: skip
    found = {name: Target([data[link.HEADER_BYTES :]], how) for name, (data, how) in bodies.items()}
    chunk = next(link.chunks(3, b"x" * 100))
    bulk = link.pack_chunk_header(5, chunk) + bytes(chunk.data)
    failed = link.pack_failure(5, 3, ErrorInfo("ShapeError", "no", 7))
    found["a chunk of a worker"] = Target(
        [bulk[link.HEADER_BYTES :], failed[link.HEADER_BYTES :]], _chunk
    )
    found["a link's header"] = Target(
        [bulk[: link.HEADER_BYTES]],  # so many bytes are read, never more or less
        lambda data: link.unpack_header(data[: link.HEADER_BYTES].ljust(link.HEADER_BYTES)),
    )
    return found


def _chunk(data: bytes) -> None:
    chunk = link.unpack_chunk(data)
    if chunk.failed:
        link.unpack_failure(chunk)
    elif chunk.total <= 1 << 20:  # as the inbox asks first
        link.Assembly(chunk.total).add(chunk)


# ------------------------------------------------------------------------------------ what lies --
def _snapshots() -> dict[str, Target]:
    engine = Engine(memory_bytes_max=1 << 20)
    frame = Frame(0, 1, 1, 8, payloads=[np.arange(12, dtype=np.float32).tobytes()])
    frame.add(cmd.PUT, [1], (8, (3, 4), 0, 0), number=1)
    frame.add(OPS["exp"].opcode, [1, 2], (), (), 4, number=2)
    frame.add(OPS["slice.Tensor"].opcode, [2, 3], (0, 0, 2, 1), (), 4, number=3)
    frame.add(OPS["mm"].opcode, [1, 1, 4], (), number=4)  # fails: a poison
    frame.add(OPS["rand"].opcode, [5], ((2,), None, None, None, None, None), number=5)
    frame.add(cmd.DEFINE, [1], (0, 1, 1, 1), number=0)
    frame.add(OPS["neg"].opcode, [0, 1], (), number=0)
    engine.handle(wire.decode_frame(wire.encode_frame(frame)))
    held = snapshot.Transfers({7: snapshot.Held(4, np.zeros(4, np.uint8))}, [3])
    taken = bytes(snapshot.take(engine, held))
    errors = (ProtocolError, OutOfMemoryError)
    return {"snapshot": Target([taken], _restore, errors=errors, reseal=_other_state)}


def _restore(data: bytes) -> None:
    engine = Engine(memory_bytes_max=1 << 20)
    snapshot.restore(engine, data)
    # What was accepted must be safe to go on with.
    frame = Frame(0, 2, 1, 8)
    for k, i in enumerate(list(engine.tensors)[:8]):
        if isinstance(i, int) and 0 <= i < 2**62:
            frame.add(cmd.GET, [i], (k + 1, cmd.GET_BYTES, 0), number=k + 10)
    engine.handle(frame)
    engine.close()


def _other_state(rng: random.Random, data: bytes) -> bytes:
    """Change one thing in a snapshot's structure; lengths follow."""
    (size,) = _LENGTH.unpack_from(data)
    named = json.loads(data[8 : 8 + size])
    if rng.random() < 0.8:
        state = json.loads(named["__metadata__"]["farspan.session"])
        state = mutate_json(rng, state)
        named["__metadata__"]["farspan.session"] = json.dumps(state)
    else:
        named = mutate_json(rng, named)
    text = json.dumps(named).encode()
    return _LENGTH.pack(len(text)) + text + data[8 + size :]


def mutate_json(rng: random.Random, value: Any) -> Any:
    """Return a JSON value with one thing in it changed."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        key = rng.choice(sorted(value))
        if rng.random() < 0.08:
            return {k: v for k, v in value.items() if k != key}
        return {**value, key: mutate_json(rng, value[key])}
    if isinstance(value, list) and value and rng.random() < 0.9:
        at = rng.randrange(len(value))
        if rng.random() < 0.08:
            return value[:at] + value[at + rng.randrange(2) * 2 :]
        return [*value[:at], mutate_json(rng, value[at]), *value[at + 1 :]]
    return rng.choice([None, True, [], {}, "", [[1]], *INTS, *TEXTS[:12], *FLOATS[:7]])


_WHERE = Path("session")


def _journals() -> dict[str, Target]:
    """Journals whose checksums are right and whose records mean what nobody would write."""
    frame = Frame(0, 1, 1, 8)
    frame.add(OPS["ones"].opcode, [1], ((2,), None, None, None, None), number=1)
    data = wire.encode_frame(frame)
    rows: list[tuple[int, bytes]] = [
        (history.EPOCH, json.dumps({"epoch": 1, "secret": "00"}).encode()),
        (history.FRAME, data),
        (history.MARK, json.dumps(
            {"number": 1, "sequence": 1, "epoch": 1, "secret": "00"}).encode()),
        (history.COMMIT, json.dumps({"number": 1, "sequence": 1, "parts": []}).encode()),
    ]  # fmt: skip
    sample = json.dumps([[kind, body.hex()] for kind, body in rows]).encode()
    return {"journal": Target([sample], _reopen, errors=(JournalError,), reseal=_other_record)}


def _reopen(data: bytes) -> None:
    try:
        rows = [(int(kind), bytes.fromhex(body)) for kind, body in json.loads(data)]
    except (ValueError, TypeError, RecursionError):
        return  # the stand-in for a file is broken, not the journal
    disk = FaultyDisk()
    journal = Journal.create(disk, _WHERE, "s")
    for kind, body in rows:
        if 1 <= kind <= 255:
            journal.append(kind, body)
    journal.sync()
    opened = history.open_(disk, _WHERE, "s")
    list(opened.replay())


def _other_record(rng: random.Random, data: bytes) -> bytes:
    rows = json.loads(data)
    at = rng.randrange(len(rows))
    kind, body = rows[at][0], bytes.fromhex(rows[at][1])
    draw = rng.random()
    if draw < 0.2:
        kind = rng.randrange(1, 16)
    elif draw < 0.6 and body[:1] == b"{":
        body = json.dumps(mutate_json(rng, json.loads(body))).encode()
    elif draw < 0.9:
        body = mutate_bytes(rng, body)
    else:
        rows.insert(at, rows[rng.randrange(len(rows))])
        return json.dumps(rows).encode()
    rows[at] = [kind, body.hex()]
    return json.dumps(rows).encode()


@functools.cache
def targets() -> dict[str, Target]:
    """Return all targets by name."""
    return _control() | _links() | _snapshots() | _journals()


# -------------------------------------------------------------------------------------- changes --
def hostile(rng: random.Random, target: Target) -> bytes:
    """Return a sample made wrong: by its bytes, by a field, or in a way that checksums follow."""
    data = rng.choice(target.samples)
    draw = rng.random()
    if target.reseal is not None and draw < 0.7:
        return target.reseal(rng, data)
    if target.message is not None and draw < 0.6:
        message = target.message.FromString(data)
        _change(rng, message)
        return bytes(message.SerializeToString())
    if data[:1] == b"{" and draw < 0.7:
        return json.dumps(mutate_json(rng, json.loads(data))).encode()
    return mutate_bytes(rng, data)


def _change(rng: random.Random, message: Any) -> None:
    """Set one field of a protobuf message, at any depth, to what hurts."""
    if not message.DESCRIPTOR.fields:
        return
    field = rng.choice(message.DESCRIPTOR.fields)
    name = field.name
    if field.message_type is not None:
        if field.is_repeated:
            there = getattr(message, name)
            for _ in range(rng.choice([1, 1, 2, 70, 5_000])):
                there.add()
            _change(rng, there[0])
        else:
            _change(rng, getattr(message, name))
        return
    value = _field_value(rng, field)
    if field.is_repeated:
        count = rng.choice([1, 2, 70, 5_000])  # many long texts would take all of the time
        getattr(message, name).extend([value[:80] if type(value) is str else value] * count)
    else:
        setattr(message, name, value)


def _field_value(rng: random.Random, field: Any) -> Any:
    kinds = type(field)
    if field.type == kinds.TYPE_STRING:
        return rng.choice(TEXTS) * rng.choice([1, 1, 70])
    if field.type == kinds.TYPE_BYTES:
        return rng.randbytes(rng.choice([0, 1, 31, 33, 300]))
    if field.type == kinds.TYPE_BOOL:
        return rng.random() < 0.5
    if field.type in (kinds.TYPE_DOUBLE, kinds.TYPE_FLOAT):
        return rng.choice(FLOATS[:6])
    value = rng.choice(INTS)
    if field.type in (kinds.TYPE_UINT32, kinds.TYPE_FIXED32):
        return value & 0xFFFFFFFF
    if field.type in (kinds.TYPE_INT32, kinds.TYPE_SINT32, kinds.TYPE_SFIXED32, kinds.TYPE_ENUM):
        return max(-(2**31), min(value, 2**31 - 1))
    return abs(value) % 2**63
