"""Is farspan, from the other side of a wire, faster than local PyTorch? A table, bars and a plot.

Every backend is a process of its own and is asked in turn, the order alternating; a ratio is the
median of the ratios within each round. CPU time is of all processes that take part.

    python benchmarks/vs_torch.py [--rows mlp,cnn] [--rounds 7] [--threads 1|2] [--write]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import vs_plot
from vs_rows import BY_NAME, ROWS, Row

HERE = Path(__file__).resolve().parent

RESULTS = HERE / "vs_torch.json"
BACKENDS = {
    "torch": "torch eager",
    "torch-compile": "torch.compile",
    "local": "farspan local: eager",
    "local-compiled": "farspan local: compiled",
    "grpc-plain": "farspan gRPC eager, no replay",
    "grpc": "farspan gRPC eager",
    "grpc-compiled": "farspan gRPC compiled",
    "grpc-forward": "farspan gRPC, forward compiled",
}
#: Issue 4's bars: what is divided, by what, and the most that the median ratio may be, by row.
BARS: list[tuple[str, str, dict[str, float]]] = [
    ("grpc-compiled", "torch", {"mlp": 0.9, "cnn": 0.45, "transformer256": 0.95, "tiny": 1.0}),
    ("grpc-compiled", "torch-compile", {"mlp": 1.0, "cnn": 1.0, "transformer256": 1.0}),
    ("grpc", "torch", {"mlp": 1.0, "cnn": 0.6, "transformer256": 1.05}),
    ("grpc-plain", "torch", {"mlp": 1.5, "cnn": 1.5, "transformer256": 1.5}),
]
MEMORY_BAR = 1.0  # peak live bytes of a compiled step / torch eager's
REGION_S = 0.4  # a timed region is about this long for torch eager
#: Relative difference of the losses of the first two steps. Adam divides by the size of gradients
#: that are near zero, so that rounding alone moves the second.
AGREE = (1e-3, 3e-2)
ANSWER_S = 300.0  # for a backend to prepare a row, with all that compiles in it


# ---------------------------------------------------------------------------------- the backends --
class Backend:
    """A child process that runs rows when asked."""

    def __init__(self, name: str, threads: int, service: dict[str, Any] | None) -> None:
        command = [sys.executable, str(HERE / "vs_backend.py"), "--backend", name]
        command += ["--threads", str(threads)]
        if service is not None:
            command += ["--address", service["address"], "--token-file", service["token_file"]]
            command += ["--cpu-of", str(service["pids"]["gateway"])]
        self.name = name
        self._process = subprocess.Popen(
            command, env=environment(threads), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.refused = self._reply().get("error", "")

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Return the answer, or {"error": why}."""
        if self.refused:
            return {"error": self.refused}
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.refused = f"its process ended with status {self._process.wait()}"
            return {"error": self.refused}
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End the process: it stops when its stdin does."""
        assert self._process.stdin is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def environment(threads: int) -> dict[str, str]:
    """Return the environment of every process: the same thread policy on both sides."""
    count = str(threads)
    policy = {"OMP_NUM_THREADS": count, "MKL_NUM_THREADS": count, "OPENBLAS_NUM_THREADS": "1"}
    if threads > 1:
        policy["OMP_WAIT_POLICY"] = "PASSIVE"
    return {**os.environ, **policy}


@contextlib.contextmanager
def service(threads: int, workers: int, journal: bool) -> Iterator[dict[str, Any]]:
    """Yield address, token file and pids of a service with Ray workers that runs meanwhile."""
    folder = tempfile.TemporaryDirectory(prefix="farspan-bench-")
    command = [sys.executable, "-m", "farspan_server", "up", "--json", "--threads", str(threads)]
    command += ["--workers", f"cpu:{workers}"]
    command += ["--journal", folder.name] if journal else ["--no-journal"]
    up = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=environment(threads),
    )  # fmt: skip
    try:
        assert up.stdout is not None
        line = up.stdout.readline()
        if not line:
            raise SystemExit(f"the service did not start (status {up.wait()})")
        yield json.loads(line)
    finally:
        up.terminate()
        up.wait(60)
        folder.cleanup()


@contextlib.contextmanager
def running(names: list[str], threads: int, journal: bool = True) -> Iterator[list[Backend]]:
    """Yield a process for each backend, and the service that some of them use, until the end."""
    remote = [name for name in names if name.startswith("grpc")]
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(service(threads, len(remote), journal)) if remote else None
        backends = []
        for name in names:
            backend = Backend(name, threads, found if name in remote else None)
            stack.callback(backend.close)
            backends.append(backend)
        yield backends


# ------------------------------------------------------------------------------------ one row --
def run_row(row: Row, backends: list[Backend], rounds: int, smoke: bool) -> dict[str, Any]:
    """Return what was measured of one row: for each backend its rounds, peak bytes, or an error."""
    found: dict[str, Any] = {}
    alive: list[Backend] = []
    for backend in backends:
        answer = backend.ask("prepare", name=row.name, smoke=smoke)
        found[backend.name] = answer
        if "error" not in answer:
            alive.append(backend)
    check(row, {b.name: found[b.name]["first"] for b in alive})
    base = found["torch"]["step_s"] if "step_s" in found.get("torch", {}) else 0.01
    steps = 2 if smoke else int(min(max(REGION_S / base, 4), 4_000))
    measured: dict[str, list[dict[str, Any]]] = {b.name: [] for b in alive}
    loads = []
    for number in range(rounds):
        loads.append(os.getloadavg()[0])
        for backend in alive if number % 2 == 0 else alive[::-1]:
            measured[backend.name].append(backend.ask("run", steps=steps))
    for backend in alive:
        answers = measured[backend.name]
        failed = next((a["error"] for a in answers if "error" in a), None)
        found[backend.name] = {"error": failed} if failed else {
            **found[backend.name],
            "wall_s": [a["wall_s"] for a in answers],
            "cpu_s": [a["cpu_s"] for a in answers],
            "sent": answers[-1]["sent"],
            **({} if failed else backend.ask("memory")),
        }  # fmt: skip
    for backend in backends:
        backend.ask("drop")
    return {"steps": steps, "load": [min(loads), max(loads)], "backends": found}


def check(row: Row, first: dict[str, list[float]]) -> None:
    """Raise SystemExit unless all backends computed the same."""
    for step, bound in enumerate(AGREE):
        middle = statistics.median([values[step] for values in first.values()] or [0.0])
        for name, values in first.items():
            if not abs(values[step] - middle) <= bound * max(1.0, abs(middle)):
                raise SystemExit(f"{row.name}: {name} computes something else: {first}")


def ratio(row: dict[str, Any], ours: str, base: str, what: str = "wall_s") -> float | None:
    """Return the median of the ratios within each round, or None where one of them is missing."""
    a, b = (row["backends"].get(n, {}).get(what) for n in (ours, base))
    if not a or not b:
        return None
    return statistics.median(x / y for x, y in zip(a, b, strict=True))


# --------------------------------------------------------------------------------------- reports --
def show(row: Row, found: dict[str, Any]) -> None:
    """Print one row: milliseconds a step, the ratios to torch eager, CPU time, messages a step."""
    low, high = found["load"]
    rounds = max((len(c.get("wall_s", ())) for c in found["backends"].values()), default=0)
    print(f"\n{row.title}: {rounds} rounds of {found['steps']} steps, load {low:.1f}-{high:.1f}")
    print(f"  {'':32}{'ms':>10}{'/torch':>8}{'CPU ms':>10}{'/torch':>8}{'peak MiB':>10}  a step")
    for name, title in BACKENDS.items():
        cell = found["backends"].get(name)
        if cell is None:
            continue
        if "wall_s" not in cell:
            print(f"  {title:32}{'-':>10}  {cell.get('error', '')[:150]}")
            continue
        wall, cpu = (statistics.median(cell[k]) * 1e3 for k in ("wall_s", "cpu_s"))
        pair = [ratio(found, name, "torch", k) for k in ("wall_s", "cpu_s")]
        text = [f"{r:8.2f}" if r is not None else f"{'-':>8}" for r in pair]
        peak = cell.get("peak_bytes")
        more = f"{peak / 2**20:10.1f}" if peak is not None else f"{'-':>10}"
        counts = ("commands", "frames", "calls", "applies", "bytes_up")
        sent = ", ".join(f"{cell['sent'][k]:.1f} {k}" for k in counts if k in cell["sent"])
        print(f"  {title:32}{wall:10.3f}{text[0]}{cpu:10.3f}{text[1]}{more}  "
              f"{cell['variant']}{sent}")  # fmt: skip


def judge(results: dict[str, Any], what: str = "wall_s") -> list[tuple[str, float | None, float]]:
    """Return the bars: what was measured, its value (None: not measured), the most it may be.

    what: "wall_s", by which bars are judged; "cpu_s" says how much of it is others' load.
    """
    rows, found = results["rows"], []
    for ours, base, bars in BARS:
        for name, bar in bars.items():
            if name in rows:
                label = f"{name}: {BACKENDS[ours].removeprefix('farspan ')} / {BACKENDS[base]}"
                found.append((label, ratio(rows[name], ours, base, what), bar))
    for name in BARS[0][2]:
        cells = rows.get(name, {}).get("backends", {})
        ours, base = (cells.get(n, {}).get("peak_bytes") for n in ("grpc-compiled", "torch"))
        if cells:
            value = ours / base if ours and base else None
            found.append((f"{name}: peak live bytes, compiled / torch eager", value, MEMORY_BAR))
    return found


def show_bars(results: dict[str, Any]) -> None:
    print("\nbars (median ratio; of CPU time of all processes)")
    pairs = zip(judge(results), judge(results, "cpu_s"), strict=True)
    for (label, value, bar), (_, cpu, _) in pairs:
        if value is None:
            print(f"  {label:60} not measured  <= {bar}")
        else:
            verdict = "held" if value <= bar else "MISSED"
            print(f"  {label:60} {value:5.2f} ({cpu:5.2f})  <= {bar}  {verdict}")


def machine(threads: int) -> dict[str, Any]:
    """Return what the numbers belong to."""
    model = platform.processor() or platform.machine()
    with contextlib.suppress(OSError), open("/proc/cpuinfo") as file:
        model = next((x.partition(":")[2].strip() for x in file if x.startswith("model name")), "")
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], cwd=HERE, capture_output=True, text=True
    ).stdout.strip()
    from importlib.metadata import version

    return {"cpu": model, "cores": os.cpu_count(), "threads": threads, "torch": version("torch"),
            "commit": commit, "date": time.strftime("%Y-%m-%d")}  # fmt: skip


def rounded(value: Any) -> Any:
    """Return JSON's values with floats of four digits: more of a time is noise."""
    if isinstance(value, dict):
        return {k: rounded(v) for k, v in value.items()}
    if isinstance(value, list):
        return [rounded(v) for v in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="", help=f"of {','.join(BY_NAME)}; default all")
    parser.add_argument("--backends", default="", help=f"of {','.join(BACKENDS)}; default all")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, choices=(1, 2), default=1)
    parser.add_argument("--json", type=Path, help="file whose rows are replaced by those measured")
    parser.add_argument("--write", action="store_true", help="results, table and plot for README")
    parser.add_argument("--draw", action="store_true", help="measure nothing; table and plot anew")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, one round, no service")
    parser.add_argument("--no-journal", action="store_true", help="of sessions over gRPC")
    options = parser.parse_args()
    path = options.json or (RESULTS if options.write or options.draw else None)
    key = f"threads{options.threads}"
    kept: dict[str, Any] = json.loads(path.read_text()) if path and path.exists() else {}
    results: dict[str, Any] = kept.setdefault(key, {"rows": {}})
    if not options.draw:
        names = [n for n in options.backends.split(",") if n] or list(BACKENDS)
        rounds = options.rounds
        if options.smoke:
            names, rounds = ["torch", "local", "local-compiled"], 1
        rows = [BY_NAME[n] for n in options.rows.split(",") if n] or ROWS
        others = [name for name in names if name != "torch"]
        journal = not options.no_journal
        with running(["torch", *others], options.threads, journal) as backends:
            for row in rows:
                results["rows"][row.name] = run_row(row, backends, rounds, options.smoke)
                results["machine"] = machine(options.threads)
                show(row, results["rows"][row.name])
                if path:
                    path.write_text(json.dumps(rounded(kept), indent=1) + "\n")
        show_bars(results)
    if options.write or options.draw:
        vs_plot.write(results, BACKENDS, ROWS, ratio, judge(results))


if __name__ == "__main__":
    main()
