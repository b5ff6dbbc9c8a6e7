"""What memory the session's tensors take: exact, in stream order, on every device."""

from __future__ import annotations

from typing import Any

import farspan
import pytest


def test_memory_counts_live_storages_once(session: Any) -> None:
    memory = farspan.cpu
    before = memory.memory_allocated()
    x = farspan.zeros(1000)
    y = x[10:].view(-1)
    assert memory.memory_allocated() - before == 4000
    del x
    assert memory.memory_allocated() - before == 4000  # the view holds it
    del y
    assert memory.memory_allocated() == before
    assert memory.max_memory_allocated() >= before + 4000


def test_the_most_is_counted_anew(session: Any) -> None:
    x = farspan.zeros(1 << 16)
    del x
    farspan.cpu.reset_peak_memory_stats()
    low = farspan.cpu.max_memory_allocated()
    y = farspan.ones(1000)
    z = y + 1
    assert farspan.cpu.max_memory_allocated() == low + 8000
    del y, z
    stats = farspan.cpu.memory_stats()
    assert stats["allocated_bytes.all.peak"] - stats["allocated_bytes.all.current"] == 8000
    farspan.cpu.empty_cache()
    assert farspan.cpu.memory_allocated() <= stats["allocated_bytes.all.current"]
    free, limit = farspan.cpu.mem_get_info()
    assert 0 < free <= limit == stats["limit_bytes"]


def test_every_device_is_asked_by_name(session: Any) -> None:
    x = farspan.zeros(500, device="cpu:1")
    assert farspan.cpu.memory_allocated("cpu:1") >= x.nbytes == 2000
    summary = farspan.cpu.memory_summary("cpu:1")
    assert "on cpu:1" in summary and "KiB" in summary
    with pytest.raises(RuntimeError):
        farspan.cuda.memory_allocated()
    assert not farspan.accelerator.is_available()
    assert farspan.accelerator.current_accelerator() is None
