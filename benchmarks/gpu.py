"""The GPU backend beside torch's CUDA on one machine: first the laws, then a table. Needs no Ray.

The laws are tests/test_gpu.py over cupy itself; figures are printed only if they hold. Sides take
turns, each region ends in a read that depends on all of it, and a ratio is the median over rounds.

    python benchmarks/gpu.py [--rows mlp,cnn] [--rounds 7] [--no-laws]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from vs_rows import BY_NAME, ROWS, Row, Work, unwrapped

HERE = Path(__file__).resolve().parent
REGION_S = 0.3  # how long one timed region is, about


def no_gpu() -> str:
    """Return why there is nothing to measure here; "" if there is a GPU that cupy can use."""
    from farspan.core.errors import UnsupportedError
    from farspan_worker.engine import Engine

    try:
        Engine("cuda:0").close()
    except UnsupportedError as e:
        return str(e)
    return ""


def laws() -> bool:
    """Run the table, training and copies on the GPU against the CPU; return whether all hold."""
    tests = HERE.parent / "tests" / "test_gpu.py"
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", str(tests), "-k", "not could_not"]
    return subprocess.run(command, env=os.environ | {"FARSPAN_TEST_GPU": "1"}).returncode == 0


def cuda_torch() -> Any:
    """Return torch if it has CUDA here, else None."""
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            torch.set_default_device("cuda")
            return torch
    return None


def seconds(work: Work, count: int) -> float:
    """Return what one step takes, of `count` steps and one read."""
    start = time.perf_counter()
    work.read(work.run(work.step, count))
    return (time.perf_counter() - start) / count


def measure(row: Row, sides: dict[str, Any], rounds: int) -> dict[str, list[float]]:
    """Return seconds a step by side, one for each round; sides take turns."""
    works = {}
    for name, lib in sides.items():
        lib.manual_seed(0)
        works[name] = row.build(lib, unwrapped, False)
        seconds(works[name], 2)  # compiles kernels
    count = max(1, int(REGION_S / max(seconds(w, 3) for w in works.values())))
    found: dict[str, list[float]] = {name: [] for name in works}
    for k in range(rounds):
        for name in list(works)[:: 1 if k % 2 else -1]:
            found[name].append(seconds(works[name], count))
    return found


def report(row: Row, found: dict[str, list[float]]) -> None:
    ours = statistics.median(found["farspan"])
    line = f"{row.title:44} farspan {ours * 1e3:9.3f} ms"
    if "torch" in found:
        pairs = zip(found["farspan"], found["torch"], strict=True)
        ratio = statistics.median(a / b for a, b in pairs)
        line += f"   torch {statistics.median(found['torch']) * 1e3:9.3f} ms   ratio {ratio:.2f}"
    print(line, flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default=",".join(r.name for r in ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-laws", action="store_true", help="figures alone, as they may be")
    args = parser.parse_args()
    why = no_gpu()
    if why:
        print(f"no GPU to measure: {why}", file=sys.stderr)
        return 2
    if not args.no_laws and not laws():
        print("the laws do not hold on this GPU; no figures", file=sys.stderr)
        return 1
    import farspan

    torch = cuda_torch()
    with farspan.connect("local:", devices="cuda:1") as session:
        farspan.set_default_device("cuda:0")
        sides: dict[str, Any] = {"farspan": farspan} | ({"torch": torch} if torch else {})
        print(f"{platform.node()} {time.strftime('%Y-%m-%d')} {gpu_name()}")
        for name in args.rows.split(","):
            report(BY_NAME[name], measure(BY_NAME[name], sides, args.rounds))
        stats = session.transport.worker_stats()[-1]
        print(f"ops on the host: {stats['hosted']}; refused by cupy: {stats['fallbacks']}")
    return 0


def gpu_name() -> str:
    import cupy

    return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())


if __name__ == "__main__":
    sys.exit(main())
