"""Hostile sessions by the thousand: nothing crashes, hangs, grows, or fails but by our errors.

`benchmarks/fuzz.py` runs as many as you like; `python -m fuzzing.run --repeat SEED:SESSION` one.
"""

from __future__ import annotations

import pytest
from fuzzing.run import Report, fuzz

MIB = 1 << 20


def check(report: Report) -> None:
    told = "\n".join(report.lines())
    print(told)
    assert not report.findings, told
    assert report.counts["decoded"] >= report.counts["inputs"] / 2, told
    # Each end is reached often: refused by decoder and engine, failed, run.
    ends = [report.counts[name] for name in ("ran", "failed", "refused by the engine")]
    assert min(ends) > report.counts["inputs"] / 50, told


def test_hostile_sessions_end_in_typed_errors() -> None:
    report = fuzz(2_000, "test")
    check(report)


@pytest.mark.slow
def test_many_hostile_sessions_end_in_typed_errors() -> None:
    """With the 50,000 below, 200,000. Compiled loops stay: 1,024 at most."""
    report = fuzz(150_000, "slow", restart_every=50_000, processes=2)
    check(report)
    assert report.growth_bytes < 192 * MIB, report.lines()


@pytest.mark.slow
def test_memory_stays_under_hostile_sessions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of one process, without what LLVM keeps for loops."""
    monkeypatch.setenv("FARSPAN_LOOPS", "off")
    report = fuzz(50_000, "stays", restart_every=50_000)
    check(report)
    assert report.growth_bytes < 64 * MIB, report.lines()
