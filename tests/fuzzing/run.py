"""Watches the processes that run hostile sessions: one that crashes or hangs is a finding.

    PYTHONPATH=client:server:worker:tests python -m fuzzing.run --inputs 5000 --seed 1
    PYTHONPATH=client:server:worker:tests python -m fuzzing.run --repeat 1:17

`--repeat SEED:SESSION` runs one session again and prints every frame that it sends.
"""

from __future__ import annotations

import argparse
import collections
import ctypes.util
import dataclasses
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any

from fuzzing.child import INPUTS_PER_SESSION, PROGRESS

# Without a new input for so long the process is ended; it tells itself of a second's work. Time of
# the processor is what it has worked, however busy the machine; the clock finds one that sleeps.
STUCK_CPU_S = 6.0
STUCK_WALL_S = 180.0
BEGIN = 6  # times as long until the first input
FINDINGS_MAX = 200  # then a run gives up


@dataclasses.dataclass
class Report:
    """What a run came to."""

    seed: str
    counts: collections.Counter[str] = dataclasses.field(default_factory=collections.Counter)
    findings: list[dict[str, Any]] = dataclasses.field(default_factory=list)
    rss: list[list[list[int]]] = dataclasses.field(default_factory=list)  # of each process
    slowest: list[list[Any]] = dataclasses.field(default_factory=list)
    cpu_s: float = 0.0

    @property
    def growth_bytes(self) -> int:
        """How much larger a process was in the last quarter of its run than in the second.

        Of several the most; of one that ran too little to tell nothing is said.
        """
        return max(map(_growth, self.rss), default=0)

    def lines(self) -> list[str]:
        """Return the figures as text."""
        c = self.counts
        inputs = max(1, c["inputs"])
        kernels = {k: n for k, n in c.items() if k.startswith("kernel: ")}
        lines = [
            f"seed {self.seed}: {c['inputs']} inputs in {self.cpu_s:.0f} s of processor time; "
            f"{100 * c['decoded'] / inputs:.0f} % pass the frame decoder",
            f"ran {c['ran']}, with failed commands {c['failed']}, refused by the engine "
            f"{c['refused by the engine']}, by the decoder {c['inputs'] - c['decoded']}",
            f"resident memory: {self.growth_bytes / 2**20:+.1f} MiB from the second quarter of "
            f"the run to the last; slowest inputs (s) {self.slowest[:3]}",
            f"kernels raised what is not ours: {sum(kernels.values())} of {len(kernels)} kinds",
            f"findings: {len(self.findings)}",
        ]
        for f in self.findings[:20]:
            where = f"{self.seed}:{f['session']}"
            lines.append(f"  {f['finding']} at input {f['input']} of --repeat {where}")
            told = str(f["detail"]).splitlines()
            died = "stuck" in f["finding"] or "crash" in f["finding"]
            if died:
                at = next((i for i, x in enumerate(told) if x.startswith("Current thread")), 0)
                told = [x for x in told[at:] if "Warning" not in x][:14]
            lines += [f"    {line}" for line in (told if died else told[-6:])]
        return lines


def _growth(sizes_at: Sequence[Sequence[int]]) -> int:
    sizes = [size for _, size in sizes_at]
    quarter = len(sizes) // 4
    if not quarter:
        return 0
    early, late = sizes[quarter : 2 * quarter], sizes[-quarter:]
    return sum(late) // len(late) - sum(early) // len(early)


