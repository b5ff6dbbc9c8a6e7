"""Plans of programs give, bit for bit, what their commands give one by one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn
from program_bodies import beside, record, session

F = nn.functional


def _mlp(optimizer: Callable[[Any], Any], batch: int = 8) -> Callable[[], Any]:
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.3), nn.Linear(5, 3))
    chosen = optimizer(model.parameters())
    x, y = torch.randn(batch, 6), torch.randint(0, 3, (batch,))

    def step() -> Any:
        chosen.zero_grad()
        loss = F.cross_entropy(model(x), y)
        loss.backward()
        chosen.step()
        return loss

    step()
    return step


def _cnn() -> Callable[[], Any]:
    model = nn.Sequential(
        nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(4, 6, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(6 * 2 * 2, 3),
    )  # fmt: skip
    chosen = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    x, y = torch.randn(4, 1, 12, 12), torch.randint(0, 3, (4,))

    def step() -> Any:
        chosen.zero_grad(set_to_none=False)
        loss = F.nll_loss(F.log_softmax(model(x), 1), y)
        loss.backward()
        chosen.step()
        return loss

    step()
    step()
    return step


def _transformer() -> Callable[[], Any]:
    model = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
    words = nn.Embedding(11, 8)
    chosen = torch.optim.AdamW([*model.parameters(), *words.parameters()], lr=1e-2)
    x = torch.randint(0, 11, (3, 5))

    def step() -> Any:
        loss = model(words(x)).pow(2).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        chosen.step()
        chosen.zero_grad()
        return loss

    step()
    return step


STEPS: dict[str, Callable[[], Callable[[], Any]]] = {
    "mlp_sgd": lambda: _mlp(lambda p: torch.optim.SGD(p, lr=0.1)),
    "mlp_momentum": lambda: _mlp(lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9)),
    "mlp_adam": lambda: _mlp(lambda p: torch.optim.Adam(p, lr=0.01)),
    "cnn": _cnn,
    "transformer": _transformer,
}


@pytest.mark.parametrize("name", STEPS)
def test_a_training_step_by_a_plan_gives_the_bits_of_its_commands(name: str) -> None:
    with session() as s:
        torch.manual_seed(1)
        beside(record(STEPS[name](), s))


def test_views_and_stores_through_them() -> None:
    with session() as s, torch.no_grad():
        x, w = torch.randn(4, 6), torch.randn(6)

        def run() -> Any:
            y = x * 2
            y[1:3, ::2] += w[:3]
            y.T[2].mul_(3)
            x[0] = y[:, 1].sum() + w
            w.add_(x[0], alpha=0.5)
            return y[2:], y.T, x[1] * 1, y.view(2, 12)[0]

        beside(record(run, s))


def test_an_error_takes_back_what_was_stored() -> None:
    with session() as s, torch.no_grad():
        x, i = torch.randn(4), torch.tensor([1, 3])

        def run() -> Any:
            x.add_(1)
            noise = torch.rand(4)
            picked = x[i] + noise[:2]
            x.mul_(picked.sum())
            return picked

        recorded = record(run, s)
    program = beside(recorded)
    inputs = recorded.fresh()
    at = next(k for k, a in enumerate(inputs) if a.array.dtype == np.int64)
    other = next(k for k, a in enumerate(inputs) if a.array.dtype == np.float32)
    engine = program._engine
    before, state = inputs[other].array.copy(), engine.generator(0).get_state().tobytes()
    inputs[at].array[...] = 7
    assert program.run(inputs, recorded.body.scalars) is None
    assert (inputs[other].array == before).all()
    assert engine.generator(0).get_state().tobytes() == state
    inputs[at].array[...] = [1, 3]
    assert program.run(inputs, recorded.body.scalars) is not None


def test_results_that_are_kept_are_not_written_over() -> None:
    with session() as s, torch.no_grad():
        x = torch.randn(5)
        recorded = record(lambda: x * 2, s)
    program = beside(recorded)
    first = program.run(recorded.fresh(), recorded.body.scalars)
    second = program.run(recorded.fresh({0: np.zeros(5, np.float32)}), recorded.body.scalars)
    assert first is not None and second is not None
    assert (first[0].array == recorded.inputs[0] * 2).all() and not second[0].array.any()
    at = second[0].array.ctypes.data
    del second
    third = program.run(recorded.fresh(), recorded.body.scalars)
    assert third is not None and third[0].array.ctypes.data == at  # its memory was free again


def test_a_graph_that_lives_on_is_left_to_the_commands() -> None:
    with session() as s:
        w = torch.randn(3, requires_grad=True)
        beside(record(lambda: (w * 2).sum(), s), plan=False)


def test_other_shapes_get_plans_of_their_own() -> None:
    with session() as s, torch.no_grad():
        x, w = torch.randn(5, 3), torch.randn(3)
        recorded = record(lambda: (x * w).sum(1), s)
    program = beside(recorded)
    short = record_of(recorded, 2)
    result = program.run(short, recorded.body.scalars)
    assert result is not None and result[0].array.shape == (2,)
    assert len(program._plans) == 2
    again = program.run(recorded.fresh(), recorded.body.scalars)
    assert again is not None and len(program._plans) == 2


def record_of(recorded: Any, rows: int) -> Any:
    """Return inputs of which the first has fewer rows."""
    spec = recorded.specs[0]
    recorded.specs[0] = spec.with_(shape=(rows, *spec.shape[1:]))
    whole, recorded.inputs[0] = recorded.inputs[0], recorded.inputs[0][:rows]
    made = recorded.fresh()
    recorded.specs[0], recorded.inputs[0] = spec, whole
    return made


CHANGING: dict[str, tuple[bool, Any]] = {  # whether one plan stands for all numbers
    "times": (True, lambda w, b: w * b),
    "through": (True, lambda w, b: w / b),
    "slope": (True, lambda w, b: F.leaky_relu(w - 1, b)),
    "elu": (True, lambda w, b: F.elu(w - 1, b)),
    "power": (False, lambda w, b: w.pow(1 + b)),
    "alpha": (False, lambda w, b: torch.add(w, w * 2, alpha=b)),
    "value": (False, lambda w, b: torch.addcmul(w, w, w + 1, value=b)),
    "clamped": (True, lambda w, b: w.clamp(min=5 * b) - b),
    "mixed": (False, lambda w, b: torch.lerp(w, w * 2, b)),
}


@pytest.mark.parametrize("name", CHANGING)
def test_numbers_that_formulas_hand_on_are_left_to_each_call(name: str) -> None:
    one, function = CHANGING[name]
    found = []
    for replay in (False, True):
        with torch.connect("local:", replay=replay) as s:
            w = torch.arange(1.0, 5.0, requires_grad=True)
            optimizer = torch.optim.SGD([w], lr=0.01)
            values = []
            for i in range(60):
                optimizer.zero_grad()
                function(w, 0.1 + 0.01 * i).sum().backward()
                optimizer.step()
                values.append(w.sum().item())
            found.append(values)
            if replay:
                (program,) = s.transport.engines[0].programs._programs.values()
                assert program.calls >= 50
                assert program._made == 1 if one else program._made <= 20
    assert found[0] == found[1]
