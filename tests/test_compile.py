"""farspan.compile: one Call for a function, with all the effects that the function has."""

from __future__ import annotations

import warnings
from typing import Any

import farspan as torch
import pytest
from farspan import nn, optim
from farspan._session import Session
from farspan.core import limits
from farspan.core.errors import ControlFlowError


def task(make: Any, compiled: bool, **options: Any) -> Any:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))
    optimizer = make(model.parameters(), **options)

    def step(x: Any, y: Any) -> Any:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return model, optimizer, torch.compile(step) if compiled else step


OPTIMIZERS = [(optim.SGD, {"lr": 0.1, "momentum": 0.9}), (optim.Adam, {"lr": 0.05})]


@pytest.mark.parametrize(("make", "options"), OPTIMIZERS, ids=["sgd", "adam"])
def test_a_step_is_one_call_and_no_apply(session: Any, make: Any, options: Any) -> None:
    session.replay = False
    found = []
    for compiled in (False, True):
        model, optimizer, step = task(make, compiled, **options)
        x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
        losses = []
        for i in range(10):
            optimizer.param_groups[0]["lr"] *= 0.9
            if compiled and i == 4:
                session.flush()
                before = session.stats()
            losses.append(step(x, y))
        session.flush()
        after = session.stats()
        if compiled:
            assert after["calls"] - before["calls"] == 6
            assert after["applies"] == before["applies"]
        assert losses[-1].requires_grad and not losses[-1].is_leaf
        found.append([losses, list(model.parameters()), [p.grad for p in model.parameters()],
                      [p._version for p in model.parameters()]])  # fmt: skip
    for mine, theirs in zip(*[[*f[0], *f[1], *f[2]] for f in found], strict=True):
        assert torch.allclose(mine, theirs, rtol=1e-4, atol=1e-6)
    assert found[0][3] == found[1][3]


def test_a_short_last_batch_is_traced_once() -> None:
    with torch.connect("local:", replay=False):
        _, _, step = task(optim.SGD, True, lr=0.1)
        for rows in (8, 8, 8, 5, 8, 5, 8, 5):
            step(torch.randn(rows, 6), torch.randint(0, 3, (rows,)))
        # The very first call found no gradients to forget.
        assert sorted(map(len, step._kinds.values())) == [1, 2]
        text = step.explain(show=False)
        assert "3 programs" in text and "_sgd_step_" in text


def test_modules_keep_their_face() -> None:
    with torch.connect("local:", replay=False) as session:
        model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
        compiled = torch.compile(model)
        assert isinstance(compiled, nn.Module) and compiled._orig_mod is model
        assert next(iter(compiled.state_dict())) == "_orig_mod.0.weight"
        assert len(list(compiled.parameters())) == 4
        compiled.eval()
        assert not model.training and not compiled.training
        x = torch.randn(5, 3)
        with torch.no_grad():
            expected = model(x)
            for _ in range(3):
                got = compiled(x)
            assert torch.equal(got, expected)
        assert session.stats()["calls"] == 2
        with torch.no_grad():
            model[0].weight.fill_(0.0)
            assert torch.equal(compiled(x), model(x))
        compiled.train()  # another kind of call: batch norm counts again
        with torch.no_grad():
            compiled(x)
        assert int(model[1].num_batches_tracked) == 1


def test_what_is_reached_is_looked_at_before_each_call() -> None:
    with torch.connect("local:", replay=False):
        scale = 2.0
        weight = torch.ones(3)

        @torch.compile
        def f(x: Any, flag: bool = False) -> Any:
            return {"out": (x * weight * scale, x if flag else None)}

        x = torch.arange(3.0)
        for value in (2.0, 2.0, 3.0, 3.0):
            scale = value
            out = f(x)["out"]
            assert out[0].tolist() == [0.0, value, 2 * value] and out[1] is None
        weight = torch.zeros(3)
        assert f(x)["out"][0].tolist() == [0.0, 0.0, 0.0]
        assert f(x, flag=True)["out"][1] is x


def test_a_value_in_the_middle_is_an_error_that_names_the_line() -> None:
    with torch.connect("local:") as session:

        @torch.compile
        def f(x: Any) -> Any:
            if x.sum() > 0:  # the line
                return x
            return -x

        with pytest.raises(ControlFlowError, match=r"# the line") as caught:
            f(torch.ones(2))
        assert "torch.where" in str(caught.value)
        assert float(torch.ones(2).sum()) == 2.0
        assert not session._waits, "nobody waits for what was refused"


def test_tensors_that_live_on_are_seen() -> None:
    with torch.connect("local:", replay=False):
        kept: list[Any] = []

        @torch.compile
        def f(x: Any) -> Any:
            y = x * 2
            kept.append(y)
            return y + 1

        for i in range(4):
            assert f(torch.full((2,), float(i))).tolist() == [2.0 * i + 1] * 2
        assert [k.tolist() for k in kept] == [[2.0 * i] * 2 for i in range(4)]


