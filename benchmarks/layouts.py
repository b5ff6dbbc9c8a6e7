"""What do oneDNN's layouts save of a CNN's training step? The same exact plan with and without.

Milliseconds of the thread's CPU, medians of alternating rounds, beside torch with its fused Adam.

    PYTHONPATH=client:server:worker:tests OMP_NUM_THREADS=1 python benchmarks/layouts.py
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import farspan
import torch as reference
from farspan_worker.programs import passes
from program_bodies import beside, record, session
from vs_rows import BY_NAME, unwrapped

_ROUNDS, _REPEATS = 7, 5


def training_step(torch: Any) -> Callable[[], Any]:
    """Return the step of conv32-pool-conv64-pool-fc128-10 on 64 images of 28 x 28, once run."""
    step = BY_NAME["cnn"].build(torch, unwrapped, False).step
    step()
    return step


def milliseconds(call: Callable[[], Any]) -> float:
    begun = time.thread_time()
    for _ in range(_REPEATS):
        call()
    return (time.thread_time() - begun) / _REPEATS * 1e3


def main() -> None:
    reference.set_num_threads(1)
    with session() as s:
        s.replay = False
        recorded = record(training_step(farspan), s)
    with_layouts = beside(recorded, 2)
    passes.bind_primitives = lambda graph: None
    without = beside(recorded, 2)
    mine, theirs, scalars = recorded.fresh(), recorded.fresh(), recorded.body.scalars
    calls = {
        "layouts": lambda: with_layouts.run(mine, scalars),
        "plain": lambda: without.run(theirs, scalars),
        "torch": training_step(reference),
    }
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(_ROUNDS):
        for name, call in calls.items():
            times[name].append(milliseconds(call))
    for name, found in times.items():
        print(f"{name:8}{statistics.median(found):8.2f} ms")


if __name__ == "__main__":
    main()
