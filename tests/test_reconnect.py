"""Streams break, gateways die and come back: the client goes on, with the same bits."""

from __future__ import annotations

import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import farspan as torch
import grpc
import numpy as np
import pytest
from fake_gateway import TOKEN, FakeGateway, Proxy
from farspan.core import limits
from farspan.core.command import Lost
from farspan.core.errors import (
    ConnectError,
    JournalError,
    ProtocolError,
    SessionClosedError,
    VersionError,
)
from test_recovery import train


@pytest.fixture
def gateway() -> Iterator[FakeGateway]:
    made = FakeGateway()
    yield made
    made.stop()


@pytest.fixture
def proxy(gateway: FakeGateway) -> Iterator[Proxy]:
    made = Proxy(gateway.port)
    yield made
    made.close()


def connect(place: Any, **options: Any) -> Any:
    return torch.connect(place.address, token=TOKEN, timeout=20, **options)


@pytest.fixture(scope="module")
def undisturbed() -> list[bytes]:
    with torch.connect("local:"):
        return train(12)


def test_a_stream_cut_between_steps_changes_no_bit(
    gateway: FakeGateway, proxy: Proxy, undisturbed: list[bytes]
) -> None:
    with connect(proxy) as session:
        found = train(12, lambda step: proxy.cut() if step % 3 == 1 else None)
        assert session.transport._attempt >= 3
    assert found == undisturbed
    assert [h.resume.attempt for h in gateway.hellos[1:] if h.resume] == sorted(
        h.resume.attempt for h in gateway.hellos[1:] if h.resume
    )


@pytest.mark.parametrize("seed", range(2))
def test_streams_cut_at_any_byte_change_no_bit(
    gateway: FakeGateway, proxy: Proxy, undisturbed: list[bytes], seed: int
) -> None:
    rng = random.Random(seed)
    with connect(proxy):
        proxy.again = lambda: rng.choice((rng.randrange(4_000), rng.randrange(20_000)))
        proxy.budget = proxy.again()
        found = train(12)
        proxy.again = proxy.budget = None
    assert found == undisturbed, f"seed {seed}"
    assert proxy.cuts >= 3


def test_a_gateway_that_dies_and_returns_changes_no_bit(
    gateway: FakeGateway, undisturbed: list[bytes]
) -> None:
    def between(step: int) -> None:
        if step in (3, 8):
            gateway.die()
            threading.Timer(0.2, gateway.live_again).start()

    with connect(gateway):
        assert train(12, between) == undisturbed
    assert sum(h.resume is not None for h in gateway.hellos) >= 2


def wait_for(true: Callable[[], bool], seconds: float = 10.0) -> None:
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until
        time.sleep(0.005)


def test_long_tensors_come_whole_through_cuts_both_ways(gateway: FakeGateway, proxy: Proxy) -> None:
    values = np.random.default_rng(0).standard_normal(400_000)  # 3.2 MB each way
    rng = random.Random(2)
    with connect(proxy):
        proxy.again = lambda: rng.randrange(200_000, 6_000_000)
        proxy.budget = 1_000_000
        found = [(torch.tensor(values) * k).numpy() for k in (1.0, 2.0)]
        proxy.again = proxy.budget = None
    assert all((f == values * k).all() for f, k in zip(found, (1.0, 2.0), strict=True))
    assert proxy.cuts >= 2


def test_what_is_told_twice_is_told_once(gateway: FakeGateway, proxy: Proxy) -> None:
    with connect(proxy) as session:
        session.replay = False
        x = torch.ones(3)
        x.tolist()
        session.transport._confirmed_said = 2**60  # so that nothing is confirmed
        bad = torch.linalg.cholesky(-torch.eye(3))
        with pytest.raises(RuntimeError, match="cholesky"):
            bad.tolist()
        told: list[Any] = []
        deliver = session._deliver
        session.transport.set_sink(lambda event: (told.append(event), deliver(event)))
        resumes = len(gateway.hellos)
        gateway.die()
        gateway.live_again()
        proxy.cut()
        wait_for(lambda: len(gateway.hellos) > resumes and session.transport._ledger.connected)
        session.synchronize()  # raises what would be told again
        assert not [e for e in told if type(e).__name__ == "Failed"]
        assert x.tolist() == [1.0] * 3


