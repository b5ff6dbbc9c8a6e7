"""What do loops cost and give? Compiling them with an empty cache and a full one; maps of rows.

`first` is the time of a compiled function's first planned Call, with everything that it waits for
(FARSPAN_LOOPS=wait), each in a process of its own. Rows: thread CPU time, medians, beside
torch; relu beside numpy.

    python benchmarks/loops.py [--rows mlp,cnn,transformer256,tiny] [--rounds 30]
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np


def first_call(name: str) -> None:
    """Print, of one row of vs_torch.py: ms in the compiler, ms of the first planned Call, loops."""
    import farspan
    import vs_rows
    from farspan_worker.kernels.cpu.loops import native

    spent = [0, 0.0]
    made = native.to_object

    def timed(text: str) -> bytes:
        begun = time.thread_time()
        try:
            return made(text)
        finally:
            spent[0] += 1
            spent[1] += time.thread_time() - begun

    native.to_object = timed
    native.missing()  # opens LLVM, which takes 0.1 s in every process
    farspan.connect("local:")
    work = vs_rows.BY_NAME[name].build(farspan, vs_rows.unwrapped, False)
    step = farspan.compile(work.step)
    longest = 0.0
    for _ in range(4):
        begun = time.process_time()
        work.read(work.run(step, 1))
        longest = max(longest, time.process_time() - begun) if spent[0] else 0.0
    print(f"{1e3 * spent[1]:.1f} {1e3 * longest:.1f} {spent[0]}")


def compiling(rows: list[str]) -> None:
    """Print cold and warm times of each row."""
    print("compiling, ms of CPU: in LLVM cold / warm; the first planned Call cold / warm")
    for row in rows:
        with tempfile.TemporaryDirectory() as folder:
            env = {**os.environ, "FARSPAN_CACHE": folder, "FARSPAN_LOOPS": "wait"}
            command = [sys.executable, __file__, "--first", row]
            found = [
                subprocess.run(command, env=env, check=True, capture_output=True, text=True)
                .stdout.split()
                for _ in range(2)
            ]  # fmt: skip
        (cold, cold_call, count), (warm, warm_call, _) = found
        print(f"  {row:16} {cold:>7} /{warm:>6}   {cold_call:>7} /{warm_call:>7}   {count} loops")


def median_us(work: Callable[[], Any], rounds: int) -> float:
    found = []
    for _ in range(rounds):
        begun = time.thread_time()
        work()
        found.append(time.thread_time() - begun)
    return 1e6 * statistics.median(found)


def rows_of(rounds: int) -> None:
    """Print times of maps of rows: loop, oneDNN's kernel, torch."""
    import torch
    from farspan.core.dtype import float32, from_numpy
    from farspan.core.op import OPS, table
    from farspan.core.spec import Spec
    from farspan_worker.kernels.cpu.loops import Group, Step, loop_for

    table()
    torch.set_num_threads(1)
    print("rows, us of CPU: loop / torch")
    for shape in ((64, 10), (1024, 512), (8192, 64), (128, 4096)):
        rng = np.random.default_rng(0)
        x, y = (rng.standard_normal(shape).astype("f4") for _ in range(2))
        spec = Spec.make(shape, from_numpy(x.dtype))
        for name in ("_softmax", "_log_softmax"):
            for backward in (False, True):
                op = OPS[name + "_backward_data" * backward]
                arrays = [x, y] if backward else [x]
                seen = [SimpleNamespace(_spec=spec) for _ in arrays]
                _, static, scalars = op.bind(*seen, -1, float32 if backward else False)
                step = Step(op, static, tuple(range(len(arrays))), tuple(scalars))
                group = Group((spec,) * len(arrays), (step,), ((len(arrays), spec),), False)
                loop = loop_for(group)
                assert loop is not None, op.name
                out = np.empty_like(x)
                places = [a.ctypes.data for a in (*arrays, out)]
                given = [torch.from_numpy(a) for a in arrays]
                theirs = getattr(torch, op.name)
                last = torch.float32 if backward else False
                ours = median_us(lambda f=loop.function, p=places: f(*p), rounds)
                other = median_us(lambda f=theirs, g=given, z=last: f(*g, -1, z), rounds)
                print(f"  {op.name:28} {shape!s:12} {ours:8.1f} {other:8.1f}")


def relus(rounds: int) -> None:
    """Print times of relu and its gradient over flat arrays: numpy, loop."""
    from farspan_worker.kernels.cpu import bind_rows
    from farspan_worker.kernels.cpu.loops import relu

    print("relu over flat arrays, us of CPU: numpy / loop")
    for n in (4_096, 16_384, 65_536, 401_408, 1 << 20):
        g, x = np.random.default_rng(0).standard_normal((2, n)).astype("f4")
        out = np.empty_like(x)
        for work in (
            lambda x=x, out=out: bind_rows._positive_part(x, out),
            lambda g=g, x=x, out=out: bind_rows._kept_where_positive(g, x, out),
        ):
            found = []
            for bound in (n + 1, 0):
                relu.LOOP_ELEMENTS = bound  # type: ignore[misc]
                found.append(median_us(work, rounds))
            print(f"  {n:9,} {found[0]:8.1f} {found[1]:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", default="mlp,cnn,transformer256,tiny")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--first", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.first:
        first_call(options.first)
        return
    compiling([row for row in options.rows.split(",") if row])
    rows_of(options.rounds)
    relus(options.rounds)


if __name__ == "__main__":
    main()
