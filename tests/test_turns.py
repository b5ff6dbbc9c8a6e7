"""Sessions of one worker: turns by measured time, in pieces of frames; commands that never end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import farspan as torch
import pytest
from farspan import wire
from farspan.core import command as cmd
from farspan.core import limits, link, words
from farspan.core.command import Frame, Lost
from farspan.core.errors import BY_NAME, ProtocolError
from farspan_worker.engine import Engine
from farspan_worker.inbox import Inbox
from farspan_worker.turns import Share, Turns, piece_of
from farspan_worker.watchdog import Watchdog, name_of
from test_gateway import FAIL, HOLD, Bytes, Cluster, frame, get, put
from test_snapshot import images_with_batch_norm, mlp_with_dropout, state, steady, writes_to_views


# --- whose turn it is ----------------------------------------------------------------------------
def sessions(count: int) -> list[Any]:
    class Named(SimpleNamespace):
        __hash__ = object.__hash__

    return [Named(name=k, share=Share()) for k in range(count)]


def test_time_is_shared_alike_whatever_commands_take() -> None:
    turns, (slow, quick, mixed) = Turns(), sessions(3)
    costs = {slow.name: [0.02], quick.name: [0.0003], mixed.name: [0.001, 0.009]}
    had = dict.fromkeys(costs, 0.0)
    for each in (slow, quick, mixed):
        turns.add(each)
    for k in range(5_000):
        session = turns.take()
        assert session is not None
        took = costs[session.name][k % len(costs[session.name])]
        had[session.name] += took
        turns.took(session, took, 1)
        turns.add(session)
    assert max(had.values()) - min(had.values()) <= 0.04


def test_one_that_was_idle_comes_next_and_is_owed_nothing() -> None:
    turns, (busy, other) = Turns(), sessions(2)
    for _ in range(100):
        turns.add(busy)
        assert turns.take() is busy
        turns.took(busy, 1.0, 1)
    turns.add(busy)
    turns.add(other)
    assert turns.take() is other  # at once
    turns.took(other, 5.0, 1)
    turns.add(other)
    assert turns.take() is busy  # but it has no hundred seconds to catch up


def test_a_lone_session_runs_whole_frames_and_several_run_pieces() -> None:
    turns, (session,) = Turns(), sessions(1)
    for _ in range(50):
        turns.took(session, 0.010, 20)  # 0.5 ms each
    assert turns.commands(session, 1) == limits.FRAME_COMMANDS_MAX
    assert turns.commands(session, 2) == round(limits.TURN_S / 0.0005)
    for _ in range(50):
        turns.took(session, 3.0, 1)
    assert turns.commands(session, 2) == 1


def test_a_definition_is_never_torn() -> None:
    made = frame((FAIL, [1], ()), (cmd.DEFINE, [], (0, 3, 1, 1)), *[(FAIL, [1], ())] * 5)
    assert [piece_of(made, k) for k in range(1, 8)] == [1, 5, 5, 5, 5, 6, 7]


# --- pieces --------------------------------------------------------------------------------------
def frames_of(run: Any) -> list[tuple[Frame, dict[int, bytes]]]:
    """Return the frames that a function sends, as a session gathers them."""
    seen: list[tuple[Frame, dict[int, bytes]]] = []
    with torch.connect("local:") as session:
        engine: Engine = session.transport.engines[0]  # type: ignore[attr-defined]
        handle = engine.handle

        def watch(given: Frame, transfers: Any = None) -> Any:
            copy = wire.decode_frame(wire.encode_frame(given))
            seen.append((copy, {k: bytes(v) for k, v in (transfers or {}).items()}))
            return handle(given, transfers)

        engine.handle = watch  # type: ignore[method-assign]
        kept = run()
        session.synchronize()
        del kept
    return seen


def through_inbox(
    frames: list[tuple[Frame, dict[int, bytes]]], most: int
) -> tuple[Engine, list[Any]]:
    """Run frames as a worker does, in pieces of `most` commands; return the engine and events."""
    engine, told = steady(), []
    runnable: list[Any] = []
    inbox = Inbox(runnable.append)
    peers = (link.Peer(0, "h:1", "00", 1),)
    session = inbox.open(1, link.Open("s", "t", 0, peers, 1 << 30), engine, None)
    for given, transfers in frames:
        for number, data in transfers.items():
            for chunk in link.chunks(number, data):
                inbox.chunk(session, chunk)
        before = session.applied
        inbox.frame(session, given)
        while runnable:
            runnable.pop()
            taken = inbox.take(session, most)
            assert taken is not None and isinstance(taken.frame, Frame)
            assert session.applied == before  # until the last piece has run
            handle = engine.resume if taken.resumes else engine.handle
            told += [(type(e), getattr(e, "error", None), bytes(getattr(e, "data", b"") or b""))
                     for e in handle(taken.frame, taken.transfers)]  # fmt: skip
            inbox.ran(session, taken.frame, taken.last)
        assert session.applied == given.sequence and session.carried is None
    return engine, told


@pytest.mark.parametrize("run", [mlp_with_dropout, images_with_batch_norm, writes_to_views])
@pytest.mark.parametrize("most", [1, 7])
def test_frames_in_pieces_tell_and_leave_the_same(run: Any, most: int) -> None:
    frames = frames_of(run)
    assert max(len(f) for f, _ in frames) > most
    whole, told = through_inbox(frames, limits.FRAME_COMMANDS_MAX)
    pieces, again = through_inbox(frames, most)
    assert told == again
    assert state(whole) == state(pieces)


def test_uploads_of_a_frame_reach_the_piece_that_uses_them() -> None:
    def run() -> Any:
        return [torch.arange(k, 40_000 + k) for k in range(3)], torch.tensor(list(range(20_000)))

    frames = frames_of(run)
    assert any(transfers for _, transfers in frames)
    assert through_inbox(frames, 1)[1] == through_inbox(frames, 4_096)[1]


def test_errors_of_a_frame_are_bounded_over_its_pieces() -> None:
    def run() -> None:
        kept = [torch.zeros(2**44) for _ in range(200)]
        with pytest.raises(torch.OutOfMemoryError):
            torch.cpu.synchronize()
        del kept

    frames = frames_of(run)
    told = {most: len(through_inbox(frames, most)[1]) for most in (3, 4_096)}
    assert told[3] == told[4_096]


# --- commands that never end ---------------------------------------------------------------------
def test_the_watchdog_counts_looks_at_the_same_command() -> None:
    watchdog = Watchdog(0.5)
    assert [watchdog.look((5, 1, n)) for n in (1, 1, 1, 2, 2)] == [0, 0.5, 1.0, 0, 0.5]
    assert watchdog.look(None) == 0
    assert watchdog.look((5, 1, 2)) == 0


def test_a_command_has_a_name_for_its_user() -> None:
    made = frame((cmd.BACKWARD, [1], ()), (FAIL, [1], ()))
    made.numbers[:] = [41, 42]
    assert name_of(made, 41) == "backward"
    assert name_of(made, 43) == "a program"


@pytest.mark.parametrize(
    "wrong", [{}, {"kind": "exit", "message": ""}, {"kind": 1, "message": "x"}]
)
def test_a_fault_that_is_none_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ProtocolError, match="FAULT"):
        words.unpack_fault(link.pack_json(link.FAULT, wrong)[link.HEADER_BYTES :])
    assert "CommandTimeoutError" in BY_NAME


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    made = Cluster()
    Bytes.gate.clear()
    yield made
    made.close()


def test_a_command_that_takes_too_long_ends_its_session_and_the_worker_goes(
    cluster: Cluster,
) -> None:
    cluster.start(command_s_max=1.0)
    one, other = cluster.connect(), cluster.connect()
    one.transport.send(put(1, b"abc"))
    one.synchronize()
    ended = threading.Event()
    cluster.workers[0]._end_process = ended.set
    beats = [link_.counts for link_ in cluster.gateway.service.links]
    one.transport.send(frame((HOLD, [], ())))
    lost = one.lost()
    assert isinstance(lost, Lost) and lost.kind == "CommandTimeoutError"
    assert "has run for 1 s" in lost.message and lost.command == 0
    assert ended.wait(5)
    assert not any(isinstance(e, Lost) for e in other.events)  # until the process has ended
    assert beats and all(
        c["running_s"] >= 0 for c in (x.counts for x in cluster.gateway.service.links)
    )
    Bytes.gate.set()
    other.transport.send(put(1, b"xyz"))
    other.transport.send(get(1, 9))
    assert bytes(other.value(9).data or b"") == b"xyz"


def test_a_gateway_that_takes_nothing_is_no_command_that_takes_too_long(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.start(command_s_max=1.0)
    worker, seen = cluster.workers[0], []
    emit = worker._emit
    monkeypatch.setattr(worker, "_emit", lambda *a: (seen.append(worker._doing), emit(*a)))
    client = cluster.connect()
    client.transport.send(put(1, b"abc"))
    client.synchronize()
    assert seen and not any(seen)


@pytest.mark.slow
def test_the_neighbours_of_an_endless_command_go_on_with_the_same_bits(tmp_path: Path) -> None:
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", "up", "--no-ray", "--workers", "cpu:1",
         "--spares", "1", "--threads", "1", "--journal", str(tmp_path), "--command-seconds", "3",
         "--json"],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        assert up.stdout is not None
        ready = json.loads(up.stdout.readline())
        token = Path(ready["token_file"]).read_text().strip()
        options: dict[str, Any] = {"token": token, "timeout": 60}
        with torch.connect(ready["address"], **options) as quiet:
            torch.manual_seed(1)
            x = torch.randn(50, 50)
            expected = (x @ x).sum().item()
            pid = quiet.transport.devices[0]["pid"]
            with torch.connect(ready["address"], **options) as endless:
                assert endless.transport.devices[0]["pid"] == pid
                big = torch.arange(9_000_000.0).reshape(3_000, 3_000).sin()
                with pytest.raises(BY_NAME["CommandTimeoutError"], match="linalg_eig") as caught:
                    torch.linalg.eigvals(big)[0].item()  # the endless line
                assert "# the endless line" in str(caught.value)
            with pytest.raises(ProcessLookupError):
                for _ in range(100):
                    os.kill(pid, 0)
                    time.sleep(0.1)
            assert (x @ x).sum().item() == expected
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(20)
