"""The GPU backend beside torch's CUDA on one machine: all laws, then a table. Needs no Ray.

Each law is run and each failure told; nothing stops. Sides take turns, a timed region ends in a
read that depends on all of it, and a ratio is the median over rounds. docs/gpu.md says the order.

    python benchmarks/gpu.py --all --out FOLDER         # laws, failures, table.md
    python benchmarks/gpu.py --rows mlp,cnn --rounds 3  # figures alone
    python benchmarks/gpu.py --insert FOLDER/table.md   # the table into docs/gpu.md
"""

from __future__ import annotations

import argparse
import contextlib
import os
import platform
import statistics
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from vs_rows import BY_NAME, ROWS, Row, Work, unwrapped

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
REGION_S = 0.3  # how long one timed region is, about
WARM = 8  # steps before anything is timed: kernels are compiled, graphs captured
#: In the order in which a failure of one explains those of the next.
LAWS = (
    ("names", "test_cupy_names.py"),
    ("programs and CUDA graphs", "test_cuda_programs.py"),
    ("kernels of NVRTC", "test_cuda_loops.py"),
    ("the table", "test_gpu.py"),
)
#: Tests that say something of the stand-in for cupy, or of a machine without a GPU.
_NOT_HERE = "not could_not and not stand_in and not without and not barrier"
MARK = "<!-- figures -->"


# ----------------------------------------------------------------------------------------- laws --
def no_gpu() -> str:
    """Return why there is nothing to measure here; "" if there is a GPU that cupy can use."""
    from farspan.core.errors import UnsupportedError
    from farspan_worker.engine import Engine

    try:
        Engine("cuda:0").close()
    except UnsupportedError as e:
        return str(e)
    return ""


def laws(out: Path, limit_s: float, jobs: int) -> list[str]:
    """Run all laws on the GPU, whatever fails; return a line for each file. Logs go to `out`."""
    told = []
    for title, name in LAWS:
        command = [
            sys.executable, "-m", "pytest", "-q", "-n", str(jobs), "--tb=short", "-rfE",
            "-p", "no:cacheprovider", "--continue-on-collection-errors", "-k", _NOT_HERE,
            str(ROOT / "tests" / name),
        ]  # fmt: skip
        env = os.environ | {"FARSPAN_TEST_GPU": "1"}
        log = out / f"laws-{name.removesuffix('.py')}.txt"
        start = time.monotonic()
        with log.open("w") as f, contextlib.suppress(subprocess.TimeoutExpired):
            subprocess.run(command, env=env, stdout=f, stderr=f, timeout=limit_s, cwd=ROOT)
        lines = log.read_text(errors="replace").splitlines()
        for line in lines:
            if line.startswith(("FAILED", "ERROR")):
                print(f"  {line[:300]}", flush=True)
        ended = bool(lines) and (" in " in lines[-1])
        last = lines[-1].strip("= ") if ended else f"did not end in {limit_s:.0f} s; see {log.name}"
        told.append(f"{title}: {last} ({time.monotonic() - start:.0f} s)")
        print(told[-1], flush=True)
    return told


# -------------------------------------------------------------------------------------- figures --
def cuda_torch() -> Any:
    """Return torch if it has CUDA here, else None."""
    with contextlib.suppress(ImportError):
        import torch

        if torch.cuda.is_available():
            torch.set_default_device("cuda")
            return torch
    return None


def seconds(work: Work, step: Callable[..., Any], count: int) -> float:
    """Return what one step takes, of `count` steps and one read."""
    start = time.perf_counter()
    work.read(work.run(step, count))
    return (time.perf_counter() - start) / count


def _no_tf32(allowed: bool) -> Callable[[Any], None]:
    def set_(lib: Any) -> None:
        lib.backends.cuda.matmul.allow_tf32 = allowed
        lib.backends.cudnn.allow_tf32 = allowed

    return set_


Side = tuple[str, Any, Callable[[Any], None], Callable[[Any, Any], Any]]


def sides_of(session: Any, farspan: Any, torch: Any) -> list[Side]:
    """Return (name, library, what is set before it runs, how its step is made)."""

    def replay(on: bool) -> Callable[[Any], None]:
        def set_(lib: Any) -> None:
            session.replay = on
            _no_tf32(False)(lib)

        return set_

    plain = lambda lib, step: step  # noqa: E731
    found: list[Side] = [
        ("farspan", farspan, replay(False), plain),
        ("farspan replayed", farspan, replay(True), plain),
        ("farspan compiled", farspan, replay(True), lambda lib, step: lib.compile(step)),
    ]
    if torch is not None:
        found.append(("torch", torch, _no_tf32(False), plain))
        found.append(("torch TF32", torch, _no_tf32(True), plain))
    return found


