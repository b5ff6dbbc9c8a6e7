"""What a journal costs: training steps of sessions that survive their workers, beside others.

Two services of this machine run in turn, one with `--journal`, one with `--no-journal`; rows of
`vs_torch.py`. The last part kills the worker of a session of about 100 MB and tells how long the
next value takes.

    python benchmarks/journal.py [--rounds 7] [--seconds 6] [--rows mlp,cnn] [--no-ray]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import farspan
from vs_rows import BY_NAME, unwrapped

BAR = 1.05  # a step with a journal / without


@contextlib.contextmanager
def service(journal: str | None, ray: bool) -> Iterator[dict[str, Any]]:
    """Yield address and token file of a service with two workers and a spare."""
    command = [sys.executable, "-m", "farspan_server", "up", "--workers", "cpu:2", "--json"]
    command += ["--spares", "1", "--threads", "1"]
    command += [] if ray else ["--no-ray"]
    command += ["--no-journal"] if journal is None else ["--journal", journal]
    up = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        assert up.stdout is not None
        yield json.loads(up.stdout.readline())
    finally:
        up.terminate()
        up.wait(60)


def connect(ready: dict[str, Any]) -> Any:
    token = Path(ready["token_file"]).read_text().strip()
    return farspan.connect(ready["address"], token=token, timeout=60)


def ms_a_step(ready: dict[str, Any], name: str, compiled: bool, seconds: float) -> float:
    """Return the median ms of a step, of blocks that end in a read."""
    with connect(ready):
        farspan.manual_seed(0)
        work = BY_NAME[name].build(farspan, unwrapped, False)
        step = farspan.compile(work.step) if compiled else work.step
        work.read(work.run(step, 12))
        found = []
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            begun = time.perf_counter()
            work.read(work.run(step, 10))
            found.append((time.perf_counter() - begun) * 100)
        return statistics.fmean(found)  # snapshots are rare and must count


def seconds_to_recover(ready: dict[str, Any]) -> float:
    """Return the seconds from a worker's death to the next value of a session of 100 MB."""
    with connect(ready) as session:
        kept = [farspan.rand(2_500_000) for _ in range(10)]
        until = time.monotonic() + 5
        while time.monotonic() < until:  # long enough for a snapshot
            kept[0] = kept[0] * 1.0
            float(kept[0][0])
        os.kill(session.transport.devices[0]["pid"], signal.SIGKILL)
        begun = time.perf_counter()
        float(kept[9][5] + kept[0][5])
        return time.perf_counter() - begun


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rows", default="mlp,cnn,transformer256,tiny")
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ray = not options.no_ray
        plain = stack.enter_context(service(None, ray))
        kept = stack.enter_context(service(folder, ray))
        print(f"load {os.getloadavg()[0]:.1f}; a step with a journal / without, bar {BAR}")
        for name in options.rows.split(","):
            for compiled in (False, True):
                ratios, base = [], []
                for _ in range(options.rounds):
                    base.append(ms_a_step(plain, name, compiled, options.seconds))
                    with_journal = ms_a_step(kept, name, compiled, options.seconds)
                    ratios.append(with_journal / base[-1])
                kind = "compiled" if compiled else "eager"
                ratio, ms = statistics.median(ratios), statistics.median(base)
                print(f"{name:16}{kind:10}{ms:9.3f} ms {ratio:6.3f}  ({min(ratios):.2f}-"
                      f"{max(ratios):.2f})", flush=True)  # fmt: skip
        times = [seconds_to_recover(kept) for _ in range(options.rounds)]
        print(f"from a kill to the next value, 100 MB: median {statistics.median(times):.2f} s, "
              f"worst {max(times):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
