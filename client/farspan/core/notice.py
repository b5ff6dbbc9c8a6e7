"""Warnings that name the user's line, however many calls of farspan lie between."""

from __future__ import annotations

import os
import sys
import warnings
from typing import Final

_OWN: Final = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep


def warn(text: str, category: type[Warning] = UserWarning) -> None:
    """Warn at the innermost line outside of farspan, as filters by module and `once` expect."""
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_OWN):
        frame, level = frame.f_back, level + 1
    warnings.warn(text, category, stacklevel=level)
