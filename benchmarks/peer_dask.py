"""dask.distributed as a peer of `vs_peers.py`: an actor that holds torch tensors and models.

Calls on an actor may overtake each other (each takes a connection of a pool), so that one that
needs the last is waited for; short ones run on the worker's event loop, as its documentation says.
"""

from __future__ import annotations

import argparse
import logging
from typing import Any

import numpy as np
from peer_programs import Refused, Shelf, calls


class Dask:
    modes = ("per op", "whole step")

    def __init__(self, options: argparse.Namespace) -> None:
        try:
            from dask.distributed import Client, LocalCluster
        except ImportError as error:
            raise Refused("dask is not installed (pip install distributed)") from error
        self._cluster = LocalCluster(
            n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None,
            silence_logs=logging.ERROR,
        )  # fmt: skip
        self._client = Client(self._cluster, direct_to_workers=True)
        self._shelf = self._client.submit(Shelf, actor=True).result()
        for name, value in (("a", 0.0), ("b", 1.0)):
            self._shelf.put(name, np.full((4, 4), value, np.float32)).result()

    def _apply(self, function: str, out: str, names: tuple[str, ...]) -> None:
        self._shelf.apply(function, out, names, separate_thread=False).result()

    def ops(self, mode: str, count: int) -> float:
        if count:
            self._apply("add", "c", ("a", "b"))
        for _ in range(count - 1):
            self._apply("add", "c", ("c", "b"))
        return self._shelf.total("c", separate_thread=False).result()

    def read(self, mode: str, count: int) -> float:
        value = 0.0
        for _ in range(count):
            value = self._shelf.added("a", "b", separate_thread=False).result()
        return value

    def up(self, mode: str, array: np.ndarray) -> float:
        return self._shelf.put("bulk", array).result()

    def down(self, mode: str) -> np.ndarray:
        return self._shelf.fetch("bulk").result()

    def prepare(self, row: str, mode: str) -> None:
        self._shelf.build(row).result()

    def steps(self, row: str, mode: str, count: int, each: bool) -> float:
        loss: Any = 0.0
        program = calls(row)
        for _ in range(count):
            if mode == "whole step":
                loss = self._shelf.step(separate_thread=False).result()
                continue
            for function, out, names in program:
                self._apply(function, out, names)
            if each:
                loss = self._shelf.total("loss", separate_thread=False).result()
        if mode == "whole step" or each:
            return loss
        return self._shelf.total("loss", separate_thread=False).result()

    def close(self) -> None:
        self._client.close()
        self._cluster.close()
