"""One backend of `vs_torch.py`, in a process of its own: it answers JSON lines on its stdin.

`prepare` builds a row's program and warms it up, `run` times steps, `memory` measures the most
bytes of live tensors at once. Every timed region ends in a read that depends on all of it.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import inspect
import json
import os
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import vs_rows
from vs_rows import Row, Work, unwrapped

WARM_S = 1.5  # background compilers get at least this long
WARM_STEPS = 6


class Refused(Exception):
    """This backend does not have this row; the message says why."""


# -------------------------------------------------------------------------------------- backends --
class Torch:
    """PyTorch in this process, eager."""

    cpu_of: tuple[int, ...] = ()

    def __init__(self, options: argparse.Namespace) -> None:
        import torch

        torch.set_num_threads(options.threads)
        self.lib: Any = torch
        self.variant = ""

    def build(self, row: Row, smoke: bool) -> tuple[Work, Callable[..., Any]]:
        """Return the row's program and the step to run."""
        self.lib.manual_seed(0)
        work = row.build(self.lib, unwrapped, smoke)
        return work, work.step

    def rest(self) -> None:
        """Let go of what the last row left."""
        gc.collect()

    def peak_bytes(self, work: Work, step: Callable[..., Any]) -> int:
        """Return the most bytes of live tensors at once in a step, by torch's own profiler."""
        torch = self.lib
        work.read(work.run(step, 1))
        gc.collect()
        storages = {}
        for each in gc.get_objects():
            with contextlib.suppress(Exception):  # objects of libraries that refuse to be looked at
                if isinstance(each, torch.Tensor):
                    storage = each.untyped_storage()
                    storages[storage.data_ptr()] = storage.nbytes()
        used = most = sum(storages.values())
        with torch.profiler.profile(profile_memory=True) as found:
            work.run(step, 1)
        events = [e for e in found.profiler.kineto_results.events() if e.name() == "[memory]"]
        for event in sorted(events, key=lambda e: e.start_ns()):
            used += event.nbytes()
            most = max(most, used)
        return most

    def counts(self) -> dict[str, float]:
        """Return what a step costs in messages; nothing here."""
        return {}


class TorchCompile(Torch):
    """torch.compile: the whole step, or forward and loss alone; whichever is faster here."""

    def build(self, row: Row, smoke: bool) -> tuple[Work, Callable[..., Any]]:
        found: list[tuple[float, str]] = []
        for self.variant in ("whole step", "forward and loss") if row.trains else ("whole step",):
            work, step = self._made(row, smoke)
            work.read(work.run(step, WARM_STEPS))
            begun = time.perf_counter()
            work.read(work.run(step, 10))
            found.append((time.perf_counter() - begun, self.variant))
        _, self.variant = min(found)
        return self._made(row, smoke)

    def _made(self, row: Row, smoke: bool) -> tuple[Work, Callable[..., Any]]:
        torch, whole = self.lib, self.variant == "whole step"
        torch._dynamo.reset()
        torch.manual_seed(0)
        work = row.build(torch, unwrapped if whole else torch.compile, smoke)
        return work, torch.compile(work.step) if whole else work.step


class Farspan:
    """farspan: `local:` or over gRPC, eager or compiled, with automatic replay or without."""

    def __init__(self, options: argparse.Namespace) -> None:
        import farspan

        self.lib: Any = farspan
        self.variant = ""
        self.compiled = options.backend.endswith("-compiled")
        #: Forward and loss alone are compiled; backward and the optimizer run outside of them.
        self.forward = options.backend.endswith("-forward")
        known = inspect.signature(farspan.connect).parameters
        extra: dict[str, Any] = {}
        if options.backend.endswith("-plain"):
            if "replay" not in known:
                raise Refused("this version has no automatic replay to switch off")
            extra["replay"] = False
        if options.backend.startswith("local"):
            self.session = farspan.connect("local:", **extra)
            self.cpu_of: tuple[int, ...] = ()
        else:
            token = Path(options.token_file).read_text().strip()
            self.session = farspan.connect(options.address, token=token, **extra)
            worker = self.session.describe()["devices"][0]["pid"]
            self.cpu_of = (worker, *options.cpu_of)
        self._before: dict[str, Any] = {}
        self._steps = 0

    def build(self, row: Row, smoke: bool) -> tuple[Work, Callable[..., Any]]:
        self.lib.manual_seed(0)
        work = row.build(self.lib, self.lib.compile if self.forward else unwrapped, smoke)
        step = work.step
        if self.compiled:
            step = self.lib.compile(step)
            if step is work.step:
                raise Refused("farspan.compile returns its function in this version")
        return work, step

    def rest(self) -> None:
        gc.collect()
        self.session.synchronize()

    def peak_bytes(self, work: Work, step: Callable[..., Any]) -> int:
        """Return the most bytes of live tensors at once in a step, by the worker's own count."""
        work.read(work.run(step, 2))
        gc.collect()
        self.session.memory_of(0, anew=True)
        work.read(work.run(step, 1))
        return int(self.session.memory_of(0)[1])

    def counts(self) -> dict[str, float]:
        """Return commands, frames, calls and so on since the last time asked."""
        stats = {k: v for k, v in self.session.stats().items() if isinstance(v, int)}
        changed = {k: v - self._before.get(k, 0) for k, v in stats.items()}
        self._before = stats
        return changed


