"""Programs whose values stay in the library's layouts give the bits of their commands."""

from __future__ import annotations

from typing import Any

import farspan as torch
import numpy as np
import pytest
from farspan import nn
from farspan_worker import kernels
from program_bodies import beside, record, session

pytestmark = pytest.mark.skipif(bool(kernels.missing()), reason="oneDNN is not installed")


class Residual(nn.Module):
    """A block of a residual network."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(16, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1)
        self.c, self.d = nn.BatchNorm2d(16), nn.BatchNorm2d(16)

    def forward(self, x: Any) -> Any:
        y = torch.relu(self.c(self.a(x)))
        return torch.relu(self.d(self.b(y)) + x)


class Shared(nn.Module):
    """A relu that two look at."""

    def forward(self, x: Any) -> Any:
        y = torch.relu(x)
        return nn.functional.max_pool2d(y, 2) + nn.functional.avg_pool2d(y, 2)


NETS = {
    "pools": lambda: nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 24, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(24 * 9, 7),
    ),
    "filled_blocks": lambda: nn.Sequential(
        nn.Conv2d(3, 6, 5), nn.ReLU(), nn.AvgPool2d(2), nn.Conv2d(6, 19, 3), nn.GELU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(19 * 4, 7),
    ),
    "overlapping": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.ReLU(inplace=True),
        nn.Conv2d(16, 16, 1, stride=2), nn.Tanh(), nn.Flatten(), nn.Linear(16 * 16, 7),
    ),
    "inplace": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(16, 16, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2, 3), nn.Flatten(),
        nn.Linear(64, 7),
    ),
    "shared": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Shared(), nn.Flatten(), nn.Linear(16 * 64, 7),
    ),
    "residual": lambda: nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), Residual(), nn.AvgPool2d(2), Residual(),
        nn.Flatten(), nn.Linear(16 * 64, 7),
    ),
}  # fmt: skip


def recorded_step(name: str, exact: bool = True) -> Any:
    """Return a training step of a net as a body."""
    with session() as s:
        s.replay = False
        torch.manual_seed(0)
        net = NETS[name]()
        chosen = torch.optim.SGD(net.parameters(), lr=0.1)
        x, y = torch.randn(8, 3, 16, 16), torch.randint(0, 7, (8,))

        def step() -> Any:
            chosen.zero_grad()
            loss = nn.functional.cross_entropy(net(x), y)
            loss.backward()
            chosen.step()
            return loss

        step()
        return record(step, s, exact)


@pytest.mark.parametrize("name", NETS)
def test_training_in_layouts_gives_the_bits_of_the_commands(name: str) -> None:
    program = beside(recorded_step(name))
    notes = program._plans[0][0].graph.notes
    assert any("stay in its layouts" in note for note in notes), notes


@pytest.mark.parametrize(("name", "moved"), [("pools", 2), ("inplace", 2), ("shared", 0)])
@pytest.mark.parametrize("exact", [True, False])
def test_relu_runs_behind_its_pool_and_changes_no_bit(name: str, moved: int, exact: bool) -> None:
    recorded = recorded_step(name, exact)
    rounded = {i: np.rint(a) for i, a in enumerate(recorded.inputs) if a.dtype == np.float32}
    for values in ({}, rounded, {i: -abs(a) for i, a in rounded.items()}):
        recorded.inputs = [values.get(i, a) for i, a in enumerate(recorded.inputs)]
        notes = beside(recorded)._plans[0][0].graph.notes
        assert (f"{moved} relu run behind their pools" in notes) == bool(moved), notes


def test_nan_in_a_pool_lets_the_commands_run_and_changes_nothing() -> None:
    recorded = recorded_step("pools")
    program = beside(recorded)
    at = next(i for i, a in enumerate(recorded.inputs) if a.shape == (8, 3, 16, 16))
    missing = recorded.inputs[at].copy()
    missing[1, 0, 3, 3] = np.nan
    given = recorded.fresh({at: missing})
    before = [x.array.tobytes() for x in given]
    assert program.run(given, recorded.body.scalars) is None
    assert [x.array.tobytes() for x in given] == before
    assert program.run(recorded.fresh(), recorded.body.scalars) is not None


def test_relu_stays_before_a_pool_some_of_whose_windows_lie_in_the_padding() -> None:
    """A window with gaps may find no element: its maximum is -inf, which relu would make 0."""
    with session() as s:
        x = torch.randn(1, 2, 2, 2)
        pooled: Any = lambda: nn.functional.max_pool2d(x.neg().relu(), 2, 1, 1, 3)  # noqa: E731
        expected = pooled().tolist()
        assert expected == [[[[-np.inf]], [[-np.inf]]]]
        called = torch.compile(pooled)
        assert [called().tolist() for _ in range(4)] == [expected] * 4
        assert s.transport.engines[0].programs.planned
