"""The numerics key: equal where bits are equal, told by each worker, and pinned by an operator."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import Any

import pytest
from farspan.core import link, words
from farspan.core.errors import ProtocolError
from farspan_server.pool import Worker as Reached
from farspan_server.workers import WorkerLink
from farspan_worker import kernels, numerics, process
from farspan_worker.server import Worker

KEY = b"k" * link.KEY_BYTES
_TELL = """
import json, sys
from farspan_worker import process
process.set_threads(int(sys.argv[1]))
process.set_level(sys.argv[2])
from farspan_worker import numerics
import numpy as np
print(json.dumps([numerics.numerics_key(), numerics.facts()]))
"""


def told(threads: int = 1, level: str = "") -> tuple[str, dict[str, str]]:
    """Return what a process with these settings says."""
    clean = {"OMP_NUM_THREADS": "", "OPENBLAS_NUM_THREADS": ""}
    command = ["env", *(f"-u{name}" for name in clean), sys.executable, "-c", _TELL]
    done = subprocess.run(
        [*command, str(threads), level], check=True, capture_output=True, text=True, timeout=60
    )
    key, facts = json.loads(done.stdout)
    return key, facts


def test_processes_alike_have_one_key_and_settings_change_it() -> None:
    (key, _), (again, _), (more, facts) = told(), told(), told(threads=2)
    assert key == again
    assert more != key
    assert facts["threads"] == "t2"
    assert len(key) <= 200
    assert key.isprintable()


@pytest.mark.skipif("v3" not in numerics.facts()["level"], reason="this CPU has no AVX2")
def test_a_level_binds_every_library_that_chooses_instructions() -> None:
    key, facts = told(level="v3")
    assert key != told()[0]
    assert facts["level"] == "v3"
    assert "Haswell" in facts["blas"]
    if not kernels.missing():
        assert facts["onednn"].endswith("/0x7")  # dnnl_cpu_isa_avx2
    if not kernels.slower():
        assert "x86-64-v3" in facts["llvm"]


def test_no_level_sets_nothing() -> None:
    before: dict[str, str] = {"OPENBLAS_CORETYPE": "Zen"}
    process.set_level("", before)
    assert before == {"OPENBLAS_CORETYPE": "Zen"}


class _Listener:
    def __init__(self) -> None:
        self.reached: asyncio.Future[Reached] = asyncio.get_running_loop().create_future()

    def joined(self, worker_link: WorkerLink) -> None:
        self.reached.set_result(worker_link.worker)

    def left(self, *args: Any) -> None:
        raise AssertionError(args)


@pytest.mark.parametrize("supervised", [False, True])
def test_a_gateway_learns_the_key_before_it_uses_a_worker(supervised: bool) -> None:
    async def reach(address: str) -> Reached:
        listener = _Listener()
        asked = Reached("w", 1, address, KEY, "cpu", "", 0, supervised)
        reached = WorkerLink(asked, listener)  # type: ignore[arg-type]
        try:
            return await asyncio.wait_for(listener.reached, 10)
        finally:
            await reached.close()

    worker = Worker(KEY, lambda name, memory_bytes_max: None)  # type: ignore[arg-type, return-value]
    try:
        found = asyncio.run(reach(worker.listen("127.0.0.1:0")))
    finally:
        worker.close()
    assert found.numerics == numerics.numerics_key()
    assert bool(found.pid) is not supervised  # a supervisor has told already who it is


@pytest.mark.parametrize("wrong", [{}, {"host": "h", "pid": True, "numerics": ""}, {"pid": 1}])
def test_a_greeting_that_lacks_a_field_is_refused(wrong: dict[str, Any]) -> None:
    message = link.pack_json(link.HELLO, wrong)
    with pytest.raises(ProtocolError, match="HELLO"):
        words.unpack_greeting(message[link.HEADER_BYTES :])
