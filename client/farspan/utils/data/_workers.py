"""Worker processes of a DataLoader: they load and collate, this process uploads.

A worker has a session of its own, a fresh ``local:``, and answers with raw arrays: each tensor of
a batch crosses the pipe as one piece of memory and becomes a tensor of the parent's session when
it arrives, so that the upload runs while the previous step computes. Tensors that the dataset
holds (`_held.py`) are fetched once, by the parent, before the workers start.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import queue
import random
import signal
import sys
import threading
import time
import traceback
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from typing import Any, NoReturn

import numpy as np

import farspan
from farspan import _crossing, _state
from farspan.core.dtype import PLACES
from farspan.utils.data._fetch import fetch_batch
from farspan.utils.data._held import tensors_in

__all__ = ["Job", "WorkerInfo", "Workers", "get_worker_info"]

_STOP_SECONDS = 5.0  # how long a worker may take to end before it is killed
_LEAVE_SECONDS = 0.5  # how long a worker that is to end may go on with its sample


@dataclass
class WorkerInfo:
    """Who a worker process is: its id among num_workers, its seed and its copy of the dataset."""

    id: int
    num_workers: int
    seed: int
    dataset: Any


_info: WorkerInfo | None = None


def get_worker_info() -> WorkerInfo | None:
    """Return what this worker process is; None in the main process."""
    return _info


# ------------------------------------------------------------------------------- in the worker --
@dataclass
class Job:
    """What a worker does, the same for all of them."""

    dataset: Any
    collate: Callable[[Any], Any]
    streams: bool
    batched: bool
    drop_last: bool
    init: Callable[[int], None] | None
    base_seed: int
    num_workers: int


def _work(id_: int, given: Job | bytes, connection: Connection, others: list[Connection]) -> None:
    """Answer tasks until the parent stops sending them."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends the workers
    for other in others:  # a copy of the parent's end would keep a pipe open when it is gone
        other.close()
    _begin_session()
    # Of a process that was not forked the job comes as bytes: its tensors come to life here.
    job: Job = ForkingPickler.loads(given) if isinstance(given, bytes) else given
    for x, array in list(
        _crossing.fetched.values()
    ):  # inherited by a fork: the same objects, new tensors
        x._become(_crossing.tensor_of(array, x.dtype.name))
    _crossing.fetched.clear()
    _begin_random(id_, job)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    failed: Any = None
    try:
        if job.init is not None:
            job.init(id_)
    except Exception as error:
        failed = _described(error, id_)
    fetch: Callable[[Any], Any] | None = None
    while (task := tasks.get()) is not None:
        if task == "epoch":
            fetch = None
            continue
        index, what = task
        try:
            fetch = fetch or _fetcher(job)  # here, since the user's __iter__ may fail
            answer = failed or ("batch", fetch(what))
        except Exception as error:
            ends = job.streams and isinstance(error, StopIteration)
            answer = ("end", None) if ends else _described(error, id_)
        try:
            _crossing.send(connection, (index, *answer))
        except (BrokenPipeError, ConnectionResetError):
            return
        except Exception as error:  # a batch that cannot leave the process
            _crossing.send(connection, (index, *_described(error, id_)))


def _begin_session() -> None:
    """Open this process's own ``local:``, whatever the program's environment asks for.

    A process that was not forked may have one: its program made tensors when it was imported.
    """
    if not _state._stack or _state._stack[-1]._pid != os.getpid():
        _state.leave_inherited()
        farspan.connect("local:", devices="cpu")
    PLACES.device = None


def _begin_random(id_: int, job: Job) -> None:
    """Seed the generators as torch does in its workers, and say who this worker is."""
    global _info
    seed = job.base_seed + id_
    random.seed(seed)
    farspan.manual_seed(seed)
    low, high = job.base_seed & 0xFFFFFFFF, job.base_seed >> 32
    np.random.seed(np.random.SeedSequence([id_, low, high, 0]).generate_state(4))
    _info = WorkerInfo(id_, job.num_workers, seed, job.dataset)


