"""Minor versions of the protocol, 5 beside 6: an older client here, an older gateway there.

A client of minor 5 has no secret in the metadata of its calls (`PROVE_MINOR`), and no tensors of
more than 64 KiB in its frames (`LONG_PAYLOADS_MINOR`). It is played by raw messages, the gateway by
one that says 5 and refuses what one of that release did.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import farspan
import grpc
import numpy as np
import pytest
from farspan import wire
from farspan.core import limits
from farspan.core.command import GET, PUT, Frame, Value
from farspan.core.op import table_hash
from farspan_server import live as live_module
from farspan_server import session_messages as messages
from farspan_server.live import Live
from farspan_server.service import Service
from farspan_worker.server import Worker
from farspan_worker.warm import warm_engine
from test_gateway import HASH, KEY, TOKEN, U8, Cluster, frame, get, put

BEARER = (("authorization", f"Bearer {TOKEN}"),)
OLD = 5


@pytest.fixture(params=["durable", "off"])
def cluster(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Cluster]:
    made = Cluster()
    yield made.start(1, journals=tmp_path, durability=request.param)
    made.close()


class OldClient:
    """A stream of raw messages, as a client of minor 5 sends them."""

    def __init__(self, channel: grpc.Channel, hello: wire.Hello) -> None:
        self._up: queue.Queue[bytes | None] = queue.Queue()
        method = channel.stream_stream(f"/{wire.SERVICE}/Session")
        self._call = method(iter(self._up.get, None), metadata=BEARER, timeout=20)
        self.applied = 0
        self.say(hello=hello)
        welcome = self.until(lambda down: down.welcome)
        assert isinstance(welcome, wire.Welcome)
        self.welcome = welcome

    def say(self, **what: Any) -> None:
        self._up.put(wire.encode(wire.Up(**what)))

    def send(self, sequence: int, made: Frame) -> None:
        made.sequence = sequence
        made.epoch = self.welcome.epoch
        self.say(frames=(wire.encode_frame(made),))

    def until(self, found: Callable[[wire.Down], Any]) -> Any:
        for message in self._call:
            down = wire.decode(wire.Down, message)
            self.applied = max(self.applied, down.applied)
            if answer := found(down):
                return answer
        raise AssertionError("the gateway ended the stream")

    def value(self) -> bytes:
        def values(down: wire.Down) -> list[Value]:
            told = [event for data in down.events for event in wire.decode_events(data)]
            return [event for event in told if isinstance(event, Value)]

        (value,) = self.until(values)
        return bytes(value.data or b"")

    def cut(self) -> None:
        self._call.cancel()
        self._up.put(None)


def test_an_older_client_computes_uploads_comes_back_and_closes(cluster: Cluster) -> None:
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as channel:
        one = OldClient(channel, wire.Hello(HASH, "cpu", minor=OLD))
        assert one.welcome.minor == OLD and one.welcome.secret
        one.send(1, put(1, b"abc"))
        header = wire.TransferHeader(one.welcome.session, 0, 77, 3)
        sent = [wire.encode_transfer_header(header), wire.encode_chunk(memoryview(b"def"))]
        upload = channel.stream_unary(f"/{wire.SERVICE}/Upload")
        reply = wire.decode(wire.UploadReply, upload(iter(sent), metadata=BEARER, timeout=20))
        assert reply.received_bytes == 3
        one.send(2, frame((PUT, [2], (U8, (3,), -1, 77)), (GET, [2], (9, 1, 0))))
        assert one.value() == b"def"
        if one.applied < 2:
            one.until(lambda down: one.applied == 2)
        one.say(confirmed=1)
        one.cut()
        again = wire.Resume(one.welcome.session, one.welcome.secret, 1, 1, one.applied)
        two = OldClient(channel, wire.Hello(HASH, minor=OLD, resume=again))
        assert two.welcome.minor == OLD and two.welcome.received == 2
        two.send(3, get(1, 10))
        answers = [two.value()]
        if answers == [b"def"]:  # told again: it had not been confirmed
            answers.append(two.value())
        assert answers[-1] == b"abc"
        close = channel.unary_unary(f"/{wire.SERVICE}/Close")
        close(wire.encode(wire.CloseRequest(two.welcome.session)), metadata=BEARER, timeout=20)
        two.cut()
    assert cluster.gateway is not None
    known = cluster.gateway.service
    cluster.until(lambda: not known.sessions)


class Engines(Cluster):
    """A gateway whose workers compute."""

    def worker(self) -> tuple[Worker, str]:
        made = Worker(KEY, warm_engine())
        self.workers.append(made)
        return made, made.listen("127.0.0.1:0")


@pytest.mark.parametrize("minor", [OLD, wire.MINOR])
def test_todays_client_sends_an_older_gateway_what_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, minor: int
) -> None:
    welcome, give, came = Live.welcome, Service.give, list[int]()

    def says(self: Live, secret: bytes = b"") -> wire.Welcome:
        return replace(welcome(self, secret), minor=minor)

    def note(self: Service, live: Live, given: Any) -> None:
        if isinstance(given, messages.FrameIn):
            came.extend(len(data) for data in wire.decode_frame(given.data).payloads)
        give(self, live, given)

    monkeypatch.setattr(Live, "welcome", says)
    monkeypatch.setattr(Service, "give", note)
    if minor == OLD:  # the secret in a call's metadata says nothing to it
        prove = Live.prove
        monkeypatch.setattr(Live, "prove", lambda self, secret: prove(self, None))
        monkeypatch.setattr(live_module, "PROVE_MINOR", wire.MINOR + 1)
    cluster = Engines()
    try:
        cluster.start(1, journals=tmp_path, table_hash=table_hash())
        with farspan.connect(cluster.address, token=TOKEN, timeout=20) as session:
            values = np.arange(50_000, dtype="float32")  # 200 KB: in a frame, or by a call
            x = farspan.tensor(values) * 2
            assert (x.numpy() == values * 2).all()
            session.keep("x", x)
            session.transport._stream.cancel()  # it comes back
            assert float((x + 1).sum()) == float((values * 2 + 1).sum())
            name = session.detach()
        with farspan.attach(name, cluster.address, token=TOKEN, timeout=20) as again:
            assert (again.kept["x"].numpy() == values * 2).all()
    finally:
        cluster.close()
    assert max(came, default=0) <= limits.INLINE_BYTES_MAX if minor == OLD else max(came) > 190_000
