"""What an operator's measures cost and bring: scrapes, spares, drains.

    python benchmarks/operations.py [--rounds 5] [--only deaths]

Prints: the time of a scrape by the number of sessions; from a worker's death to the next value,
without and with a spare, and from the supervisor's with all workers, in turns; the longest step of
a training run while all workers are restarted, beside the longest without.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import farspan as torch
from farspan import nn


def scrapes() -> None:
    """Print the CPU time of a scrape with so many sessions."""
    import asyncio

    from farspan_server.config import GatewayConfig
    from farspan_server.live import OFF, Live, about_session
    from farspan_server.metrics import read
    from farspan_server.service import Service
    from farspan_server.session import Session
    from prometheus_client import generate_latest

    class Found:
        def __init__(self, service: Service) -> None:
            self.collect = lambda: read(service, [])

    async def measure(count: int) -> tuple[float, float, int]:
        service = Service(GatewayConfig(tokens={"t" * 16: "a"}, table_hash=""))
        for k in range(count):
            about = about_session(f"tenant-{k % 200}", ("cpu",), OFF, 0.0, 5)
            live = Live(Session(("cpu",), 60.0), about)
            service._sessions[live.id] = live
        on_loop, all_of_it = [], []
        for _ in range(9):  # CPU time: this machine has other work
            begun_s = time.process_time()
            read(service, [])
            on_loop.append(time.process_time() - begun_s)
            text = generate_latest(Found(service))
            all_of_it.append(time.process_time() - begun_s - on_loop[-1])
        return statistics.median(on_loop), statistics.median(all_of_it), len(text)

    for count in (0, 100, 1_000, 10_000):
        loop_s, all_s, size = asyncio.run(measure(count))
        print(
            f"scrape of {count:6} sessions: {1e3 * loop_s:6.2f} ms of the gateway's loop, "
            f"{1e3 * all_s:6.2f} ms in all, {size / 1024:.0f} KiB"
        )


class Up:
    """`farspan up` with a journal and an operator's port."""

    def __init__(self, *options: str) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="farspan-bench-")
        command = ["up", "--no-ray", "--threads", "1", "--metrics-port", "0", "--json"]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "farspan_server", *command, "--journal", self.folder.name,
             *options],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.ready = json.loads(self.process.stdout.readline())
        self.token = Path(self.ready["token_file"]).read_text().strip()

    def connect(self) -> Any:
        return torch.connect(self.ready["address"], token=self.token, timeout=60)

    def drain_all(self) -> None:
        from farspan_server import draining

        token = Path(self.ready["operator_token_file"]).read_text().strip()
        operator = draining.Operator(self.ready["metrics"], token)
        assert draining.drain(operator, "all", 60.0, lambda line: None)

    def close(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        self.folder.cleanup()


def recovery_s(spares: int, part: str) -> float:
    """Return the seconds from the death of a worker, or of the supervisor, to the next value."""
    up = Up("--workers", "cpu:1", "--spares", str(spares))
    try:
        with up.connect() as session:
            x = torch.rand(1000)
            expected = x.sum().item()
            begun_s = time.perf_counter()
            pids = {"worker": session.transport.devices[0]["pid"], **up.ready["pids"]}
            os.kill(pids[part], signal.SIGKILL)
            while is_alive(pids["worker"]):  # else it may answer in its last moment
                time.sleep(0.001)
            assert x.sum().item() == expected
            return time.perf_counter() - begun_s
    finally:
        up.close()


def is_alive(pid: int) -> bool:
    """Whether a process runs still; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def steps_s(up: Up, restart: bool) -> tuple[list[float], list[float]]:
    """Train; return the seconds of each step and the losses. restart: all workers meanwhile."""
    took, losses = [], []
    with up.connect():
        torch.manual_seed(0)
        net = nn.Sequential(nn.Linear(256, 1024), nn.ReLU(), nn.Dropout(0.1), nn.Linear(1024, 10))
        optimizer = torch.optim.Adam(net.parameters())
        drained = threading.Thread(target=up.drain_all)
        step = 0
        while step < 300 or drained.is_alive():
            if restart and step == 50:
                drained.start()
            begun_s = time.perf_counter()
            optimizer.zero_grad()
            loss = net(torch.randn(64, 256)).square().mean()
            loss.backward()
            optimizer.step()
            value = loss.item()
            took.append(time.perf_counter() - begun_s)
            losses += [value] if step < 300 else []
            step += 1
        if restart:
            drained.join()
    return took, losses


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=("deaths",))
    asked = parser.parse_args()
    rounds = asked.rounds
    if not asked.only:
        scrapes()
    taken: dict[tuple[int, str], list[float]]
    taken = {(0, "worker"): [], (1, "worker"): [], (1, "supervisor"): []}
    for _ in range(rounds):
        for spares, part in taken:
            taken[spares, part].append(recovery_s(spares, part))
    for (spares, part), seconds in taken.items():
        shown = (
            f"{statistics.median(seconds):.2f} s (median of {rounds}, at most {max(seconds):.2f})"
        )
        print(f"from the {part}'s death to the next value, {spares} spare(s): {shown}")
    if asked.only:
        return
    up = Up("--workers", "cpu:2", "--spares", "1")
    try:
        plain, expected = steps_s(up, False)
        under, losses = steps_s(up, True)
    finally:
        up.close()
    same = "the same bits" if losses == expected else "OTHER BITS"
    print(f"longest step: {max(plain):.2f} s; while all workers are restarted: {max(under):.2f} s")
    print(f"losses with and without the restart: {same}")


if __name__ == "__main__":
    main()
