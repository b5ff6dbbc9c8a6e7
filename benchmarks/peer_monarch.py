"""Monarch as a peer of `vs_peers.py`: its tensor engine, and an actor that holds torch objects.

Per op: torch's own operators on tensors of a mesh of one process; weights are made there by a
remote function. Bulk and whole steps go by endpoints of an actor, its way for a user's own code.
"""

from __future__ import annotations

import argparse
from itertools import pairwise
from typing import Any

import numpy as np
from peer_programs import SIZES, Refused, Shelf, Training, named, training

try:
    import torch
    from monarch import fetch_shard, remote
    from monarch.actor import Actor, endpoint, this_host
except ImportError as error:  # found out when the peer is asked for
    missing: ImportError | None = error
else:
    missing = None

    class Held(Actor):
        """A shelf behind endpoints."""

        def __init__(self) -> None:
            self._shelf = Shelf()

        @endpoint
        def put(self, name: str, array: np.ndarray) -> float:
            return self._shelf.put(name, array)

        @endpoint
        def fetch(self, name: str) -> np.ndarray:
            return self._shelf.fetch(name)

        @endpoint
        def build(self, row: str) -> None:
            self._shelf.build(row)

        @endpoint
        def step(self) -> float:
            return self._shelf.step()

    def start_of(row: str) -> list[torch.Tensor]:
        """Return x, y and the weights of the row's training; on the worker."""
        torch.set_num_threads(1)
        held = named(training(torch, row))
        held.pop("optimizer")
        return [tensor.detach() for tensor in held.values()]

    def shapes_of(row: str) -> list[torch.Tensor]:
        """Return tensors of the shapes that `start_of` returns."""
        widths, batch = SIZES[row]
        found = [torch.empty(batch, widths[0]), torch.empty(batch, dtype=torch.int64)]
        for a, b in pairwise(widths):
            found += [torch.empty(b, a), torch.empty(b)]
        return found


class Monarch:
    modes = ("per op", "whole step")

    def __init__(self, options: argparse.Namespace) -> None:
        if missing is not None:
            raise Refused("Monarch is not installed (pip install torchmonarch)")
        torch.set_num_threads(1)
        self._mesh = this_host().spawn_procs(per_host={"gpus": 1})
        self._actors = this_host().spawn_procs(per_host={"gpus": 1})
        self._held = self._actors.spawn("held", Held)
        with self._mesh.activate():
            self._a, self._b = torch.zeros(4, 4), torch.ones(4, 4)
        self._training: Any = None

    def _value(self, tensor: Any) -> float:
        return float(fetch_shard(tensor.detach()).result(timeout=120))

    def ops(self, mode: str, count: int) -> float:
        with self._mesh.activate():
            x, b = self._a, self._b
            for _ in range(count):
                x = x + b
            return self._value(x.sum())

    def read(self, mode: str, count: int) -> float:
        value = 0.0
        with self._mesh.activate():
            for _ in range(count):
                value = self._value((self._a + self._b).sum())
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        return self._held.put.call_one("bulk", array).get()

    def down(self, mode: str) -> np.ndarray:
        return self._held.fetch.call_one("bulk").get()

    def prepare(self, row: str, mode: str) -> None:
        if mode == "whole step":
            self._held.build.call_one(row).get()
            return
        with self._mesh.activate():
            make = remote("peer_monarch.start_of", propagate=shapes_of)
            x, y, *weights = make(row)
            layers = []
            for weight, bias in zip(weights[::2], weights[1::2], strict=True):
                with torch.device("meta"):
                    layer = torch.nn.Linear(weight.shape[1], weight.shape[0])
                layer.weight, layer.bias = torch.nn.Parameter(weight), torch.nn.Parameter(bias)
                layers.append(layer)
            parameters = [p for layer in layers for p in layer.parameters()]
            optimizer: Any = torch.optim.SGD(parameters, lr=0.01)
            if row == "mlp":
                optimizer = torch.optim.Adam(parameters, lr=1e-3, fused=True)
            self._training = Training(torch, layers, x, y, optimizer)

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        if mode == "whole step":
            return self._whole(count, each)
        with self._mesh.activate():
            for _ in range(count):
                loss = self._training.step()
                if each:
                    self._value(loss)
            return self._value(loss)

    def _whole(self, count: int, each: bool) -> float:
        """Return the last loss: messages of one caller keep their order, so that few wait."""
        for _ in range(count - 1):
            if each:
                self._held.step.call_one().get()
            else:
                self._held.step.broadcast()
        return self._held.step.call_one().get()

    def close(self) -> None:
        self._training = None
        self._actors.stop().get()
        self._mesh.stop().get()