def fuzz(inputs: int, seed: str, restart_every: int = 100_000, processes: int = 1) -> Report:
    """Run so many hostile inputs, in processes that may die of them, and return the report.

    processes: how many at once. They run the sessions that one would, each its part.
    """
    sessions = -(-inputs // INPUTS_PER_SESSION)
    ends = [sessions * i // processes for i in range(processes + 1)]
    parts = [Report(seed) for _ in range(processes)]

    def run(part: Report, first: int, end: int) -> None:
        wanted = min(inputs, end * INPUTS_PER_SESSION) - first * INPUTS_PER_SESSION
        while part.counts["inputs"] < wanted and len(part.findings) < FINDINGS_MAX:
            left = min(wanted - part.counts["inputs"], restart_every)
            first = _one_process(part, first, left)

    with ThreadPoolExecutor(processes) as pool:
        list(pool.map(run, parts, ends, ends[1:]))
    report = Report(seed)
    for part in parts:
        report.counts += part.counts
        report.findings += part.findings
        report.rss += part.rss
        report.slowest = sorted(report.slowest + part.slowest, reverse=True)[:5]
        report.cpu_s += part.cpu_s
    return report


def _one_process(report: Report, first: int, inputs: int) -> int:
    """Run a child until it is done or dead; return the session to go on with."""
    with tempfile.TemporaryDirectory() as folder:
        progress = Path(folder, "progress")
        progress.write_bytes(bytes(PROGRESS.size))
        with Path(folder, "err").open("w+") as err, Path(folder, "out").open("w+") as out:
            command = [sys.executable, "-m", "fuzzing.child"]
            arguments = [report.seed, str(first), str(inputs), str(progress)]
            child = subprocess.Popen(
                [*command, *arguments], stdout=out, stderr=err, env=environment()
            )
            stuck = _watch(child, progress)
            out.seek(0)
            found, tallies, summary = _read(out)
            report.findings += found
            for tally in tallies:
                report.counts.update(tally)
            session, number, done, _ = PROGRESS.unpack(progress.read_bytes())
            if summary is not None:
                report.rss.append(summary["rss"])
                report.slowest = sorted(report.slowest + summary["slowest"], reverse=True)[:5]
                report.cpu_s += summary["cpu_s"]
                return int(summary["next"])
            err.seek(0)
            kind = "stuck" if stuck else f"crash (exit status {child.returncode})"
            detail = err.read()[-6_000:]
            report.findings.append(
                {"finding": kind, "session": session, "input": number, "detail": detail}
            )
            report.counts["inputs"] += max(1, done - sum(tally["inputs"] for tally in tallies))
            return max(first, int(session)) + 1  # it may have died before its first


def environment() -> dict[str, str]:
    """Return what a child runs with: one thread, no loop from another run's cache."""
    here = Path(__file__).resolve().parents[1]
    paths = [str(here), *(str(here.parent / name) for name in ("client", "server", "worker"))]
    return {
        **os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(paths), "PYTHONHASHSEED": "0",
        **_checked_heap(),
    }  # fmt: skip


def _checked_heap() -> dict[str, str]:
    """Return what makes glibc look at a block's borders when it is freed, where it can.

    A kernel that writes beyond its memory is then found by it, and not by chance.
    """
    found = ctypes.util.find_library("c_malloc_debug")
    return {"LD_PRELOAD": found, "MALLOC_CHECK_": "3"} if found else {}


def _watch(child: subprocess.Popen[Any], progress: Path) -> bool:
    """Wait for a child's end; return whether it was stuck, and ended here."""
    seen, since, worked = b"", time.monotonic(), 0.0
    while child.poll() is None:
        time.sleep(0.05)
        now = progress.read_bytes()
        if now != seen:
            seen, since, worked = now, time.monotonic(), _cpu_s(child.pid)
            continue
        times = 1 if any(seen) else BEGIN
        if (
            _cpu_s(child.pid) - worked > STUCK_CPU_S * times
            or time.monotonic() - since > STUCK_WALL_S * times
        ):
            child.send_signal(signal.SIGABRT)  # faulthandler tells where it is
            try:
                child.wait(5)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
            return True
    return False


def _cpu_s(pid: int) -> float:
    """Return the processor time that a process of ours has taken, all threads; 0 if it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read(
    out: IO[str],
) -> tuple[list[dict[str, Any]], list[dict[str, int]], dict[str, Any] | None]:
    """Return findings, counts as they were told from time to time, and the summary."""
    found, tallies, summary = [], [], None
    for line in out:
        told = json.loads(line)
        if "summary" in told:
            summary = told["summary"]
        elif "tally" in told:
            tallies.append(told["tally"])
        else:
            found.append(told)
    return found, tallies, summary


def main(arguments: list[str] | None = None) -> int:
    """Run from a command line; the exit status is 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=5_000)
    parser.add_argument("--seed", default="1")
    parser.add_argument("--processes", type=int, default=1, help="at once")
    parser.add_argument("--repeat", metavar="SEED:SESSION")
    given = parser.parse_args(arguments)
    if given.repeat:
        seed, _, session = given.repeat.partition(":")
        with tempfile.NamedTemporaryFile() as progress:
            progress.write(bytes(PROGRESS.size))
            progress.flush()
            command = [sys.executable, "-m", "fuzzing.child", seed, session, "1000", progress.name]
            return subprocess.run([*command, "--one"], env=environment(), check=False).returncode
    report = fuzz(given.inputs, given.seed, processes=given.processes)
    print("\n".join(report.lines()))
    kernels = sorted((-n, k) for k, n in report.counts.items() if k.startswith("kernel: "))
    for count, kind in kernels[:40]:
        print(f"  {-count:6} {kind}")
    return 1 if report.findings else 0


if __name__ == "__main__":
    sys.exit(main())
