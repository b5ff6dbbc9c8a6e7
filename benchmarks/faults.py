"""What do page faults cost? tanh(x * a + b) * a + b, op by op: milliseconds of CPU, and faults.

torch, farspan on `local:` with malloc as it is in a user's process, and with malloc as a worker
sets it (`process.keep_freed_memory`). One thread; medians of alternating runs in fresh processes.

    PYTHONPATH=client:server:worker OMP_NUM_THREADS=1 python benchmarks/faults.py
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from typing import Any

KINDS = ("torch", "farspan", "farspan, as in a worker")
SIZES = (100_000, 1_000_000, 16_000_000)
RUNS, REGIONS = 3, 5
ELEMENTS = 8_000_000  # that a timed region goes through, at least


def measure(kind: str, count: int) -> dict[str, float]:
    """Return milliseconds of CPU and page faults of one chain, each a median."""
    session: Any = None
    lib: Any
    if kind == "torch":
        import torch as lib

        lib.set_num_threads(1)
    else:
        import farspan as lib
        from farspan_worker import process

        if kind != "farspan":
            process.keep_freed_memory()
        session = lib.connect("local:", replay=False)
    a, b, x = lib.full((count,), 0.9), lib.full((count,), 0.1), lib.full((count,), 0.5)
    repeats = max(1, ELEMENTS // count)
    found = []
    for _ in range(REGIONS + 1):
        before, begun = resource.getrusage(resource.RUSAGE_SELF), time.process_time()
        for _ in range(repeats):
            x = lib.tanh(x * a + b) * a + b
        if session is not None:
            session.synchronize()
        cpu = (time.process_time() - begun) / repeats * 1e3
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before.ru_minflt
        found.append((cpu, faults / repeats))
    cpu, faults = (statistics.median(column) for column in zip(*found[1:], strict=True))
    return {"cpu_ms": cpu, "faults": faults}


def main() -> None:
    if len(sys.argv) > 1:
        print(json.dumps(measure(sys.argv[1], int(sys.argv[2]))))
        return
    for count in SIZES:
        found: dict[str, list[dict[str, float]]] = {kind: [] for kind in KINDS}
        for _ in range(RUNS):
            for kind in KINDS:
                command = [sys.executable, __file__, kind, str(count)]
                answer = subprocess.run(command, check=True, capture_output=True, text=True)
                found[kind].append(json.loads(answer.stdout))
        print(f"{count:,} elements")
        for kind, each in found.items():
            cpu, faults = (statistics.median(f[k] for f in each) for k in ("cpu_ms", "faults"))
            print(f"  {kind:26}{cpu:9.2f} ms{faults:10.0f} faults")


if __name__ == "__main__":
    main()
