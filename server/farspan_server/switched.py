"""The switches of one session: which plans run by their loops, from which frame on.

Each stands between two frames, in the journal as in what workers are sent, in every replay alike.
None is done before it survives what the session survives: what it computes may be shown at once.
Plain data; `session.py` decides, `words.Switch` says what one is.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

from farspan.core import limits
from farspan.core.words import Switch

_ALL: Final = 2**63


class Placed(NamedTuple):
    """A switch, for a device, after a frame and before the next one."""

    sequence: int  # of the frame
    device: int
    switch: Switch


class Switched:
    """What was switched since the last snapshot, and what of it the workers have been told.

    syncs: one may be told only once `safe` has said so. found: what the journal has.
    """

    def __init__(self, syncs: bool, found: Iterable[Placed] = ()) -> None:
        self._placed = list(found)
        self._told = 0  # of these, by the workers that there are
        self._new = 0  # added here, ever
        self._safe = 0 if syncs else _ALL  # of those
        self._quiet_to = 0  # the first frame after which there may be others
        self.wishes: list[Placed] = []  # what was asked for before it

    def quiet(self, sequence: int) -> None:
        """Take that up to this frame somebody may know already what they compute without more."""
        self._quiet_to = max(self._quiet_to, sequence)

    def add(self, placed: Placed) -> bool:
        """Take another one; False if it is there and not told yet, too early or one too many."""
        if placed.sequence < self._quiet_to:
            if len(self.wishes) < limits.SWITCHES_MAX:
                self.wishes.append(placed)
            return False
        waiting = [each[1:] for each in self._placed[self._told :]]
        if len(self._placed) >= limits.SWITCHES_MAX or placed[1:] in waiting:
            return False
        self._placed.append(placed)
        self._new += 1
        return True

    def granted(self, sequence: int) -> list[Placed]:
        """Return what was wished for and has its place now: after this frame, the last one."""
        wishes, self.wishes = self.wishes, []
        return [now for each in wishes if self.add(now := each._replace(sequence=sequence))]

    def safe(self, count: int) -> None:
        """Take that the first `count` that were added here survive the gateway."""
        self._safe = max(self._safe, count)

    @property
    def waits(self) -> bool:
        """Whether one was not told yet."""
        return self._told < len(self._placed)

    @property
    def unsafe(self) -> bool:
        """Whether one may still be lost with the gateway."""
        return self._new > self._safe

    def holds(self, sequence: int) -> bool:
        """Return whether a frame has to wait for one that comes before it."""
        return self._told < len(self._placed) and self._placed[self._told].sequence < sequence

    def due(self, sequence: int) -> list[Placed]:
        """Return what the workers are to be told once they have the frames up to `sequence`."""
        most = len(self._placed) - max(0, self._new - self._safe)
        begin = self._told
        while self._told < most and self._placed[self._told].sequence <= sequence:
            self._told += 1
        return self._placed[begin : self._told]

    def again(self) -> None:
        """Take that there are other workers, or none."""
        self.wishes.clear()
        self._told = 0

    def forget(self, base: int) -> None:
        """Drop what a snapshot after frame `base` has."""
        gone = sum(each.sequence < base for each in self._placed)
        del self._placed[:gone]
        self._told = max(0, self._told - gone)
