"""What a session feels of a neighbour in the same worker process that floods it with work.

    python benchmarks/turns.py [--rounds 300]

A worker with one thread of frames serves two sessions of one tenant. Printed are a round trip
(`x[0].item()`) and a training step of a small net, median and p99 in ms, alone and beside a session
that sends as fast as it may: short commands, then long ones (5 ms). A command is never interrupted,
so a long one is waited for; all results are compared bit by bit.
"""

from __future__ import annotations

import argparse
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import farspan as torch
import numpy as np
from farspan import nn


def _trip(session: Any) -> Callable[[], bytes]:
    x = torch.ones(4)
    return lambda: np.float64(x[0].item()).tobytes()


def _step(session: Any) -> Callable[[], bytes]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 8))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    x = torch.randn(64, 64)

    def step() -> bytes:
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        optimizer.step()
        return np.float64(loss.item()).tobytes()

    return step


def _flood(address: str, token: str, size: int) -> None:
    """Send as fast as it may, until the process is ended; Python has a lock a process."""
    with torch.connect(address, token=token, replay=False):
        x = torch.randn(size, size)
        while True:
            y = x @ x
            for _ in range(64):
                y = (y * 0.5) if size < 64 else (y @ x) * 1e-3
            y[0, 0].item()


def measured(
    address: str, token: str, make: Callable[[Any], Callable[[], bytes]], rounds: int
) -> tuple[float, float, bytes]:
    """Return median and p99 in ms, and all results."""
    with torch.connect(address, token=token, replay=False) as session:
        work = make(session)
        first = [work() for _ in range(20)]
        times, results = [], first
        for _ in range(rounds):
            begun = time.perf_counter()
            results.append(work())
            times.append(time.perf_counter() - begun)
    low, high = np.quantile(times, [0.5, 0.99]) * 1e3
    return float(low), float(high), b"".join(results)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=300)
    parser.add_argument("--flood", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.flood:
        _flood(given.flood[0], given.flood[1], int(given.flood[2]))
    rounds = given.rounds
    command = ["up", "--no-ray", "--workers", "cpu:1", "--threads", "1", "--no-journal", "--json"]
    up = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", *command], stdout=subprocess.PIPE, text=True
    )
    assert up.stdout is not None
    ready = json.loads(up.stdout.readline())
    address, token = ready["address"], Path(ready["token_file"]).read_text().strip()
    try:
        for name, make in (("round trip", _trip), ("step", _step)):
            alone = measured(address, token, make, rounds)
            print(f"{name:11} {'alone':22} median {alone[0]:7.2f}  p99 {alone[1]:7.2f}")
            for kind, size in (("short commands", 8), ("commands of 5 ms", 400)):
                flood = ["--flood", address, token, str(size)]
                other = subprocess.Popen([sys.executable, __file__, *flood])
                time.sleep(2.0)
                beside = measured(address, token, make, rounds)
                other.kill()
                other.wait()
                assert beside[2] == alone[2], "other bits beside a neighbour"
                print(
                    f"{name:11} {'beside ' + kind:22} median {beside[0]:7.2f}  p99 "
                    f"{beside[1]:7.2f}   {beside[0] / alone[0]:.2f} and {beside[1] / alone[1]:.2f}"
                )
    finally:
        up.send_signal(signal.SIGTERM)
        up.wait(20)


if __name__ == "__main__":
    main()
