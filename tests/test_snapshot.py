"""Snapshots of an engine: a session cut between any two commands goes on with the same bits."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
import pytest
from fake_cupy import FakeCupy
from farspan import nn
from farspan.core import command as cmd
from farspan.core.command import ErrorInfo, Event, Frame
from farspan.core.errors import OutOfMemoryError, ProtocolError
from farspan_worker import snapshot
from farspan_worker.engine import Engine

Recording = list[tuple[Frame, dict[int, Any]]]


def recorded(run: Callable[[], Any], **options: Any) -> Recording:
    """Return what a function sends to a new session: frames of one command, or one Define each."""
    seen: Recording = []
    with torch.connect("local:", **options) as session:
        engine: Engine = session.transport.engines[0]  # type: ignore[attr-defined]
        handle = engine.handle

        def watch(frame: Frame, transfers: Any = None) -> list[Event]:
            given = {k: memoryview(bytearray(v)) for k, v in (transfers or {}).items()}
            seen.append((copy.deepcopy(frame), given))
            return handle(frame, transfers)

        engine.handle = watch  # type: ignore[method-assign]
        kept = run()
        session.synchronize()
        del kept
    return [(one, given) for frame, given in seen for one in _ones(frame)]


def _ones(frame: Frame) -> list[Frame]:
    ones = []
    while len(frame):
        body = frame.statics[0][1] if frame.opcodes[0] == cmd.DEFINE else 0
        one, frame = frame.split(1 + body)
        ones.append(one)
    return ones


def steady() -> Engine:
    """Return an engine as journalled sessions have: which kernels run does not depend on time."""
    engine = Engine()
    engine.steady = True
    return engine


def again(engine: Engine) -> Engine:
    """Return another engine in the state of this one, by way of a snapshot's bytes."""
    made = steady()
    snapshot.restore(made, snapshot.take(engine))
    return made


def state(engine: Engine) -> tuple[Any, list[bytes]]:
    """Return what a snapshot holds; ages of nodes as ranks, since clocks of engines differ."""
    taken = bytes(snapshot.take(engine))
    (length,) = struct.unpack("<Q", taken[:8])
    named = json.loads(taken[8 : 8 + length])
    held = json.loads(named["__metadata__"]["farspan.session"])
    ages = {row["sequence"]: rank for rank, row in enumerate(held["nodes"])} | {-1: -1}
    for row in held["nodes"]:
        row["sequence"] = ages[row["sequence"]]
        row["edges"] = [e and [ages[e[0]], e[1]] for e in row["edges"]]
    for row in held["arrays"]:
        row[3] = ages[row[3]]
    del held["peak"]
    sizes = [named[name]["data_offsets"] for name in named if name != "__metadata__"]
    return held, [taken[8 + length + begin : 8 + length + end] for begin, end in sizes]


def run_both(recording: Recording) -> tuple[Engine, Engine]:
    """Run all commands in one engine, and in another that is made anew after each of them."""
    straight, cut = steady(), steady()
    for k, (frame, transfers) in enumerate(recording):
        mine = straight.handle(frame, {k: bytearray(v) for k, v in transfers.items()})
        theirs = cut.handle(frame, {k: bytearray(v) for k, v in transfers.items()})
        assert _told(mine) == _told(theirs), f"command {k}"
        cut = again(cut)
        if k % 7 == 0 or k + 1 == len(recording):
            assert state(straight) == state(cut), f"after command {k}"
    return straight, cut


def _told(events: list[Event]) -> list[Any]:
    plain = []
    for e in events:
        data = getattr(e, "data", None)
        plain.append((type(e), bytes(data) if data is not None else None, getattr(e, "error", 0)))
    return plain


def mlp_with_dropout() -> Any:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3))
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    x, y = torch.randn(5, 6), torch.tensor([0, 2, 1, 1, 0])
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(net(x), y)
        loss.backward()
        optimizer.step()
        loss.item()
    return net


def images_with_batch_norm() -> Any:
    torch.manual_seed(4)
    net = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.MaxPool2d(2)
    )
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    x = torch.rand(2, 1, 6, 6).to(memory_format=torch.channels_last)
    for _ in range(2):
        optimizer.zero_grad()
        net(x).square().mean().backward()
        optimizer.step()
    return net.state_dict()


