"""Thread policy of a worker process, as environment variables that must precede numpy's import.

It imports nothing of ours, so that `python -m farspan_worker` can apply it first of all.
Pools that spin while another works cost 10 to 50 times; so all of them wait passively.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping


def thread_environment(threads: int) -> dict[str, str]:
    """Return the variables that give a worker this many threads in each of its libraries."""
    count = str(max(1, threads))
    return {
        "OMP_NUM_THREADS": count,
        "OMP_WAIT_POLICY": "PASSIVE",
        "OMP_DYNAMIC": "FALSE",  # a team of another size may add in another order
        "OPENBLAS_NUM_THREADS": count,
        "MKL_NUM_THREADS": count,
        "NUMEXPR_NUM_THREADS": count,
    }


def cores() -> int:
    """Return how many cores this process may use; containers see their own share."""
    return len(os.sched_getaffinity(0))


def apply(threads: int, environment: MutableMapping[str, str] = os.environ) -> None:
    """Set the policy where the operator has not set a variable already."""
    for name, value in thread_environment(threads).items():
        environment.setdefault(name, value)
