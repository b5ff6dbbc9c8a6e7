"""The link's bytes: openings that prove a key on both sides, headers and chunks with bounds."""

from __future__ import annotations

import os
import random

import pytest
from farspan.core import addresses, limits, link
from farspan.core.errors import AuthError, ProtocolError

KEY = bytes(range(32))


def nonce() -> bytes:
    return os.urandom(link.NONCE_BYTES)


def test_both_sides_prove_the_key() -> None:
    listener, dialer = link.Listener(KEY, nonce()), link.Dialer(KEY, nonce())
    reply = dialer.reply(listener.challenge)
    assert len(reply) == link.REPLY_BYTES == 64
    dialer.accept(listener.answer(reply))


def test_a_dialer_without_the_key_is_refused() -> None:
    listener, dialer = link.Listener(KEY, nonce()), link.Dialer(bytes(32), nonce())
    with pytest.raises(AuthError):
        listener.answer(dialer.reply(listener.challenge))


def test_a_listener_without_the_key_is_refused() -> None:
    dialer = link.Dialer(KEY, nonce())
    dialer.reply(nonce())
    for proof in (b"", bytes(32), nonce()):
        with pytest.raises(AuthError):
            dialer.accept(proof)


def test_a_proof_sent_back_is_refused() -> None:
    listener, dialer = link.Listener(KEY, nonce()), link.Dialer(KEY, nonce())
    reply = dialer.reply(listener.challenge)
    with pytest.raises(AuthError):  # the dialer's own proof as the listener's
        dialer.accept(reply[link.NONCE_BYTES :])
    with pytest.raises(AuthError):  # the listener's own proof as a dialer's
        listener.answer(reply[: link.NONCE_BYTES] + listener.answer(reply))


def test_a_recorded_opening_does_not_open_again() -> None:
    dialer = link.Dialer(KEY, nonce())
    reply = dialer.reply(nonce())
    with pytest.raises(AuthError):
        link.Listener(KEY, nonce()).answer(reply)


@pytest.mark.parametrize("kind", sorted(link.PAYLOAD_BYTES_MAX))
def test_a_payload_over_its_bound_is_refused_by_the_header(kind: int) -> None:
    bound = link.PAYLOAD_BYTES_MAX[kind]
    header = link.unpack_header(link.pack_header(kind, 2**64 - 1, bound))
    assert header == link.Header(kind, 2**64 - 1, bound)
    oversize = (bound + 1).to_bytes(4, "little") + bytes([kind]) + bytes(11)
    with pytest.raises(ProtocolError, match=f"kind {kind}"):
        link.unpack_header(oversize)


def test_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ProtocolError, match="kind 200"):
        link.unpack_header(b"\0\0\0\0" + bytes([200]) + bytes(11))


@pytest.mark.parametrize("payload", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 60_000])
def test_what_is_no_json_object_is_a_protocol_error(payload: bytes) -> None:
    with pytest.raises(ProtocolError):
        link.unpack_json(payload)
    with pytest.raises(ProtocolError):
        link.unpack_open(payload)
    with pytest.raises(ProtocolError):
        link.unpack_purpose(payload)


def test_open_survives_the_wire_and_hides_keys() -> None:
    peer = link.Peer(0, "127.0.0.1:7001", KEY.hex(), 3)
    body = link.Open("s1", "anna", 0, (peer,), 2**30)
    message = link.pack_open(9, body)
    header = link.unpack_header(message[: link.HEADER_BYTES])
    assert (header.kind, header.channel) == (link.OPEN, 9)
    assert link.unpack_open(message[link.HEADER_BYTES :]) == body
    assert KEY.hex() not in repr(body)


@pytest.mark.parametrize("size", [0, 1, limits.CHUNK_BYTES, 2 * limits.CHUNK_BYTES + 3])
def test_a_transfer_is_put_together_from_its_chunks(size: int) -> None:
    data = random.Random(size).randbytes(size)
    assembly = link.Assembly(size)
    for chunk in link.chunks(7, data):
        assert not assembly.done
        head = link.pack_chunk_header(4, chunk)
        payload = head[link.HEADER_BYTES :] + bytes(chunk.data)
        assert link.unpack_header(head[: link.HEADER_BYTES]).payload_bytes == len(payload)
        assembly.add(link.unpack_chunk(payload))
    assert assembly.done
    assert bytes(assembly.data) == data


def test_chunks_out_of_place_are_refused() -> None:
    first, second, *_ = link.chunks(7, bytes(3 * limits.CHUNK_BYTES))
    assembly = link.Assembly(3 * limits.CHUNK_BYTES)
    with pytest.raises(ProtocolError):
        assembly.add(second)
    assembly.add(first)
    assembly.add(first)  # again, by a replay: it has come
    with pytest.raises(ProtocolError):
        assembly.add(link.Chunk(7, 5, 0, 0, b"1234"))


@pytest.mark.parametrize(
    ("total", "offset", "flags", "size"),
    [(4, 2, 0, 4), (4, 2**63, 1, 0), (4, 0, link.LAST, 3), (4, 0, 0, 4), (4, 0, 0, 0)],
)
def test_a_chunk_that_contradicts_itself_is_refused(
    total: int, offset: int, flags: int, size: int
) -> None:
    payload = link._CHUNK.pack(7, total, offset, flags) + bytes(size)
    with pytest.raises(ProtocolError):
        link.unpack_chunk(payload)
    with pytest.raises(ProtocolError):
        link.unpack_chunk(payload[:10])


def test_events_carry_the_applied_sequence() -> None:
    message = link.pack_events(5, 2**40, b"abc")
    applied, events = link.unpack_events(message[link.HEADER_BYTES :])
    assert (applied, bytes(events)) == (2**40, b"abc")
    with pytest.raises(ProtocolError):
        link.unpack_events(b"123")


@pytest.mark.parametrize(
    "body",
    [
        link.WorkerUp("w1", 4, "unix:/w.sock", KEY.hex(), "cpu", "h", 17),
        link.WorkerGone("w1", 4, "exited"),
        link.Synced({"cpu": 2}),
        link.Retire("w1", 4, "silent"),
        link.Wanted("cpu", 1),
    ],
)
def test_fleet_messages_survive_the_wire(body: link.Fleet) -> None:
    assert link.unpack_fleet(link.pack_fleet(body)[link.HEADER_BYTES :]) == body
    assert KEY.hex() not in repr(body)


@pytest.mark.parametrize("text", ['{"type":"Run"}', '{"type":"Wanted","kind":1,"count":"x"}', "{}"])
def test_an_unknown_fleet_message_is_refused(text: str) -> None:
    with pytest.raises(ProtocolError):
        link.unpack_fleet(text.encode())


def test_addresses() -> None:
    assert addresses.split_address("10.0.0.1:70") == ("10.0.0.1", 70)
    assert addresses.split_address("[::1]:70") == ("::1", 70)
    assert addresses.split_address("unix:/run/w.sock") == "/run/w.sock"
    for wrong in ("", "host", "host:", ":7", "host:x", "host:70000"):
        with pytest.raises(ValueError, match="expected"):
            addresses.split_address(wrong)
