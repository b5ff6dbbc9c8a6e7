"""What a worker process does with malloc: freed memory stays, is counted, and goes back."""

from __future__ import annotations

import subprocess
import sys

import pytest
from farspan_worker import process

_SCRIPT = """
import resource, threading
from farspan_worker import process
process.keep_freed_memory()
import numpy as np

def resident():
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def work():
    for _ in range(3):
        np.ones(5 << 20)  # 40 MiB
    before = faults()
    for _ in range(20):
        np.ones(5 << 20)
    print(faults() - before)

thread = threading.Thread(target=work)  # where a worker runs frames
thread.start()
thread.join()
kept, large = process.freed_bytes(), resident()
process.give_back_freed_memory()
print(kept, large - resident())
"""


@pytest.mark.skipif(not process.freed_bytes(), reason="this malloc does not tell what it keeps")
def test_freed_memory_stays_is_counted_and_goes_back() -> None:
    command = [sys.executable, "-c", _SCRIPT]
    found = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    faults, kept, given_back = map(int, found)
    assert faults < 20 * 10_240 / 50  # each would touch 10,240 fresh pages
    assert kept >= 40 << 20
    assert given_back >= 30 << 20