def writes_to_views() -> Any:
    x = torch.arange(12.0).reshape(3, 4).requires_grad_()
    y = x * 2
    row = y[1]
    y.t()[0] += 1
    row.mul_(3)
    z = y.exp().sum()
    z.backward(retain_graph=True)
    first = x.grad.clone()
    z.backward()
    data = y.detach()
    data.zero_()
    y.data.add_(1)
    c = torch.complex(torch.ones(3), torch.zeros(3))
    torch.view_as_real(c)[1] = 5
    e = torch.empty(0, 3)
    return first, data, c, e, x.view(2, 6)[:, ::2], torch.zeros(3).expand(4, 3), row


def failures() -> Any:
    torch.manual_seed(1)
    bad = torch.ones(3, 3).index_select(0, torch.tensor([7]))
    later = bad + 1
    window = bad[0]
    bad.fill_(2.0)
    kept = [later, window, bad, torch.rand(3)]
    w = torch.ones(2, requires_grad=True)
    s = (w * 2).sum()
    w.data = torch.tensor([3.0, 4.0])
    s.backward()
    with pytest.raises(IndexError):
        torch.current_session().synchronize()
    return kept, w.grad


def a_compiled_step() -> Any:
    torch.manual_seed(2)
    net = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(0.5), nn.Linear(4, 1))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    @torch.compile
    def step(x: Any) -> Any:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return loss

    x = torch.rand(3, 4)
    return [step(x) for _ in range(4)], net


def a_repeated_step() -> Any:
    w = torch.ones(4, requires_grad=True)
    for k in range(6):
        loss = (w * k).sin().sum()
        loss.backward()
        with torch.no_grad():
            w -= 0.1 * w.grad
        w.grad = None
        loss.item()
    return w


@pytest.mark.parametrize(
    "program",
    [
        mlp_with_dropout, images_with_batch_norm, writes_to_views, failures, a_compiled_step,
        a_repeated_step,
    ],
)  # fmt: skip
def test_a_session_cut_after_every_command_gives_the_same_bits(
    program: Callable[[], Any],
) -> None:
    recording = recorded(program)
    assert len(recording) > 8
    run_both(recording)


def test_a_tape_that_is_alive_at_the_cut_goes_backward_with_the_same_bits() -> None:
    recording = recorded(mlp_with_dropout, replay=False)
    backward = next(k for k, (f, _) in enumerate(recording) if f.opcodes[0] == cmd.BACKWARD)
    straight, cut = steady(), steady()
    for frame, transfers in recording[:backward]:
        straight.handle(frame, transfers)
        cut.handle(frame, transfers)
    held, _ = state(cut)
    assert sum("op" in row for row in held["nodes"]) >= 5
    cut = again(cut)
    for frame, transfers in recording[backward:]:
        straight.handle(frame, transfers)
        cut.handle(frame, transfers)
    assert state(straight) == state(cut)


def test_memory_that_views_share_is_kept_once_and_shared_again() -> None:
    recording = recorded(lambda: [x := torch.zeros(1000), x[10:], x.view(10, 100)])
    engine = Engine()
    for frame, transfers in recording[:3]:  # the Frees at the end of the session come after
        engine.handle(frame, transfers)
    assert len(engine.tensors) == 3
    assert [len(m) for m in state(engine)[1]] == [4000]
    made = again(engine)
    assert made.budget.used == engine.budget.used == 4000
    a, b, c = made.tensors.values()
    a.array[:] = 7
    assert (b.array == 7).all() and (c.array == 7).all()
    assert b._base is a


def test_transfers_on_their_way_are_kept() -> None:
    engine = Engine()
    part = np.arange(5, dtype=np.uint8)
    error = ErrorInfo("OutOfMemoryError", "too large", 3)
    given = snapshot.Transfers({7: snapshot.Held(100, part), 9: error}, [1, 2, 3])
    found = snapshot.restore(Engine(), snapshot.take(engine, given))
    assert found.used == [1, 2, 3] and found.held[9] == error
    held = found.held[7]
    assert isinstance(held, snapshot.Held) and held.total == 100
    assert held.data.tolist() == part.tolist()


