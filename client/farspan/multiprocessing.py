"""torch.multiprocessing: the standard library's, and `spawn`.

A tensor is a name of memory in a worker, so it does not cross to another process of the client;
send arrays (`x.numpy()`), or let each process open the same service.
"""

from __future__ import annotations

import multiprocessing as _mp
from collections.abc import Callable
from multiprocessing import *  # noqa: F403
from typing import Any

__all__ = [*_mp.__all__, "get_all_sharing_strategies", "get_sharing_strategy",  # type: ignore
           "set_sharing_strategy", "spawn", "start_processes"]  # fmt: skip


def start_processes(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> Any:
    """Start ``fn(i, *args)`` in `nprocs` processes; wait for them if `join`.

    Raises ProcessExitedException naming the first that failed; the others are ended. Without
    `join` it returns the processes, each with its own `join()`.
    """
    context = _mp.get_context(start_method)
    processes: list[Any] = [
        context.Process(target=fn, args=(i, *args), daemon=daemon) for i in range(nprocs)
    ]
    for process in processes:
        process.start()
    if not join:
        return processes
    try:
        for i, process in enumerate(processes):
            process.join()
            if process.exitcode:
                raise ProcessExitedException(
                    f"process {i} terminated with exit code {process.exitcode}", i, process.exitcode
                )
    finally:
        for process in processes:
            if process.is_alive():
                process.terminate()
                process.join()
    return None


def spawn(
    fn: Callable[..., Any],
    args: tuple[Any, ...] = (),
    nprocs: int = 1,
    join: bool = True,
    daemon: bool = False,
    start_method: str = "spawn",
) -> Any:
    """Start ``fn(i, *args)`` in `nprocs` new interpreters; see `start_processes`."""
    return start_processes(fn, args, nprocs, join, daemon, start_method)


class ProcessExitedException(Exception):
    """A process that `spawn` started ended with an exit code other than zero."""

    def __init__(self, message: str, error_index: int, exit_code: int) -> None:
        super().__init__(message)
        self.error_index = error_index
        self.exit_code = exit_code


def get_all_sharing_strategies() -> set[str]:
    """Return the ways to share a tensor's memory between processes of the client."""
    return {"file_system"}


def get_sharing_strategy() -> str:
    """Return "file_system"."""
    return "file_system"


def set_sharing_strategy(new_strategy: str) -> None:
    """Accept "file_system", the one there is; raises AssertionError for another."""
    assert new_strategy in get_all_sharing_strategies(), new_strategy