def test_what_was_taken_is_confirmed_though_nothing_else_is_sent(gateway: FakeGateway) -> None:
    with connect(gateway) as session:
        torch.ones(3).tolist()
        session.synchronize()
        wait_for(lambda: gateway.confirmed[-1:] == [session.transport._ledger.applied])
        before = len(gateway.confirmed)
        time.sleep(3 * limits.CONFIRM_S)
        assert len(gateway.confirmed) == before, "it is told once"
        assert gateway.machine._confirmed == session.transport._ledger.applied


def test_a_long_value_under_way_is_not_confirmed(gateway: FakeGateway) -> None:
    with connect(gateway) as session:
        x = torch.zeros(100_000)
        session.synchronize()
        reached = threading.Event()
        download = session.transport._download_once

        def held(*given: Any) -> None:
            assert reached.wait(10)
            download(*given)

        session.transport._download_once = held
        found: list[Any] = []
        thread = threading.Thread(target=lambda: found.append(x.numpy()))
        thread.start()
        wait_for(lambda: bool(session.transport._ledger._held))
        torch.ones(2).sum()
        session.flush()
        wait_for(lambda: not session.transport._ledger.pending)
        time.sleep(2 * limits.CONFIRM_S)
        assert gateway.confirmed[-1] < session.transport._ledger.applied
        reached.set()
        thread.join(10)
        assert found[0].shape == (100_000,)
        wait_for(lambda: gateway.confirmed[-1] == session.transport._ledger.applied)


def test_frames_wait_for_a_gateway_that_is_away_and_then_go_in_order(
    gateway: FakeGateway,
) -> None:
    with connect(gateway) as session:
        session.replay = False
        x = torch.zeros(4)
        session.synchronize()
        gateway.die()
        wait_for(lambda: not session.transport._ledger.connected)
        for _ in range(40):
            x += 1
            session.flush()
        assert session.transport._ledger.waiting >= 40 and not session.transport.idle
        threading.Timer(0.3, gateway.live_again).start()
        for _ in range(400):  # more than may be under way: it waits for room
            x += 1
            session.flush()
        assert x.tolist() == [440.0] * 4


def test_a_gateway_that_stays_away_is_a_connect_error_that_says_so(gateway: FakeGateway) -> None:
    session = connect(gateway, reconnect_s=0.4)
    x = torch.ones(2)
    gateway.die()
    with pytest.raises(ConnectError, match=f"has not come back for 0.4 s.*{session.id}"):
        x.tolist()
    with pytest.raises(ConnectError):
        torch.ones(2)
    session.close()


def test_a_client_may_choose_not_to_come_back(gateway: FakeGateway) -> None:
    session = connect(gateway, reconnect_s=0)
    x = torch.ones(2)
    session.synchronize()
    gateway.die()
    with pytest.raises(ConnectError):
        x.tolist()
    session.close()
    assert len(gateway.hellos) == 1


def test_a_gateway_that_gives_no_secret_is_not_come_back_to() -> None:
    gateway = FakeGateway(durable=False)
    try:
        session = connect(gateway)
        x = torch.ones(2)
        assert x.tolist() == [1.0, 1.0] and not session.transport.lasts
        gateway.die()
        with pytest.raises(ConnectError):
            x.tolist()
        assert not gateway.confirmed and len(gateway.hellos) == 1
        session.close()
    finally:
        gateway.stop()