def test_a_forward_that_is_differentiated_outside_stays_right(session: Any) -> None:
    torch.manual_seed(0)
    model = nn.Linear(4, 2)
    compiled = torch.compile(model)
    optimizer = optim.SGD(model.parameters(), lr=0.1)
    x, first = torch.randn(8, 4), None
    for _ in range(10):
        optimizer.zero_grad()
        loss = compiled(x).square().mean()
        loss.backward()
        optimizer.step()
        first = loss.item() if first is None else first
    assert loss.item() < first


def test_too_many_kinds_of_calls_stay_eager_and_say_so() -> None:
    with torch.connect("local:", replay=False):
        f = torch.compile(lambda x, n: x + n)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for n in range(12):
                assert float(f(torch.ones(()), n)) == n + 1
        assert len(said) == 1 and "stay eager" in str(said[0].message)
        assert "stays eager" in f.explain(show=False)


def test_an_error_within_a_call_names_the_line_of_the_function() -> None:
    with torch.connect("local:", replay=False):
        table = torch.arange(12.0).reshape(4, 3)

        @torch.compile
        def f(index: Any) -> Any:
            return table[index].exp()  # the line

        for _ in range(3):
            f(torch.tensor([1, 2]))
        with pytest.raises(IndexError, match="# the line"):
            f(torch.tensor([1, 7])).tolist()


def test_writes_and_views_come_out_as_they_are() -> None:
    with torch.connect("local:", replay=False):
        total = torch.zeros(4)

        @torch.compile
        def f(x: Any) -> Any:
            total.add_(x)
            return total[1:3], x.reshape(2, 2)

        for i in range(3):
            view, shaped = f(torch.ones(4))
            assert view.tolist() == [i + 1.0] * 2 and shaped.shape == (2, 2)
        assert total._version == 3
        view.zero_()
        assert total.tolist() == [3.0, 0.0, 0.0, 3.0]


def test_cond_chooses_by_values_within_a_program() -> None:
    with torch.connect("local:", replay=False) as session:

        @torch.compile
        def f(x: Any) -> Any:
            return torch.cond(x.sum() > 0, lambda x: (x * 2, x), lambda x: (-x, x + 1), (x,))

        for sign in (1.0, -1.0, 1.0, -1.0):
            first, second = f(torch.full((2,), sign))
            assert first.tolist() == ([2.0] * 2 if sign > 0 else [1.0] * 2)
            assert second.tolist() == ([1.0] * 2 if sign > 0 else [0.0] * 2)
        assert session.stats()["calls"] == 3


def test_an_argument_that_is_also_reached_otherwise_is_told_apart() -> None:
    with torch.connect("local:", replay=False):
        w = torch.ones(2)
        f = torch.compile(lambda x: x + w * 10)
        assert f(w).tolist() == [11.0, 11.0]
        assert f(torch.zeros(2)).tolist() == [10.0, 10.0]
        assert f(w).tolist() == [11.0, 11.0]


def test_inputs_that_share_memory_are_another_kind_of_call() -> None:
    @torch.compile
    def add(a: Any, b: Any) -> Any:
        return a.add_(b) * 1

    with torch.connect("local:"):
        for _ in range(3):
            add(torch.arange(8.0), torch.arange(8.0))
        x = torch.arange(12.0)
        for a, b in ((x[:8], x[4:]), (x.detach()[:8], x[4:])):
            with pytest.raises(RuntimeError, match="refer to a single memory location"):
                add(a, b)
        assert x.tolist() == list(range(12))
        for _ in range(3):
            add(x[:6], x[6:])
        assert x.tolist() == [18.0, 22.0, 26.0, 30.0, 34.0, 38.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]
        with pytest.raises(RuntimeError, match="refer to a single memory location"):
            add(x[:6], x[4:10])


def test_what_is_noted_of_a_function_that_is_too_long_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sizes = []
    watch = Session._watch

    def watched(session: Any, frame: Any, sites: Any) -> None:
        watch(session, frame, sites)
        sizes.append(sum(len(each) for each, *_ in session.traced))

    monkeypatch.setattr(Session, "_watch", watched)

    @torch.compile
    def long(x: Any) -> Any:
        for _ in range(20_000):
            x = x + 1
        return x

    with torch.connect("local:"):
        assert long(torch.zeros(())).item() == 20_000.0
        assert 0 < max(sizes) <= 2 * limits.PROGRAM_COMMANDS_MAX + limits.FRAME_COMMANDS_MAX
        assert "it is too long" in long.explain(show=False)
        assert long(torch.ones(())).item() == 20_001.0
