"""What makes a process a good worker process: its thread policy, and to die with its parent.

It imports nothing of ours and no numpy, so that `python -m farspan_worker` can apply it first.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import MutableMapping
from typing import Any

_PR_SET_PDEATHSIG = 1  # from linux/prctl.h
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8  # from malloc.h
_KEPT_BYTES_MAX = 256 << 20  # freed memory at the end of the heap; what is beyond goes back
#: Larger allocations get pages of their own. Older glibc takes 32 MiB at most.
_MMAP_BYTES = (1 << 30, 32 << 20)


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


#: By x86-64 level (x86-64-v3 has AVX2 and FMA, x86-64-v4 AVX-512): what numpy, OpenBLAS and oneDNN
#: are told, so that they use no more. Loops are compiled for FARSPAN_CPU_LEVEL itself.
_LEVELS = {
    "v3": ("X86_V4 AVX512_ICL AVX512_SPR", "Haswell", "AVX2"),
    "v4": ("AVX512_ICL AVX512_SPR", "SkylakeX", "AVX512_CORE"),
}
LEVELS = tuple(_LEVELS)


def level_environment(level: str) -> dict[str, str]:
    """Return the variables that keep a worker to an instruction-set level; none for "".

    A pool of unlike machines set to the lowest level of them computes the same bits everywhere,
    as far as `numerics.numerics_key` says so.
    """
    if not level:
        return {}
    features, core, isa = _LEVELS[level]
    return {
        "FARSPAN_CPU_LEVEL": level,
        "NPY_DISABLE_CPU_FEATURES": features,
        "OPENBLAS_CORETYPE": core,
        "ONEDNN_MAX_CPU_ISA": isa,
    }


def set_level(level: str, environment: MutableMapping[str, str] = os.environ) -> None:
    """Apply a level, over what is set already; before numpy loads."""
    environment.update(level_environment(level))


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
    0.96 for two blocks of a transformer; `tanh(x * a + b) * a + b` 0.34 for a million elements, and
    0.58 for 16 million (benchmarks/faults.py). All threads share one heap: those that glibc makes
    for threads hold no more than 64 MiB in a piece, and go back when they are empty.
    """
    mallopt = _libc("mallopt")
    if mallopt is not None:
        mallopt(_M_ARENA_MAX, 1)
        any(mallopt(_M_MMAP_THRESHOLD, nbytes) for nbytes in _MMAP_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES_MAX)


def give_back_freed_memory() -> None:
    """Have malloc give what is freed back to the system (glibc)."""
    trim = _libc("malloc_trim")
    if trim is not None:
        trim(ctypes.c_size_t(0))


def freed_bytes() -> int:
    """Return the bytes that are freed and kept; 0 where malloc does not tell (glibc from 2.33)."""
    ask = _libc("mallinfo2")
    if ask is None:
        return 0
    ask.restype = _MallInfo
    return int(ask().fordblks)


def _libc(name: str) -> Any:
    """Return a function of malloc's, None where there is none (musl has none of these)."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None


class _MallInfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _names = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost"
    _fields_ = tuple([(name, ctypes.c_size_t) for name in _names.split()])


def end() -> None:
    """End this process at once, whatever its threads are at: a kernel cannot be interrupted."""
    os._exit(os.EX_SOFTWARE)


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
