"""Graphs: a plan's steps captured as CUDA graphs, once nothing of them moves any more.

The first runs are plain: they compile kernels and fill the pool. Then runs of steps are captured; a
step that cannot be (it waits for the device, or draws on the host) stays between two graphs. Where
an input has moved, or a number that is baked in differs, all is captured anew, a few times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final

log = logging.getLogger("farspan.worker")

#: Plain runs before the first capture.
WARM_UP: Final = 2
#: Steps that a graph saves at least; fewer are launched one by one.
_LEAST: Final = 2
#: Captures that may fail or grow stale; beyond, the plan runs plain for good.
_FAILURES_MAX: Final = 32
#: Calls between two captures, doubled each time that a graph grew stale.
_PATIENCE: Final = 2

Call = tuple[Callable[..., Any], Sequence[Any]]


class Graphs:
    """How a plan's steps run: plain, or by graphs and what stands between them.

    fixed: places of steps that are never captured.
    """

    def __init__(self, backend: Any, steps: Sequence[Call], fixed: set[int]) -> None:
        self._backend, self._steps, self._fixed = backend, steps, set(fixed)
        #: Temporaries of captured kernels stay where the graph has them: in a pool of their own.
        self._pool = backend.module.cuda.MemoryPool()
        limit = backend.pool_limit
        if limit:
            self._pool.set_limit(size=limit)
        self._parts: list[tuple[int, int, Any]] | None = None  # begin, end, graph or None
        self._kept: list[Any] = []  # what the graphs look at beside the plan's arguments
        self._math = backend.math
        self._wait = WARM_UP
        self._patience = _PATIENCE
        self._failures = 0
        self.captured = 0  # how often all was captured
        self.launches = 0  # of graphs

    def notes(self) -> list[str]:
        """Return what there is to tell of them."""
        if self._parts is None:
            return [f"no CUDA graph: {self._failures} captures failed or grew stale"]
        graphs = [p for p in self._parts if p[2] is not None]
        inside = sum(end - begin for begin, end, _ in graphs)
        return [f"{inside} of {len(self._steps)} launches lie in {len(graphs)} CUDA graphs"]

    def moved(self) -> None:
        """Note that an input lies elsewhere: the graphs show where it was."""
        self._stale()

    def renumbered(self) -> None:
        """Note that a number has changed which kernels were captured with."""
        self._stale()

    def _stale(self) -> None:
        if self._parts is not None:
            self._parts = None
            self._kept = []
            self._failures += 1
            self._patience = min(64, 2 * self._patience)
        self._wait = max(self._wait, self._patience)

    def run(self, done: list[int]) -> None:
        """Run all steps; done[0] counts those that have begun and not raised."""
        if self._math is not self._backend.math:  # kernels were chosen for another mode
            self._math = self._backend.math
            self._stale()
        with self._backend.module.cuda.using_allocator(self._pool.malloc):
            if self._parts is None and self._wait <= 0 and self._failures < _FAILURES_MAX:
                self._backend.keeping = self._kept = []
                try:
                    self._capture()
                finally:
                    self._backend.keeping = None
            if self._parts is None:
                self._wait -= 1
                for f, args in self._steps:
                    f(*args)
                    done[0] += 1
                return
            stream = self._backend.stream
            for begin, end, graph in self._parts:
                if graph is not None:
                    graph.launch(stream)
                    self.launches += 1
                    done[0] = end
                    continue
                for f, args in self._steps[begin:end]:
                    f(*args)
                    done[0] += 1

    def _capture(self) -> None:
        """Capture what can be; nothing runs. A step that fails is left out the next time."""
        parts: list[tuple[int, int, Any]] = []
        begin, count = 0, len(self._steps)
        while begin < count:
            out = begin in self._fixed
            end = begin + 1
            while end < count and (end in self._fixed) == out:
                end += 1
            graph = None
            if not out and end - begin >= _LEAST:
                graph = self._captured(begin, end)
                if graph is None:
                    self._failures += 1
                    return
            parts.append((begin, end, graph))
            begin = end
        self._parts = parts
        self.captured += 1

    def _captured(self, begin: int, end: int) -> Any:
        """Return the graph of some steps, None if one of them refused; which, is noted."""
        stream, at = self._backend.stream, begin
        stream.begin_capture()
        try:
            for f, args in self._steps[begin:end]:
                f(*args)
                at += 1
        except Exception as error:
            self._fixed.add(at)
            log.debug("step %d of a plan is not captured: %s", at, error)
            self._abandon(stream)
            return None
        try:
            return stream.end_capture()
        except Exception as error:  # some step made the capture invalid without a word
            log.warning("a plan is not captured: %s", error)
            self._failures = _FAILURES_MAX
            return None

    def _abandon(self, stream: Any) -> None:
        """End a capture whose graph is of no use. An invalid one ends with an error: it is over."""
        try:
            stream.end_capture()
        except Exception as error:
            log.debug("the capture ended: %s", error)
