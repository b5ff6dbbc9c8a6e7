"""Programs that train while things break. What one returns is a digest of every byte it ends with.

Dropout, BatchNorm, writes into views, uploads and fetches beside the frames, and a tape that stays
alive from step to step take part. `at(phase)` hears what begins.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import farspan as torch
import numpy as np
from farspan import nn

MODELS = ("mlp", "cnn", "transformer")
MODES = ("eager", "replay", "compiled")
BATCH, FEATURES = 48, 384  # 72 KiB a batch, which ride in a frame
WIDE = 70_000  # 273 KiB: more than rides in one

At = Callable[[str], None]


def _nothing(phase: str) -> None:
    """Nobody listens."""


def model(name: str) -> nn.Module:
    """Return a small net over (BATCH, FEATURES)."""
    if name == "mlp":
        return nn.Sequential(
            nn.Linear(FEATURES, 64), nn.BatchNorm1d(64), nn.ReLU(inplace=True), nn.Dropout(0.2),
            nn.Linear(64, 10),
        )  # fmt: skip
    if name == "cnn":
        return nn.Sequential(
            nn.Unflatten(1, (6, 8, 8)), nn.Conv2d(6, 8, 3, padding=1), nn.BatchNorm2d(8),
            nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Dropout2d(0.1), nn.Flatten(),
            nn.Linear(128, 10),
        )  # fmt: skip
    return nn.Sequential(
        nn.Unflatten(1, (12, 32)),
        nn.TransformerEncoderLayer(32, 2, 48, dropout=0.1, batch_first=True),
        nn.Flatten(), nn.Linear(FEATURES, 10),
    )  # fmt: skip


class Training:
    """A net in training, one `step` after the other; `digest` of all that it is.

    wide: each step uploads something that no frame carries, too.
    """

    def __init__(self, name: str, mode: str, at: At = _nothing, wide: bool = True) -> None:
        torch.manual_seed(17)
        self.net = model(name)
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3)
        self.probe = nn.Parameter(torch.rand(8))
        self.at, self.wide = at, wide
        self.losses: list[float] = []
        self.fetched = hashlib.sha256()
        self._data = np.random.default_rng(3)
        self._alive: Any = None  # a tape that spans steps
        self._learn = torch.compile(self._pass) if mode == "compiled" else self._pass

    def _pass(self, x: Any, y: Any) -> tuple[Any, Any]:
        """Return loss and scores after one step of the optimizer."""
        self.at("forward")
        scores = self.net(x)
        scores[:, 0].mul_(1.25)  # a write into a view, through which the gradient goes
        loss = nn.functional.cross_entropy(scores, y)
        self.optimizer.zero_grad()
        self.at("backward")
        loss.backward()
        self.at("step")
        self.optimizer.step()
        return loss.detach(), scores.detach()

    def step(self) -> None:
        """Train on one batch; ends with nothing under way."""
        self.at("upload")
        x = torch.tensor(self._data.standard_normal((BATCH, FEATURES)).astype("float32"))
        y = torch.tensor(self._data.integers(0, 10, BATCH))
        if self.wide:
            noise = torch.tensor(self._data.standard_normal(WIDE).astype("float32"))
            x = x + noise[: x.numel()].view(x.shape) * 0.1
        loss, scores = self._learn(x, y)
        self.at("ops")
        if self._alive is not None:
            self._alive.backward()
        self._alive = (self.probe.sin() * scores.mean() * torch.rand(8)).sum()
        wide = x * scores[:, :1] + torch.rand(1)
        wide.view(-1)[::7].add_(0.5)
        self.at("fetch")
        self.fetched.update(wide.numpy().tobytes())
        self.losses.append(loss.item())
        self.at("idle")
        torch.rand(1).item()

    def digest(self) -> str:
        """Return a digest of tensors, gradients, the optimizer's and the generator's state."""
        found = hashlib.sha256(np.array(self.losses).tobytes())
        found.update(self.fetched.digest())
        tensors = [*self.net.state_dict().values(), self.probe, self.probe.grad]
        tensors += [p.grad for p in self.net.parameters()]
        for state in self.optimizer.state_dict()["state"].values():
            tensors += [value for value in state.values() if torch.is_tensor(value)]
        tensors += [torch.get_rng_state(), torch.rand(4)]
        for each in tensors:
            found.update(b"-" if each is None else each.detach().numpy().tobytes())
        return found.hexdigest()


def train(name: str, mode: str, steps: int, at: At = _nothing, wide: bool = True) -> str:
    """Return the digest of a training of so many steps."""
    training = Training(name, mode, at, wide)
    for _ in range(steps):
        training.step()
    return training.digest()


class Chain:
    """A session whose whole state has names, and which goes on after any one of its commands.

    Each `step` is one command; `state` tells which steps have been applied.
    """

    def __init__(self, kept: dict[str, Any] | None = None) -> None:
        if kept is None:
            torch.manual_seed(23)
            kept = {"x": torch.zeros(6), "y": torch.ones(6)}
        self.named = kept
        self.x, self.y = kept["x"], kept["y"]

    def step(self, number: int) -> None:
        """Apply the step of this number."""
        if number % 3 == 0:
            self.y.uniform_()
        elif number % 3 == 1:
            self.x.add_(self.y)
        else:
            self.x.view(2, 3)[:, 1:].mul_(1.5)

    def state(self) -> str:
        """Return a digest of all of it, the generator's state included."""
        tensors = (self.x, self.y, torch.get_rng_state())
        return hashlib.sha256(b"".join(bytes(t.numpy()) for t in tensors)).hexdigest()


def chain_states(steps: int) -> list[str]:
    """Return the state before each step, and behind the last; all of them differ."""
    with torch.connect("local:"):
        chain = Chain()
        states = [chain.state()]
        for number in range(steps):
            chain.step(number)
            states.append(chain.state())
    assert len(set(states)) == len(states)
    return states
