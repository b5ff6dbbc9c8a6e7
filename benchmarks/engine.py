"""What does the engine add to a kernel? Frames built by hand, run by an Engine, nothing else.

Each row is the CPU time of `decode_frame` and `Engine.handle` an op, and what the same numpy calls
take by themselves; the difference is decoding, dispatch, tape and store. Medians of alternations.

    python benchmarks/engine.py [--rounds 15] [--only REGEX] [--growth]
"""

from __future__ import annotations

import argparse
import gc
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from farspan.core.command import BACKWARD, FREE, PUT, Frame
from farspan.core.dtype import float32
from farspan.core.op import table
from farspan.wire.frames import decode_frame, encode_frame
from farspan_worker.engine import Engine

OPS = 252  # commands of a frame, about: a client sends 256


class Script:
    """Builds frames for one engine, and runs them."""

    def __init__(self) -> None:
        self.engine = Engine()
        self.next = 1
        self.number = 0
        self.frame = Frame(0, default_dtype=float32.code)

    def put(self, array: Any) -> int:
        """Send an array; returns its id."""
        out = self._new()
        payload = len(self.frame.payloads)
        self.frame.payloads.append(array.tobytes())
        self._add(PUT, 0, [out], (float32.code, array.shape, payload, 0), ())
        return out

    def op(self, name: str, *args: Any, outs: int = 1, mask: int = 0, form: int = 0) -> list[int]:
        """Append an op; tensors among its arguments are ids, wrapped in a list each."""
        tensors, static, scalars = table()[name].bind(*args)
        made = [self._new() for _ in range(outs)]
        ids = [t[0] for t in tensors] + made
        self._add(table()[name].opcode, mask << 2 | form, ids, static, scalars)
        return made

    def backward(self, root: int, seed: int, stops: list[int]) -> list[int]:
        """Append a Backward; returns the ids of the gradients."""
        outs = [self._new() for _ in stops]
        pairs = [i for pair in zip(stops, outs, strict=True) for i in pair]
        self._add(BACKWARD, 0, [root, seed, *pairs], (1, 0), ())
        return outs

    def free(self, ids: list[int]) -> None:
        """Append a Free."""
        self._add(FREE, 0, ids, (), ())

    def take(self) -> Frame:
        """Return what has gathered and begin anew."""
        taken, self.frame = self.frame, Frame(0, default_dtype=float32.code)
        return taken

    def run(self) -> None:
        """Run what has gathered."""
        self.engine.handle(self.take())

    def _new(self) -> int:
        self.next += 1
        return self.next

    def _add(self, opcode: int, mode: int, ids: list[int], static: Any, scalars: Any) -> None:
        self.number += 1
        self.frame.add(opcode, ids, static, scalars, mode, self.number)


@dataclass
class Row:
    """Work for an engine, repeated, and the bare calls it comes down to."""

    name: str
    ops: int  # that the time is shared out among
    script: Script
    fill: Callable[[], None]  # appends the same work to the script, again and again
    bare: Callable[[], Any]
    times: list[tuple[float, float, float]] = field(default_factory=list)

    def measure(self, repeat: int = 4) -> None:
        """Append (decoding, handling, bare calls) in us an op."""
        decoded = handled = bare = 0.0
        for _ in range(repeat):
            self.fill()
            data = encode_frame(self.script.take())
            gc.collect(0)
            begun = time.thread_time()
            frame = decode_frame(data)
            middle = time.thread_time()
            events = self.script.engine.handle(frame)
            handled += time.thread_time() - middle
            decoded += middle - begun
            assert not events, events
            with np.errstate(all="ignore"):
                begun = time.thread_time()
                self.bare()
                bare += time.thread_time() - begun
        scale = 1e6 / self.ops / repeat
        self.times.append((decoded * scale, handled * scale, bare * scale))


def _array(*shape: int) -> Any:
    return np.random.default_rng(0).standard_normal(shape, np.float32)


