"""Threads of loops: libgomp's team, which oneDNN's kernels run on too; there is no pool of ours.

A loop over many elements asks it at run time, so the number of threads is the process's own
(OMP_NUM_THREADS). How work is split never changes bits: sums that meet are split the same way
whatever the number of threads. Without libgomp every loop runs on the thread that calls it.
"""

from __future__ import annotations

import ctypes
import functools
import os
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .instructions import Lines

#: Elements from which a loop is worth waking a team: 64 us of copying on one thread, while a
#: sleeping team takes 5 to 10 us to come.
PARALLEL: Final = 131_072
#: Elements that a thread's share is a multiple of, so that no two write to one cache line.
GRAIN: Final = 64
#: Parts of a sum over everything, added in order: enough for as many threads.
PARTIALS: Final = 32
_NAMES: Final = ("GOMP_parallel", "omp_get_thread_num", "omp_get_num_threads")


@functools.cache
def symbols() -> dict[str, int]:
    """Return the addresses of libgomp's functions; {} if there is no libgomp. Opens it."""
    from .. import onednn

    onednn.available()  # opens libgomp if it is installed, in its own way
    before = os.environ.get("OMP_WAIT_POLICY")
    os.environ["OMP_WAIT_POLICY"] = before or "PASSIVE"  # read once; threads would spin
    try:
        library = ctypes.CDLL("libgomp.so.1")
        found = {name: ctypes.cast(library[name], ctypes.c_void_p).value for name in _NAMES}
    except (OSError, AttributeError):
        return {}
    finally:
        if before is None:
            del os.environ["OMP_WAIT_POLICY"]
    # A forked child has this thread alone; the team that libgomp remembers is not there.
    os.register_at_fork(after_in_child=lambda: library.omp_set_num_threads(1))
    return {name: address for name, address in found.items() if address}


def declare(lines: Lines) -> None:
    """Declare libgomp's functions in a module."""
    lines.declared |= {
        "declare void @GOMP_parallel(ptr, ptr, i32, i32)",
        "declare i32 @omp_get_thread_num()",
        "declare i32 @omp_get_num_threads()",
    }


def share(lines: Lines, count: str, grain: int = GRAIN) -> tuple[str, str]:
    """Write which part of `count` is this thread's; return its begin and its end, maybe equal."""
    mine = lines.let(f"zext i32 {lines.let('call i32 @omp_get_thread_num()')} to i64")
    all_ = lines.let(f"zext i32 {lines.let('call i32 @omp_get_num_threads()')} to i64")
    return part(lines, count, mine, all_, grain)


def part(lines: Lines, count: str, mine: str, of: str, grain: int) -> tuple[str, str]:
    """Write the bounds of part number `mine` of so many, multiples of grain but for the end."""
    grains = lines.let(f"add i64 {lines.let(f'udiv i64 {count}, {grain}')}, 1")
    after = lines.let(f"add i64 {mine}, 1")
    bounds = []
    for at in (mine, after):
        whole = lines.let(f"udiv i64 {lines.let(f'mul i64 {grains}, {at}')}, {of}")
        edge = lines.let(f"mul i64 {whole}, {grain}")
        below = lines.let(f"icmp ult i64 {edge}, {count}")
        bounds.append(lines.let(f"select i1 {below}, i64 {edge}, i64 {count}"))
    return bounds[0], bounds[1]
