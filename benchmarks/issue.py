"""What does one operation cost the client, without anything behind it, or in a live session?

The session's transport swallows frames; nothing runs and nothing travels. Prints microseconds of
CPU time of the thread an operation beside local torch, in alternating rounds; medians. With --live
a gateway and a worker are started and all is as it is for a user; then of wall time, too.

    python benchmarks/issue.py [--rounds 7] [--only a+b] [--live]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable, Iterator
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import farspan
from farspan import _state
from farspan._session import Session
from farspan.core.command import Acked, Frame

OPS = 20_000


class Swallowing:
    """A transport that takes frames, has them encoded if asked to, and forgets them."""

    session_id = "swallowed"
    kinds = ("cpu",)
    devices = ({"name": "cpu", "kind": "cpu", "host": "", "pid": 0, "epoch": 0},)
    idle = watched = False
    ready = True

    def __init__(self, encode: bool) -> None:
        from farspan.wire import encode_frame

        self.encode = encode_frame if encode else None
        self.sequence = 0
        self.sink: Callable[[Any], None] = print

    def set_sink(self, sink: Callable[[Any], None]) -> None:
        self.sink = sink

    def send(self, frame: Frame) -> None:
        self.sequence += 1
        frame.sequence = self.sequence
        if self.encode:
            self.encode(frame)
        self.sink(Acked(frame.sequence, frame.sequence))

    def upload(self, transfer: int, device: int, data: memoryview) -> None:
        pass

    def stats(self) -> dict[str, int]:
        return {}

    def hurry(self) -> None:
        pass

    def close(self) -> None:
        pass


def cases(lib: Any) -> dict[str, Callable[[int], None]]:
    """Return what is measured, as loops of so many operations."""
    a, b, row = lib.ones(4, 4), lib.ones(4, 4), lib.ones(4)
    w = lib.ones(4, 4, requires_grad=True)
    index = lib.ones(4, dtype=lib.int64)

    def plain(f: Callable[[], Any]) -> Callable[[int], None]:
        def loop(count: int) -> None:
            for _ in range(count):
                f()

        return loop

    def add(count: int) -> None:
        for _ in range(count):
            c = a + b  # noqa: F841

    def inplace(count: int) -> None:
        c = lib.zeros(4, 4)
        for _ in range(count):
            c += a

    return {
        "a + b": add,
        "a + row": plain(lambda: a + row),
        "a * 2.0": plain(lambda: a * 2.0),
        "2.0 - a": plain(lambda: 2.0 - a),
        "a @ b": plain(lambda: a @ b),
        "a == b": plain(lambda: a == b),
        "-a": plain(lambda: -a),
        "a.relu()": plain(lambda: a.relu()),
        "torch.add(a, b)": plain(lambda: lib.add(a, b)),
        "torch.exp(a)": plain(lambda: lib.exp(a)),
        "a.mm(b)": plain(lambda: a.mm(b)),
        "a.sum()": plain(lambda: a.sum()),
        "a.sum(1)": plain(lambda: a.sum(1)),
        "a.view(16)": plain(lambda: a.view(16)),
        "a.t()": plain(lambda: a.t()),
        "a[0]": plain(lambda: a[0]),
        "a[index]": plain(lambda: a[index]),
        "c += a": inplace,
        "w + b, recorded": plain(lambda: w + b),
        "w * b, recorded": plain(lambda: w * b),
        "w @ b, recorded": plain(lambda: w @ b),
        "w.relu(), recorded": plain(lambda: w.relu()),
    }


def steps(lib: Any) -> dict[str, Callable[[int], None]]:
    """Return whole training steps; their cost is of one step."""

    def step_of(make: Callable[[Any], Any]) -> Callable[[int], None]:
        model = lib.nn.Sequential(lib.nn.Linear(64, 128), lib.nn.ReLU(), lib.nn.Linear(128, 10))
        optimizer = make(model.parameters())
        loss_of = lib.nn.CrossEntropyLoss()
        x, y = lib.ones(32, 64), lib.ones(32, dtype=lib.int64)

        def loop(count: int) -> None:
            for _ in range(count):
                optimizer.zero_grad()
                loss = loss_of(model(x), y)
                loss.backward()
                optimizer.step()

        return loop

    return {
        "MLP step, SGD": step_of(lambda p: lib.optim.SGD(p, lr=0.01)),
        "MLP step, momentum": step_of(lambda p: lib.optim.SGD(p, lr=0.01, momentum=0.9)),
        "MLP step, Adam": step_of(lambda p: lib.optim.Adam(p)),
    }


def timed(loop: Callable[[int], None], count: int) -> tuple[float, float]:
    """Return microseconds of this thread's CPU time, and of wall time, an operation."""
    begun, wall = time.thread_time(), time.perf_counter()
    loop(count)
    passed = time.thread_time() - begun
    return passed / count * 1e6, (time.perf_counter() - wall) / count * 1e6


@contextlib.contextmanager
def opened(options: argparse.Namespace) -> Iterator[Session]:
    """Yield the session that is measured."""
    if not options.live:
        session = Session(Swallowing(options.encode), "swallowed:", options.replay)
        _state.push(session)
        yield session
        _state.forget(session)  # nobody would answer its last wait
        return
    import overhead

    with overhead.service(None, None) as (address, token):
        with farspan.connect(address, token=token) as session:
            session.replay = options.replay
            yield session


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--only", help="a part of the names to measure")
    parser.add_argument("--encode", action="store_true", help="encode the frames, as for a wire")
    parser.add_argument("--replay", action="store_true", help="send what repeats as one Call")
    parser.add_argument("--live", action="store_true", help="in a session over gRPC")
    options = parser.parse_args()
    with opened(options) as session:
        report(options, session)


def report(options: argparse.Namespace, session: Session) -> None:
    """Measure farspan and torch in turn, and print what each case costs."""
    import torch

    torch.set_num_threads(1)
    sides = {}
    for lib in (farspan, torch):
        loops = {name: (loop, OPS) for name, loop in cases(lib).items()}
        loops |= {name: (loop, OPS // 100) for name, loop in steps(lib).items()}
        sides[lib] = loops
    print(f"us an operation (a step), medians of {options.rounds}     farspan    torch    ratio")
    for name in sides[torch]:
        if options.only and options.only not in name:
            continue
        found: dict[Any, list[tuple[float, float]]] = {farspan: [], torch: []}
        for _ in range(options.rounds):
            for lib, times in found.items():
                loop, count = sides[lib][name]
                times.append(timed(loop, count))
                if options.live:
                    session.synchronize()
        for k, kind in enumerate(("", ", wall")[: 1 + options.live]):
            ours, theirs = (statistics.median(t[k] for t in found[lib]) for lib in found)
            print(f"  {name + kind:44s} {ours:10.2f} {theirs:8.2f} {ours / theirs:8.2f}")


if __name__ == "__main__":
    main()
