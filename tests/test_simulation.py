"""Histories of one session in a world that breaks: nothing is lost, doubled or changed."""

from __future__ import annotations

import pytest
from simulator import World

SEEDS = 1_000


@pytest.mark.parametrize("block", range(10))
def test_whatever_breaks_each_frame_is_applied_once_and_each_answer_is_right(block: int) -> None:
    counts: dict[str, int] = {}
    for seed in range(block * SEEDS // 10, (block + 1) * SEEDS // 10):
        for name, count in World(seed).run().counts.items():
            counts[name] = counts.get(name, 0) + count
    print(counts)
    for fault in ("kill_worker", "cut_stream", "half_open", "kill_gateway", "lose_power", "jump"):
        assert counts[fault] > 5, f"{fault} did not happen often enough to prove anything"
    assert counts["begin_cut"] > 50 and counts["replay"] > 500
