"""Automatic replay: loops that repeat themselves give the same bits with it and without."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn, optim
from farspan._program import Commands, Form, Numbers, Program
from farspan._replay import Replay
from farspan.core import limits
from same_bits import bits

Connect = Callable[[bool], Any]


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let held commands wait long: whether runs are replayed may not depend on what else runs."""
    monkeypatch.setattr(limits, "REPLAY_HELD_S", 5.0)
    monkeypatch.setattr(limits, "REPLAY_HELD_ALL_S", 5.0)


@pytest.fixture(params=["local", "grpc"])
def connect(request: pytest.FixtureRequest) -> Connect:
    """Return what opens a session, with replay or without."""
    if request.param == "local":
        return lambda replay: torch.connect("local:", replay=replay)
    address, token = request.getfixturevalue("service")
    return lambda replay: torch.connect(address, token=token, replay=replay, timeout=20)


def both(connect: Connect, program: Callable[[Any], Any], hits: int = 1) -> Any:
    """Run a program without replay and with it; assert equal bits and that runs were replayed."""
    results = []
    for on in (False, True):
        with connect(on) as session:
            torch.manual_seed(0)
            results.append(bits(program(session)))
            replay = session.stats()["replay"]
            assert replay["on"] is on
            assert replay["hits"] >= hits if on else replay["hits"] == 0, replay
    assert results[0] == results[1]
    return results[1]


def network(dropout: float = 0.0) -> Any:
    layers = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(dropout)]
    return nn.Sequential(*layers, nn.Linear(16, 3))


def batch(i: int, rows: int = 8) -> Any:
    values = np.random.default_rng(i)
    x = torch.tensor(values.standard_normal((rows, 6)).astype("float32"))
    return x, torch.tensor(values.integers(0, 3, rows))


def everything(model: Any, *optimizers: Any) -> list[Any]:
    states = [v for o in optimizers for s in o.state.values() for v in s.values()]
    grads = [p.grad for p in model.parameters()]
    return [*model.parameters(), *model.buffers(), *grads, *states,
            [p._version for p in model.parameters()]]  # fmt: skip


@pytest.mark.parametrize("make", [optim.SGD, optim.Adam, optim.AdamW], ids=lambda c: c.__name__)
def test_a_schedule_with_a_value_read_each_step(connect: Connect, make: Any) -> None:
    def program(session: Any) -> Any:
        model, losses = network(dropout=0.2), []
        optimizer = make(model.parameters(), lr=0.05)
        schedule = optim.lr_scheduler.StepLR(optimizer, 3, 0.7)
        for i in range(14):
            x, y = batch(i)
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        return losses, everything(model, optimizer)

    both(connect, program, hits=3)


def test_losses_in_a_list_accumulation_and_a_short_last_batch(connect: Connect) -> None:
    def program(session: Any) -> Any:
        model, losses = network(), []
        optimizer = optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        for i in range(48):
            x, y = batch(i, 5 if i % 12 == 11 else 8)
            loss = nn.functional.cross_entropy(model(x), y) / 4
            loss.backward()
            losses.append(loss.detach())
            if i % 4 == 3:
                optimizer.step()
                optimizer.zero_grad()
        return losses, everything(model)[:10] + list(model.buffers())

    both(connect, program, hits=0)  # a busy machine may send such a long run before its end
    both(lambda on: torch.connect("local:", replay=on), program)


def test_many_small_steps_leave_together(connect: Connect) -> None:
    """A frame of whole runs becomes one frame of Calls, whichever results are kept."""
    frames = {}

    def program(session: Any) -> Any:
        model, kept = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 3)), []
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        x, y = batch(0)
        for i in range(400):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            if i % 50 in (0, 7, 11):
                kept += [loss.detach(), model[0].weight.grad]
            if i == 300:
                kept.append(model[0].weight.clone())
        end = everything(model), kept, torch.cat([k.reshape(-1) for k in kept]).tolist()
        frames[session.replay] = session.stats()["frames"]
        return end

    both(connect, program, hits=20)  # a machine that is busy lets held runs go
    frames.clear()
    both(lambda on: torch.connect("local:", replay=on), program, hits=300)
    assert frames[True] < 2 * frames[False] + 10


