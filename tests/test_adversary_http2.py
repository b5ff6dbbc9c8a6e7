"""Hostile HTTP/2, frame by frame: what no gRPC client sends, and what it costs the gateway at most.

Each flood is bytes on plain connections. The peer reads nothing, or what it must; it is a neighbour
in the same service that has to be served meanwhile and after.
"""

from __future__ import annotations

import select
import socket
import struct
import time
from collections.abc import Callable, Iterator

import pytest
from farspan import wire
from test_adversary import EXTRA_BYTES_MAX, MIB, PREFACE, SESSION, Target, neighbour, target

__all__ = ["neighbour", "target"]  # fixtures

ACK = 1  # of settings
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PING, WINDOW, CONTINUATION = 0, 1, 2, 3, 4, 6, 8, 9
END_STREAM, END_HEADERS = 1, 4
FLOOD_S = 1.0  # for one connection to take what it is sent


def frame(kind: int, payload: bytes = b"", flags: int = 0, stream: int = 0) -> bytes:
    """Return a frame of HTTP/2 (RFC 9113, 4.1)."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def field(name: str, value: str | bytes, kept: bool = False) -> bytes:
    """Return a literal header field (RFC 7541, 6.2); kept: in the table of the connection."""
    data = value.encode() if isinstance(value, str) else value
    return bytes([0x40 if kept else 0]) + _text(name.encode()) + _text(data)


def _text(data: bytes) -> bytes:
    if len(data) < 127:
        return bytes([len(data)]) + data
    rest, coded = len(data) - 127, bytearray([127])
    while rest >= 128:
        coded.append(rest & 127 | 128)
        rest >>= 7
    return bytes(coded) + bytes([rest]) + data


def call(target: Target, path: str = SESSION) -> bytes:
    """Return the header block of a call that has a token."""
    return b"".join(
        [
            field(":method", "POST"), field(":scheme", "http"), field(":path", path),
            field(":authority", target.host), field("te", "trailers"),
            field("content-type", "application/grpc"), field(*target.bearer[0]),
        ]
    )  # fmt: skip


def streams(target: Target, count: int, flags: int = END_HEADERS, path: str = SESSION) -> bytes:
    block = call(target, path)
    return b"".join(frame(HEADERS, block, flags, 2 * k + 1) for k in range(count))


def resets(target: Target) -> bytes:
    """Streams that are reset as soon as they are open (CVE-2023-44487)."""
    block = call(target, f"/{wire.SERVICE}/List")
    gone = struct.pack(">I", 8)
    return b"".join(
        frame(HEADERS, block, END_HEADERS, k) + frame(RESET, gone, 0, k)
        for k in range(1, 10_000, 2)
    )


def table_bomb(target: Target) -> bytes:
    """A field of 4,000 bytes in the connection's table, and 16,000 mentions of it a frame."""
    first = call(target) + field("x-long", b"y" * 4_000, kept=True)
    mentions = call(target) + b"\xbe" * 15_500  # index 62: the newest field
    return frame(HEADERS, first, END_HEADERS, 1) + b"".join(
        frame(HEADERS, mentions, END_HEADERS, k) for k in range(3, 200, 2)
    )


def table_sizes(target: Target) -> bytes:
    """A table that is as large as a peer can ask for, small again, and filled each time."""
    updates = b"\x3f\xe1\x1f\x20" * 5_000  # 4,096 bytes, none (RFC 7541, 6.3)
    return b"".join(
        frame(HEADERS, updates[:16_000] + call(target), END_HEADERS, k) for k in range(1, 60, 2)
    )


def endless_headers(target: Target) -> bytes:
    """Headers without an end (CVE-2024-27316 and its like)."""
    more = frame(CONTINUATION, field("x-more", b"z" * 16_000), 0, 1)
    return frame(HEADERS, call(target), 0, 1) + more * 2_000


def endless_mentions(target: Target) -> bytes:
    """The same of one field, a byte for each."""
    first = frame(HEADERS, call(target) + field("x-long", b"y", kept=True), END_HEADERS, 1)
    more = frame(CONTINUATION, b"\xbe" * 16_000, 0, 3)
    return first + frame(HEADERS, call(target), 0, 3) + more * 200


def many_mentions(target: Target) -> bytes:
    """Eight streams that mention a field 200,000 times each."""
    blocks = [frame(HEADERS, call(target) + field("x", b"", kept=True), END_HEADERS, 1)]
    more = frame(CONTINUATION, b"\xbe" * 16_000, 0, 0)
    for stream in range(3, 19, 2):
        each = more[:5] + struct.pack(">I", stream) + more[9:]
        blocks.append(frame(HEADERS, call(target), 0, stream) + each * 12)
        blocks.append(frame(CONTINUATION, b"\xbe" * 8_000, END_HEADERS, stream))
    return b"".join(blocks)


def acknowledged(make: Callable[[Target], bytes]) -> Callable[[Target], bytes]:
    """Let a flood come from a peer that has agreed to the gateway's settings."""
    return lambda target: frame(SETTINGS, b"", ACK) + make(target)


def crumbs_of_data(target: Target) -> bytes:
    """A message of 2 MB, in frames of one byte, as far as the window goes; then in empty ones."""
    head = struct.pack(">BI", 0, 2_000_000)
    one, none = frame(DATA, b"\0", 0, 1), frame(DATA, b"", 0, 1)
    return streams(target, 1) + frame(DATA, head, 0, 1) + one * 60_000 + none * 200_000


