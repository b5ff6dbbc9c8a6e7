"""What sleeping sessions cost a gateway: its start, its memory and files, its time, their list.

    python benchmarks/sleeping.py [--sessions 10000] [--frames 20]

Makes a directory of journals as a gateway leaves them (each with some frames after its beginning),
starts a gateway of its own process on it, twice: the first start after all of them were written by
"another" one, then a restart. Printed for each: seconds from exec to the line that says it serves,
CPU seconds of that, resident memory and open files, the share of a core that it takes while nobody
does anything, and the seconds of `List` (at most 1,000 are told).
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from farspan import wire
from farspan.core.command import FREE, Frame
from farspan_server import status
from farspan_server.disk import RealDisk
from farspan_server.history import History
from farspan_server.live import about_session

TOKEN = "a-token-of-some-length-0123456789"


class Quick(RealDisk):
    """A disk whose syncs are left to the system: what is measured begins later."""

    def sync(self, path: Path) -> None:
        return

    def sync_directory(self, directory: Path) -> None:
        return


def make(directory: Path, sessions: int, frames: int) -> None:
    """Write the journals of so many sessions."""
    disk = Quick()
    said = [
        wire.encode_frame(
            Frame(0, sequence=k + 1, epoch=1, opcodes=[FREE] * 8, modes=[0] * 8, counts=[1] * 8,
                  ids=list(range(8)), statics=[()] * 8, scalar_counts=[0] * 8, numbers=[0] * 8)
        )
        for k in range(frames)
    ]  # fmt: skip
    for _ in range(sessions):
        name = secrets.token_hex(16)
        about = about_session("anna", ("cpu",), "durable", 60.0, 5)
        made = History.create(disk, directory / name, name, "", syncs=False, about=about)
        for k, data in enumerate(said):
            made.frame(k + 1, data)
        made.journal._dirty = False
        made.journal.sync()
        made.journal.close()


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process has taken."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(directory: Path, sessions: int) -> dict[str, float]:
    """Start a gateway on a directory, look at it, and end it."""
    environment = {**os.environ, "FARSPAN_TOKENS": f"anna:{TOKEN}"}
    begun = time.perf_counter()
    gateway = subprocess.Popen(
        [sys.executable, "-m", "farspan_server", "serve", "--port", "0", "--json",
         "--journal", str(directory)],
        stdout=subprocess.PIPE, env=environment, text=True,
    )  # fmt: skip
    try:
        assert gateway.stdout is not None
        line = gateway.stdout.readline()
        found = {"start_s": time.perf_counter() - begun, "start_cpu_s": cpu_s(gateway.pid)}
        address = json.loads(line)["address"]
        rss = int(Path(f"/proc/{gateway.pid}/statm").read_text().split()[1]) * 4096
        found["rss_mib"] = rss / 2**20
        found["files"] = len(os.listdir(f"/proc/{gateway.pid}/fd"))
        before, since = cpu_s(gateway.pid), time.perf_counter()
        time.sleep(5.0)
        found["idle_cores"] = (cpu_s(gateway.pid) - before) / (time.perf_counter() - since)
        took = []
        for _ in range(5):
            since = time.perf_counter()
            told = len(status.sessions(address, TOKEN))
            took.append(time.perf_counter() - since)
        assert told == min(1000, sessions), told
        found["list_s"] = statistics.median(took)
    finally:
        gateway.send_signal(signal.SIGTERM)
        since = time.perf_counter()
        gateway.wait(120)
    found["end_s"] = time.perf_counter() - since
    return found


def main() -> None:
    """Print a line a start."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--sessions", type=int, default=10_000)
    parser.add_argument("--frames", type=int, default=20)
    asked = parser.parse_args()
    for sessions in (0, asked.sessions):
        with tempfile.TemporaryDirectory(prefix="sleeping-") as folder:
            directory = Path(folder) / "journals"
            directory.mkdir(mode=0o700)
            make(directory, sessions, asked.frames)
            for turn in ("first", "again") if sessions else ("none",):
                row = measure(directory, sessions)
                text = "  ".join(f"{name} {value:.2f}" for name, value in row.items())
                print(f"{sessions} sessions, {turn}: {text}", flush=True)


if __name__ == "__main__":
    main()
