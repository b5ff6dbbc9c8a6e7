"""A process that is forked while loops are compiled has a compiler that works."""

from __future__ import annotations

import subprocess
import sys

import pytest
from farspan_worker.kernels.cpu import loops

PROGRAM = """
import os, sys, threading, time
from farspan.core.dtype import BY_NAME
from farspan.core.op import OPS, table
from farspan.core.spec import Spec
from farspan_worker.kernels.cpu.loops import Group, Step, loop_for

table()
EXP = OPS["exp"]

def group(n):
    spec = Spec.make((n,), BY_NAME["float32"])
    return Group((spec,), tuple(Step(EXP, (), (k,)) for k in range(12)), ((12, spec),), False)

def work():
    n = 1_000
    while True:
        loop_for(group(n := n + 1))

loop_for(group(8))
threading.Thread(target=work, daemon=True).start()
for k in range(5):
    time.sleep(0.013)
    child = os.fork()
    if not child:
        loop_for(group(100_000 + k))
        late = loop_for(group(200_000 + k), wait=False)
        late.ready() or late.result()
        os._exit(0)
    end = time.monotonic() + 60
    while os.waitpid(child, os.WNOHANG) == (0, 0):
        if time.monotonic() > end:
            os.kill(child, 9)
            sys.exit("a child found a lock taken")
        time.sleep(0.005)
"""


@pytest.mark.skipif(bool(loops.missing()), reason="there is no compiler")
def test_a_fork_while_loops_are_compiled() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
