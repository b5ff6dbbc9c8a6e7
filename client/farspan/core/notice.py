"""Warnings that name the user's line, however many calls of farspan lie between."""

from __future__ import annotations

import sys
import warnings
from typing import Final

_OWN: Final = __name__.partition(".")[0]


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of farspan, as filters by module and `once` expect."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and _is_ours(frame.f_globals.get("__name__")):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)


def _is_ours(module: object) -> bool:
    return isinstance(module, str) and module.partition(".")[0] == _OWN