def huge_message(target: Target) -> bytes:
    """A message that says it has 4 GB, on each stream."""
    head = struct.pack(">BI", 0, 2**32 - 1) + bytes(60)
    return streams(target, 100) + b"".join(frame(DATA, head, 0, 2 * k + 1) for k in range(100))


def no_window(target: Target) -> bytes:
    """Calls whose answers the peer's window has no room for."""
    closed = frame(SETTINGS, struct.pack(">HI", 4, 0))
    empty = struct.pack(">BI", 0, 0)
    block = call(target, f"/{wire.SERVICE}/List")
    return closed + b"".join(
        frame(HEADERS, block, END_HEADERS, k) + frame(DATA, empty, END_STREAM, k)
        for k in range(1, 4_000, 2)
    )


def settings(target: Target) -> bytes:
    changes = b"".join(struct.pack(">HI", 4, 1_000 + k) for k in range(50))
    return frame(SETTINGS, changes) * 20_000 + frame(SETTINGS) * 200_000


#: With whether the peer reads what it is answered.
FLOODS: dict[str, tuple[Callable[[Target], bytes], bool]] = {
    "settings, each to be acknowledged": (settings, False),
    "pings, each to be answered": (lambda t: frame(PING, bytes(8)) * 300_000, False),
    "priorities": (lambda t: frame(PRIORITY, bytes(5), 0, 7) * 300_000, True),
    "windows": (lambda t: frame(WINDOW, struct.pack(">I", 1)) * 300_000, True),
    "frames of no kind": (lambda t: frame(0x7F, bytes(100)) * 100_000, True),
    "streams that are reset": (resets, False),
    "thousands of streams": (lambda t: streams(t, 3_000), True),
    "mentions of a long field": (table_bomb, True),
    "tables that grow and shrink": (table_sizes, True),
    "headers without an end": (endless_headers, True),
    "mentions without an end": (endless_mentions, True),
    "mentions without an end, by the settings": (acknowledged(endless_mentions), True),
    "streams of mentions": (many_mentions, True),
    "streams of mentions, by the settings": (acknowledged(many_mentions), True),
    "data in crumbs": (crumbs_of_data, True),
    "messages of 4 GB": (huge_message, True),
    "answers without a window": (no_window, False),
}


#: A peer that does not acknowledge settings is bounded by HTTP/2's defaults, in gRPC by 16 MiB of
#: headers a stream; no option changes that, and docs/hostile.md says so.
BEYOND = {"mentions without an end": 256 * MIB, "streams of mentions": 384 * MIB}


def send(target: Target, data: bytes, reads: bool = False) -> int:
    """Send on a connection of its own, until the gateway has had enough; return the bytes sent."""
    host, _, port = target.host.rpartition(":")
    sent, ends_s = 0, time.monotonic() + FLOOD_S
    with socket.create_connection((host, int(port)), 10) as peer:
        peer.sendall(PREFACE + frame(SETTINGS))
        peer.setblocking(False)
        view = memoryview(data)
        while sent < len(data) and time.monotonic() < ends_s:
            heard, ready, _ = select.select([peer] if reads else [], [peer], [], 0.2)
            try:
                if heard and not peer.recv(65_536):
                    break
                if ready:
                    sent += peer.send(view[sent : sent + 65_536])
            except BlockingIOError:
                continue
            except OSError:  # it was cut off
                break
        time.sleep(0.1)  # for what is in the gateway's socket by now
    return sent


@pytest.mark.parametrize("name", FLOODS)
def test_a_flood_of_frames_costs_at_most_64_mib_and_a_neighbour_computes_on(
    target: Target, neighbour: Iterator[None], name: str
) -> None:
    make, reads = FLOODS[name]
    data = make(target)
    sent: list[int] = []
    extra = target.extra(lambda: sent.append(send(target, data, reads)))
    print(f"{name}: {sent[0]} bytes sent, {extra / MIB:.1f} MiB more")
    assert sent[0] > 0, "it was begun"
    assert extra <= BEYOND.get(name, EXTRA_BYTES_MAX)


def test_peers_that_say_a_byte_now_and_then_hold_nothing_up(
    target: Target, neighbour: Iterator[None]
) -> None:
    """Slow ones on 120 connections: of a preface, of a call's headers, of its first message."""
    host, _, port = target.host.rpartition(":")
    begun = PREFACE + frame(SETTINGS) + streams(target, 1)
    said = (PREFACE, begun[: len(PREFACE) + 40], begun + frame(DATA, b"\0\0", 0, 1))

    def drip() -> None:
        peers = [socket.create_connection((host, int(port)), 10) for _ in range(120)]
        for step in range(20):
            for k, peer in enumerate(peers):
                each = said[k % 3]
                try:
                    peer.sendall(each[:-20] if not step else each[-21 + step : -20 + step or None])
                except OSError:
                    continue  # it was cut off
            time.sleep(0.02)
        for peer in peers:
            peer.close()

    extra = target.extra(drip)
    print(f"120 slow connections: {extra / MIB:.1f} MiB more")
    assert extra <= EXTRA_BYTES_MAX
