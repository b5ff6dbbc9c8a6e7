"""What `vs_peers.py` asks of every system: one training step, written once, and its numbers.

`training` takes torch or farspan: same seed, same weights, same batch, same losses. `calls` is the
same step as calls on what a worker holds, for systems that are asked operation by operation.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

MIB = 1 << 20
SIZES = {"tiny": ((64, 128, 10), 32), "mlp": ((784, 512, 512, 10), 64)}


class Refused(Exception):
    """This system does not have this row, or cannot run here; the message says why."""


@dataclass(slots=True)
class Training:
    """A model, its batch and its optimizer, in one library."""

    lib: Any
    layers: list[Any]
    x: Any
    y: Any
    optimizer: Any

    def step(self) -> Any:
        """Return the loss of one step: zero, forward, backward, update."""
        functional = self.lib.nn.functional
        self.optimizer.zero_grad()
        h = self.x
        for layer in self.layers[:-1]:
            h = functional.relu(layer(h))
        loss = functional.cross_entropy(self.layers[-1](h), self.y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def training(lib: Any, row: str) -> Training:
    """Return the row's training: `tiny` by SGD, `mlp` by Adam; seed 0."""
    widths, batch = SIZES[row]
    lib.manual_seed(0)
    layers = [lib.nn.Linear(a, b) for a, b in pairwise(widths)]
    x, y = lib.randn(batch, widths[0]), lib.randint(0, widths[-1], (batch,))
    parameters = [p for layer in layers for p in layer.parameters()]
    if row == "tiny":
        return Training(lib, layers, x, y, lib.optim.SGD(parameters, lr=0.01))
    return Training(lib, layers, x, y, lib.optim.Adam(parameters, lr=1e-3, fused=True))


def calls(row: str) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return the step as (function, name of the result, names of the arguments), in order."""
    count = len(SIZES[row][0]) - 1
    found: list[tuple[str, str, tuple[str, ...]]] = [("zero_grad", "_", ("optimizer",))]
    h = "x"
    for i in range(count):
        found.append(("linear", f"h{i}", (h, f"weight{i}", f"bias{i}")))
        h = f"h{i}"
        if i + 1 < count:
            found.append(("relu", f"r{i}", (h,)))
            h = f"r{i}"
    found.append(("cross_entropy", "loss", (h, "y")))
    return [*found, ("backward", "_", ("loss",)), ("step", "_", ("optimizer",))]


def named(made: Training) -> dict[str, Any]:
    """Return what `calls` names at the start."""
    held = {"x": made.x, "y": made.y, "optimizer": made.optimizer}
    for i, layer in enumerate(made.layers):
        held |= {f"weight{i}": layer.weight, f"bias{i}": layer.bias}
    return held


def bulk(mib: int) -> np.ndarray:
    """Return random float32 of so many MiB: pages that were written, no zeros."""
    return np.random.default_rng(0).random(mib * MIB // 4, dtype=np.float32)


class Shelf:
    """What a worker process holds for a peer that is asked by calls: torch objects by name."""

    def __init__(self) -> None:
        import torch

        torch.set_num_threads(1)
        self._torch = torch
        self._held: dict[str, Any] = {}
        self._training: Training | None = None
        functional = torch.nn.functional
        self._functions = {
            "add": torch.add,
            "linear": functional.linear,
            "relu": functional.relu,
            "cross_entropy": functional.cross_entropy,
            "zero_grad": lambda optimizer: optimizer.zero_grad(),
            "backward": lambda loss: loss.backward(),
            "step": lambda optimizer: optimizer.step(),
        }

    def put(self, name: str, array: np.ndarray) -> float:
        """Hold a tensor of its own that may be written to, and return its last element."""
        self._held[name] = self._torch.tensor(array)
        return float(self._held[name].flatten()[-1])

    def fetch(self, name: str) -> np.ndarray:
        return self._held[name].numpy()

    def apply(self, function: str, out: str, names: tuple[str, ...]) -> None:
        """Hold what the function returns."""
        self._held[out] = self._functions[function](*[self._held[n] for n in names])

    def total(self, name: str) -> float:
        """Return the sum of a tensor's elements."""
        return float(self._held[name].sum())

    def added(self, a: str, b: str) -> float:
        """Return the sum of the elements of a + b."""
        return float((self._held[a] + self._held[b]).sum())

    def build(self, row: str) -> None:
        """Make the row's training anew, for `step` and by name for `apply`."""
        self._training = training(self._torch, row)
        self._held |= named(self._training)

    def step(self) -> float:
        """Return the loss of one whole step."""
        assert self._training is not None
        return float(self._training.step())