@pytest.mark.parametrize("turn", [2, 6, 7])
def test_a_loop_that_nobody_waits_for_is_cut_into_pieces(connect: Connect, turn: int) -> None:
    def program(session: Any) -> Any:
        a, b, kept = torch.full((4, 4), 0.01), torch.full((4, 4), 0.99), []
        x = torch.ones(4, 4)
        for part in range(3):
            for i in range(4000 // turn):
                for k in range(turn):
                    y = x + a if k % 2 else x * b
                    x = y.tanh() if k == 4 else y
                if i % 97 == 0:
                    kept.append(x)
                if i == 300:
                    a = a * 0.5  # a turn that is another
            if part:
                kept.append(x.sum().item())
        return kept, x, a

    both(connect, program, hits=20)


def test_a_step_with_batch_norms_is_one_call(connect: Connect) -> None:
    with connect(True) as session:
        model = nn.Sequential(network(), nn.BatchNorm1d(3), nn.Linear(3, 3))
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        x, y = batch(0)
        sent = [(0, 0)]
        while len(sent) < 60 and not one_call_each(sent[-3:]):  # a busy machine learns more slowly
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(x), y)
            loss.backward()
            optimizer.step()
            session.synchronize()
            stats = session.stats()
            sent.append((stats["applies"], stats["calls"]))
    assert one_call_each(sent[-3:]), sent


def one_call_each(sent: list[tuple[int, int]]) -> bool:
    """Return whether two steps were a Call each and no Apply; sent: both counts, step by step."""
    applies, calls = zip(*sent, strict=True)
    return len({*applies}) == 1 and [c - calls[0] for c in calls] == [0, 1, 2]


def test_two_networks_in_turn(connect: Connect) -> None:
    def program(session: Any) -> Any:
        maker, judge = nn.Linear(4, 6), nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1))
        of_maker = optim.Adam(maker.parameters(), lr=1e-2)
        of_judge = optim.Adam(judge.parameters(), lr=1e-2)
        for i in range(12):
            made = maker(torch.randn(8, 4))
            of_judge.zero_grad()
            (judge(made.detach()).mean() - judge(batch(i)[0]).mean()).backward()
            of_judge.step()
            of_maker.zero_grad()
            (-judge(made).mean()).backward()
            of_maker.step()
        return everything(maker, of_maker), everything(judge, of_judge)

    both(connect, program, hits=3)


def test_a_hook_is_called_in_every_step(connect: Connect) -> None:
    def program(session: Any) -> Any:
        model, seen = network(), []
        optimizer = optim.SGD(model.parameters(), lr=0.05)
        next(model.parameters()).register_hook(lambda g: seen.append(g.shape) or g * 2)
        for i in range(20):
            x, y = batch(i)
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimizer.step()
        return len(seen), everything(model)

    assert both(connect, program, hits=2)[0] == 20


def test_an_error_names_the_line_of_its_iteration_and_destroys_nothing(connect: Connect) -> None:
    def program(session: Any) -> Any:
        table = nn.Embedding(5, 3)
        optimizer, said = optim.Adam(table.parameters(), lr=0.1), []
        for i in range(14):
            index = torch.tensor([1, 2, 9 if i == 10 else 3])
            optimizer.zero_grad()
            try:
                loss = (table(index).exp() * 2).sum()  # the line
                loss.backward()
                optimizer.step()
                session.synchronize()
            except IndexError as error:
                said.append((i, "# the line" in str(error)))
        return said, everything(table, optimizer)

    assert both(connect, program, hits=5)[0] == [[10, True]]


