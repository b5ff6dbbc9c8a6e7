"""A session: its stream of frames, waits, threads, Ctrl-C, forks, counts and freeing."""

from __future__ import annotations

import contextlib
import gc
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import _bulk
from farspan.core import command as cmd
from farspan.core import errors, limits


class Recorder:
    """Notes the frames that a session hands to its transport."""

    def __init__(self, session: Any) -> None:
        self.frames: list[Any] = []
        transport = session.transport
        send = transport.send

        def noting(frame: Any) -> Any:
            result = send(frame)
            self.frames.append(frame)
            return result

        transport.send = noting


@contextlib.contextmanager
def blocked(session: Any) -> Iterator[None]:
    """Hold up the worker inside: the first frame waits for bytes that come at the end."""
    transfer, id_ = next(session._requests), session.new_id()
    session.issue(0, cmd.PUT, 0, (id_,), (1, (1,), -1, transfer))
    session.flush()
    try:
        yield
    finally:
        session.transport.upload(transfer, 0, memoryview(b"x"))


@contextlib.contextmanager
def interrupted_after(seconds: float) -> Iterator[None]:
    """Press Ctrl-C on the main thread until it is felt.

    Python drops an interrupt that arrives inside of a `__del__`; a person presses again, too.
    """
    felt = threading.Event()

    def press() -> None:
        delay = seconds
        while not felt.wait(delay):
            os.kill(os.getpid(), signal.SIGINT)
            delay = 0.5

    presser = threading.Thread(target=press)
    presser.start()
    try:
        with pytest.raises(KeyboardInterrupt):
            try:
                yield
            except KeyboardInterrupt:
                felt.set()
                raise
    finally:
        felt.set()
        presser.join()


# --- connecting ----------------------------------------------------------------------------------
def test_the_default_is_local_and_the_environment_names_another(
    service: Any, monkeypatch: Any
) -> None:
    with torch.connect() as session:
        assert session.describe()["address"] == "local:"
    monkeypatch.setenv("FARSPAN_ADDRESS", service[0])
    monkeypatch.setenv("FARSPAN_TOKEN", service[1])
    with torch.connect() as session:
        assert session.describe()["address"] == service[0]
        assert torch.ones(3).sum().item() == 3


def test_sessions_nest_and_the_one_before_returns() -> None:
    with torch.connect("local:") as outer:
        assert torch.current_session() is outer
        with torch.connect("local:") as inner:
            assert torch.ones(1).session is inner
        assert torch.ones(1).session is outer
        again = torch.connect("local:")
        assert torch.current_session() is again
        again.close()
        assert torch.current_session() is outer
    assert torch.current_session() is not outer


def test_describe_says_where_the_devices_are(session: Any) -> None:
    told = session.describe()
    assert set(told) == {"id", "address", "devices", "numerics"}
    assert len(told["numerics"]["keys"]) == 2 and told["numerics"]["changes"] == []
    assert [d["name"] for d in told["devices"]] == ["cpu", "cpu:1"]
    for device in told["devices"]:
        assert set(device) == {"name", "kind", "host", "pid", "epoch", "worker"}
        os.kill(device["pid"], 0)  # it lives on this machine
        assert (device["pid"] == os.getpid()) == (told["address"] == "local:")


def test_a_session_takes_a_worker_at_its_first_command(service: Any) -> None:
    address, token = service
    with contextlib.ExitStack() as stack:
        for _ in range(20):  # far more than there are workers
            session = stack.enter_context(torch.connect(address, token=token, timeout=5))
            assert session.transport._devices == ()
        assert torch.ones(3).sum().item() == 3
        assert len(session.transport._devices) == 1


def test_without_a_free_worker_the_first_wait_ends_in_a_capacity_error(service: Any) -> None:
    address, token = service
    with pytest.raises(errors.CapacityError):
        torch.connect(address, token=token, devices="cpu:3", timeout=1)


def test_an_interrupted_block_does_not_wait_for_the_rest(service: Any) -> None:
    address, token = service
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        with torch.connect(address, token=token, timeout=10) as session:
            session.issue(0, cmd.PUT, 0, (session.new_id(),), (1, (1,), -1, 99))
            raise KeyboardInterrupt
    assert time.monotonic() - begun < 4


