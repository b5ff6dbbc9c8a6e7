"""How long are the first calls of a compiled step in a journalled session, and how fast the later?

Each measurement has a service of its own, whose worker has compiled nothing: with
FARSPAN_LOOPS=wait loops are compiled before a plan first runs, else behind, while plain kernels
run. Medians of wall time: of the first call (traced), of the second (traced again), of the longest
of the others until loops run (one of them plans), and of those after that.

    python benchmarks/first_calls.py [--rows mlp,transformer256] [--rounds 3] [--warm]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

STEADY_CALLS = 40
CALLS_MAX = 2_000  # until loops run
WAYS = ("wait", "behind")


def measured(row: str, way: str, cache: str) -> tuple[list[float], list[float]]:
    """Return the ms of calls until the step runs by loops, and of those after."""
    env = os.environ | {"FARSPAN_CACHE": cache}
    env.pop("FARSPAN_LOOPS", None)
    env |= {"FARSPAN_LOOPS": "wait"} if way == "wait" else {}
    with tempfile.TemporaryDirectory() as journal:
        command = [sys.executable, "-m", "farspan_server", "up", "--workers", "cpu:1", "--no-ray"]
        command += ["--threads", "1", "--json", "--journal", journal]
        up = subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        try:
            assert up.stdout is not None
            ready = json.loads(up.stdout.readline())
            ours = [sys.executable, __file__, "--of", row]
            address = {"FARSPAN_ADDRESS": ready["address"]}
            token = {"FARSPAN_TOKEN": Path(ready["token_file"]).read_text().strip()}
            done = subprocess.run(ours, env=env | address | token, check=True, capture_output=True)
            first, after = json.loads(done.stdout)
            return first, after
        finally:
            up.terminate()
            up.wait(60)


def client(row: str) -> None:
    """Print ms of each call of a row's compiled step: until it runs by loops, and after."""
    import farspan
    import vs_rows

    session = farspan.connect(os.environ["FARSPAN_ADDRESS"], token=os.environ["FARSPAN_TOKEN"])
    work = vs_rows.BY_NAME[row].build(farspan, vs_rows.unwrapped, False)
    step = farspan.compile(work.step)

    def call() -> float:
        begun = time.perf_counter()
        work.read(work.run(step, 1))
        return 1e3 * (time.perf_counter() - begun)

    def by_loops() -> bool:
        return "'used': True" in step.explain(show=False)

    first = [call(), call(), call()]
    while not by_loops() and len(first) < CALLS_MAX:
        first.append(call())
    print(json.dumps([first, [call() for _ in range(STEADY_CALLS)]]))
    session.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="mlp,transformer256")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm", action="store_true", help="with loops on disk")
    parser.add_argument("--of", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.of:
        client(options.of)
        return
    for row in options.rows.split(","):
        found: dict[str, list[tuple[list[float], list[float]]]] = {way: [] for way in WAYS}
        with tempfile.TemporaryDirectory() as folder:
            cache = folder if options.warm else "off"
            if options.warm:
                measured(row, "wait", cache)
            for _ in range(options.rounds):
                for way in WAYS:
                    found[way].append(measured(row, way, cache))
        for way in WAYS:
            calls = [calls for calls, _ in found[way]]
            one, two = (statistics.median(each[k] for each in calls) for k in (0, 1))
            longest = statistics.median(max(each[2:]) for each in calls)
            steady = statistics.median(statistics.median(calls) for _, calls in found[way])
            until = statistics.median(len(calls) for calls, _ in found[way])
            print(
                f"{row:16} {way:8} calls 1 / 2: {one:7.1f} / {two:7.1f} ms, longest from 3 to "
                f"{until:.0f}: {longest:7.1f} ms, steady {steady:7.2f} ms, "
                f"load {os.getloadavg()[0]:.0f}", flush=True,
            )  # fmt: skip


if __name__ == "__main__":
    main()