def test_a_run_that_is_held_is_sent_when_nobody_goes_on(service: tuple[str, str]) -> None:
    address, token = service
    with torch.connect(address, token=token, replay=True) as session:
        x, total = torch.ones(16), torch.zeros(16)
        for _ in range(8):
            total = ((x + 1) * 2 - 3).exp().sum() + total
            total[0].item()
        held = ((x + 1) * 2 - 3).exp()
        assert held.sum().item() > 0
        deadline = torch.ones(4)
        for _ in range(200):
            if not any(lane.commands for lane in session.lanes) and not session._replays[0].held:
                break
            session._flush_old()
        assert float((deadline + 1).sum()) == 8.0


@pytest.mark.parametrize("bound", [20_000, 1 << 20])
def test_what_is_held_is_bounded_in_bytes(
    connect: Connect, monkeypatch: pytest.MonkeyPatch, bound: int
) -> None:
    """Ten tensors of 8 KiB a step: held for a Call, unless they are more than may be held."""
    monkeypatch.setattr(limits, "REPLAY_HELD_BYTES", bound)
    take, most = Replay.take, [0, 0]

    def watched(self: Replay, frame: Any, sites: Any) -> Any:
        now, held = take(self, frame, sites)
        sizes = (sum(len(p) for f, _ in held for p in f.payloads), self._run.put_bytes)
        most[:] = map(max, most, sizes)
        return now, held

    monkeypatch.setattr(Replay, "take", watched)

    def program(session: Any) -> Any:
        total, seen = torch.zeros(2048), []
        for step in range(6):
            for k in range(10):
                total = total * 0.5 + torch.tensor(np.full(2048, step + k, "float32"))
                with session._lock:
                    session._send(session.lanes[0])  # as of a frame that is full
            seen.append(total.sum().item())
        return [total, *seen]

    both(connect, program, hits=int(bound > 20_000))
    frame_bytes = 8_192
    assert frame_bytes < max(most) <= min(bound, 10 * frame_bytes) + frame_bytes


def test_memory_that_numpy_sees_is_never_late() -> None:
    with torch.connect("local:", replay=True) as session:
        x = torch.zeros(4)
        seen = x.numpy()
        for i in range(8):
            (x.add_(1).mul(2).add(1).mul(3))
            assert seen[0] == i + 1
        assert session.stats()["replay"]["hits"] == 0


class Broken:
    """Stands for `Replay.take`: fails at each call after the first ones."""

    def __init__(self, take: Any, error: type[BaseException], good: int) -> None:
        self.take, self.error, self.good = take, error, good

    def __call__(self, *sealed: Any) -> Any:
        self.good -= 1
        if self.good < 0:
            raise self.error
        return self.take(*sealed)


def run_of_five(x: Any) -> Any:
    return ((x + 1) * 2 - 1) ** 2 / 3


@pytest.mark.parametrize("error", [LookupError, KeyboardInterrupt])
def test_a_failure_within_replay_loses_nothing_and_is_heard(
    connect: Connect, error: type[BaseException], caplog: pytest.LogCaptureFixture
) -> None:
    with connect(True) as session:
        x, replay = torch.ones(2), session._replays[0]
        for _ in range(5):
            assert run_of_five(x).tolist() == [3.0, 3.0]
        replay.take = Broken(replay.take, error, good=0)
        result = run_of_five(x)
        if error is KeyboardInterrupt:
            with pytest.raises(KeyboardInterrupt):
                session.flush()
        session.flush()
        if error is KeyboardInterrupt:
            del replay.take
        assert result.tolist() == [3.0, 3.0]
        hits = session.stats()["replay"]["hits"]
        for _ in range(5):
            assert run_of_five(x).tolist() == [3.0, 3.0]
        defect = error is LookupError
        assert session.replay is not defect
        assert (session.stats()["replay"]["hits"] == hits) is defect
        assert caplog.text.count("a defect in automatic replay") == int(defect)
        assert ("LookupError" in caplog.text) is defect