BACKENDS: dict[str, Any] = {
    "torch": Torch,
    "torch-compile": TorchCompile,
    "local": Farspan,
    "local-compiled": Farspan,
    "grpc": Farspan,
    "grpc-plain": Farspan,
    "grpc-compiled": Farspan,
    "grpc-forward": Farspan,
}


# -------------------------------------------------------------------------------------- the loop --
def cpu_seconds(pids: tuple[int, ...]) -> float:
    """Return CPU seconds of this process and of others, by the scheduler's own count."""
    total = time.process_time()
    for pid in pids:
        with contextlib.suppress(OSError):  # a thread may end while we look
            for task in os.listdir(f"/proc/{pid}/task"):
                with open(f"/proc/{pid}/task/{task}/schedstat") as file:
                    total += int(file.read().split()[0]) / 1e9
    return total


class Loop:
    """Keeps one row's program and does what the parent asks."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend
        self.work: Work | None = None
        self.step: Callable[..., Any] = unwrapped

    def prepare(self, name: str, smoke: bool) -> dict[str, Any]:
        """Return what the first two steps computed and seconds a step once warm."""
        self.drop()
        if smoke:  # nothing is timed in earnest: collections need not look at libraries each time
            gc.freeze()
        self.work, self.step = self.backend.build(vs_rows.BY_NAME[name], smoke)
        first = [float(self.work.run(self.step, 1)[0].sum()) for _ in range(2)]
        if hasattr(self.step, "ready"):
            self.step.ready()
        begun, steps, each = time.perf_counter(), 1 if smoke else 2, 0.0
        while True:
            started = time.perf_counter()
            self.work.read(self.work.run(self.step, steps))
            each = (time.perf_counter() - started) / steps
            done = time.perf_counter() - begun >= WARM_S and steps >= WARM_STEPS
            if smoke or done or time.perf_counter() - begun > 10 * WARM_S:
                break
            steps = min(steps * 2, max(WARM_STEPS, int(0.3 / each)))
        return {"first": first, "step_s": each, "variant": self.backend.variant}

    def run(self, steps: int) -> dict[str, Any]:
        """Return wall and CPU seconds a step, and what was sent a step."""
        assert self.work is not None
        self.backend.counts()
        pids = self.backend.cpu_of
        cpu, begun = cpu_seconds(pids), time.perf_counter()
        value = self.work.read(self.work.run(self.step, steps))
        wall, cpu = time.perf_counter() - begun, cpu_seconds(pids) - cpu
        sent = {k: v / steps for k, v in self.backend.counts().items()}
        return {"wall_s": wall / steps, "cpu_s": cpu / steps, "value": value, "sent": sent}

    def memory(self) -> dict[str, Any]:
        assert self.work is not None
        return {"peak_bytes": self.backend.peak_bytes(self.work, self.step)}

    def drop(self) -> dict[str, Any]:
        self.work, self.step = None, unwrapped
        self.backend.rest()
        return {}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--backend", choices=BACKENDS, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--address")
    parser.add_argument("--token-file")
    parser.add_argument("--cpu-of", type=int, nargs="*", default=[], help="pids of the service")
    options = parser.parse_args()
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # whatever libraries print is no answer
    warnings.simplefilter("ignore")

    def answer(ask: Callable[[], Any]) -> Any:
        try:
            reply = ask()
            print(json.dumps(reply if isinstance(reply, dict) else {}), file=out)
            return reply
        except Exception as error:  # the parent shows it in the row and goes on
            text = f"{type(error).__name__}: {error}" if not isinstance(error, Refused) else error
            print(json.dumps({"error": str(text)[:500]}), file=out)
            return None

    backend = answer(lambda: BACKENDS[options.backend](options))
    if backend is None:
        return
    loop = Loop(backend)
    for line in sys.stdin:
        asked = json.loads(line)
        name = asked.pop("do")
        answer(lambda name=name, asked=asked: getattr(loop, name)(**asked))


if __name__ == "__main__":
    main()
