"""Ray as a peer of `vs_peers.py`: an actor that holds torch tensors and models.

The actor keeps tensors by name, so that no result passes through the object store, and calls of one
caller run in order, so that they need no wait. Bulk goes through the store's shared memory.
"""

from __future__ import annotations

import argparse
import logging

import numpy as np
from peer_programs import Refused, Shelf, calls


class Ray:
    modes = ("per op", "whole step")

    def __init__(self, options: argparse.Namespace) -> None:
        try:
            import ray
        except ImportError as error:
            raise Refused("ray is not installed (pip install ray)") from error
        self._ray = ray
        ray.init(
            "local", num_cpus=2, include_dashboard=False, object_store_memory=512 << 20,
            log_to_driver=False, logging_level=logging.ERROR,
        )  # fmt: skip
        self._shelf = ray.remote(num_cpus=1)(Shelf).remote()
        #: A call whose result nobody reads needs no place in the object store.
        self._apply = self._shelf.apply.options(num_returns=0)
        for name, value in (("a", 0.0), ("b", 1.0)):
            self._get(self._shelf.put.remote(name, np.full((4, 4), value, np.float32)))

    def _get(self, reference: object) -> object:
        return self._ray.get(reference, timeout=120)

    def ops(self, mode: str, count: int) -> float:
        apply = self._apply
        if count:
            apply.remote("add", "c", ("a", "b"))
        for _ in range(count - 1):
            apply.remote("add", "c", ("c", "b"))
        return self._get(self._shelf.total.remote("c"))

    def read(self, mode: str, count: int) -> float:
        value = 0.0
        for _ in range(count):
            value = self._get(self._shelf.added.remote("a", "b"))
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        return self._get(self._shelf.put.remote("bulk", self._ray.put(array)))

    def down(self, mode: str) -> np.ndarray:
        """Return a view of the store's shared memory."""
        return self._get(self._shelf.fetch.remote("bulk"))

    def prepare(self, row: str, mode: str) -> None:
        self._get(self._shelf.build.remote(row))

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        loss = 0.0
        if mode == "whole step":
            reference = None
            for _ in range(count):
                reference = self._shelf.step.remote()
                if each:
                    loss = self._get(reference)
            return loss if each else self._get(reference)
        program, apply = calls(row), self._apply
        for _ in range(count):
            for function, out, names in program:
                apply.remote(function, out, names)
            if each:
                loss = self._get(self._shelf.total.remote("loss"))
        return loss if each else self._get(self._shelf.total.remote("loss"))

    def close(self) -> None:
        self._ray.shutdown()