# --- the stream ----------------------------------------------------------------------------------
def test_frames_hold_every_command_once_in_order(session: Any) -> None:
    recorder = Recorder(session)
    x = torch.zeros(1)
    for _ in range(1_000):
        x += 1
    assert x.item() == 1_000
    numbers = [n for frame in recorder.frames for n in frame.numbers]
    assert numbers == sorted(set(numbers)) and len(numbers) >= 1_002
    assert all(len(frame) <= limits.GROWN_COMMANDS + 1 for frame in recorder.frames)
    sequences = [frame.sequence for frame in recorder.frames]
    assert sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_frames_grow_while_the_worker_is_behind(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as session:
        session.replay = False
        x, big = torch.zeros(1, dtype=torch.int64), torch.ones(12_000)
        session.synchronize()
        with blocked(session):
            recorder = Recorder(session)
            for _ in range(10 * limits.GROWN_COMMANDS):
                x += 1
            grown, recorder.frames = recorder.frames, []
            for _ in range(2 * limits.GROWN_COMMANDS):
                big + big  # results that fill a frame without being many
        assert max(map(len, grown)) > limits.FLUSH_COMMANDS
        assert max(map(len, grown)) <= limits.GROWN_COMMANDS + 1
        # The first of these still holds what was left of the small commands.
        assert max(map(len, recorder.frames[1:])) <= limits.FLUSH_COMMANDS
        assert x.item() == 10 * limits.GROWN_COMMANDS


def test_a_frame_that_grows_leaves_when_nothing_follows(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as session:
        session.replay = False
        x = torch.zeros(1, dtype=torch.int64)
        with blocked(session):
            for _ in range(3 * limits.FLUSH_COMMANDS + limits.FLUSH_COMMANDS // 2):
                x += 1
            deadline = time.monotonic() + 20
            while session.lanes[0].commands and time.monotonic() < deadline:
                time.sleep(0.001)
            assert not session.lanes[0].commands
        assert x.item() == 3 * limits.FLUSH_COMMANDS + limits.FLUSH_COMMANDS // 2


def test_ctrl_c_while_waiting_for_credits_loses_no_frame(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as session:
        x = torch.zeros(1, dtype=torch.int64)
        done = 0
        with blocked(session):
            for _ in range(2):  # the second one finds the same frame still open
                with interrupted_after(0.5):
                    while True:
                        x += 1
                        done += 1
            assert session.transport.pending() == limits.CREDIT_FRAMES
        # The interrupted `x += 1` was issued; that it raised says nothing about it.
        assert x.item() in (done + 1, done + 2)


def test_ctrl_c_in_a_wait_is_prompt_and_the_session_works_on(service: Any) -> None:
    address, token = service
    with torch.connect(address, token=token, timeout=20) as session:
        x = torch.ones(3)
        with blocked(session):
            for wait in (x.tolist, session.synchronize):
                with interrupted_after(0.3):
                    wait()
        assert (x + 1).tolist() == [2, 2, 2]


def test_ctrl_c_stops_a_long_download(service: Any, monkeypatch: Any) -> None:
    address, token = service
    begun: list[int] = []

    class Interrupting(_bulk.Progress):
        """Presses Ctrl-C when the first chunk has come; the others would take seconds."""

        def add(self, count_bytes: int) -> None:
            if not begun:
                os.kill(os.getpid(), signal.SIGINT)
            begun.append(count_bytes)
            time.sleep(0.05)

    with torch.connect(address, token=token, timeout=20, shared_memory=False) as session:
        x = torch.zeros(64 << 20, dtype=torch.uint8)
        monkeypatch.setattr(_bulk, "Progress", Interrupting)
        with pytest.raises(KeyboardInterrupt):
            x.numpy()
        monkeypatch.undo()
        assert x[:3].tolist() == [0, 0, 0]
        time.sleep(0.3)
        assert session.stats()["bytes_down"] < 1 << 20 and len(begun) < 64
        assert (x + 1).numpy().sum() == 64 << 20


def test_ctrl_c_on_local_waits_for_the_frame_and_breaks_nothing() -> None:
    with torch.connect("local:"):
        x = torch.ones(1_500, 1_500, dtype=torch.float64)
        total, y = torch.zeros(()), x.mm(x)
        for _ in range(5):
            timer = threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT))
            with pytest.raises(KeyboardInterrupt):
                timer.start()
                while True:
                    total += 1
                    y = x.mm(x)
                    y.sum().item()
            timer.join()
        assert y.sum().item() == 1_500**3
        assert total.item() >= 5


def test_many_ids_many_frees_and_long_arguments_still_fit_into_frames(session: Any) -> None:
    recorder = Recorder(session)
    many = [torch.ones(1) for _ in range(50_000)]
    joined = [torch.cat(many[:12_000]) for _ in range(20)]
    session.synchronize()
    del many
    gc.collect()
    long = torch.zeros(512).split([1] * 512)
    assert [j.sum().item() for j in joined] == [12_000] * 20
    assert len(long) == 512
    session.flush()
    assert all(len(f.ids) <= limits.FRAME_IDS_MAX for f in recorder.frames)
    del joined, long
    gc.collect()
    assert _engine(session)["tensors"] == 0


def test_a_frame_too_long_for_the_wire_is_split_and_one_command_too_long_is_told() -> None:
    with torch.connect("local:") as session:
        send, most = session.transport.send, 10

        def narrow(frame: Any) -> None:
            if len(frame) > most:
                frame.sequence = 0
                raise errors.ProtocolError("frame: too long")
            send(frame)

        session.transport.send = narrow
        recorder = Recorder(session)
        x = torch.zeros(2)
        for k in range(100):
            x = x + torch.tensor([k, 1.0])
        assert x.tolist() == [4950, 100]
        assert max(map(len, recorder.frames)) <= 10 and len(recorder.frames) > 20
        most = 0
        y = x + 1
        with pytest.raises(errors.ProtocolError, match="too long"):
            session.synchronize()
        most = 10
        assert y.tolist() == [4951, 101], "nothing was lost"


def test_the_default_dtype_may_change_between_commands(session: Any) -> None:
    with torch.connect(session.address) if not _is_grpc(session) else contextlib.nullcontext():
        a = torch.tensor([1.5])
        torch.set_default_dtype(torch.float64)
        try:
            b = torch.tensor([1.5])
            c = torch.ones(2)
        finally:
            torch.set_default_dtype(torch.float32)
        d = torch.tensor([2.5]) + a
        assert [t.dtype for t in (a, b, c, d)] == [
            torch.float32, torch.float64, torch.float64, torch.float32,
        ]  # fmt: skip
        assert (a.item(), b.item(), c.tolist(), d.item()) == (1.5, 1.5, [1, 1], 4)


def test_numbers_travel_as_pythons_own(session: Any) -> None:
    recorder = Recorder(session)

    class Half(float):
        pass

    x = torch.ones(2)
    for number in (np.float32(2), np.int64(2), np.bool_(True), Half(0.5), True, 2, 1.5):
        x = x * number
    assert x.tolist() == [6, 6]
    kinds = {type(s) for frame in recorder.frames for s in frame.scalars}
    assert kinds <= {bool, int, float, complex} and len(kinds) == 3


def _is_grpc(session: Any) -> bool:
    return bool(session.address.startswith("grpc"))


# --- threads -------------------------------------------------------------------------------------
def test_several_threads_use_one_session(session: Any) -> None:
    found: dict[int, Any] = {}

    def work(k: int) -> None:
        x = torch.zeros(4) + k
        for i in range(300):
            x = x + 1
            if i % 50 == 0:
                assert x.tolist() == [k + i + 1.0] * 4
        found[k] = x.sum().item()

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == {k: 4.0 * (k + 300) for k in range(4)}


def test_grad_mode_belongs_to_a_thread(session: Any) -> None:
    x = torch.ones(2, requires_grad=True)
    found = []
    with torch.no_grad():
        thread = threading.Thread(target=lambda: found.append((x * 2).requires_grad))
        thread.start()
        thread.join()
        assert not (x * 2).requires_grad
    assert found == [True]


# --- forks ---------------------------------------------------------------------------------------
_FORK = """
import os, sys, threading
import farspan
from farspan.core.errors import SessionClosedError
session = farspan.connect(timeout=20)
x = farspan.ones(3)
assert x.sum().item() == 3
child = os.fork()
if child == 0:
    for use in (lambda: x + 1, x.tolist, lambda: farspan.ones(2), session.synchronize,
                session.worker_stats):
        try:
            use()
        except SessionClosedError as error:
            assert "fork" in str(error), error
        else:
            os._exit(3)
    session.close()
    del x
    sys.exit(7)
_, status = os.waitpid(child, 0)
assert os.waitstatus_to_exitcode(status) == 7, status
assert (x + 1).tolist() == [2, 2, 2]
session.close()
print("the parent works on")
"""


@pytest.mark.parametrize("kind", ["local", "grpc"])
def test_after_a_fork_the_child_is_refused_and_the_parent_works_on(
    service: Any, tmp_path: Any, kind: str
) -> None:
    script = tmp_path / "forks.py"
    script.write_text(_FORK)
    address = "local:" if kind == "local" else service[0]
    environment = {**os.environ, "FARSPAN_ADDRESS": address, "FARSPAN_TOKEN": service[1]}
    done = subprocess.run(
        [sys.executable, script], env=environment, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert "the parent works on" in done.stdout


# --- counts --------------------------------------------------------------------------------------
def test_stats_count_commands_frames_bytes_syncs_and_live_tensors(session: Any) -> None:
    before = session.stats()
    x = torch.ones(4, 5)
    y = x + x
    row = y[0]
    z = x.to("cpu:1")
    y.sum().item()
    session.synchronize()  # another sync point
    after = session.stats()
    assert set(after) == {
        "applies", "calls", "commands", "replay", "frames", "bytes_up", "bytes_down",
        "sync_points", "sync_sites", "live", "bulk",
    }  # fmt: skip
    assert after["commands"] - before["commands"] >= 7
    assert after["frames"] > before["frames"]
    if _is_grpc(session):
        assert after["bytes_up"] > before["bytes_up"] and after["bytes_down"] > 0
    assert after["sync_points"] == before["sync_points"] + 3, "the second device waits too"
    assert any("y.sum().item()" in site for site in after["sync_sites"])
    assert after["live"] == {
        "cpu": {"tensors": 3, "bytes": 160},
        "cpu:1": {"tensors": 1, "bytes": 80},
    }
    del x, y, row, z
    assert session.stats()["live"] == {
        "cpu": {"tensors": 0, "bytes": 0},
        "cpu:1": {"tensors": 0, "bytes": 0},
    }


def test_debug_sync_makes_every_call_wait(session: Any) -> None:
    torch.set_debug("sync")
    try:
        with pytest.raises(torch.OutOfMemoryError, match="in test_debug_sync"):
            torch.zeros(2**44)
        x = torch.tensor([1.0, 2.0])
        assert (x + x).tolist() == [2, 4]
        assert session.stats()["sync_points"] >= 4
    finally:
        torch.set_debug(None)
    before = session.stats()["sync_points"]
    x + x
    assert session.stats()["sync_points"] == before


def _engine(session: Any) -> dict[str, int]:
    """Return what the first device's worker counts of this session."""
    session.synchronize()
    found = session.worker_stats()[0]
    return found.get("engine", found)  # type: ignore[no-any-return]


def test_dropped_tensors_are_freed_on_the_worker(session: Any) -> None:
    kept = torch.ones(1_000)
    others = [torch.ones(1_000) for _ in range(100)]
    assert _engine(session)["tensors"] == 101
    del others
    gc.collect()
    left = _engine(session)
    assert (left["tensors"], left["bytes"]) == (1, 4_000)
    del kept


def test_a_training_loop_leaks_nothing(session: Any) -> None:
    from farspan import optim

    w = torch.ones(8, 8, requires_grad=True)
    b = torch.zeros(8, requires_grad=True)
    x = torch.ones(4, 8)
    optimizer = optim.Adam([w, b], lr=1e-4)
    live, client = [], []
    for step in range(1_000):
        optimizer.zero_grad()
        loss = (x.mm(w) + b).relu().sum()
        loss.backward()
        optimizer.step()
        if step % 250 == 10:
            loss.item()
            live.append(_engine(session))
            client.append(session.stats()["live"]["cpu"])
    # A program that replays the steps between two reads keeps a little memory of its own.
    assert len({s["tensors"] for s in live}) == 1, live
    assert len({s["bytes"] for s in live[1:]}) == 1, live
    assert len({tuple(s.items()) for s in client}) == 1
    assert live[0]["tensors"] == client[0]["tensors"]
    assert live[-1]["bytes_peak"] < 100_000


def test_two_threads_that_free_take_each_id_once() -> None:
    """The flusher seals while an operation frees: neither may trip over what the other took."""
    with torch.connect("local:") as session:
        lane, count = session.lanes[0], 200_000
        lane.freed.extend(range(count))
        taken: list[list[int]] = [[], []]
        errors: list[BaseException] = []

        def take(mine: list[int]) -> None:
            try:
                while ids := lane._take_frees():
                    mine += ids
            except IndexError as error:
                errors.append(error)

        before = sys.getswitchinterval()
        sys.setswitchinterval(1e-6)
        try:
            threads = [threading.Thread(target=take, args=(mine,)) for mine in taken]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(20)
        finally:
            sys.setswitchinterval(before)
        assert not errors
        assert sorted(taken[0] + taken[1]) == list(range(count))
