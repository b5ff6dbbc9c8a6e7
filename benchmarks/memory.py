"""How much memory does a training step take? Peak live bytes beside torch eager's, and of what.

torch's count is its profiler's, ours the engine's own, which charges all that plans keep. Rows of
farspan run in one session, in this order, as in `vs_torch.py`. `--table` prints what is alive at
the fullest step of each plan: bytes, shape, the step that made it, the last that looks at it.

    PYTHONPATH=client:server:worker OMP_NUM_THREADS=1 python benchmarks/memory.py [--rows mlp,cnn]
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import warnings
from typing import Any

import vs_backend
from vs_rows import BY_NAME

ROWS = "mlp,cnn,transformer256,tiny"


def measure(backend: str, rows: list[str], table: bool) -> dict[str, int]:
    """Return the peak bytes of each row's step."""
    made = vs_backend.BACKENDS[backend](argparse.Namespace(threads=1, backend=backend))
    loop, found = vs_backend.Loop(made), {}
    for row in rows:
        loop.prepare(row, False)
        found[row] = loop.memory()["peak_bytes"]
        if table:
            show(row, made.session)
    return found


def show(row: str, session: Any) -> None:
    """Print what is alive at the fullest step of each plan of the session."""
    for program in session.transport.engines[0].programs.explained():
        for plan in program["plans"]:
            kept = f"{plan['arena_bytes']:,} of the arena, {plan['output_bytes']:,} of results"
            print(f"{row}: {plan['steps_in_all']} steps, {kept}", file=sys.stderr)
            for line in plan["fullest"]:
                print(f"  {line}", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default=ROWS, help=f"of {','.join(BY_NAME)}; default {ROWS}")
    parser.add_argument("--table", action="store_true", help="what is alive at the fullest step")
    parser.add_argument("--backend", default="", help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows = options.rows.split(",")
    if options.backend:
        warnings.simplefilter("ignore")
        print(json.dumps(measure(options.backend, rows, options.table)))
        return
    found = {}
    for backend in ("torch", "local-compiled"):
        command = [sys.executable, __file__, "--rows", options.rows, "--backend", backend]
        command += ["--table"] if options.table and backend != "torch" else []
        quiet = None if options.table and backend != "torch" else subprocess.DEVNULL
        answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, stderr=quiet)
        found[backend] = json.loads(answer.stdout.splitlines()[-1])
    for row in rows:
        base, ours = (found[backend][row] for backend in ("torch", "local-compiled"))
        print(f"{row:16}{base / 2**20:10.2f} MiB{ours / 2**20:10.2f} MiB{ours / base:7.2f}")


if __name__ == "__main__":
    main()