def test_a_gateway_may_refuse_for_now_or_for_good(gateway: FakeGateway) -> None:
    with connect(gateway) as session:
        x = torch.ones(2)
        session.synchronize()
        gateway.refuse = Lost("ServiceError", "it waits for workers")
        session.transport._stream.cancel()
        wait_for(lambda: len(gateway.hellos) >= 3)
        gateway.refuse = None
        assert x.tolist() == [1.0, 1.0]
        gateway.refuse = Lost("JournalError", "its journal is damaged")
        session.transport._stream.cancel()
        with pytest.raises(JournalError):
            x.tolist()


def test_a_gateway_that_is_too_busy_to_let_it_in_is_asked_again(gateway: FakeGateway) -> None:
    busy, session_ = [1, 1], gateway._session

    def refusing(requests: Iterator[bytes], context: Any) -> Iterator[bytes]:
        if busy:
            busy.pop()
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "CapacityError: too many streams")
        yield from session_(requests, context)

    with connect(gateway):
        x = torch.ones(2)
        gateway.die()
        gateway._session = refusing
        gateway.live_again()
        assert x.tolist() == [1.0, 1.0] and not busy


def test_ctrl_c_is_prompt_while_the_gateway_is_away(gateway: FakeGateway) -> None:
    with connect(gateway) as session:
        x = torch.ones(2)
        session.synchronize()
        gateway.die()
        threading.Timer(0.2, lambda: signal.raise_signal(signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):  # the gateway stays away until it has come
            x.tolist()
        gateway.live_again()
        assert x.tolist() == [1.0, 1.0]


def test_the_user_is_told_once_of_a_break(
    gateway: FakeGateway, caplog: pytest.LogCaptureFixture
) -> None:
    with connect(gateway) as session:
        x = torch.ones(2)
        session.synchronize()
        gateway.die()
        threading.Timer(0.4, gateway.live_again).start()
        assert x.tolist() == [1.0, 1.0]
    told = [r for r in caplog.records if r.levelname == "WARNING" and "broke" in r.message]
    assert len(told) == 1 and f"{gateway.secret!r}" not in caplog.text


def test_a_gateway_with_another_past_is_a_protocol_error(gateway: FakeGateway) -> None:
    session = connect(gateway)
    x = torch.ones(2)
    session.synchronize()
    wait_for(lambda: session.transport._ledger.durable == session.transport._ledger.sent)
    gateway.journal.clear()
    gateway.die()
    gateway.live_again()
    with pytest.raises(ProtocolError, match="not the session as it was"):
        x.tolist()
    session.close()


def test_a_session_that_ends_does_not_wait_for_a_gateway_that_is_gone(
    gateway: FakeGateway, capsys: pytest.CaptureFixture[str]
) -> None:
    session = connect(gateway)
    torch.ones(2)
    session.synchronize()
    gateway.die()
    wait_for(lambda: not session.transport._ledger.connected)
    session.close()
    assert "has not come back" in capsys.readouterr().err
    assert session.transport._patience_s == limits.HURRY_S


def test_a_session_closed_while_it_dials_leaves_no_stream(gateway: FakeGateway) -> None:
    session = connect(gateway)
    torch.ones(2)
    session.synchronize()
    transport, dial = session.transport, session.transport._dial
    dialled, go_on = threading.Event(), threading.Event()

    def slowly(hello: Any) -> None:
        dialled.set()
        assert go_on.wait(10)
        dial(hello)

    transport._dial = slowly
    transport._stream.cancel()
    assert dialled.wait(10)
    transport.close()
    go_on.set()
    wait_for(lambda: not transport._dialling)
    assert transport._stream.wait(10), "its stream is over"
    session.close()


def test_a_secret_stands_in_no_text(gateway: FakeGateway) -> None:
    with connect(gateway) as session:
        assert repr(gateway.secret) not in repr(session.transport._welcome)
        session.transport._stream.cancel()
        wait_for(lambda: len(gateway.hellos) == 2)
        assert gateway.hellos[1].resume.secret == gateway.secret
        assert repr(gateway.secret) not in repr(gateway.hellos)


def test_a_gateway_that_answers_after_it_was_given_up_is_taken_at_its_word(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A frozen gateway wakes between two attempts: the welcome is to the one before."""
    with connect(gateway) as session:
        x = torch.ones(2)
        session.synchronize()
        transport, awake, open_ = session.transport, threading.Event(), gateway._open
        broke = transport._broke

        def frozen(hello: Any) -> Any:
            assert awake.wait(10)
            return open_(hello)

        def given_up(why: str) -> None:
            broke(why)
            if "no answer" in why:
                transport._tries = 10  # so that the next attempt follows late
                awake.set()

        gateway._open, transport._broke = frozen, given_up
        monkeypatch.setattr(limits, "CONNECT_S", 0.3)
        transport._stream.cancel()
        assert awake.wait(10)
        wait_for(lambda: not transport._dialling)
        monkeypatch.undo()
        assert x.tolist() == [1.0, 1.0]
        assert [h.resume.attempt for h in gateway.hellos if h.resume] == [1]
        gateway._open = open_
        transport._stream.cancel()  # the end of that stream is one like any other's
        wait_for(lambda: transport._attempt == 2)
        assert (x + 1).tolist() == [2.0, 2.0]


def test_a_stream_that_breaks_soon_is_waited_for_as_long_as_was_asked(gateway: FakeGateway) -> None:
    with connect(gateway, reconnect_s=2):
        time.sleep(2.2)  # nothing was sent for longer than that
        gateway.die()
        gateway.live_again()
        assert torch.ones(2).tolist() == [1.0, 1.0]


def test_who_ends_a_session_does_not_wait_for_an_attempt_under_way(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = connect(gateway)
    x = torch.ones(2)
    session.synchronize()
    monkeypatch.setattr(limits, "CONNECT_S", 60.0)
    transport, thawed, open_ = session.transport, threading.Event(), gateway._open

    def frozen(hello: Any) -> Any:
        thawed.wait(8)
        return open_(hello)

    gateway._open = frozen
    transport._stream.cancel()
    wait_for(lambda: transport._attempt == 1)
    transport.hurry()
    with pytest.raises(ConnectError, match="for 2 s"):
        x.tolist()
    thawed.set()
    session.close()


def test_an_older_gateway_is_not_taken_for_one_that_does_as_asked() -> None:
    gateway = FakeGateway(durable=False)
    open_ = gateway._open
    gateway._open = lambda hello: open_(replace(hello, attach=""))
    try:
        session = connect(gateway)
        with pytest.raises(VersionError, match="too old to know"):
            session.transport.trace(True)
        session.close()
        with pytest.raises(VersionError, match="too old for durability"):
            connect(gateway, durability="durable")
        with pytest.raises(VersionError, match="too old to give a session over"):
            torch.attach("0" * 32, gateway.address, token=TOKEN, timeout=20)
    finally:
        gateway.stop()


class Broken(grpc.RpcError):
    def code(self) -> Any:
        return grpc.StatusCode.UNAVAILABLE

    def details(self) -> str:
        return "cut"


def test_a_long_call_that_breaks_now_and_then_is_made_again_each_time(
    gateway: FakeGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [1] * 5

    def long_one() -> str:
        time.sleep(0.3)
        if left:
            left.pop()
            raise Broken
        return "whole"

    with connect(gateway, reconnect_s=0.5) as session:
        monkeypatch.setattr(limits, "CONNECT_S", 0.1)
        assert session.transport._persist(long_one) == "whole"


def test_who_waits_for_credits_hears_that_the_session_was_closed(gateway: FakeGateway) -> None:
    session = connect(gateway)
    session.replay = False
    x = torch.zeros(4)
    session.synchronize()
    gateway.die()
    told: list[type] = []

    def issue() -> None:
        try:
            while True:
                x.add_(1)
                session.flush()
        except Exception as error:
            told.append(type(error))

    thread = threading.Thread(target=issue)
    thread.start()
    wait_for(lambda: not session.transport.ready)
    session.transport.close()
    thread.join(10)
    assert told == [SessionClosedError]
    session.close()
