"""One system of `vs_peers.py`, in a process of its own: it answers JSON lines on its stdin.

`prepare` makes a row ready and says what it computes; `run` times it. Every timed region ends in a
read that depends on all that was asked in it. What the system needs it starts, and ends.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from peer_programs import MIB, Refused, bulk

#: name: module and class.
PEERS = {
    "torch": ("peer_local", "Torch"),
    "farspan": ("peer_local", "Farspan"),
    "farspan-off": ("peer_local", "Farspan"),
    "rpc": ("peer_rpc", "Rpc"),
    "ray": ("peer_ray", "Ray"),
    "dask": ("peer_dask", "Dask"),
    "monarch": ("peer_monarch", "Monarch"),
    "tf": ("peer_tf", "Tf"),
}
#: Rows that are asked of the first mode only: they have no step.
PLAIN = ("ops", "read", "up", "down")
LOSSES = 8  # of the first steps, compared between systems
COUNT_MAX = 40_000


class Loop:
    """Runs one system's rows when asked."""

    def __init__(self, peer: Any, smoke: bool) -> None:
        self.peer = peer
        self._array = bulk(1 if smoke else 64)
        #: A region's length; how long a row is warmed up, where nothing compiles behind.
        self._region_s, self._warm_s = (0.0, 0.0) if smoke else (0.15, 0.3)
        self._least = 1 if smoke else 4

    def prepare(self, row: str, mode: str) -> dict[str, Any]:
        """Return what the row computes, and how often it is to run in a region of usual length."""
        program = row.partition("-")[0]
        found = self._first(program, row, mode)
        settle = getattr(self.peer, "settle", lambda mode: 0.0)
        warm_s = self._warm_s and max(self._warm_s, settle(mode))
        begun, count = time.perf_counter(), 1
        while True:
            took = self.run(row, mode, count)["wall_s"]
            warm = time.perf_counter() - begun >= warm_s
            enough = took * count >= self._region_s / 4 or count == COUNT_MAX
            if (warm and enough) or row in ("up", "down"):
                break
            count = min(COUNT_MAX, max(count * 2, int(self._region_s / 3 / took)))
            if not warm_s:
                break
        count = int(self._region_s / took)
        most = 1 if row in ("up", "down") else COUNT_MAX
        return {"first": found, "count": max(min(count, most), min(self._least, most))}

    def _first(self, program: str, row: str, mode: str) -> list[float]:
        """Return numbers that all systems must agree on."""
        if row == "ops":
            return [self.peer.ops(mode, n) for n in (1, 10)]
        if row == "read":
            return [self.peer.read(mode, 1)]
        if row == "up":
            return [self.peer.up(mode, self._array)]
        if row == "down":
            self.peer.up(mode, self._array)
            back = self.peer.down(mode)
            if not np.array_equal(back, self._array):
                raise RuntimeError("what came back is not what was sent")
            return [float(back[-1])]
        self.peer.prepare(program, mode)
        return [self.peer.steps(program, mode, 1, True) for _ in range(LOSSES)]

    def run(self, row: str, mode: str, count: int) -> dict[str, Any]:
        """Return seconds for one of `count`, and the number that was read at the end."""
        program, _, each = row.partition("-")
        begun = time.perf_counter()
        if row in ("ops", "read"):
            value = getattr(self.peer, row)(mode, count)
        elif row == "up":
            value = self.peer.up(mode, self._array)
        elif row == "down":
            value = float(self.peer.down(mode)[-1])
        else:
            value = self.peer.steps(program, mode, count, bool(each))
        wall = time.perf_counter() - begun
        expected = {"ops": 16.0 * count, "read": 16.0}.get(
            row, float(self._array[-1]) if row in ("up", "down") else value
        )
        if value != expected or not np.isfinite(value):
            raise RuntimeError(f"{row} ended with {value}, not {expected}")
        return {"wall_s": wall / count, "value": value}

    def memcpy(self) -> dict[str, Any]:
        """Return seconds to copy the bytes of `up` in this process."""
        begun = time.perf_counter()
        copied = self._array.copy()
        wall = time.perf_counter() - begun
        return {"wall_s": wall, "value": float(copied[-1]), "mib": self._array.nbytes / MIB}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--peer", choices=PEERS, required=True)
    parser.add_argument("--address")
    parser.add_argument("--token-file")
    parser.add_argument("--durability", default="")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    warnings.simplefilter("ignore")

    def answer(ask: Callable[[], Any]) -> Any:
        try:
            reply = ask()
            print(json.dumps(reply if isinstance(reply, dict) else {}), file=out)
            return reply
        except Exception as error:  # the parent shows it in the row and goes on
            text = f"{type(error).__name__}: {error}" if not isinstance(error, Refused) else error
            print(json.dumps({"error": str(text)[:500]}), file=out)
            return None

    def start() -> Any:
        module, name = PEERS[options.peer]
        return getattr(importlib.import_module(module), name)(options)

    peer: Any = None

    def started() -> dict[str, Any]:
        nonlocal peer
        peer = start()
        return {"modes": list(peer.modes)}

    if answer(started) is None:
        return
    loop = Loop(peer, options.smoke)
    try:
        for line in sys.stdin:
            asked = json.loads(line)
            name = asked.pop("do")
            answer(lambda name=name, asked=asked: getattr(loop, name)(**asked))
    finally:
        peer.close()


if __name__ == "__main__":
    main()