def test_numbers_keep_their_type_and_bits() -> None:
    numbers = [True, 1, 1.0, -0.0, float("nan"), float("-inf"), 1 + 2j, complex(-0.0, float("inf"))]
    back = [snapshot._of_number(json.loads(json.dumps(snapshot._number(x)))) for x in numbers]
    assert [repr(x) for x in back] == [repr(x) for x in numbers]


def _some_snapshot() -> bytes:
    engine = Engine()
    for frame, transfers in recorded(mlp_with_dropout)[:60]:
        engine.handle(frame, transfers)
    return bytes(snapshot.take(engine))


def test_pieces_may_be_of_any_size() -> None:
    data = _some_snapshot()
    for size in (1, 7, 4096):
        engine = Engine()
        restorer = snapshot.Restorer(engine)
        for at in range(0, len(data), size):
            restorer.feed(data[at : at + size])
        restorer.finish()
        assert len(engine.tensors) > 5


def test_what_is_no_snapshot_is_refused() -> None:
    data = _some_snapshot()
    for bad in (b"", data[:4], data[:100], data[:-1], data + b"x", b"\xff" * 64):
        with pytest.raises(ProtocolError, match="snapshot"):
            snapshot.restore(Engine(), bad)
    (length,) = struct.unpack("<Q", data[:8])
    with pytest.raises(ProtocolError):
        snapshot.restore(Engine(), data[:8] + b"[" * length)
    with pytest.raises(OutOfMemoryError):
        snapshot.restore(Engine(memory_bytes_max=100), data)


def test_a_header_with_any_byte_changed_does_nothing_worse_than_an_error() -> None:
    data = bytearray(_some_snapshot())
    (length,) = struct.unpack("<Q", data[:8])
    chosen = np.random.default_rng(0).integers(8, 8 + length, 300)
    for at in chosen:
        changed = bytearray(data)
        changed[at] ^= 1 << int(at) % 7
        try:
            snapshot.restore(Engine(memory_bytes_max=1 << 24), changed)
        except (ProtocolError, OutOfMemoryError):
            continue


def test_a_structure_that_could_not_be_read_again_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    engine = Engine()
    data = snapshot.take(engine)
    monkeypatch.setattr(snapshot.limits, "SNAPSHOT_HEADER_BYTES_MAX", 100)
    with pytest.raises(OutOfMemoryError, match="too large to be restored"):
        snapshot.take(engine)
    with pytest.raises(ProtocolError, match="a header of"):
        snapshot.restore(Engine(), data)


def test_the_state_of_a_cpu_goes_on_at_a_gpu_and_back() -> None:
    """With a namespace in cupy's place; only draws, of another generator there, may differ."""

    def train() -> Any:
        torch.manual_seed(3)
        net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3))
        optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
        x = torch.randn(5, 6)
        for _ in range(3):
            optimizer.zero_grad()
            loss = net(x).square().mean()
            loss.backward()
            optimizer.step()
            loss.item()
        return net, optimizer

    recording = recorded(train)
    draws = next(k for k, (f, _) in enumerate(recording) if f.opcodes[0] == cmd.BACKWARD)
    straight, moved = steady(), steady()
    values: list[tuple[Any, Any]] = []
    for k, (frame, transfers) in enumerate(recording):
        if k in (draws, (draws + len(recording)) // 2):
            there = "cpu" if moved.device.type == "cuda" else "cuda:0"
            made = Engine(there, xp=FakeCupy() if there != "cpu" else None)
            snapshot.restore(made, snapshot.take(moved))
            states = [bytes(e.generator(0).get_state()) for e in (moved, made)]
            assert states[0] != states[1] and len(made.tensors) == len(moved.tensors)
            moved = made
        events = [e.handle(copy.deepcopy(frame), dict(transfers)) for e in (straight, moved)]
        mine, theirs = ([x for x in each if isinstance(x, cmd.Value)] for each in events)
        assert len(events[0]) == len(events[1])
        values += zip(mine, theirs, strict=True)
    assert moved.device.type == "cpu" and len(values) >= 3
    for mine, theirs in values:
        kinds = [np.frombuffer(bytes(x.data), np.float32) for x in (mine, theirs) if x.data]
        if len(kinds) == 2:
            np.testing.assert_allclose(kinds[0], kinds[1], rtol=1e-5)
