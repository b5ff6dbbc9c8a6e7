"""A small session whose connection is cut after each of its bytes, both ways: no wrong state."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from chaos import Service

pytestmark = pytest.mark.slow

AT_ONCE = 4
SECONDS = 600  # that a process may take on a busy machine; about 60 on one that is not


def cuts(service: Service, *flags: str, step: int = AT_ONCE) -> dict[str, Any]:
    """Return what became of all cuts, or of a share of AT_ONCE / step of them."""
    script = Path(__file__).with_name("cuts.py")
    command = [sys.executable, str(script), service.address, service.token]
    running = [
        subprocess.Popen([*command, str(k), str(step), *flags], stdout=subprocess.PIPE, text=True)
        for k in range(AT_ONCE)
    ]
    try:
        said = [process.communicate(timeout=SECONDS)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    found = [json.loads(each) for each in said]
    kinds = ("cuts", "same", "refused", "lost", "wrong", "not reached")
    total: dict[str, Any] = {kind: sum(each[kind] for each in found) for kind in kinds}
    # Each process counts for itself: the ends' last words differ by a few hundred bytes.
    total["offsets"] = sum(each["offsets"] for each in found) // AT_ONCE
    total["worst_s"] = max(each["worst_s"] for each in found)
    total["bad"] = [line for each in found for line in each["bad"]]
    print(f"\n{total}")
    return total


def judge(total: dict[str, Any]) -> None:
    """Demand that all sessions went on, but for those that had not begun."""
    assert not total["wrong"], total["bad"]
    assert not total["lost"], total["bad"]
    assert total["same"] + total["refused"] + total["not reached"] == total["cuts"]
    assert total["same"] > 2 * (total["refused"] + total["not reached"])


def test_a_cut_after_every_byte_of_a_session_changes_nothing() -> None:
    with Service(workers=2, spares=0, snapshot_every_s=5) as service:
        total = cuts(service)
    judge(total)
    assert total["cuts"] >= total["offsets"] - 3 * AT_ONCE and total["offsets"] > 2_000


def test_cuts_of_uploads_and_fetches_change_nothing() -> None:
    with Service(workers=2, spares=0, snapshot_every_s=5) as service:
        judge(cuts(service, "bulk", step=26_003))


def test_cuts_of_calls_that_say_where_bytes_lie_change_nothing() -> None:
    with Service(workers=2, spares=0, snapshot_every_s=5) as service:
        total = cuts(service, "shared", step=397)
    judge(total)
    assert total["offsets"] < 50_000  # the bytes themselves did not pass
