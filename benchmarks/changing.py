"""Steps whose numbers change: a loss with a weight that anneals, as one that stays.

Run it as ``python benchmarks/changing.py``; it prints milliseconds a step on `local:`, eager
without replay, replayed and compiled. A number that a program cannot take as an argument costs a
plan, or a trace, each step: then the second column is many times the first.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from typing import Any

import farspan
from farspan import nn, optim


def times(way: str, steps: int) -> list[float]:
    """Return seconds a step: with a weight that stays, and with one that changes."""
    with farspan.connect("local:", replay=way == "replay"):
        farspan.manual_seed(0)
        model = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 10))
        optimizer = optim.Adam(model.parameters(), lr=1e-3)
        x, y = farspan.randn(32, 64), farspan.randint(0, 10, (32,))

        def step(beta: float) -> Any:
            optimizer.zero_grad()
            out = model(x)
            loss = nn.functional.cross_entropy(out, y) + (out**2).mean() * beta
            loss.backward()
            optimizer.step()
            return loss

        run = farspan.compile(step) if way == "compile" else step
        found = []
        for growth in (0.0, 0.01):
            for _ in range(10):
                run(0.1).item()
            begun = time.perf_counter()
            for i in range(steps):
                run(0.1 + growth * i).item()
            found.append((time.perf_counter() - begun) / steps)
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    print(f"{'ms a step':>12}{'stays':>10}{'changes':>10}")
    for way in ("eager", "replay", "compile"):
        rounds = [times(way, options.steps) for _ in range(options.rounds)]
        stays, changes = (statistics.median(r[k] for r in rounds) * 1e3 for k in (0, 1))
        print(f"{way:>12}{stays:10.2f}{changes:10.2f}")


if __name__ == "__main__":
    main()
