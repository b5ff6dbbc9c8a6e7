"""Passing: when the frames of a session came and went here, while its client profiles.

Times are of CLOCK_MONOTONIC, in ns; they are told, never decided by.
"""

from __future__ import annotations

from collections import deque
from typing import Any

from farspan.core import limits
from farspan.wire.clocks import now, told


class Passing:
    """Up to TRACE_FRAMES_MAX frames and as many answers."""

    def __init__(self) -> None:
        self._frames: dict[int, list[int]] = {}  # sequence -> received, forwarded
        self._answers: deque[list[int]] = deque()  # applied, received, written
        self._unwritten: deque[list[int]] = deque()  # the answers whose writing is not known yet
        self._dropped = 0

    def received(self, sequence: int) -> None:
        """Note that a frame came."""
        if len(self._frames) < limits.TRACE_FRAMES_MAX:
            self._frames[sequence] = [now(), 0]
        else:
            self._dropped += 1

    def forwarded(self, sequence: int) -> None:
        """Note that a frame is with its worker's link, or waits for a worker."""
        if sequence in self._frames:
            self._frames[sequence][1] = now()

    def answered(self, applied: int) -> None:
        """Note that a worker has said that frames up to this one have run."""
        if len(self._answers) < limits.TRACE_FRAMES_MAX:
            answer = [applied, now(), 0]
            self._answers.append(answer)
            self._unwritten.append(answer)
        else:
            self._dropped += 1

    def written(self, applied: int) -> None:
        """Note that the client has been told that frames up to this one have run."""
        while self._unwritten and self._unwritten[0][0] <= applied:
            self._unwritten.popleft()[2] = now()

    def to_json(self) -> str:
        """Return all of it as JSON; stream.proto says how."""
        frames: list[Any] = [[sequence, *times] for sequence, times in self._frames.items()]
        return told(frames=frames, answers=list(self._answers), dropped=self._dropped)