# ----------------------------------------------------------------------------------------- rows --
def pointwise(mask: int, alive: int = 0) -> Row:
    """Return `a + b` of 4 x 4, freed 64 at a time; with a mask it is recorded, never walked."""
    script = Script()
    x = _array(4, 4)
    a, b = script.put(x), script.put(x)
    script.run()
    for _ in range(alive // 2_000):
        for _ in range(2_000):
            script.op("add.Tensor", [a], [b])
        script.run()

    def fill() -> None:
        for _ in range(OPS // 63):
            made = [script.op("add.Tensor", [a], [b], mask=mask)[0] for _ in range(63)]
            script.free(made)

    def bare() -> None:
        for _ in range(OPS // 63 * 63):
            x + x

    name = "add 4x4, recorded" if mask else "add 4x4"
    return Row(name + (f", {alive:,} tensors alive" if alive else ""), OPS, script, fill, bare)


def broadcast() -> Row:
    """Return a chain of cheap ops of 32 x 64: scale, shift by a row, relu, view, sum."""
    script = Script()
    x, row = _array(32, 64), _array(64)
    a, b = script.put(x), script.put(row)
    script.run()

    def fill() -> None:
        for _ in range(OPS // 6):
            (c,) = script.op("mul.Scalar", [a], 0.5)
            (d,) = script.op("add.Tensor", [c], [b])
            (e,) = script.op("relu", [d])
            (f,) = script.op("t", [e])
            (g,) = script.op("sum.dim_IntList", [f], [1], False)
            script.free([c, d, e, f, g])

    def bare() -> None:
        half = np.float32(0.5)
        for _ in range(OPS // 6):
            np.sum(np.maximum(x * half + row, 0).T, axis=(1,))

    return Row("mul, add row, relu, t, sum 32x64", OPS, script, fill, bare)


def mlp() -> Row:
    """Return forward and backward of linear, relu, linear of 8 rows, 16-32-10; 4 gradients."""
    script = Script()
    arrays = [_array(8, 16), _array(32, 16), _array(32), _array(10, 32), _array(10)]
    x, w1, b1, w2, b2 = (script.put(a) for a in arrays)
    seed = script.put(_array(8, 10))
    script.run()
    steps = 20

    def fill() -> None:
        for _ in range(steps):
            (h,) = script.op("linear", [x], [w1], [b1], mask=6)
            (r,) = script.op("relu", [h], mask=1)
            (y,) = script.op("linear", [r], [w2], [b2], mask=7)
            grads = script.backward(y, seed, [w1, b1, w2, b2])
            script.free([h, r, y, *grads])

    def bare() -> None:
        a, w, b, v, c = arrays
        g = _array(8, 10)
        for _ in range(steps):
            h = a @ w.T + b
            r = np.maximum(h, 0)
            r @ v.T + c
            g.T @ r
            g.sum(0)
            back = (g @ v) * (r > 0)
            back.T @ a
            back.sum(0)

    # Forward: 3 kernels; backward: gradients of x, weight and bias, of relu, of weight and bias.
    return Row("linear, relu, linear, backward", steps * 9, script, fill, bare)


def frees() -> Row:
    """Return Free of 64 tensors that share one memory each with none; only the Free is timed."""
    script = Script()
    x = _array(4, 4)
    a = script.put(x)
    script.run()

    def fill() -> None:
        made = [script.op("add.Tensor", [a], [a])[0] for _ in range(OPS)]
        script.run()
        for at in range(0, OPS, 64):
            script.free(made[at : at + 64])

    return Row("Free of 64, a tensor", OPS, script, fill, lambda: None)


def rows() -> Iterator[Row]:
    """Yield every row."""
    yield pointwise(0)
    yield pointwise(3)
    yield broadcast()
    yield mlp()
    yield frees()


def growth() -> None:
    """Print what ten times the tensors alive, and ten times the ops of a frame, cost an op."""
    few, many = pointwise(0, 20_000), pointwise(0, 200_000)
    idle = [pointwise(0, 2_000) for _ in range(10)]
    for _ in range(15):
        few.measure()
        many.measure()
    del idle
    costs = [statistics.median(d + h for d, h, _ in row.times) for row in (few, many)]
    print(f"tensors alive 20,000 -> 200,000: {costs[0]:.2f} -> {costs[1]:.2f} us an op, "
          f"ratio {costs[1] / costs[0]:.2f}")  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", default="", help="rows whose name this matches")
    parser.add_argument("--growth", action="store_true")
    options = parser.parse_args()
    if options.growth:
        growth()
        return
    chosen = [row for row in rows() if re.search(options.only, row.name)]
    for row in chosen:
        row.measure()
        row.times.clear()
    for _ in range(options.rounds):
        for row in chosen:
            row.measure()
    print(f"us an op; load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")
    print(f"{'':36}{'decode':>9}{'handle':>9}{'bare':>9}{'added':>9}")
    for row in chosen:
        decoded, handled, bare = (statistics.median(column) for column in zip(*row.times))  # noqa: B905
        added = statistics.median(d + h - b for d, h, b in row.times)
        print(f"{row.name:36}{decoded:9.2f}{handled:9.2f}{bare:9.2f}{added:9.2f}")


if __name__ == "__main__":
    main()