def measure(row: Row, sides: list[Side], rounds: int) -> dict[str, list[float]]:
    """Return seconds a step by side, one for each round; sides take turns.

    A side that fails is told and left out.
    """
    made: dict[str, tuple[Any, Any, Any, Work]] = {}
    for name, lib, prepare, make in sides:
        try:
            prepare(lib)
            lib.manual_seed(0)
            work = row.build(lib, unwrapped, False)
            step = make(lib, work.step)
            seconds(work, step, WARM)
            made[name] = (lib, prepare, step, work)
        except Exception as error:
            print(f"  {row.name}, {name}: {type(error).__name__}: {error}", flush=True)
            traceback.print_exc(limit=-4)
    found: dict[str, list[float]] = {name: [] for name in made}
    counts = {}
    for name, (lib, prepare, step, work) in made.items():
        prepare(lib)
        counts[name] = max(1, min(2_000, int(REGION_S / max(1e-6, seconds(work, step, 3)))))
    for k in range(rounds):
        for name in list(made)[:: 1 if k % 2 else -1]:
            lib, prepare, step, work = made[name]
            prepare(lib)
            found[name].append(seconds(work, step, counts[name]))
    return found


def line_of(row: Row, found: dict[str, list[float]], names: list[str]) -> str:
    """Return a row of the table: ms of torch, and of each side its ratio to torch."""
    cells = [row.title]
    torch = found.get("torch")
    for name in names:
        times = found.get(name)
        if not times:
            cells.append("failed")
            continue
        text = f"{statistics.median(times) * 1e3:.3f} ms"
        if torch and name != "torch":
            ratio = statistics.median(a / b for a, b in zip(times, torch, strict=True))
            text += f" ({ratio:.2f})"
        cells.append(text)
    return f"| {' | '.join(cells)} |"


def machine(torch: Any) -> str:
    """Return what the figures were taken on."""
    import cupy

    runtime = cupy.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    parts = [name, f"driver {runtime.driverGetVersion()}", f"CUDA {runtime.runtimeGetVersion()}",
             f"cupy {cupy.__version__}", f"Python {platform.python_version()}"]  # fmt: skip
    if torch is not None:
        parts.append(f"torch {torch.__version__}")
    return f"{', '.join(parts)}; {time.strftime('%Y-%m-%d')}"


def table(rows: list[str], rounds: int, told: list[str]) -> list[str]:
    """Return the lines of the table, of those rows that could be measured."""
    import farspan

    torch = cuda_torch()
    lines = [machine(torch), "", *[f"- {t}" for t in told], ""]
    with farspan.connect("local:", devices="cuda:1") as session:
        farspan.set_default_device("cuda:0")
        sides = sides_of(session, farspan, torch)
        names = [name for name, *_ in sides]
        lines += [f"| row | {' | '.join(names)} |", "|---" * (1 + len(names)) + "|"]
        print("\n".join(lines), flush=True)
        for name in rows:
            row = BY_NAME[name]
            lines.append(line_of(row, measure(row, sides, rounds), names))
            print(lines[-1], flush=True)
        stats = session.transport.worker_stats()[-1]
    kept = {k: stats[k] for k in stats if k in KEPT}
    lines += ["", f"Counts of the worker: {kept}."]
    print(lines[-1], flush=True)
    return lines


KEPT = ("hosted", "fallbacks", "kernels", "kernels_refused", "products_refused", "planned", "calls")


def insert(path: Path) -> None:
    """Put a table into docs/gpu.md, in the place of the one before it."""
    page = ROOT / "docs" / "gpu.md"
    head, _, tail = page.read_text().partition(MARK)
    _, _, tail = tail.partition(MARK)
    page.write_text(f"{head}{MARK}\n\n{path.read_text().strip()}\n\n{MARK}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--all", action="store_true", help="all laws, then all rows")
    parser.add_argument("--rows", default=",".join(r.name for r in ROWS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--laws-s", type=float, default=240, help="seconds for each file of laws")
    jobs = min(8, (os.cpu_count() or 2) // 2)
    parser.add_argument("--jobs", type=int, default=jobs, help="processes that run laws")
    parser.add_argument("--no-figures", action="store_true", help="with --all: laws alone")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--insert", type=Path, help="a table.md for docs/gpu.md")
    args = parser.parse_args()
    if args.insert:
        insert(args.insert)
        return 0
    why = no_gpu()
    if why:
        print(f"no GPU to measure: {why}", file=sys.stderr)
        return 2
    args.out.mkdir(parents=True, exist_ok=True)
    told = laws(args.out, args.laws_s, args.jobs) if args.all else []
    if not args.no_figures:
        lines = table(args.rows.split(","), args.rounds, told)
        (args.out / "table.md").write_text("\n".join([*lines, ""]))
    return int(any(" failed" in t or "did not end" in t for t in told))


if __name__ == "__main__":
    sys.exit(main())