def _listen(connection: Connection, tasks: queue.SimpleQueue[Any]) -> None:
    """Take tasks off the pipe as they come, so that the parent never waits to send one.

    When the parent wants no more, or is gone, the worker ends: by itself, so that what it printed
    is written out, or at once if it is long in a sample.
    """
    try:
        while (task := connection.recv()) is not None:
            tasks.put(task)
    except (EOFError, OSError):
        pass
    except Exception:  # a task that cannot be read; the parent will say that the worker ended
        traceback.print_exc()
    tasks.put(None)
    time.sleep(_LEAVE_SECONDS)
    os._exit(0)


def _fetcher(job: Job) -> Callable[[Any], Any]:
    """Return what loads one batch: given indices, or None for the next one of a stream."""
    dataset, collate = job.dataset, job.collate
    if not job.streams:
        if not job.batched:
            return lambda index: collate(dataset[index])
        return lambda indices: fetch_batch(dataset, indices, collate)
    stream = iter(dataset)
    if not job.batched:
        return lambda _: collate(next(stream))

    def following(size: int) -> Any:
        batch = list(itertools.islice(stream, size))
        if not batch or (len(batch) < size and job.drop_last):
            raise StopIteration
        return collate(batch)

    return following


def _described(error: Exception, id_: int) -> tuple[str, Any]:
    """Return an exception as data: its class, if that can be sent, and torch's text."""
    kind = type(error)
    text = "".join(traceback.format_exception(error))
    message = f"Caught {kind.__name__} in DataLoader worker process {id_}.\nOriginal {text}"
    known = getattr(sys.modules.get(kind.__module__), kind.__qualname__, None) is kind
    return "error", (kind if known else RuntimeError, message)


# ------------------------------------------------------------------------------- in the parent --
class Workers:
    """The processes of one loader, and the tasks that are with them."""

    def __init__(self, job: Job, context: Any, timeout: float, in_order: bool) -> None:
        if context is None or isinstance(context, str):
            context = multiprocessing.get_context(context)
        self.timeout = timeout
        self.in_order = in_order
        self.connections: list[Connection] = []
        self.processes: list[Any] = []
        forks = context.get_start_method() == "fork"
        held = tensors_in(job.dataset, job.collate, job.init)
        _crossing.fetched.update((id(x), (x, _crossing.array_of(x))) for x in held)
        try:
            packed = job if forks else bytes(ForkingPickler.dumps(job))
            for i in range(job.num_workers):
                ours, theirs = context.Pipe()
                others = [*self.connections, ours] if forks else []
                process = context.Process(
                    target=_work, args=(i, packed, theirs, others), daemon=True
                )
                process.start()
                theirs.close()
                self.connections.append(ours)
                self.processes.append(process)
        finally:
            _crossing.fetched.clear()
            self.stop = weakref.finalize(self, _stop, self.connections, self.processes, os.getpid())

    def give(self, worker: int, task: Any) -> None:
        """Send a task to a worker. RuntimeError: it has ended."""
        try:
            self.connections[worker].send(task)
        except (BrokenPipeError, ConnectionResetError) as error:
            self.fail(error)

    def arrived(self, owner: dict[int, int], block: bool) -> list[Any]:
        """Return the answers that are there; waits for one if `block`. Uploads their tensors."""
        busy = [self.connections[w] for w in set(owner.values())]
        deadline = time.monotonic() + self.timeout if self.timeout and block else None
        while True:
            left = None if deadline is None else max(deadline - time.monotonic(), 0)
            sentinels = [p.sentinel for p in self.processes] if block else []
            ready = wait([*busy, *sentinels], left if block else 0)
            connections = [c for c in busy if c in ready]
            try:
                found = [_crossing.receive(c) for c in connections]
            except (EOFError, OSError) as error:
                self.fail(error)
            except KeyboardInterrupt:  # half an answer may have been read
                self.stop()
                raise
            if found or not block:
                return found
            if ready:
                self.fail(None)
            raise RuntimeError(f"DataLoader timed out after {self.timeout} seconds")

    def fail(self, cause: Exception | None) -> NoReturn:
        """Raise what became of the workers that ended by themselves."""
        wait([process.sentinel for process in self.processes], 1)
        gone = ", ".join(str(p.pid) for p in self.processes if p.exitcode is not None)
        self.stop()
        raise RuntimeError(f"DataLoader worker (pid(s) {gone}) exited unexpectedly") from cause


