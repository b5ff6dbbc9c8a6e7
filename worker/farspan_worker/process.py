"""What makes a process a good worker process: its thread policy, and to die with its parent.

It imports nothing of ours and no numpy, so that `python -m farspan_worker` can apply it first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # from malloc.h
_KEPT_BYTES_MAX = 256 << 20  # freed memory at the end of the heap; what is beyond goes back
_MMAP_BYTES = 32 << 20  # larger allocations get pages of their own; glibc takes no larger value


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that give a worker this many threads, in one pool.

    Pools that spin while another works cost 10 to 50 times. OpenMP's can be told to wait
    passively; OpenBLAS's cannot, so it has one thread (measured, a small CNN on two busy cores:
    120 ms a step with two, 9 ms with one).
    """
    count = str(max(1, threads))
    return {
        "OMP_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_DYNAMIC": "FALSE",  # a team of another size may add in another order
        "OPENBLAS_NUM_THREADS": "1",
        "MKL_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
    }


def cores() -> int:
    """Return how many cores this process may use; containers see their own share."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def set_threads(threads: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Apply the policy where the operator has not set a variable already; before numpy loads."""
    for name, value in thread_environment(threads).items():
        environment.setdefault(name, value)


def keep_freed_memory() -> None:
    """Have malloc keep what is freed, up to a bound, for the next tensor of any size (glibc).

    Without this large tensors are, over and over, fresh memory that the kernel zeroes page by page.
    Measured, medians of alternating runs, a training step takes 0.90 of the time for a small CNN,
    0.96 for two blocks of a transformer.
    """
    if sys.platform != "linux":
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


def die_with_parent(parent: int, number: int = signal.SIGKILL) -> None:
    """Have the kernel send this process `number` when `parent` dies, even by SIGKILL (Linux).

    parent: the expected parent's pid; if it is dead already, the signal is sent at once. 0: none.
    """
    if not parent or sys.platform != "linux":
        return
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(number), 0, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:
        os.kill(os.getpid(), number)
