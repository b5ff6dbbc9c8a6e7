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
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import farspan
import numpy as np
from vs_rows import BY_NAME, unwrapped

BAR = 1.05  # a step with a journal / without
FROZEN_BYTES = 256 * 10**6


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
        yield json.loads(up.stdout.readline()) | {"pid": up.pid, "journal": journal}
    finally:
        up.terminate()
        up.wait(60)


def connect(ready: dict[str, Any]) -> Any:
    token = Path(ready["token_file"]).read_text().strip()
    return farspan.connect(ready["address"], token=token, timeout=60)


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of this process and of another with all that it has started."""
    total, found, tick = time.process_time(), [pid], os.sysconf("SC_CLK_TCK")
    parents: dict[int, list[int]] = {}
    for each in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parent = (each / "stat").read_text().rsplit(")", 1)[1].split()[1]
            parents.setdefault(int(parent), []).append(int(each.name))
    while found:
        one = found.pop()
        found += parents.get(one, [])
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{one}/stat").read_text().rsplit(")", 1)[1].split()
            total += (int(fields[11]) + int(fields[12])) / tick
    return total


def small_step(frozen_bytes: int) -> Callable[[], Any]:
    """Return a training step that brings 72 KiB, or one beside so much that is frozen."""
    data = np.random.default_rng(0)
    net = farspan.nn.Sequential(
        farspan.nn.Linear(288, 128), farspan.nn.ReLU(), farspan.nn.Linear(128, 10)
    )
    optimizer = farspan.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    y = farspan.arange(64) % 10
    frozen = farspan.rand(frozen_bytes // 4 + 1)
    fixed = farspan.rand(64, 288)

    def step() -> Any:
        x = fixed if frozen_bytes else farspan.from_numpy(data.random((64, 288), np.float32))
        optimizer.zero_grad()
        loss = farspan.nn.functional.cross_entropy(net(x) + frozen[:1].sum(), y)
        loss.backward()
        optimizer.step()
        return loss

    return step


def runner(name: str, compiled: bool) -> Callable[[int], object]:
    """Return what runs so many steps of a row and reads what comes of them."""
    if name in ("uploads", "frozen"):
        step = small_step(FROZEN_BYTES if name == "frozen" else 0)
        return lambda count: [step() for _ in range(count)][-1].item()
    work = BY_NAME[name].build(farspan, unwrapped, False)
    step = farspan.compile(work.step) if compiled else work.step
    return lambda count: work.read(work.run(step, count))


def ms_a_step(ready: dict[str, Any], name: str, compiled: bool, seconds: float) -> list[float]:
    """Return the mean ms of a step, wall and CPU, of blocks that end in a read."""
    with connect(ready):
        farspan.manual_seed(0)
        run = runner(name, compiled)
        run(12)
        if name == "frozen" and ready["journal"]:  # once in a snapshot, it should cost nothing
            until = time.monotonic() + 60
            while not in_snapshot(ready, FROZEN_BYTES) and time.monotonic() < until:
                run(10)
        steps, cpu, begun = 0, cpu_s(ready["pid"]), time.perf_counter()
        while time.perf_counter() < begun + seconds:
            run(10)
            steps += 10  # a mean: snapshots are rare and must count
        wall = time.perf_counter() - begun
        return [wall / steps * 1e3, (cpu_s(ready["pid"]) - cpu) / steps * 1e3]


def in_snapshot(ready: dict[str, Any], least: int) -> bool:
    """Whether a snapshot with so many bytes is all that a session needs."""
    sizes = {}
    for path in Path(ready["journal"]).glob("*/*"):
        with contextlib.suppress(OSError):
            sizes[path.name] = path.stat().st_size
    segments = [name for name in sizes if name.endswith(".journal")]
    whole = sum(size for name, size in sizes.items() if name.startswith("snapshot")) > least
    return whole and len(segments) == 1 and int(segments[0].partition(".")[0]) > 1


def seconds_to_recover(ready: dict[str, Any], nbytes: int) -> tuple[float, float]:
    """Return wall and CPU seconds from a worker's death to the next value of a session."""
    with connect(ready) as session:
        kept = [farspan.rand(nbytes // 40) for _ in range(10)]
        float(kept[9][5])
        until = time.monotonic() + 120
        while not in_snapshot(ready, nbytes) and time.monotonic() < until:
            kept[0][:10].mul_(1.0)
            float(kept[0][0])
            time.sleep(0.01)
        cpu = cpu_s(ready["pid"])
        os.kill(session.transport.devices[0]["pid"], signal.SIGKILL)
        begun = time.perf_counter()
        float(kept[9][5] + kept[0][5])
        return time.perf_counter() - begun, cpu_s(ready["pid"]) - cpu


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=6.0, help="of each measurement")
    parser.add_argument("--rows", default="mlp,cnn,transformer256,tiny,uploads,frozen")
    parser.add_argument("--recover", default="100,1000", help="sizes in MB")
    parser.add_argument("--no-ray", action="store_true")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        ray = not options.no_ray
        plain = stack.enter_context(service(None, ray))
        kept = stack.enter_context(service(folder, ray))
        print(f"load {os.getloadavg()[0]:.1f}; a step with a journal / without, bar {BAR}")
        for name in options.rows.split(","):
            for compiled in (False,) if name in ("uploads", "frozen") else (False, True):
                walls, cpus, base = [], [], []
                for _ in range(options.rounds):
                    base.append(ms_a_step(plain, name, compiled, options.seconds))
                    found = ms_a_step(kept, name, compiled, options.seconds)
                    walls.append(found[0] / base[-1][0])
                    cpus.append(found[1] / base[-1][1])
                kind = "compiled" if compiled else "eager"
                ms = statistics.median(each[0] for each in base)
                print(f"{name:16}{kind:10}{ms:9.3f} ms {statistics.median(walls):6.3f}  "
                      f"({min(walls):.2f}-{max(walls):.2f})   CPU {statistics.median(cpus):.3f}",
                      flush=True)  # fmt: skip
        for size in map(int, options.recover.split(",")):
            times = [seconds_to_recover(kept, size * 10**6) for _ in range(options.rounds)]
            wall, cpu = zip(*times, strict=True)
            print(f"from a kill to the next value, {size} MB: median {statistics.median(wall):.2f} "
                  f"s, worst {max(wall):.2f} s; CPU {statistics.median(cpu):.2f} s")  # fmt: skip


if __name__ == "__main__":
    main()
