"""A hostile client of a real service: what each hazard costs, and that a neighbour is served.

The hazards are those that have broken other tensor services; docs/reliability.md names them.
Gateway and workers are processes of their own, so that what they take can be read from the system.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import farspan
import grpc
import pytest
from farspan import wire
from farspan._pb.farspan.v1 import stream_pb2 as pb
from farspan.core import command as cmd
from farspan.core import limits
from farspan.core.command import Frame
from farspan.core.op import OPS, table, table_hash
from fuzzing.mutations import encode_anyhow

table()
MIB = 1 << 20
EXTRA_BYTES_MAX = 64 * MIB  # that a hostile connection may cost
SESSION = f"/{wire.SERVICE}/Session"


@dataclass
class Target:
    """A service of two workers, and who runs it."""

    address: str
    token: str
    up: int  # process id

    @property
    def host(self) -> str:
        return self.address.removeprefix("grpc://")

    @property
    def bearer(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self.token}"),)

    def rss(self) -> dict[int, int]:
        """Return the resident bytes of each of its processes."""
        found, seen = {}, [self.up]
        while seen:
            pid = seen.pop()
            try:
                found[pid] = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4_096
                for task in Path(f"/proc/{pid}/task").iterdir():
                    seen += [int(p) for p in (task / "children").read_text().split()]
            except OSError:
                continue
        return found

    def extra(self, attack: Callable[[], None]) -> int:
        """Return by how much the process that grew most did while and after it was attacked."""
        before, peak = self.rss(), dict[int, int]()
        done = threading.Event()

        def look() -> None:
            while not done.wait(0.02):
                for pid, size in self.rss().items():
                    peak[pid] = max(peak.get(pid, 0), size)

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            attack()
        finally:
            done.set()
            watcher.join()
        return max((size - before[pid] for pid, size in peak.items() if pid in before), default=0)

    def channel(self, **options: Any) -> grpc.Channel:
        given = {"grpc.max_send_message_length": -1, "grpc.enable_retries": 0,
                 "grpc.use_local_subchannel_pool": 1, **options}  # fmt: skip
        return grpc.insecure_channel(self.host, options=list(given.items()))

    def say(self, *messages: bytes, **more: Any) -> list[str]:
        """Open a session, send raw messages after its hello and return how it ended."""
        sent = threading.Event()

        def all_of() -> Iterator[bytes]:
            yield wire.encode(wire.Up(wire.Hello(table_hash(), "cpu")))
            yield from messages
            sent.wait(60)  # until it has judged
            yield wire.encode(wire.Up(close=True))  # a worker kept for the lease serves no other

        with self.channel() as channel:
            call = channel.stream_stream(SESSION)(
                all_of(), metadata=self.bearer, timeout=60, **more
            )
            told = []
            try:
                for message in call:
                    for data in wire.decode(wire.Down, message).events:
                        told += [f"{type(e).__name__}:{getattr(e, 'kind', '')}"
                                 for e in wire.decode_events(data)]  # fmt: skip
                    if told:
                        sent.set()
                    if told and told[0].startswith("Lost"):
                        call.cancel()  # the session is over
                        break
            except grpc.RpcError as error:
                told.append(str(error.code()))
            finally:
                sent.set()
        return told


@pytest.fixture(scope="module")
def target() -> Iterator[Target]:
    command = ["up", "--no-ray", "--workers", "cpu:2", "--threads", "1", "--no-journal", "--json"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command], stdout=subprocess.PIPE, text=True
    )
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        token = Path(ready["token_file"]).read_text().strip()
        yield Target(ready["address"], token, up.pid)
    finally:
        up.send_signal(signal.SIGTERM)
        assert up.wait(30) == 0


@pytest.fixture
def neighbour(target: Target) -> Iterator[Any]:
    """A session beside the hostile one; after it, the same session must still compute."""
    with farspan.connect(target.address, token=target.token, timeout=60) as session:
        kept = farspan.arange(10)
        session.synchronize()
        yield session
        assert (kept + 1).sum().item() == 55
    assert len(target.rss()) >= 3, "gateway and workers live"


def up_of(frame: Frame) -> bytes:
    """Return the message that brings a frame, whatever the frame is."""
    return bytes(pb.Up(frames=[encode_anyhow(frame)]).SerializeToString())


def frame_of(op: str | int, ids: list[int], static: Any = (), scalars: Any = ()) -> Frame:
    frame = Frame(0, 1, 1, farspan.float32.code)
    opcode = OPS[op].opcode if isinstance(op, str) else op
    frame.add(opcode, ids, static, scalars, 0, 1)
    return frame


def nested(depth: int) -> bytes:
    """Return a frame whose one static is tuples in tuples; no encoder of ours would make it."""
    static = b"\x05\x01\x00" * depth + b"\x00"
    body = pb.Commands(opcodes=[16], modes=[0], counts=[0], statics=[0], scalar_counts=[0],
                       static_table=[static])  # fmt: skip
    frame = pb.Frame(sequence=1, epoch=1, command_count=1, first_number=1,
                     body=body.SerializeToString())  # fmt: skip
    return bytes(pb.Up(frames=[frame.SerializeToString()]).SerializeToString())


def many_empties(field: int, count: int) -> bytes:
    """Return a message whose field `field` is there so many times, and empty."""
    return bytes([field << 3 | 2, 0]) * count


def ones(shape: tuple[int, ...]) -> bytes:
    return up_of(frame_of("ones", [1], (shape, None, None, None, None)))


def expanded() -> bytes:
    """Return a frame that makes a view of 4 TiB, and adds up its elements."""
    frame = frame_of("ones", [1], ((1,), None, None, None, None))
    frame.add(OPS["expand"].opcode, [1, 2], ((2**40,), False), (), 0, 2)
    frame.add(OPS["sum"].opcode, [2, 3], (None,), (), 0, 3)
    return up_of(frame)


def string_table() -> bytes:
    frame = Frame(0, 1, 1, 8)
    for k in range(4_000):
        frame.add(OPS["neg"].opcode, [k, k + 1], ("x" * 400 + str(k),), (), 0, k + 1)
    return up_of(frame)


BOMBS: dict[str, Callable[[], bytes]] = {
    "2^62 elements": lambda: ones((2**62,)),
    "2^124 elements": lambda: ones((2**62, 2**62)),
    "a rank of 1,000": lambda: ones((1,) * 1_000),
    "4 TiB for nothing": expanded,
    "an attribute of 60,000 ints": lambda: up_of(frame_of("permute", [1, 2], ((0,) * 60_000,))),
    "a list of 2^40 tensors": lambda: up_of(frame_of("cat", [1], (2**40, 0))),
    "tuples 600,000 deep": lambda: nested(600_000),
    "a table of 4,000 strings": string_table,
    "a million empty frames": lambda: many_empties(2, 1_000_000),
    "a million empty hellos": lambda: many_empties(1, 1_000_000),
    "a million empty pieces": lambda: many_empties(5, 1_000_000),
    "a message over the bound": lambda: bytes(wire.CONTROL_BYTES_MAX + 1),
    "a message far over the bound": lambda: bytes(64 * MIB),
    "no message": lambda: b"\xff" * 100_000,
}
REFUSALS = ("Lost:ProtocolError", "Failed:", "StatusCode.RESOURCE_EXHAUSTED", "Lost:CapacityError")


@pytest.mark.parametrize("name", BOMBS)
def test_a_bomb_is_refused_for_at_most_64_mib_and_a_neighbour_computes_on(
    target: Target, neighbour: Any, name: str
) -> None:
    bomb = BOMBS[name]()
    told: list[str] = []
    extra = target.extra(lambda: told.extend(target.say(bomb)))
    print(f"{name}: {len(bomb)} bytes, {told}, {extra / MIB:.1f} MiB more")
    assert told and told[0].startswith(REFUSALS), told
    assert extra <= EXTRA_BYTES_MAX


def test_a_compressed_bomb_is_refused_before_it_is_unpacked(target: Target, neighbour: Any) -> None:
    told: list[str] = []
    bomb = bytes(256 * MIB)
    extra = target.extra(lambda: told.extend(target.say(bomb, compression=grpc.Compression.Gzip)))
    print(f"gzip of 256 MiB: {told}, {extra / MIB:.1f} MiB more")
    assert told == ["StatusCode.RESOURCE_EXHAUSTED"] and extra <= EXTRA_BYTES_MAX


def test_the_limits_that_are_in_force_are_those_that_were_asked_for() -> None:
    from farspan_server.gateway import OPTIONS

    assert 0 < OPTIONS["grpc.max_receive_message_length"] <= 3 * MIB
    assert len(dict(OPTIONS)) == len(list(OPTIONS.items())), "of a key given twice the first wins"
    from google.protobuf.internal import api_implementation

    assert api_implementation.Type() == "upb", "the one in Python recurses"


def test_long_metadata_is_refused(target: Target, neighbour: Any) -> None:
    with target.channel(**{"grpc.max_metadata_size": 64 * MIB}) as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        metadata = (*target.bearer, ("x-long", "y" * 64 * limits.KiB))
        extra = target.extra(lambda: _refused(lambda: call(b"", metadata=metadata, timeout=20)))
    assert extra <= EXTRA_BYTES_MAX


def _refused(call: Callable[[], Any]) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    return str(caught.value.code())


def test_memos_flooded_with_arguments_stay_bounded(target: Target, neighbour: Any) -> None:
    """Commands that fail or not, each with arguments that were never seen before."""
    frames = []
    for turn in range(10):
        frame = Frame(0, turn + 1, 1, farspan.float32.code)
        for k in range(2_000):
            shape = (turn, k)
            static = (shape, None, None, None, None, None)
            frame.add(OPS["empty.memory_format"].opcode, [k + 1], static[:6], (), 0, 1 + 2 * k)
            frame.add(cmd.FREE, [k + 1], (), (), 0, 0)
        frames.append(up_of(frame))
    frames.append(up_of(frame_of(9_999, [1])))  # ends it: then all before it has run
    told: list[str] = []
    extra = target.extra(lambda: told.extend(target.say(*frames)))
    print(f"20,000 kinds of arguments: {told}, {extra / MIB:.1f} MiB more")
    assert told and extra <= EXTRA_BYTES_MAX


def test_streams_that_say_nothing_and_streams_that_are_reset(
    target: Target, neighbour: Any
) -> None:
    def flood() -> None:
        with target.channel() as channel:
            stream = channel.stream_stream(SESSION)
            held = threading.Event()

            def silent() -> Iterator[bytes]:
                held.wait(20)
                yield b""

            calls = [stream(silent(), metadata=target.bearer) for _ in range(100)]
            one = channel.unary_unary(f"/{wire.SERVICE}/List")
            for _ in range(500):  # rapid reset
                one.future(b"", metadata=target.bearer).cancel()
            for call in calls:
                call.cancel()
            held.set()

    extra = target.extra(flood)
    print(f"100 silent streams, 500 resets: {extra / MIB:.1f} MiB more")
    assert extra <= EXTRA_BYTES_MAX


PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"


def test_connections_of_no_protocol_are_borne(target: Target, neighbour: Any) -> None:
    host, _, port = target.host.rpartition(":")

    def knock() -> None:
        opened = []
        for k in range(150):
            found = socket.create_connection((host, int(port)), 20)
            found.sendall([b"", b"\x00" * 100, PREFACE[:10], PREFACE, b"GET / HTTP/1.1\r\n"][k % 5])
            opened.append(found)
        with farspan.connect(target.address, token=target.token, timeout=60):
            assert farspan.ones(3).sum().item() == 3
        for found in opened:
            found.close()

    extra = target.extra(knock)
    print(f"150 connections of no protocol: {extra / MIB:.1f} MiB more")
    assert extra <= EXTRA_BYTES_MAX


def test_guessed_names_of_sessions_find_nothing(target: Target, neighbour: Any) -> None:
    rng_names = [secrets.token_hex(16) for _ in range(60)]
    odd = ["", "0", "../", "s" * 64, "%00", "local-1", "None", "é", "'--"]
    bodies: dict[str, Callable[[str], bytes]] = {
        "Describe": lambda s: wire.encode(wire.DescribeRequest(s)),
        "Close": lambda s: wire.encode(wire.CloseRequest(s)),
        "Keep": lambda s: wire.encode(wire.KeepRequest(s, 1, "x", "{}")),
        "Kept": lambda s: wire.encode(wire.KeptRequest(s)),
        "Share": lambda s: wire.encode(wire.ShareRequest(s, 0)),
        "Trace": lambda s: wire.encode(wire.TraceRequest(s, True)),
        "Download": lambda s: wire.encode(wire.DownloadRequest(s, 1)),
    }
    found, tried = [], 0
    with target.channel() as channel:
        for method, body in bodies.items():
            call = channel.unary_unary(f"/{wire.SERVICE}/{method}")
            for name in (*rng_names, *odd):
                tried += 1
                try:
                    found.append((method, name, call(body(name), metadata=target.bearer)))
                except grpc.RpcError as error:
                    if name and name not in odd[2:]:
                        assert name not in str(error.details()), "errors do not repeat a guess"
    print(f"{tried} guesses, {len(found)} hits")
    assert not found


def test_guessed_secrets_resume_nothing(target: Target, neighbour: Any) -> None:
    session = neighbour.transport.session_id
    for secret in (b"", b"\0" * 32, secrets.token_bytes(32), b"x" * 31):
        hello = wire.Hello(table_hash(), "cpu", resume=wire.Resume(session, secret, 1))
        with target.channel() as channel:
            first = wire.encode(wire.Up(hello))
            call = channel.stream_stream(SESSION)
            try:
                messages = list(call(iter([first]), metadata=target.bearer, timeout=20))
                told = [wire.decode(wire.Down, m) for m in messages]
            except grpc.RpcError:
                continue
        assert not any(down.welcome for down in told), "nobody is welcome with a guess"


@pytest.mark.slow
def test_silent_and_half_open_peers_are_cut(target: Target, neighbour: Any) -> None:
    """Nothing but a preface, or an open connection whose pings nobody answers: cut in 15 s.

    Waits at most 25 s for the end of each; what it took is printed.
    """
    host, _, port = target.host.rpartition(":")
    settings = b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"
    took: dict[str, float] = {}

    def hold(name: str, said: bytes) -> None:
        with socket.create_connection((host, int(port)), 25) as peer:
            peer.sendall(said)
            begun = time.monotonic()
            try:
                while peer.recv(65_536):
                    continue
            except ConnectionError:
                pass
            took[name] = time.monotonic() - begun

    threads = [
        threading.Thread(target=hold, args=(name, said), daemon=True)
        for name, said in (("silent", b""), ("half a preface", PREFACE[:12]),
                           ("half-open", PREFACE + settings))
    ]  # fmt: skip
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(26)
    print({name: round(s, 1) for name, s in took.items()})
    assert set(took) == {"silent", "half a preface", "half-open"}


def test_nothing_of_it_is_left(target: Target) -> None:
    """After all of the above: no session but new ones, and few files open in the gateway."""
    with target.channel() as channel:
        call = channel.unary_unary(f"/{wire.SERVICE}/List")
        deadline = time.monotonic() + 3  # others wait for their leases
        while time.monotonic() < deadline:
            sessions = wire.decode(wire.ListReply, call(b"", metadata=target.bearer)).sessions
            if not sessions:
                break
            time.sleep(0.2)
    files = max(len(os.listdir(f"/proc/{pid}/fd")) for pid in target.rss())
    print(f"{len(sessions)} sessions, at most {files} files open")
    assert files < 200
