"""A client whose session another one has taken over changes nothing of it, by no call."""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from farspan import wire
from farspan.core import limits, link
from farspan.core.errors import ServiceError
from test_gateway import TOKEN, Client, Cluster, get, put

BEARER = (("authorization", f"Bearer {TOKEN}"),)


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster()
    yield made.start(1, journals=tmp_path)
    made.close()


@pytest.fixture
def channel(cluster: Cluster) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(cluster.address.removeprefix("grpc://")) as made:
        yield made


def calls(channel: grpc.Channel, session: str) -> dict[str, Callable[[Any], Any]]:
    """Return, by method, what makes a call that changes a session, with some metadata."""
    header = wire.encode_transfer_header(wire.TransferHeader(session, 0, 77, 3))
    unary: dict[str, Any] = {
        "Keep": wire.KeepRequest(session, 0, "name", "{}"),
        "Share": wire.ShareRequest(session, 0),
        "Trace": wire.TraceRequest(session, True),
    }

    def ask(method: str, body: Any) -> Callable[[Any], Any]:
        made = channel.unary_unary(f"/{wire.SERVICE}/{method}")
        return lambda metadata: made(wire.encode(body), metadata=metadata, timeout=20)

    def upload(metadata: Any) -> Any:
        messages = iter([header, wire.encode_chunk(memoryview(b"abc"))])
        made = channel.stream_unary(f"/{wire.SERVICE}/Upload")
        return made(messages, metadata=metadata, timeout=20)

    def download(metadata: Any) -> Any:
        made = channel.unary_stream(f"/{wire.SERVICE}/Download")
        asked = wire.encode(wire.DownloadRequest(session, 999))
        return list(made(asked, metadata=metadata, timeout=20))

    found = {method: ask(method, body) for method, body in unary.items()}
    return found | {"Upload": upload, "Download": download}


def secret_of(client: Client) -> Any:
    return (*BEARER, (wire.SECRET_METADATA, client.transport._secret))


def opened(cluster: Cluster, **more: Any) -> Client:
    client = cluster.connect(devices="cpu", reconnect_s=0, **more)
    client.transport.send(put(1, b"abc"))
    client.synchronize()
    return client


@pytest.mark.parametrize("method", ["Keep", "Share", "Trace", "Upload", "Download"])
def test_no_call_of_a_fenced_client_is_heard(
    cluster: Cluster, channel: grpc.Channel, method: str
) -> None:
    first = opened(cluster)
    second = cluster.connect(attach=first.transport.session_id)
    call = calls(channel, first.transport.session_id)[method]
    for metadata in (secret_of(first), BEARER):  # also one that says nothing
        with pytest.raises(grpc.RpcError) as refused:
            call(metadata)
        assert "another client has taken" in refused.value.details()
    assert not second.transport.kept()
    assert second.transport.trace(False)["frames"] == []
    second.transport.send(get(1, 9))
    assert second.value(9).data == b"abc"
    if method != "Download":
        call(secret_of(second))  # it is its own


def test_calls_of_an_older_client_are_heard_while_the_session_is_its_own(
    cluster: Cluster, channel: grpc.Channel
) -> None:
    first = opened(cluster)
    assert cluster.gateway is not None
    (live,) = cluster.gateway.service.sessions
    live.minor = 5
    for method, call in calls(channel, first.transport.session_id).items():
        if method != "Download":
            call(BEARER)
    assert first.transport.kept() == {"name": "{}"}


def test_an_upload_under_way_ends_when_another_client_comes(
    cluster: Cluster, channel: grpc.Channel
) -> None:
    first = opened(cluster)
    session = first.transport.session_id
    come, taken = threading.Event(), threading.Event()

    def messages() -> Iterator[bytes]:
        yield wire.encode_transfer_header(wire.TransferHeader(session, 0, 77, 6))
        yield wire.encode_chunk(memoryview(b"abc"))
        come.set()
        taken.wait(20)
        yield wire.encode_chunk(memoryview(b"def"))

    made = channel.stream_unary(f"/{wire.SERVICE}/Upload")
    call = made.future(messages(), metadata=secret_of(first), timeout=20)
    assert come.wait(10) and cluster.gateway is not None
    (live,) = cluster.gateway.service.sessions
    cluster.until(lambda: live.uploads.come.get(77) == 3)
    second = cluster.connect(attach=session)
    taken.set()
    with pytest.raises(grpc.RpcError) as refused:
        call.result()
    assert "another client has taken" in refused.value.details()
    assert 77 not in live.uploads.done and 77 not in live.uploads.come
    second.transport.upload(77, 0, b"new")  # under its own numbers it would be another
    assert live.uploads.done[77] == 3


def test_a_keep_that_waits_for_its_frame_does_not_outlive_its_client(
    cluster: Cluster, channel: grpc.Channel
) -> None:
    first = opened(cluster)
    session = first.transport.session_id
    body = wire.encode(wire.KeepRequest(session, first.transport.sequence + 1, "late", "{}"))
    keep = channel.unary_unary(f"/{wire.SERVICE}/Keep")
    call = keep.future(body, metadata=secret_of(first), timeout=20)
    second = cluster.connect(attach=session)
    second.transport.send(put(1 << 41, b"x"))  # the very frame it waits for, by its number
    with pytest.raises(grpc.RpcError):
        call.result()
    assert not second.transport.kept()


def test_memory_that_is_shared_no_more_is_not_looked_at_for_the_rest_of_a_piece(
    cluster: Cluster,
) -> None:
    assert cluster.gateway is not None
    service = cluster.gateway.service
    client = opened(cluster)
    live = service._sessions[client.transport.session_id]
    size = 4 * limits.CHUNK_BYTES
    header = wire.TransferHeader(live.id, 0, 77, size)
    seen: list[int] = []

    class Memory:
        """Of a client whose session another one takes over, while it uploads."""

        channel = live.channel
        over = False

        def copied(self, position: int, nbytes: int) -> bytes:
            seen.append(position)
            return bytes(nbytes)

        def took(self, position: int, nbytes: int) -> None:
            raise AssertionError("its worker is told")

    async def pieces() -> AsyncIterator[wire.SharedPiece]:
        live.windows[0] = Memory()  # type: ignore[assignment]
        yield wire.SharedPiece(0, 77, size, 0, 0, size)

    told: list[link.Piece] = []

    async def piece(channel: int, told_of: link.Piece) -> None:
        told.append(told_of)
        live.windows.clear()  # as `unshare` begins, while its link takes no more

    live.links[0].piece = piece  # type: ignore[method-assign]
    with pytest.raises(ServiceError, match="shared no more"):
        cluster.run(service.upload(live, header, pieces()))
    # The next piece is copied while the one before it is written, and is not told of.
    assert seen in ([0], [0, limits.CHUNK_BYTES]) and len(told) == 1
