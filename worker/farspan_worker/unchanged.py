"""Which memories are as they were at a snapshot, and where in its files they lie.

A memory is the same object with the same counts of writes, or it is written again. What counts:
`Storage.version` and, for writes that it does not tell of, `Storage.writes`.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple

from farspan.core import limits

from .store import Foreign, Storage


class Place(NamedTuple):
    """Bytes in a file of a snapshot."""

    number: int  # of the snapshot whose file it is
    offset: int
    nbytes: int


class Remembered:
    """What a snapshot's files hold of an engine's memories.

    number: of the snapshot. sizes: bytes of its own file and of those that it refers to, by the
    number of their snapshots.
    """

    def __init__(self, number: int, sizes: dict[int, int]) -> None:
        self.number = number
        self.sizes = sizes
        self._places: dict[int, tuple[weakref.ref[Storage], tuple[int, int, int], Place]] = {}

    def add(self, storage: Storage, place: Place) -> None:
        """Take that a memory, as it is now, lies there."""
        if place.nbytes >= limits.SNAPSHOT_KEPT_BYTES_MIN and type(storage) is not Foreign:
            self._places[id(storage)] = (weakref.ref(storage), _counts(storage), place)

    def find(self, storages: Iterable[Storage]) -> dict[int, Place]:
        """Return where those lie that are as they were, by their place among `storages`.

        Left out, so that it is written again, is what keeps a file that is not half in use, or one
        file too many.
        """
        found: dict[int, Place] = {}
        used: Counter[int] = Counter()
        for k, storage in enumerate(storages):
            known = self._places.get(id(storage))
            if known is not None and known[0]() is storage and known[1] == _counts(storage):
                found[k] = known[2]
                used[known[2].number] += known[2].nbytes
        worth = [number for number, count in used.most_common() if 2 * count >= self.sizes[number]]
        kept = set(worth[: limits.SNAPSHOT_FILES_MAX])
        return {k: place for k, place in found.items() if place.number in kept}


def _counts(storage: Storage) -> tuple[int, int, int]:
    return storage.version, getattr(storage, "writes", 0), storage.nbytes
