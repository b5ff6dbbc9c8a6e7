"""Worker processes of a DataLoader: they load and collate, this process uploads.

A worker has a session of its own, a fresh ``local:``, and answers with raw arrays: each tensor of
a batch crosses the pipe as one piece of memory and becomes a tensor of the parent's session when
it arrives, so that the upload runs while the previous step computes. Tensors that the dataset
holds are fetched once, by the parent, before the workers start.
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.reduction import ForkingPickler
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np

import farspan
from farspan import _state
from farspan._tensor import Tensor
from farspan.utils.data._fetch import fetch_batch

__all__ = ["Job", "WorkerInfo", "Workers", "get_worker_info"]

_STOP_SECONDS = 5.0  # how long a worker may take to end before it is killed


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


# --------------------------------------------------------------------- tensors between processes --
#: Arrays of tensors, by id, fetched before the workers start; see `tensors_in`.
_fetched: dict[int, tuple[Tensor, np.ndarray[Any, Any]]] = {}
_leaving: list[np.ndarray[Any, Any]] | None = None  # of the batch that is being sent
_arrived: list[np.ndarray[Any, Any]] = []  # of the batch that is being received


def _array_of(x: Tensor) -> np.ndarray[Any, Any]:
    known = _fetched.get(id(x))
    if known is not None:
        return known[1]
    x = x.detach().cpu()
    bits = x.contiguous().view(farspan.int16) if x.dtype == farspan.bfloat16 else x
    return np.ascontiguousarray(bits.numpy())


def _tensor_of(array: np.ndarray[Any, Any], dtype: str) -> Tensor:
    made = farspan.from_numpy(array)
    return made.view(farspan.bfloat16) if dtype == "bfloat16" else made


def _restored(array: Any, dtype: str, requires_grad: bool) -> Tensor:
    """Return the tensor that another process sent; `array` is a position if it came apart."""
    x = _tensor_of(_arrived[array] if isinstance(array, int) else array, dtype)
    return x.requires_grad_() if requires_grad else x


def _reduce(x: Tensor) -> Any:
    array: Any = _array_of(x)
    if _leaving is not None:
        _leaving.append(array)
        array = len(_leaving) - 1
    return _restored, (array, x.dtype.name, x.requires_grad)


ForkingPickler.register(Tensor, _reduce)


def _send(connection: Connection, message: Any) -> None:
    """Send a message of a worker: arrays first, each as it lies in memory, then what holds them."""
    global _leaving
    _leaving = []
    try:
        body = bytes(ForkingPickler.dumps(message))
        arrays = _leaving
    finally:
        _leaving = None
    connection.send([(a.shape, a.dtype.str) for a in arrays])
    for array in arrays:
        if array.nbytes:
            connection.send_bytes(memoryview(array).cast("B"))
    connection.send_bytes(body)


def _receive(connection: Connection) -> Any:
    arrays = []
    for shape, dtype in connection.recv():
        array = np.empty(shape, dtype)
        if array.nbytes:
            connection.recv_bytes_into(memoryview(array).cast("B"))
        arrays.append(array)
    body = connection.recv_bytes()
    _arrived[:] = arrays
    try:
        return ForkingPickler.loads(body)
    finally:
        _arrived.clear()


def tensors_in(*roots: Any) -> list[Tensor]:
    """Return the tensors that objects hold in attributes, containers and closures."""
    found, seen, left = [], set(), list(roots)
    while left:
        obj = left.pop()
        if id(obj) in seen or isinstance(obj, (type, ModuleType, str, bytes, np.ndarray)):
            continue
        seen.add(id(obj))
        if isinstance(obj, Tensor):
            found.append(obj)
        elif isinstance(obj, Mapping):
            left.extend(obj.values())
        elif isinstance(obj, (list, tuple, set, frozenset)):
            left.extend(x for x in obj if not isinstance(x, (int, float, str)))
        elif isinstance(obj, FunctionType):
            left.extend(cell.cell_contents for cell in obj.__closure__ or () if _is_full(cell))
            left.extend(obj.__defaults__ or ())
        elif isinstance(obj, MethodType):
            left.append(obj.__self__)
        else:
            left.extend(getattr(obj, "__dict__", {}).values())
    return found


def _is_full(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:  # of a name that has no value yet
        return False


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


def _work(id_: int, job: Job | bytes, connection: Connection, others: list[Connection]) -> None:
    """Answer tasks until the parent stops sending them."""
    global _info
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's; it ends the workers
    for other in others:  # a copy of the parent's end would keep a pipe open when it is gone
        other.close()
    _state.leave_inherited()
    farspan.connect("local:")
    if isinstance(job, bytes):  # of a process that was not forked: its tensors come to life here
        job = ForkingPickler.loads(job)
    for x, array in list(_fetched.values()):  # inherited by a fork: the same objects, new tensors
        x._become(_tensor_of(array, x.dtype.name))
    _fetched.clear()
    seed = job.base_seed + id_
    random.seed(seed)
    farspan.manual_seed(seed)
    low, high = job.base_seed & 0xFFFFFFFF, job.base_seed >> 32
    np.random.seed(np.random.SeedSequence([id_, low, high, 0]).generate_state(4))
    _info = WorkerInfo(id_, job.num_workers, seed, job.dataset)
    tasks: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_listen, args=(connection, tasks), daemon=True).start()
    failed: Any = None
    if job.init is not None:
        try:
            job.init(id_)
        except Exception as error:
            failed = _described(error, id_)
    fetch = _fetcher(job)
    while True:
        task = tasks.get()
        if task == "epoch":
            fetch = _fetcher(job)
            continue
        index, what = task
        try:
            answer = failed or ("batch", fetch(what))
        except StopIteration:
            answer = ("end", None)
        except Exception as error:
            answer = _described(error, id_)
        failed = None
        try:
            _send(connection, (index, *answer))
        except (BrokenPipeError, ConnectionResetError):
            os._exit(0)
        except Exception as error:  # a batch that cannot leave the process
            _send(connection, (index, *_described(error, id_)))


def _listen(connection: Connection, tasks: queue.SimpleQueue[Any]) -> None:
    """Take tasks off the pipe as they come, so that the parent never waits to send one."""
    while True:
        try:
            task = connection.recv()
        except (EOFError, OSError):
            task = None
        if task is None:
            os._exit(0)  # nothing here needs to be put in order first
        tasks.put(task)


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
        _fetched.update((id(x), (x, _array_of(x))) for x in held)
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
            _fetched.clear()
            self.stop = weakref.finalize(self, _stop, self.connections, self.processes)

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
                found = [_receive(c) for c in connections]
            except (EOFError, ConnectionResetError):
                self.fail()
            if found or not block:
                return found
            if ready:
                self.fail()
            raise RuntimeError(f"DataLoader timed out after {self.timeout} seconds")

    def fail(self) -> None:
        """Raise what became of the workers that ended by themselves."""
        for process in self.processes:
            process.join(1)
        gone = ", ".join(str(p.pid) for p in self.processes if p.exitcode is not None)
        self.stop()
        raise RuntimeError(f"DataLoader worker (pid(s) {gone}) exited unexpectedly")


class Epoch(Iterator[Any]):
    """The batches of one pass, in the order of their tasks; loading begins at once."""

    def __init__(self, workers: Workers, tasks: Iterator[Any], loader: Any) -> None:
        self._workers = workers
        self._tasks = tasks
        self._loader = loader
        self._active = [True] * len(workers.processes)
        self._turn = 0
        self._owner: dict[int, int] = {}  # worker by task that is out or whose answer waits
        self._answers: dict[int, tuple[str, Any]] = {}
        self._sent = self._wanted = 0
        for _ in range(loader.prefetch_factor * len(workers.processes)):
            self._give()

    def __len__(self) -> int:
        return len(self._loader)

    def __next__(self) -> Any:
        try:
            index = self._wait_for_next()
        except StopIteration:
            if not self._loader.persistent_workers:
                self._workers.stop()
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
            answers = self._workers.arrived(self._owner, block=found is None)
            for index, kind, content in answers:
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
        return None if self._workers.in_order else next(iter(self._answers), None)

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
        self._workers.connections[worker].send((self._sent, task))
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


def _stop(connections: list[Connection], processes: list[Any]) -> None:
    """End the workers; one that does not listen is killed."""
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
