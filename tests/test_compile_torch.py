"""farspan.compile where programs written for torch.compile use it: modules, options, regions."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import farspan as torch
import pytest
from farspan import nn, optim


def steps(session: Any, wrap: Any, count: int = 14) -> tuple[list[float], dict[str, int], Any]:
    """Train with a wrapped model; return losses, what the last five steps sent, and the model."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))
    called = wrap(model) or model
    optimizer, losses = optim.AdamW(called.parameters(), lr=0.02), []
    before: dict[str, Any] = {}
    for i in range(count):
        if i == count - 5:
            session.flush()
            before = session.stats()
        optimizer.zero_grad()
        x, y = torch.randn(8, 6), torch.randint(0, 3, (8,))
        loss = nn.functional.cross_entropy(called(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    after = session.stats()
    return losses, {k: after[k] - before[k] for k in ("calls", "applies")}, called


@pytest.mark.parametrize("wrap", [torch.compile, lambda model: model.compile()])
def test_a_compiled_model_that_is_differentiated_outside(session: Any, wrap: Any) -> None:
    """The commonest use: the forward is compiled, and replay makes the whole step one Call."""
    session.replay = True
    expected, _, _ = steps(session, lambda model: model)
    losses, sent, model = steps(session, wrap)
    assert losses == pytest.approx(expected, rel=1e-4, abs=1e-5)
    if session.address == "local:":  # over a wire a slow machine may send before a run is over
        assert sent == {"calls": 5, "applies": 0}
    found = model if hasattr(model, "explain") else model._compiled_call_impl
    assert "differentiated later" in found.explain(show=False)
    if session.address == "local:":
        programs = session.transport.engines[0].programs._programs
        assert {p.body.exact for p in programs.values()} == {True, False}
        again, _, _ = steps(session, lambda model: model)
        assert again == expected, "what is not compiled is never rounded as if it were"


def test_exact_programs_give_the_same_bits_and_compiled_ones_say_that_they_may_not() -> None:
    found = []
    for replay in (False, True):
        with torch.connect("local:", replay=replay) as session:
            losses, _, _ = steps(session, lambda model: model)
            found.append(losses)
            if replay:
                text = session.ask_program(0, 0).decode()
                assert '"exact": true' in text, text
    assert found[0] == found[1]
    with torch.connect("local:", replay=False):
        f = torch.compile(lambda x: x.exp().tanh().sum())
        for _ in range(3):
            f(torch.ones(4))
        assert "exact: False" in f.explain(show=False)


def test_options_are_those_of_torch() -> None:
    with torch.connect("local:"):
        for options in (
            {"fullgraph": True, "dynamic": True, "mode": "max-autotune"},
            {"backend": "eager"}, {"backend": lambda graph, inputs: graph}, {"options": {}},
        ):  # fmt: skip

            @torch.compile(**options)
            def f(x: Any) -> Any:
                """Add one."""
                return x + 1

            assert f(torch.ones(2)).tolist() == [2.0, 2.0]
            assert f.__doc__ == "Add one." and f.__name__ == "f"
        for wrong, error in (
            ({"mode": "fast"}, "Unrecognized mode=fast"),
            ({"backend": "magic"}, "Invalid backend: 'magic'"),
            ({"mode": "default", "options": {}}, "Either mode or options"),
        ):
            with pytest.raises(RuntimeError, match=error):
                torch.compile(lambda x: x, **wrong)
        with pytest.raises(TypeError, match="unexpected keyword"):
            torch.compile(lambda x: x, magic=True)
        assert torch.compile(f, disable=True) is f


def test_stances_and_reset() -> None:
    with torch.connect("local:", replay=False) as session:
        f = torch.compile(lambda x: x * 2 + 1)
        for _ in range(3):
            f(torch.ones(2))
        session.flush()
        assert session.stats()["calls"] == 2
        with torch.compiler.set_stance("force_eager"):
            assert f(torch.ones(2)).tolist() == [3.0, 3.0]
        session.flush()
        assert session.stats()["calls"] == 2
        torch.compiler.reset()
        for _ in range(2):
            assert f(torch.ones(2)).tolist() == [3.0, 3.0]
        assert session.stats()["calls"] == 3


def test_a_compiled_model_is_saved_switched_and_copied(session: Any) -> None:
    session.replay = False
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    compiled, x = torch.compile(model), torch.randn(5, 3)
    torch._dynamo.mark_dynamic(x, 0)
    names = list(compiled.state_dict())
    assert all(name.startswith("_orig_mod.") for name in names)
    with torch.no_grad():
        for training in (False, True, False, True, False):
            compiled.train(training)
            for _ in range(2):
                out = compiled(x)
            assert torch.equal(out, model(x)) is not training
    assert int(model[1].num_batches_tracked) == 6
    other = copy.deepcopy(compiled)
    other.load_state_dict(compiled.state_dict())
    with torch.no_grad():
        other.eval()
        assert torch.equal(other(x), model(x))
        other._orig_mod[0].weight.zero_()
        assert not torch.equal(other(x), model(x))
    model.compile()
    assert list(model.state_dict()) == [name.removeprefix("_orig_mod.") for name in names]
    assert copy.deepcopy(model)(x).shape == (5, 4)


def test_kinds_that_have_programs_keep_them_when_others_become_too_many() -> None:
    with torch.connect("local:", replay=False) as session, torch.no_grad():
        f = torch.compile(lambda x: (x * 2).sum(0))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            for rows in range(1, 40):
                assert f(torch.ones(rows, 2)).tolist() == [2.0 * rows] * 2
        assert len(said) == 1 and session.stats()["calls"] == 0
        for rows in (3, 5, 3, 5):
            assert f(torch.ones(rows, 2)).tolist() == [2.0 * rows] * 2
        assert session.stats()["calls"] == 4


def test_kinds_without_a_program_are_tried_so_often_only() -> None:
    with torch.connect("local:", replay=False):
        w = torch.ones(2, requires_grad=True)
        f = torch.compile(lambda x: (x * w).sum())
        for rows in range(1, 60):
            assert f(torch.ones(rows, 2)).item() == 2.0 * rows
        assert len(f._never) <= 32 and len(f._misses) <= 32
