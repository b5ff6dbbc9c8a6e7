"""How far a session's process grows when it allocates to its limit, one way after the other.

    python benchmarks/quota.py [--mib 512]

Each way runs until OutOfMemoryError, in a process of its own; printed is the largest growth of its
resident memory (VmHWM) as a part of the limit, and that the session goes on. The last ways make
objects and hardly an element.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from farspan_worker import process

process.set_threads(1)
process.keep_freed_memory()

import farspan as torch  # noqa: E402
import numpy as np  # noqa: E402
from farspan.core.command import Failed, Frame  # noqa: E402
from farspan_worker.engine import Engine  # noqa: E402


def _zeros(n: int) -> Any:
    return torch.zeros(4 * n)


def _cat(n: int) -> Any:
    part = torch.ones(n)
    return torch.cat([part] * 4)


def _expanded(n: int) -> Any:
    return torch.ones(n, 1).expand(n, 4).contiguous()


def _matmul(n: int) -> Any:
    return torch.ones(n // 512, 16) @ torch.ones(16, 2_048)


def _halves(n: int) -> Any:
    return (torch.ones(4 * n, dtype=torch.float16) * 2).exp()


def _softmax(n: int) -> Any:
    return torch.ones(n // 512, 1_024, dtype=torch.float64).softmax(0)


def _uploads(n: int) -> Any:
    return torch.tensor(np.ones(4 * n, np.float32))


def _backward(n: int) -> Any:
    x = torch.ones(n, requires_grad=True)
    y = x
    for _ in range(10):
        y = (y * 1.01).tanh()
    y.sum().backward()
    return x.grad, y


def _nonzero(n: int) -> Any:
    return torch.ones(n, 1, dtype=torch.bool).nonzero()


WAYS: dict[str, Callable[[int], Any]] = {
    name.strip("_"): way
    for name, way in list(globals().items())
    if name in ("_zeros", "_cat", "_expanded", "_matmul", "_halves", "_softmax", "_uploads",
                "_backward", "_nonzero")
}  # fmt: skip


def _recorded(y: Any) -> Any:
    return y + 1


def _saved(y: Any) -> Any:
    return y.sin()


def _written(y: Any) -> Any:
    y[1:].mul_(1)
    return y


OBJECTS = (_recorded, _saved, _written)


def objects_grown(way: Callable[[Any], Any], limit: int) -> float:
    """Return by how much of the limit an engine grows that makes objects and hardly an element.

    The client forgets what it has of them: here it is in the engine's process.
    """
    session = torch.connect("local:")
    engine = session.transport.engines[0]
    y = torch.ones(2, requires_grad=True) * 1
    session.synchronize()
    engine.budget.limit = limit
    Path("/proc/self/clear_refs").write_text("5")
    before = _peak()
    try:
        for k in range(10_000_000):
            y = way(y)
            y._node.edges, y._node.saved, y._node.versions = (), {}, ()
            if not k % 256:
                session.synchronize()
    except torch.OutOfMemoryError:
        pass
    return (_peak() - before) / limit


def tiny_grown(limit: int) -> float:
    """Return by how much of the limit an engine grows that is asked for tensors of one element."""
    frames: list[Frame] = []
    with torch.connect("local:") as session:
        (local,) = session.transport.engines
        handle = local.handle
        local.handle = lambda frame, *more: (frames.append(frame), handle(frame, *more))[1]
        torch.zeros(1)
        session.synchronize()
    sample, engine, id_ = frames[0], Engine(), 0  # zeros is its first command
    engine.budget.limit = limit
    Path("/proc/self/clear_refs").write_text("5")
    before, events = _peak(), []
    while not any(isinstance(event, Failed) for event in events):
        frame = Frame(0, engine.applied + 1)
        for _ in range(256):
            id_ += 1
            scalars = sample.scalars[: sample.scalar_counts[0]]
            frame.add(sample.opcodes[0], [id_], sample.statics[0], scalars, 0, id_)
        events = engine.handle(frame)
    return (_peak() - before) / limit


def _peak() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1_024 for line in lines if line.startswith("VmHWM"))


def grown(way: Callable[[int], Any], limit: int) -> float:
    """Return by how much of the limit this process grows; each step takes about a thirtieth."""
    n = max(limit // 480, 4_096)
    session = torch.connect("local:")
    way(4_096)
    torch.randn(64, 64).matmul(torch.ones(64, 64)).sum().item()
    session.transport.engines[0].budget.limit = limit
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins anew
    before, kept = _peak(), []
    try:
        for _ in range(10_000):
            kept.append(way(n))
            torch.cpu.synchronize()
    except torch.OutOfMemoryError:
        pass
    growth = (_peak() - before) / limit
    count = len(kept) - 1  # the last one failed
    kept.clear()
    for _ in range(count):  # the room is there again
        kept.append(way(n))
        torch.cpu.synchronize()
    assert torch.ones(3).tolist() == [1, 1, 1]
    return growth


def measured(limit: int, limit_of_objects: int) -> dict[str, float]:
    """Return the growth of each way, each measured in a child."""
    found = {}
    runs = {name: functools.partial(grown, way, limit) for name, way in WAYS.items()}
    for way in OBJECTS:
        runs[way.__name__.strip("_")] = functools.partial(objects_grown, way, limit_of_objects)
    runs["tiny"] = functools.partial(tiny_grown, limit_of_objects)
    for name, run in runs.items():
        read, write = os.pipe()
        child = os.fork()
        if not child:
            os.write(write, str(run()).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as told:
            found[name] = float(told.read())
        os.waitpid(child, 0)
    return found


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--mib", type=int, default=512)
    parser.add_argument("--objects-mib", type=int, help="for ways that make objects; default: MIB")
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    limit = given.mib << 20
    limits = limit, (given.objects_mib or given.mib) << 20
    if given.json:
        print(json.dumps(measured(*limits)))
        return
    for name, growth in measured(*limits).items():
        print(f"{name:10} {growth:6.3f} of the limit")


if __name__ == "__main__":
    sys.exit(main())
