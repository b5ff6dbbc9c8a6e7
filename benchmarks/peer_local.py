"""Two systems of `vs_peers.py`: PyTorch in the same process, and farspan over gRPC."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from peer_programs import training


class Library:
    """A library with torch's interface, whose tensors stand wherever it keeps them."""

    modes = ("eager",)

    def __init__(self, lib: Any) -> None:
        self.lib = lib
        self._zero, self._one = lib.zeros(4, 4), lib.ones(4, 4)
        self._step_of: dict[str, Callable[[], Any]] = {}  # by mode
        self._sent: Any = None

    def ops(self, mode: str, count: int) -> float:
        x, b = self._zero, self._one
        for _ in range(count):
            x = x + b
        return float(x.sum())

    def read(self, mode: str, count: int) -> float:
        a, b, value = self._zero, self._one, 0.0
        for _ in range(count):
            value = float((a + b).sum())
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        self._sent = None
        self._sent = self.lib.tensor(array)
        return float(self._sent[-1])

    def down(self, mode: str) -> np.ndarray:
        return self._sent.numpy()

    def prepare(self, row: str, mode: str) -> None:
        self._step_of[mode] = training(self.lib, row).step

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        loss: Any = 0.0
        step = self._step_of[mode]
        for _ in range(count):
            loss = step()
            if each:
                float(loss)
        return float(loss)

    def close(self) -> None:
        """Nothing runs elsewhere."""


class Torch(Library):
    """PyTorch in this process: no wire, for comparison."""

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        torch.set_num_threads(1)
        super().__init__(torch)

    def down(self, mode: str) -> np.ndarray:
        return self._sent.numpy().copy()


class Farspan(Library):
    """farspan: a session over gRPC, eager with replay, and compiled."""

    modes = ("eager", "compiled")

    def __init__(self, options: argparse.Namespace) -> None:
        import farspan

        if options.address == "local:":
            self.session = farspan.connect("local:")
        else:
            token = Path(options.token_file).read_text().strip()
            self.session = farspan.connect(
                options.address, token=token, durability=options.durability or None
            )
        super().__init__(farspan)

    def prepare(self, row: str, mode: str) -> None:
        super().prepare(row, mode)
        if mode == "compiled":
            self._step_of[mode] = self.lib.compile(self._step_of[mode])

    def settle(self, mode: str) -> float:
        """Wait for what compiles behind a compiled step; return seconds an eager one warms up."""
        if mode == "compiled" and mode in self._step_of:
            getattr(self._step_of[mode], "ready", lambda: None)()
        return 1.5 if self._step_of else 0.0

    def close(self) -> None:
        self.session.close()
