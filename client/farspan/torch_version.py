"""The version of torch's interface that farspan has, comparable with texts and tuples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

__all__ = ["TorchVersion"]


class TorchVersion(str):
    """A version that compares by its numbers: ``TorchVersion("2.13.0") > "2.9"`` is true.

    What stands behind a ``+`` does not count.
    """

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return _order(self, other) == 0

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __lt__(self, other: Any) -> bool:
        return _order(self, other) < 0

    def __le__(self, other: Any) -> bool:
        return _order(self, other) <= 0

    def __gt__(self, other: Any) -> bool:
        return _order(self, other) > 0

    def __ge__(self, other: Any) -> bool:
        return _order(self, other) >= 0

    __hash__ = str.__hash__


def _order(one: Any, other: Any) -> int:
    """Return a number below, equal to or above zero as `one` is before, at or after `other`."""
    for a, b in zip_longest(_numbers(one), _numbers(other), fillvalue=0):
        if a != b:
            return a - b
    return 0


def _numbers(version: Any) -> list[int]:
    if isinstance(version, str):
        parts: Iterable[Any] = version.partition("+")[0].split(".")
    else:
        parts = version if isinstance(version, Iterable) else (version,)
    # "0a0" counts as 0: where it matters to a program, the numbers before it tell.
    return [int(m.group()) if (m := re.match(r"\d+", str(p))) else 0 for p in parts]


__version__ = TorchVersion("2.13.0+farspan")
