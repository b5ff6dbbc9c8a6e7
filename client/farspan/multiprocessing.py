"""torch.multiprocessing: the standard library's, and `spawn`.

A tensor crosses a queue or a pipe as a copy of its values, which become a tensor of the session
of the process that gets it; no memory is shared between processes of the client.
"""

from __future__ import annotations

import multiprocessing as _mp
import signal
import sys
import time
import traceback
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from multiprocessing.connection import wait
from typing import Any

from . import _crossing as _crossing  # queues and pipes then take tensors

__all__ = [*_mp.__all__, "ProcessContext", "ProcessExitedException",  # type: ignore
           "ProcessRaisedException", "SpawnContext", "get_all_sharing_strategies",
           "get_sharing_strategy", "set_sharing_strategy", "spawn", "start_processes"]  # fmt: skip

_TERMINATE_SECONDS = 30.0  # until a process that was told to end is killed


def start_processes(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Start ``fn(i, *args)`` in `nprocs` processes; wait for them if `join`.

    Raises ProcessRaisedException with the story of the first that failed, ProcessExitedException
    if it ended without one; the others are ended. Without `join` the context returned does that.
    """
    context: Any = _mp.get_context(start_method)
    stories = [context.SimpleQueue() for _ in range(nprocs)]
    processes: list[Any] = [
        context.Process(target=_run, args=(fn, i, args, stories[i]), daemon=daemon)
        for i in range(nprocs)
    ]
    for process in processes:
        process.start()
    started = ProcessContext(processes, stories)
    while join and not started.join():
        pass
    return None if join else started


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> ProcessContext | None:
    """Start ``fn(i, *args)`` in `nprocs` new interpreters; see `start_processes`."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)


def _run(fn: Callable[..., Any], i: int, args: tuple[Any, ...], story: Any) -> None:
    try:
        fn(i, *args)
    except KeyboardInterrupt:
        pass  # the parent was interrupted as well
    except Exception:
        story.put(traceback.format_exc())
        sys.exit(1)


class ProcessContext:
    """Processes that were started together; the failure of one ends them all."""

    def __init__(self, processes: list[Any], stories: list[Any]) -> None:
        self.processes = processes
        self._stories = stories
        self._left = dict(enumerate(processes))

    def pids(self) -> list[int]:
        """Return the ids of the processes."""
        return [process.pid for process in self.processes]

    def join(self, timeout: float | None = None, grace_period: float | None = None) -> bool:
        """Wait until some end, or for `timeout` seconds, and say whether all have ended.

        grace_period: seconds that the others get to end by themselves after one has failed.
        Raises what `start_processes` says.
        """
        if not self._left:
            return True
        try:
            wait([process.sentinel for process in self._left.values()], timeout)
        except BaseException:
            self._end(None)
            raise
        ended = {i: p for i, p in self._left.items() if p.exitcode is not None}
        for i in ended:
            del self._left[i]
        failed = next((i for i, process in ended.items() if process.exitcode), None)
        if failed is None:
            return not self._left
        self._end(grace_period)
        raise self._failure(failed)

    def _end(self, grace_period: float | None) -> None:
        deadline = time.monotonic() + (grace_period or 0)
        for process in self._left.values():
            process.join(max(deadline - time.monotonic(), 0))
            if process.is_alive():
                process.terminate()
        for process in self._left.values():
            process.join(_TERMINATE_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _failure(self, i: int) -> ProcessException:
        process = self.processes[i]
        if not self._stories[i].empty():
            message = f"\n\n-- Process {i} terminated with the following error:\n"
            return ProcessRaisedException(message + self._stories[i].get(), i, process.pid)
        code, name = process.exitcode, None
        if code < 0:
            name = signal.Signals(-code).name
        how = f"signal {name}" if name else f"exit code {code}"
        return ProcessExitedException(
            f"process {i} terminated with {how}", i, process.pid, code, name
        )


SpawnContext = ProcessContext


class ProcessException(Exception):
    """A process that was started with others failed."""

    def __init__(self, msg: str, error_index: int, pid: int) -> None:
        super().__init__(msg)
        self.msg = msg
        self.error_index = error_index
        self.pid = pid


class ProcessRaisedException(ProcessException):
    """It raised an exception, whose story is the message."""

    def __init__(self, msg: str, error_index: int, error_pid: int) -> None:
        super().__init__(msg, error_index, error_pid)
        self.error_pid = error_pid


class ProcessExitedException(ProcessException):
    """It was killed, or exited with another code than zero."""

    def __init__(
        self,
        msg: str,
        error_index: int,
        error_pid: int,
        exit_code: int,
        signal_name: str | None = None,
    ) -> None:
        super().__init__(msg, error_index, error_pid)
        self.error_pid = error_pid
        self.exit_code = exit_code
        self.signal_name = signal_name


def get_all_sharing_strategies() -> set[str]:
    """Return the ways to share a tensor's memory between processes of the client."""
    return {"file_system"}


def get_sharing_strategy() -> str:
    """Return "file_system"."""
    return "file_system"


def set_sharing_strategy(new_strategy: str) -> None:
    """Accept "file_system", the one there is; raises AssertionError for another."""
    assert new_strategy in get_all_sharing_strategies(), new_strategy