class Epoch(Iterator[Any]):
    """The batches of one pass, in the order of their tasks; loading begins at once."""

    def __init__(self, workers: Workers, tasks: Iterator[Any], loader: Any) -> None:
        self.workers = workers
        self._loader = loader
        self._sent = 0
        self._begin(tasks)

    def restart(self, tasks: Iterator[Any]) -> None:
        """Begin the next pass of workers that stay; the rest of this one is thrown away."""
        for worker in range(len(self.workers.processes)):
            self.workers.give(worker, "epoch")
        self._begin(tasks)

    def _begin(self, tasks: Iterator[Any]) -> None:
        count = len(self.workers.processes)
        self._tasks = tasks
        self._active = [True] * count
        self._turn = 0
        self._owner: dict[int, int] = {}  # worker by task that is out or whose answer waits
        self._answers: dict[int, tuple[str, Any]] = {}
        self._wanted = self._sent  # the numbers go on, so that late answers are known by theirs
        for _ in range(self._loader.prefetch_factor * count):
            self._give()

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        try:
            index = self._wait_for_next()
        except StopIteration:
            if not self._loader.persistent_workers:
                self.workers.stop()
            raise
        del self._owner[index]
        self._give()
        return _unwrapped(*self._answers.pop(index))

    def _wait_for_next(self) -> int:
        """Return the task whose answer is next; StopIteration if there is none to come."""
        while self._owner:
            while self._wanted not in self._owner and self._wanted < self._sent:
                self._wanted += 1
            found = self._next_answer()
            answers = self.workers.arrived(self._owner, block=found is None)
            for index, kind, content in answers:
                if index not in self._owner:  # of a pass that was given up
                    continue
                if kind == "end":
                    self._active[self._owner.pop(index)] = False
                    self._give()
                else:
                    self._answers[index] = kind, content
            if found is not None:
                return found
        raise StopIteration

    def _next_answer(self) -> int | None:
        if self._wanted in self._answers:
            return self._wanted
        return None if self.workers.in_order else next(iter(self._answers), None)

    def _give(self) -> None:
        """Send the next task to the next worker that still has something to give."""
        count = len(self._active)
        turns = [(self._turn + i) % count for i in range(count)]
        worker = next((w for w in turns if self._active[w]), None)
        if worker is None:
            return
        self._turn = (worker + 1) % count
        try:
            task = next(self._tasks)
        except StopIteration:
            return
        self.workers.give(worker, (self._sent, task))
        self._owner[self._sent] = worker
        self._sent += 1


def _unwrapped(kind: str, content: Any) -> Any:
    if kind == "batch":
        return content
    cls, message = content
    try:
        error = cls(message)
    except Exception:  # a class that is not made of one message
        error = RuntimeError(message)
    raise error


def _stop(connections: list[Connection], processes: list[Any], parent: int) -> None:
    """End the workers; one that does not listen is killed. Not the business of a forked copy."""
    if os.getpid() != parent:
        return
    for connection in connections:
        try:
            connection.send(None)
        except OSError:
            pass
        connection.close()
    deadline = time.monotonic() + _STOP_SECONDS
    for process in processes:
        process.join(max(deadline - time.monotonic(), 0))
        if process.is_alive():
            process.kill()
            process.join()
