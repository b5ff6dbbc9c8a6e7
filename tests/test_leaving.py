"""A worker that was told to end ends, whatever becomes of its order."""

from __future__ import annotations

import os
import threading
from typing import Any, cast

import pytest
from farspan_worker import leaving
from farspan_worker.leaving import Leaving


class Broken:
    """A worker whose parts fail as it ends."""

    draining = False

    def __init__(self, part: str) -> None:
        self._part = part

    def counts(self) -> dict[str, int]:
        self._fail("counts")
        return {"sessions": 0}

    def close(self) -> None:
        self._fail("close")

    def _fail(self, part: str) -> None:
        if part == self._part:
            raise RuntimeError("a defect")


@pytest.mark.parametrize(
    ("part", "code"), [("counts", os.EX_SOFTWARE), ("close", os.EX_SOFTWARE), ("", os.EX_OK)]
)
def test_a_worker_that_fails_as_it_ends_is_gone_all_the_same(
    monkeypatch: pytest.MonkeyPatch, part: str, code: int
) -> None:
    ended, codes = threading.Event(), []

    def end(with_code: int) -> None:
        codes.append(with_code)
        ended.set()

    monkeypatch.setattr(leaving.os, "_exit", end)
    Leaving(cast(Any, Broken(part)), seconds=1.0).begin()
    assert ended.wait(10) and codes == [code]