def test_a_number_given_anew_is_told_anew_whenever_ctrl_c_comes() -> None:
    numbers, run = Numbers(), Commands()
    mine = Program(Form(run), (), 0)
    assert not numbers.use(mine)
    mine.told = True
    others = [Program(Form(run), (), 0) for _ in range(limits.PROGRAMS_MAX)]
    assert not any(map(numbers.use, others)) and mine.number == -1
    assert not numbers.use(mine) and not mine.told, "a Call now would run another program"


def test_the_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARSPAN_REPLAY", "0")
    with torch.connect("local:") as session:
        assert session.replay is False
        session.replay = True
        assert session.stats()["replay"]["on"] is True


@pytest.mark.parametrize("seed", range(12))
def test_random_programs_that_diverge_at_random(seed: int) -> None:
    """Loops of random operations, some of which differ from one iteration to the next."""

    def program(session: Any) -> Any:
        choose = random.Random(seed)
        steps = [choose.randrange(9) for _ in range(choose.randrange(5, 14))]
        w = torch.ones(4, 4, requires_grad=True)
        optimizer = optim.SGD([w], lr=0.01, momentum=0.5)
        pool, kept = [torch.arange(16.0).reshape(4, 4)] * 3, []
        for i in range(24):
            for k, kind in enumerate(steps):
                if choose.random() < 0.02:
                    kind = choose.randrange(9)
                x, y = pool[(k + kind) % 3], pool[k % 3]
                if kind == 0:
                    x = x * choose.choice([0.5, 0.5, -0.0]) + y
                elif kind == 1:
                    x = (x @ w.detach()).tanh()
                elif kind == 2:
                    x = torch.rand(4, 4) + y
                elif kind == 3:
                    x = y.clone().add_(i)
                elif kind == 4:
                    optimizer.zero_grad()
                    (w * x).sin().sum().backward()
                    optimizer.step()
                elif kind == 5 and choose.random() < 0.3:
                    kept.append(x.sum().item())
                elif kind == 6:
                    x.T[1:].mul_(0.5)
                elif kind == 7:
                    x = nn.functional.dropout(x, 0.5)
                elif kind == 8:
                    kept.append(x.mean())
                    x = torch.tensor([[float(i)]]) - y
                pool[k % 3] = x
            if choose.random() < 0.8:
                kept.append(pool[0].sum().item())
        return pool, kept, w

    both(lambda on: torch.connect("local:", replay=on), program, hits=0)


@pytest.mark.parametrize("seed", range(6))
def test_small_steps_that_diverge_at_random(seed: int) -> None:
    """Many steps a frame, between which results are kept, let go, read or computed with."""

    def program(session: Any) -> Any:
        choose = random.Random(seed)
        weights = [torch.full((3, 4), 0.1 * k, requires_grad=True) for k in range(2)]
        optimizers = [optim.SGD([w], lr=0.01) for w in weights]
        x, kept = torch.arange(12.0).reshape(3, 4) / 12, []
        order = [choose.randrange(2) for _ in range(choose.randrange(1, 4))]
        for i in range(150):
            which = order[i % len(order)] if choose.random() < 0.95 else choose.randrange(2)
            w, optimizer = weights[which], optimizers[which]
            optimizer.zero_grad()
            loss = (w * x).sin().sum() if which else (w - x).abs().mean()
            loss.backward()
            optimizer.step()
            if choose.random() < 0.03:
                kept.append(choose.choice([loss, w.grad, w.detach().clone()]).detach())
            if choose.random() < 0.02 and kept:
                kept.append(kept.pop(0) * 2)
            if choose.random() < 0.02:
                kept.append(loss.item())
            if choose.random() < 0.02:
                x = torch.tensor([[float(i)] * 4] * 3) / 100
            if choose.random() < 0.01:
                optimizer.param_groups[0]["lr"] *= 0.5
            kept = [k for k in kept if choose.random() < 0.99 or not isinstance(k, torch.Tensor)]
        return kept, weights, [w.grad for w in weights]

    both(lambda on: torch.connect("local:", replay=on), program, hits=20)
