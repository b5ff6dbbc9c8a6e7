"""What does a read-back cost, in time, CPU time and changes of threads of each process?

Runs this checkout and any others in turn, each with its own gateway and worker, beside a bare gRPC
ping. CPU time and changes come from /proc (Linux).

    python benchmarks/readback.py [--rounds 13] [--count 150] [--journal] [OTHER_CHECKOUT ...]
"""

from __future__ import annotations

import argparse
import contextlib
import glob
import json
import os
import resource
import secrets
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("bare client", "bare server", "client", "gateway", "worker")


# ------------------------------------------------------- one checkout, in a process of its own --
def serve_one(journal: bool) -> None:
    """Print a line of measurements for each count read from stdin, until it ends.

    journal: of a durable session; else nothing of it is kept.
    """
    import farspan
    import overhead

    with tempfile.TemporaryDirectory() as directory:
        key, token = Path(directory, "key"), Path(directory, "token")
        for file in (key, token):
            file.touch(mode=0o600)
            file.write_text(secrets.token_hex(32))
        listen = ("--listen", f"unix:{directory}/worker.sock", "--key-file", str(key))
        worker, address = start("farspan_worker", *listen, "--threads", "1")
        static = ("--token-file", str(token), "--worker", f"{address}={key}")
        kept = ("--journal", f"{directory}/journal") if journal else ()
        gateway, address = start("farspan_server", "serve", *static, *kept)
        bare = overhead.BareStream()
        pids = (bare.process.pid, gateway.pid, worker.pid)
        try:
            with farspan.connect(address, token=token.read_text()):
                x = farspan.ones(1)
                overhead.read_back(x, x, 200)
                for line in sys.stdin:
                    print(json.dumps(measure(overhead, bare, x, int(line), pids)), flush=True)
        finally:
            bare.close()
            for process in (gateway, worker):
                process.terminate()
                process.wait(30)


def start(*command: str) -> tuple[subprocess.Popen[str], str]:
    """Return a process that serves, and where."""
    arguments = [sys.executable, "-m", *command, "--json"]
    process = subprocess.Popen(
        arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    return process, json.loads(process.stdout.readline())["address"]


def measure(overhead: Any, bare: Any, x: Any, count: int, pids: tuple[int, ...]) -> dict[str, Any]:
    """Return us of a ping and of a read; for each, [CPU us, changes of threads] of its parts."""
    before = [own(), *map(spent, pids)]
    ping = bare.ping(count)
    between = [own(), *map(spent, pids)]
    read = overhead.read_back(x, x, count)
    after = [own(), *map(spent, pids)]
    pairs = [(before[k], between[k]) for k in (0, 1)] + [(between[k], after[k]) for k in (0, 2, 3)]
    parts = {
        name: [(b[0] - a[0]) / count / 1e3, (b[1] - a[1]) / count]
        for name, (a, b) in zip(PARTS, pairs, strict=True)
    }
    return {"ping": ping * 1e6, "read": read * 1e6, "ratio": read / ping, **parts}


def own() -> tuple[int, int]:
    """Return this process's CPU time in ns and how often a thread of it ceased to run."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.process_time_ns(), usage.ru_nvcsw + usage.ru_nivcsw


def spent(pid: int) -> tuple[int, int]:
    """Return CPU time in ns of the threads of a process, and how often they have run."""
    ns = runs = 0
    for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
        with contextlib.suppress(OSError):  # a thread that has ended
            fields = Path(path).read_text().split()
            ns, runs = ns + int(fields[0]), runs + int(fields[2])
    return ns, runs


# ------------------------------------------------------------------------- all of them in turn --
def client_of(root: Path, journal: bool) -> subprocess.Popen[str]:
    """Return a process that measures a checkout by its own code."""
    path = os.pathsep.join(
        str(root / part) for part in ("client", "server", "worker", "benchmarks")
    )
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, __file__, "--one", *(["--journal"] if journal else [])]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True, env=environment)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("others", nargs="*", type=Path, help="other checkouts to compare with")
    parser.add_argument("--rounds", type=int, default=13)
    parser.add_argument("--count", type=int, default=150, help="reads and pings a round")
    parser.add_argument("--journal", action="store_true", help="reads of a durable session")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one:
        serve_one(options.journal)
        return
    clients = {root: client_of(root, options.journal) for root in (*options.others, ROOT)}
    rows: dict[Path, list[dict[str, Any]]] = {root: [] for root in clients}
    for _ in range(options.rounds):
        for root, client in clients.items():
            assert client.stdin is not None and client.stdout is not None
            client.stdin.write(f"{options.count}\n")
            client.stdin.flush()
            rows[root].append(json.loads(client.stdout.readline()))
    for root, client in clients.items():
        client.communicate(timeout=90)
        middle = {k: statistics.median(row[k] for row in rows[root]) for k in ("ping", "read")}
        ratios = sorted(row["ratio"] for row in rows[root])
        print(f"{root}: ping {middle['ping']:.0f} us, read {middle['read']:.0f} us, ratio ", end="")
        print(f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})")
        for part in PARTS:
            cpu, runs = (statistics.median(row[part][k] for row in rows[root]) for k in (0, 1))
            print(f"  {part:12s} {cpu:6.0f} us of CPU, {runs:4.1f} changes of threads")
    print(f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
