"""Memory shared with a worker by sessions with a journal: what goes that way survives as well."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

import farspan as torch
import grpc
import numpy as np
import pytest
from fake_gateway import Proxy
from farspan import wire
from farspan.core import limits
from farspan.core import shared as layouts
from farspan.core.errors import ProtocolError, SessionClosedError
from restarting import Service

FEW = 150_000  # numbers, of tensors for which it is enough that they are long
MANY = (limits.SHARED_UP_BYTES + 9 * limits.MiB) // 8  # that need the ring more than once


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("service"), workers=2)
    yield made
    made.close()


def connect(service: Service, address: str = "", **options: Any) -> Any:
    return torch.connect(address or service.address, token=service.token, timeout=30, **options)


def ways(session: Any) -> dict[str, Any]:
    return dict(session.stats()["bulk"])


def shares_again(session: Any, before: int) -> bool:
    """Whether uploads go through memory again, once the session is restored."""
    until = time.monotonic() + 30
    while time.monotonic() < until:
        array = np.random.default_rng(5).standard_normal(FEW)
        assert (torch.tensor(array).numpy() == array).all()
        if ways(session)["shared_up"] > before:
            return True
    return False


def kill_worker(session: Any) -> None:
    os.kill(session.transport.devices[0]["pid"], signal.SIGKILL)


def test_positions_of_segments_never_come_twice() -> None:
    begun = [layouts.first_position(epoch, k) for epoch in range(1, 200) for k in range(16)]
    ends = [layouts.end_of(first) for first in begun]
    assert all(end <= first for end, first in zip(ends, begun[1:], strict=False))
    assert all(layouts.is_first(first) for first in begun)
    assert layouts.first_position(1, 16) == layouts.first_position(2**40, 0) == 0
    ring = layouts.Ring(256, begun[3])
    assert ring.place(100) == begun[3]
    last = layouts.Ring(256, begun[3])
    last._head = last._tail = ends[3] - 256
    assert last.place(200) == ends[3] - 256
    last.free(ends[3] - 56)
    assert last.place(100) is None  # it would begin another one's


@pytest.mark.parametrize("durability, count", [("durable", MANY), ("snapshot-only", FEW)])
def test_tensors_go_through_memory_and_the_journal_has_them(
    service: Service, durability: str, count: int
) -> None:
    with connect(service, durability=durability) as session:
        array = np.random.default_rng(1).standard_normal(count)
        x = torch.tensor(array)
        expected, array[:] = array.copy(), 0.0  # what is sent is its own
        assert (x.numpy() == expected).all()
        found = ways(session)
        assert (found["shared_memory"], found["streamed_up"]) == ("on", 0)
        assert found["shared_up"] == found["shared_down"] == x.nbytes
        on_disk = sum(each.stat().st_size for each in (service.journal / session.id).iterdir())
        assert on_disk > x.nbytes
        kill_worker(session)
        assert (x.numpy() == expected).all()


def test_memory_is_shared_again_after_each_death(service: Service) -> None:
    with connect(service) as session:
        array = np.random.default_rng(2).standard_normal(FEW)
        kept = [torch.tensor(array)]
        deaths: list[Callable[[], None]] = [
            lambda: kill_worker(session),
            service.restart_gateway,
            lambda: kill_worker(session),
        ]
        for k, dies in enumerate(deaths, 1):
            before = ways(session)["shared_up"]
            dies()
            kept.append(torch.tensor(array + k))
            assert all((x.numpy() == array + j).all() for j, x in enumerate(kept))
            assert shares_again(session, before), ways(session)
        assert all((x.numpy() == array + j).all() for j, x in enumerate(kept))


def test_a_gateway_that_dies_under_an_upload_gets_it_again(service: Service) -> None:
    array = np.random.default_rng(3).standard_normal(MANY)
    with connect(service) as session:
        first = torch.tensor(array[:FEW])
        sends, laid = session.transport._shared.segment(0, MANY), []
        placed = sends._laid

        def dies(*of: Any) -> Any:
            laid.append(of)
            if len(laid) == 2:
                service.restart_gateway()
            return placed(*of)

        sends._laid = dies
        x = torch.tensor(array)
        assert len(laid) >= 2
        assert (x.numpy() == array).all() and (first.numpy() == array[:FEW]).all()


def test_a_cut_connection_is_a_pause_for_shared_memory_too(service: Service) -> None:
    proxy = Proxy(int(service.address.rpartition(":")[2]))
    array = np.random.default_rng(4).standard_normal(FEW)
    try:
        with connect(service, proxy.address) as session:
            kept = []
            for k in range(6):
                kept.append(torch.tensor(array + k))
                proxy.cut()
                assert all((x.numpy() == array + j).all() for j, x in enumerate(kept))
            assert proxy.cuts >= 4
            assert ways(session)["shared_up"] and ways(session)["shared_down"]
    finally:
        proxy.close()


def test_who_took_a_session_over_is_out_of_reach_of_who_had_it(service: Service) -> None:
    array = np.random.default_rng(6).standard_normal(FEW)
    before = connect(service)
    session_id = before.id
    x = torch.tensor(array)
    before.keep("x", x)
    assert (x.numpy() == array).all()
    ((old,),) = before.transport._shared._segments.values()
    after = torch.attach(session_id, service.address, token=service.token, timeout=30)
    try:
        with pytest.raises(SessionClosedError):
            (x + 1).item()
        found = after.kept["x"]
        for k in range(5):
            old._parts.up[:] = old._parts.down[:] = 0xFF
            old._parts.taken_up[0] = old._parts.taken_down[0] = 2**63
            y = torch.tensor(array + k)
            assert (found.numpy() == array).all() and (y.numpy() == array + k).all()
        assert shares_again(after, 0), ways(after)
        piece = wire.SharedPiece(0, 9, 8, 0, old._first, 8)
        with pytest.raises(grpc.RpcError, match="another client"):
            upload(before.transport, after.id, 9, 8, piece)
        assert (torch.tensor(array).numpy() == array).all()
    finally:
        after.close()
        before.close()


def upload(transport: Any, session: str, transfer: int, total: int, *pieces: Any) -> None:
    header = wire.TransferHeader(session, 0, transfer, total)
    messages = [wire.encode_transfer_header(header), *map(wire.encode_chunk_piece, pieces)]
    channel = transport._make_channel()
    try:
        method = channel.stream_unary(f"/{wire.SERVICE}/Upload")
        method(iter(messages), metadata=transport._credentials, timeout=20)
    finally:
        channel.close()


END = limits.SHARED_UP_BYTES


@pytest.mark.parametrize(
    "device, transfer, total, offset, at, size",
    [
        (0, 9, 64, 0, END - 32, 64),  # reaches out of the ring
        (0, 9, 64, 0, -(2**44), 64),  # of a segment before this one
        (0, 9, 64, 0, 2**45, 64),  # of one that will be
        (0, 8, 64, 0, 0, 64),  # of another transfer than its call's
        (0, 9, 128, 0, 0, 64),  # of another length
        (0, 9, 64, 32, 0, 32),  # a gap
        (1, 9, 64, 0, 0, 64),  # of another device
        (0, 9, 64, 0, 0, 32),  # too little
    ],
)
def test_a_piece_that_cannot_be_ends_its_upload_alone(
    service: Service, device: int, transfer: int, total: int, offset: int, at: int, size: int
) -> None:
    with connect(service) as session:
        array = np.arange(float(FEW))
        x = torch.tensor(array)
        ((segment,),) = session.transport._shared._segments.values()
        position = (segment._first + at) % 2**62
        piece = wire.SharedPiece(device, transfer, total, offset, position, size)
        with pytest.raises(grpc.RpcError, match="ProtocolError"):
            upload(session.transport, session.id, 9, 64, piece)
        assert (torch.tensor(array + 1).numpy() == array + 1).all()
        assert (x.numpy() == array).all()


def test_a_piece_on_the_stream_of_a_session_with_a_journal_ends_it(service: Service) -> None:
    with connect(service) as session:
        torch.tensor(np.arange(float(FEW)))
        session.transport._stream.put(wire.SharedPiece(0, 9, 64, 0, 0, 64))
        with pytest.raises(ProtocolError):
            while True:
                torch.ones(3).sum().item()
